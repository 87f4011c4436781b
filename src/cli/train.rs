//! Arguments of `train`.

use clap::Args;
use std::path::PathBuf;

/// Arguments of `train`.
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  hpc-seg train Dataset701_LiverMR --out model --fold 0\n\n\
DATASET is a data set in nnU-Net's layout, which is planned and preprocessed to OUT/preprocessed first, or a folder that hpc-seg preprocess wrote: to train several folds in \
processes of their own, preprocess first and give them that folder.\n\n\
Written are OUT/plans.json, dataset.json and OUT/fold_X/: checkpoint_final.pth (nnU-Net's too), progress.csv, progress.svg, TensorBoard events, training.json, and while it trains \
checkpoint_latest.safetensors. SIGTERM, SIGUSR1 and Ctrl-C save and exit with 75; the same command goes on, and ends with the same weights.\n\n\
For research use only; not a medical device.")]
pub struct TrainArgs {
    /// Data set in nnU-Net's layout, or folder of preprocessed cases
    #[arg(value_name = "DATASET", help_heading = "Input and output")]
    pub dataset: PathBuf,
    /// Folder of the model
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    pub out: PathBuf,
    /// Plans of a data set that is not preprocessed (default: as hpc-seg plan makes them)
    #[arg(long, value_name = "FILE", help_heading = "Input and output")]
    pub plans: Option<PathBuf>,
    /// Folds to train, one after the other: 0 to 4, or all for one network of all cases
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "0",
        help_heading = "Input and output"
    )]
    pub fold: Vec<String>,
    /// Checkpoint whose weights, but for the heads, to start from (default: random weights)
    #[arg(long, value_name = "FILE", help_heading = "Input and output")]
    pub pretrained: Option<PathBuf>,
    /// Checkpoint of a network like this one whose weights to start from (default: random weights)
    #[arg(long, value_name = "FILE", conflicts_with = "pretrained", help_heading = "Input and output")]
    pub warm_start: Option<PathBuf>,

    /// Epochs
    #[arg(long, value_name = "N", default_value_t = 1000, help_heading = "Course")]
    pub epochs: usize,
    /// Steps of an epoch; a fifth as many batches validate it
    #[arg(long, value_name = "N", default_value_t = 250, help_heading = "Course")]
    pub iterations: usize,
    /// Time that training may take, such as 8h or 90m: fewer epochs if need be (default: any)
    #[arg(long, value_name = "TIME", help_heading = "Course")]
    pub time_budget: Option<String>,
    /// End after so many epochs without a better Dice, and keep the last network (default: never)
    #[arg(long, value_name = "N", help_heading = "Course")]
    pub patience: Option<usize>,
    /// Do not segment the held-out cases in the end (default: they go to fold_X/validation)
    #[arg(long, help_heading = "Course")]
    pub no_validation: bool,
    /// Seed of weights, patches and augmentation
    #[arg(long, value_name = "S", default_value_t = 0, help_heading = "Course")]
    pub seed: u64,
    /// Do not mirror patches, for organs whose side matters (default: mirror along all axes)
    #[arg(long, help_heading = "Course")]
    pub no_mirroring: bool,

    /// How much voxels of pseudo-labelled cases count in the loss
    #[arg(long, value_name = "W", default_value_t = 1.0, help_heading = "Pseudo-labels")]
    pub pseudo_weight: f32,
    /// Names of pseudo-labelled cases, one a line (default: those with a map of uncertainty)
    #[arg(long, value_name = "FILE", help_heading = "Pseudo-labels")]
    pub pseudo_cases: Option<PathBuf>,

    /// Go on from a checkpoint, which must be there (default: if there is one)
    #[arg(long, conflicts_with = "restart", help_heading = "Interruptions")]
    pub resume: bool,
    /// Start anew, and forget what was trained before (default: off)
    #[arg(long, help_heading = "Interruptions")]
    pub restart: bool,
    /// Minutes between checkpoints
    #[arg(long, value_name = "MIN", default_value_t = 10.0, help_heading = "Interruptions")]
    pub checkpoint_minutes: f64,

    /// Threads to work with (default: all this process may use)
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub threads: Option<usize>,
    /// Threads that cut and augment patches (default: one for eight threads)
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub loaders: Option<usize>,
}
