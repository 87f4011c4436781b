//! Arguments of `model`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Subcommands of `model`.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Write a model as nnU-Net does, for nnUNetv2_predict
    #[command(
        after_long_help = "Example:\n  hpc-seg model export --model trained --out nnUNet_results/Dataset701_LiverMR/nnUNetTrainer__nnUNetPlans__3d_fullres"
    )]
    Export(ModelTransferArgs),
    /// Write a model that nnU-Net trained with weights as safetensors
    #[command(after_long_help = "Example:\n  hpc-seg model import --model nnUNetTrainer__nnUNetPlans__3d_fullres --out imported")]
    Import(ModelTransferArgs),
}

/// Arguments of `model export` and `model import`.
#[derive(Debug, Args)]
pub struct ModelTransferArgs {
    /// Folder with plans.json, dataset.json and fold_X/checkpoint_final.pth or .safetensors
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Folder for the model; folds join those of the same model that it holds
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Folds to write, such as 0,1 or all, one of all cases (default: 0, 1, ...)
    #[arg(long, value_name = "FOLDS", value_delimiter = ',')]
    pub folds: Vec<String>,
}
