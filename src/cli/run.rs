//! Arguments of `run`.

use clap::Args;
use std::path::PathBuf;

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  hpc-seg run --labelled Dataset001 --unlabelled Dataset001 --weights MedSAM2_latest.pt --out result\n\n\
The unlabelled volumes are labelled from the labelled ones (hpc-seg pseudo-label). Then, round by round, five networks are trained on the labelled cases and the pseudo-labels of four fifths of \
the others (hpc-seg plan, preprocess, train), and each re-labels the fifth that it never saw, until the labels settle.\n\n\
Written are OUT/pseudo_labels/round_0, round_1, ..., OUT/model (the last round's networks, nnU-Net's too), OUT/summary.json, and the rounds' work in OUT/rounds. Given again, the command goes on where it \
was stopped.\n\nFor research use only; not a medical device."
)]
pub struct RunArgs {
    /// Folder of volumes with labels
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    pub labelled: PathBuf,
    /// Folder of volumes to be labelled; may be the same folder
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    pub unlabelled: PathBuf,
    /// SAM 2.1 or MedSAM2 weights: .pt, .pth or .safetensors
    #[arg(long, value_name = "FILE", help_heading = "Input and output")]
    pub weights: PathBuf,
    /// Folder for everything that comes of it
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    pub out: PathBuf,

    /// Table of lines CASE,GROUP: a case meets only its group's labelled volumes (default: one group)
    #[arg(long, value_name = "FILE", conflicts_with = "group_regex", help_heading = "Groups")]
    pub groups: Option<PathBuf>,
    /// Take the group from the case's name: the first capture of this expression (default: one group)
    #[arg(long, value_name = "RE", help_heading = "Groups")]
    pub group_regex: Option<String>,

    /// Most rounds of training and re-labelling
    #[arg(long, value_name = "N", default_value_t = 3, help_heading = "Rounds")]
    pub rounds: usize,
    /// End when the mean Dice between two rounds' pseudo-labels reaches this
    #[arg(long, value_name = "DICE", default_value_t = 0.99, help_heading = "Rounds")]
    pub settled: f64,
    /// Seed of everything that is drawn
    #[arg(long, value_name = "S", default_value_t = 0, help_heading = "Rounds")]
    pub seed: u64,
    /// Options of hpc-seg pseudo-label, such as "--insertions 3 --window 40,400" (default: none)
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true, help_heading = "Steps")]
    pub label_options: Option<String>,
    /// Options of hpc-seg plan, such as "--patch 48,192,192" (default: none)
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true, help_heading = "Steps")]
    pub plan_options: Option<String>,
    /// Options of hpc-seg train, such as "--epochs 250 --time-budget 2h" (default: none)
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true, help_heading = "Steps")]
    pub train_options: Option<String>,

    /// Threads to work with (default: all this process may use)
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub threads: Option<usize>,
    /// Write the summary to standard output as JSON (default: off)
    #[arg(long, help_heading = "Machine")]
    pub json: bool,
}
