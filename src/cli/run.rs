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
    /// Folder of volumes with labels (default: from --settings)
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    pub labelled: Option<PathBuf>,
    /// Folder of volumes to be labelled; may be the same folder (default: from --settings)
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    pub unlabelled: Option<PathBuf>,
    /// SAM 2.1 or MedSAM2 weights: .pt, .pth or .safetensors (default: from --settings)
    #[arg(long, value_name = "FILE", help_heading = "Input and output")]
    pub weights: Option<PathBuf>,
    /// Folder for everything that comes of it
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    pub out: PathBuf,
    /// Folder of volumes with references, which every round is compared with (default: none)
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    pub test: Option<PathBuf>,
    /// File of settings, such as another run's config.toml; options come before it (default: none)
    #[arg(long, value_name = "FILE", help_heading = "Input and output")]
    pub settings: Option<PathBuf>,

    /// Table of lines CASE,GROUP: a case meets only its group's labelled volumes (default: one group)
    #[arg(long, value_name = "FILE", conflicts_with = "group_regex", help_heading = "Groups")]
    pub groups: Option<PathBuf>,
    /// Take the group from the case's name: the first capture of this expression (default: one group)
    #[arg(long, value_name = "RE", help_heading = "Groups")]
    pub group_regex: Option<String>,

    /// Most rounds of training and re-labelling (default: 3)
    #[arg(long, value_name = "N", help_heading = "Rounds")]
    pub rounds: Option<u32>,
    /// End when the mean Dice between two rounds' pseudo-labels reaches this (default: 0.99)
    #[arg(long, value_name = "DICE", help_heading = "Rounds")]
    pub settled: Option<f64>,
    /// Start a round's networks from those of the round before (default: from random weights)
    #[arg(long, help_heading = "Rounds")]
    pub warm_start: bool,
    /// Seed of everything that is drawn (default: 0)
    #[arg(long, value_name = "S", help_heading = "Rounds")]
    pub seed: Option<u32>,
    /// Options of hpc-seg pseudo-label, such as "--insertions 3 --window 40,400" (default: none)
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true, help_heading = "Steps")]
    pub label_options: Option<String>,
    /// Options of hpc-seg plan, such as "--patch 48,192,192" (default: none)
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true, help_heading = "Steps")]
    pub plan_options: Option<String>,
    /// Options of hpc-seg train, such as "--epochs 250 --time-budget 2h" (default: none)
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true, help_heading = "Steps")]
    pub train_options: Option<String>,
    /// Do only this step, such as round_1/fold_0, whose needs are done (default: all)
    #[arg(long, value_name = "STEP", help_heading = "Steps")]
    pub only_step: Option<String>,
    /// Do steps again whose settings or labels changed, training included (default: refuse)
    #[arg(long, help_heading = "Steps")]
    pub redo: bool,

    /// Threads to work with (default: all this process may use)
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub threads: Option<usize>,
    /// Device of the pseudo-labels: auto, cpu, cuda or cuda:N; training is on the CPU
    #[arg(long, value_name = "DEVICE", default_value = "auto", help_heading = "Machine")]
    pub device: String,
    /// Memory of the device that this process may use, such as 10GiB (default: all that is free)
    #[arg(long, value_name = "SIZE", help_heading = "Machine")]
    pub memory: Option<String>,
    /// Show the steps, with memory and time as far as can be said, and do nothing (default: off)
    #[arg(long, help_heading = "Machine")]
    pub dry_run: bool,
    /// Write the summary (or the steps) to standard output as JSON (default: off)
    #[arg(long, help_heading = "Machine")]
    pub json: bool,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  hpc-seg status result\n\nLooks at the files only: it may be given on any machine that sees them, while others work."
)]
pub struct StatusArgs {
    /// Output folder of hpc-seg run
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// Write it to standard output as JSON (default: off)
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `report`.
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  hpc-seg report result\n\nMakes OUT/report.html and OUT/summary.json again from what is there.")]
pub struct ReportArgs {
    /// Output folder of hpc-seg run
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// Threads to work with (default: all this process may use)
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}
