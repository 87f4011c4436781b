//! Arguments of what surrounds the U-Net.

use clap::Args;
use std::path::PathBuf;

/// Arguments of `plan`.
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  hpc-seg plan Dataset701_LiverMR --out plans\n\n\
DATASET holds dataset.json, imagesTr/CASE_0000.nii.gz (a file per channel) and labelsTr/CASE.nii.gz, as for nnU-Net. Written are OUT/dataset_fingerprint.json and \
OUT/nnUNetPlans.json, key by key what nnU-Net's own planner writes for 3d_fullres.")]
pub struct PlanArgs {
    /// Folder of the data set
    #[arg(value_name = "DATASET")]
    pub dataset: PathBuf,
    /// Folder for the fingerprint and the plans
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Memory that a training step may take (default: 8GiB by nnU-Net's measure, not enforced)
    #[arg(long, value_name = "SIZE", help_heading = "Instead of the planner")]
    pub memory: Option<String>,
    /// Patch in voxels, slices first, such as 48,192,224 (default: as memory allows)
    #[arg(long, value_name = "Z,Y,X", value_delimiter = ',', help_heading = "Instead of the planner")]
    pub patch: Option<Vec<usize>>,
    /// Patches of a training step (default: as memory allows)
    #[arg(long, value_name = "N", help_heading = "Instead of the planner")]
    pub batch: Option<usize>,
    /// Spacing in mm, slices first, such as 3,1.2,1.2 (default: the median)
    #[arg(long, value_name = "Z,Y,X", value_delimiter = ',', help_heading = "Instead of the planner")]
    pub spacing: Option<Vec<f64>>,
    /// Channels of the network's first stage (default: 32)
    #[arg(long, value_name = "N", help_heading = "Instead of the planner")]
    pub features: Option<usize>,
    /// Threads to work with (default: all this process may use)
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub threads: Option<usize>,
}

/// Arguments of `preprocess`.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  hpc-seg preprocess Dataset701_LiverMR --plans plans/nnUNetPlans.json --out preprocessed\n\n\
Written are OUT/dataset.json, nnUNetPlans.json and splits_final.json (that of DATASET, if it has one, else nnU-Net's five folds), for every case OUT/nnUNetPlans_3d_fullres/CASE.json and CASE.data, and OUT/gt_segmentations/CASE.nii.gz, its label as it is. Given again, the command \
skips finished cases unless their files or the plans changed."
)]
pub struct PreprocessArgs {
    /// Folder of the data set
    #[arg(value_name = "DATASET")]
    pub dataset: PathBuf,
    /// Plans: nnUNetPlans.json, of hpc-seg plan or of nnU-Net
    #[arg(long, value_name = "FILE")]
    pub plans: PathBuf,
    /// Folder for the preprocessed cases
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Folder of pseudo-labels' uncertainty, CASE.nii.gz of hpc-seg pseudo-label (default: none)
    #[arg(long, value_name = "DIR")]
    pub uncertainty: Option<PathBuf>,
    /// Threads to work with (default: all this process may use)
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub threads: Option<usize>,
    /// Write the summary to standard output as JSON (default: off)
    #[arg(long, help_heading = "Machine")]
    pub json: bool,
}

/// Arguments of `predict`.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  hpc-seg predict --model nnUNetTrainer__nnUNetPlans__3d_fullres --input imagesTs --out segmentations\n\n\
MODEL holds plans.json, dataset.json and fold_X/checkpoint_final.pth, as hpc-seg train and nnU-Net leave them (3d_fullres); INPUT holds CASE_0000.nii.gz, a file per channel. \
Written are OUT/CASE.nii.gz and, if asked for, OUT/probability/CASE.nii.gz. Given again, the command skips finished cases unless their files or the model changed.\n\n\
For research use only; not a medical device."
)]
pub struct PredictArgs {
    /// Folder of the trained model
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    pub model: PathBuf,
    /// Folder of the images
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    pub input: PathBuf,
    /// Folder for the segmentations
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    pub out: PathBuf,
    /// Also write OUT/probability/CASE.nii.gz, a channel per class (default: off)
    #[arg(long, help_heading = "Input and output")]
    pub save_probabilities: bool,

    /// Folds whose networks are averaged, such as 0,1 or all, one of all cases (default: 0, 1, ...)
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Method")]
    pub folds: Vec<String>,
    /// Leave out mirrored views: up to eight times faster, a little worse (default: off)
    #[arg(long, help_heading = "Method")]
    pub no_mirroring: bool,
    /// Keep largest components as MODEL/postprocessing.json says (default: off, as nnU-Net)
    #[arg(long, help_heading = "Method")]
    pub postprocess: bool,
    /// Add logits up in half precision, to reproduce nnU-Net's rounding (default: off)
    #[arg(long, help_heading = "Method")]
    pub fp16_accumulate: bool,

    /// Threads to work with (default: all this process may use)
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub threads: Option<usize>,
    /// Write the summary to standard output as JSON (default: off)
    #[arg(long, help_heading = "Machine")]
    pub json: bool,
}
