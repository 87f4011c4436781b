//! The command line as clap sees it: definitions only. What the values mean together is checked in [`commands`](crate::commands).

pub mod evaluate;
pub mod manual;
pub mod model;
pub mod run;
pub mod train;
pub mod unet;

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use unet::{PlanArgs, PredictArgs, PreprocessArgs};

/// Exit codes and the note on use, shown at the end of the program's own long help.
const AFTER_HELP: &str = "Exit codes: 0 done; 1 failed; 2 bad usage or input; 3 done, but some cases failed (OUT/failed.csv); \
75 stopped on a signal (the same command goes on).\n\nFor research use only; not a medical device.";

/// Few labelled and many unlabelled medical volumes in, segmentations out.
#[derive(Debug, Parser)]
#[command(name = "hpc-seg", version, after_help = AFTER_HELP, max_term_width = 120)]
pub struct Cli {
    /// Say warnings and errors only, and show no progress (default: off)
    #[arg(long, short, global = true)]
    pub quiet: bool,

    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Label the unlabelled volumes of a cohort from a few labelled ones (TFFS, no training)
    PseudoLabel(Box<PseudoLabelArgs>),
    /// Label the unlabelled volumes, train on the labels, re-label and train again, until they settle
    Run(Box<run::RunArgs>),
    /// Show where a run stands, step by step
    Status(run::StatusArgs),
    /// Make a run's report and summary again
    Report(run::ReportArgs),
    /// Send a phantom cohort through the whole method, and show scores, a report and a picture
    Demo(DemoArgs),
    /// Take a data set's fingerprint and plan a 3-D U-Net for it, as nnU-Net does
    Plan(PlanArgs),
    /// Crop, normalise and resample a data set as its plan says
    Preprocess(PreprocessArgs),
    /// Train a 3-D U-Net as nnU-Net does, in folds
    Train(Box<train::TrainArgs>),
    /// Segment volumes with a trained nnU-Net model
    Predict(PredictArgs),
    /// Make a cohort of abdominal MR phantoms with known labels
    Phantom(PhantomArgs),
    /// Compare label maps with references: Dice, distances between surfaces, volumes
    Evaluate(Box<evaluate::EvaluateArgs>),
    /// Take models to and from nnU-Net
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// Inspect, convert or verify network weights
    #[command(subcommand)]
    Weights(WeightsCommand),
    /// Measure ops or a whole volume on this machine, and compare measurements
    Bench(Box<BenchArgs>),
    /// Show versions, processor, threads, memory and licence
    #[command(visible_alias = "doctor")]
    Info(InfoArgs),
    /// Print a completion script for a shell
    Completions(manual::CompletionsArgs),
    /// Write the manual as man pages
    Man(manual::ManArgs),
}

/// Arguments of `pseudo-label`.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  hpc-seg pseudo-label --labelled Dataset001 --unlabelled Dataset001 --weights MedSAM2_latest.pt --out labels\n\n\
Folders: imagesTr/CASE_0000.nii.gz + labelsTr/CASE.nii.gz (nnU-Net), imagesTs/CASE_0000.nii.gz, or images/ + labels/ with equal file names; \
unlabelled volumes may also lie directly in a folder. One folder holding both kinds may be given twice.\n\n\
Results, in the geometry of the input: OUT/CASE.nii.gz, OUT/uncertainty/CASE.nii.gz, OUT/cases/CASE.json and CASE.png. Given again, the command \
skips finished cases unless their files, the weights or the settings changed.\n\nFor research use only; not a medical device."
)]
pub struct PseudoLabelArgs {
    /// Whether `run` gives the command, which says itself what the cases' folders lack
    #[arg(skip)]
    pub is_part_of_run: bool,
    /// Folder of volumes with labels
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    pub labelled: PathBuf,
    /// Folder of volumes to be labelled; may be the same folder
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    pub unlabelled: PathBuf,
    /// SAM 2.1 or MedSAM2 weights: .pt, .pth or .safetensors
    #[arg(long, value_name = "FILE", help_heading = "Input and output")]
    pub weights: PathBuf,
    /// JSON configuration of the network (default: from the weights)
    #[arg(long, value_name = "FILE", help_heading = "Input and output")]
    pub config: Option<PathBuf>,
    /// Folder for the results
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    pub out: PathBuf,
    /// Also write OUT/probability/CASE.nii.gz, the mean probabilities (default: off)
    #[arg(long, help_heading = "Input and output")]
    pub save_probabilities: bool,
    /// Label only this case; may be repeated (default: all)
    #[arg(long = "case", value_name = "NAME", help_heading = "Input and output")]
    pub cases: Vec<String>,
    /// Channel of nnU-Net images, N in CASE_000N.nii.gz
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Input and output")]
    pub channel: usize,

    /// Table of lines CASE,GROUP: a case meets only its group's labelled volumes (default: one group)
    #[arg(long, value_name = "FILE", conflicts_with = "group_regex", help_heading = "Groups")]
    pub groups: Option<PathBuf>,
    /// Take the group from the case's name: the first capture of this expression (default: one group)
    #[arg(long, value_name = "RE", help_heading = "Groups")]
    pub group_regex: Option<String>,

    /// Places at which each labelled volume is inserted (R), drawn at random
    #[arg(long, value_name = "R", default_value_t = 5, help_heading = "Method")]
    pub insertions: usize,
    /// Insertion places given by hand, such as 0,7,15 (default: drawn)
    #[arg(long, value_name = "PLACES", value_delimiter = ',', help_heading = "Method")]
    pub insert_at: Option<Vec<usize>>,
    /// Seed of the insertion places
    #[arg(long, value_name = "S", default_value_t = 0, help_heading = "Method")]
    pub seed: u64,
    /// Intensity window for CT, such as 40,400 (default: percentiles, for MR)
    #[arg(
        long,
        value_name = "LEVEL,WIDTH",
        value_delimiter = ',',
        allow_hyphen_values = true,
        help_heading = "Method"
    )]
    pub window: Option<Vec<f64>>,
    /// Voxel axis of the file along which slices are taken; x, y, z or 0, 1, 2
    #[arg(long, value_name = "AXIS", value_enum, default_value_t = AxisArg::Z, help_heading = "Method")]
    pub slice_axis: AxisArg,
    /// Mean probability above which a voxel is foreground
    #[arg(long, value_name = "P", default_value_t = 0.5, help_heading = "Method")]
    pub threshold: f64,
    /// Keep only the largest component of each class (default: on)
    #[arg(long, overrides_with = "no_largest_component", help_heading = "Method")]
    pub largest_component: bool,
    /// Keep all components of each class (default: off)
    #[arg(long, help_heading = "Method")]
    pub no_largest_component: bool,
    /// Fill holes of the network's masks up to this many pixels; 0 leaves them
    #[arg(long, value_name = "AREA", default_value_t = 8, help_heading = "Method")]
    pub fill_holes: usize,
    /// Refuse to permute labelled volumes to the query's orientation (default: off)
    #[arg(long, help_heading = "Method")]
    pub no_reorient: bool,

    /// Threads to work with (default: all this process may use)
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub threads: Option<usize>,
    /// Device to work on: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto", help_heading = "Machine")]
    pub device: String,
    /// GPUs that share the cases, by number, such as 0,1,2 (default: the one of --device)
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        conflicts_with = "device",
        help_heading = "Machine"
    )]
    pub devices: Vec<String>,
    /// Memory of each device that this process may use, such as 10GiB (default: all that is free)
    #[arg(long, value_name = "SIZE", help_heading = "Machine")]
    pub memory: Option<String>,
    /// Folder where compiled CUDA kernels are kept (default: the user's cache folder)
    #[arg(long, value_name = "DIR", hide_short_help = true, help_heading = "Machine")]
    pub kernel_cache: Option<PathBuf>,
    /// Lanes per step; results do not depend on it (default: as memory allows)
    #[arg(long, value_name = "N", hide_short_help = true, help_heading = "Machine")]
    pub lanes: Option<usize>,
    /// Show what would be done, with memory and time, and do nothing (default: off)
    #[arg(long, help_heading = "Machine")]
    pub dry_run: bool,
    /// Write the summary (or the plan) to standard output as JSON (default: off)
    #[arg(long, help_heading = "Machine")]
    pub json: bool,
}

/// Arguments of `bench`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_long_help = "Examples:\n  hpc-seg bench --ops --device cuda --json ops.json\n  hpc-seg bench --volume --memory 10GiB --as a100-1g.10gb\n  \
hpc-seg bench diff before.json after.json\n\nOps run at the sizes of MedSAM2's network at 512 x 512; volumes are phantoms, made in a temporary folder."
)]
pub struct BenchArgs {
    /// Compare measurements instead
    #[command(subcommand)]
    pub command: Option<BenchCommand>,

    /// Measure every op (default: off)
    #[arg(long)]
    pub ops: bool,
    /// Measure a volume from its file to its results (default: off)
    #[arg(long)]
    pub volume: bool,
    /// Also write the measurement to this file (default: none)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Show beside it the data sheet's floor on another card, such as a100-1g.10gb (default: none)
    #[arg(long = "as", value_name = "CARD")]
    pub card: Option<String>,

    /// Only ops whose name or case holds this (default: all)
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, help_heading = "Ops")]
    pub filter: String,

    /// Slices, rows and columns of every volume
    #[arg(
        long,
        value_name = "Z,Y,X",
        value_delimiter = ',',
        default_value = "80,320,320",
        help_heading = "Volume"
    )]
    pub size: Vec<usize>,
    /// Labelled volumes (M)
    #[arg(long, value_name = "M", default_value_t = 10, help_heading = "Volume")]
    pub labelled: usize,
    /// Insertions of each (R)
    #[arg(long, value_name = "R", default_value_t = 5, help_heading = "Volume")]
    pub insertions: usize,
    /// Volumes after the first
    #[arg(long, value_name = "N", default_value_t = 5, help_heading = "Volume")]
    pub repeats: usize,
    /// SAM 2.1 or MedSAM2 weights (default: made by a formula)
    #[arg(long, value_name = "FILE", help_heading = "Volume")]
    pub weights: Option<PathBuf>,
    /// JSON configuration of the network (default: from the weights)
    #[arg(long, value_name = "FILE", requires = "weights", help_heading = "Volume")]
    pub config: Option<PathBuf>,
    /// Lanes per step (default: as memory allows)
    #[arg(long, value_name = "N", help_heading = "Volume")]
    pub lanes: Option<usize>,
    /// Show the plan as JSON, and measure nothing (default: off)
    #[arg(long, help_heading = "Volume")]
    pub dry_run: bool,

    /// Threads to work with (default: all this process may use)
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub threads: Option<usize>,
    /// Device to work on: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto", help_heading = "Machine")]
    pub device: String,
    /// Device memory this process may use, such as 10GiB (default: all that is free)
    #[arg(long, value_name = "SIZE", help_heading = "Machine")]
    pub memory: Option<String>,
    /// Multiprocessors of the GPU to work with, to imitate a smaller one (default: all)
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub sm_limit: Option<u32>,
    /// Folder where compiled CUDA kernels are kept (default: the user's cache folder)
    #[arg(long, value_name = "DIR", hide_short_help = true, help_heading = "Machine")]
    pub kernel_cache: Option<PathBuf>,
}

/// Subcommands of `bench`.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Show two measurements side by side
    Diff(BenchDiffArgs),
}

/// Arguments of `bench diff`.
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  hpc-seg bench diff before.json after.json")]
pub struct BenchDiffArgs {
    /// The first measurement, as --json wrote it
    pub a: PathBuf,
    /// The second
    pub b: PathBuf,
}

/// A voxel axis of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AxisArg {
    /// The first, fastest axis
    #[value(alias = "0")]
    X,
    /// The second axis
    #[value(alias = "1")]
    Y,
    /// The third axis
    #[value(alias = "2")]
    Z,
}

/// Arguments of `phantom`.
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  hpc-seg phantom --cases 6 --labelled 2 --out phantoms --seed 1\n\n\
The folder has nnU-Net's layout: labelled cases in imagesTr and labelsTr, the others in imagesTs; their truth, in labelsTs, is never read as labels.")]
pub struct PhantomArgs {
    /// Cases to make, the labelled ones included
    #[arg(long, value_name = "N")]
    pub cases: usize,
    /// Cases among them that get labels
    #[arg(long, value_name = "M")]
    pub labelled: usize,
    /// Folder for the cohort
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Seed: the same seed makes the same cohort
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// MR sequence of the images
    #[arg(long, value_name = "NAME", value_enum, default_value_t = SequenceArg::Ged4)]
    pub sequence: SequenceArg,
    /// Number of the first case; other numbers are other phantoms
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub first: usize,
    /// Label only this organ, such as liver, with 1 (default: all seven)
    #[arg(long, value_name = "NAME")]
    pub organ: Option<String>,
    /// Size in voxels, slices first, such as 24,128,128 (default: varies from case to case)
    #[arg(long, value_name = "Z,Y,X", value_delimiter = ',')]
    pub size: Option<Vec<usize>>,
}

/// An MR sequence of the phantoms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SequenceArg {
    /// Hepatobiliary phase, contrast-enhanced
    Ged4,
    /// T1-weighted
    T1,
    /// T2-weighted
    T2,
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  hpc-seg demo --out out/demo\n\nNeeds no download and some five minutes on two cores. Three phantoms are labelled, nine are not, and four are for testing; one round of hpc-seg run with a small network. \
It reports what it finds: with a minute of training the networks need not be better than the labels they are trained on."
)]
pub struct DemoArgs {
    /// Folder for the phantoms and what comes of them
    #[arg(long, value_name = "DIR", default_value = "out/demo")]
    pub out: PathBuf,
    /// Seconds that each of the five networks is trained
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub fold_seconds: u32,
    /// Threads to work with (default: all this process may use)
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Write the summary to standard output as JSON (default: off)
    #[arg(long)]
    pub json: bool,
}

/// The subcommands of `weights`.
#[derive(Debug, Subcommand)]
pub enum WeightsCommand {
    /// List a file's tensors, their types and shapes
    #[command(after_long_help = "Example:\n  hpc-seg weights inspect MedSAM2_latest.pt")]
    Inspect(WeightsInspectArgs),
    /// Write a checkpoint's tensors as safetensors
    #[command(after_long_help = "Example:\n  hpc-seg weights convert MedSAM2_latest.pt --out medsam2.safetensors")]
    Convert(WeightsConvertArgs),
    /// Check a file against the list of known weights, and that its network can be loaded whole
    #[command(after_long_help = "Example:\n  hpc-seg weights verify medsam2.safetensors")]
    Verify(WeightsVerifyArgs),
}

/// Arguments of `weights inspect`.
#[derive(Debug, Args)]
pub struct WeightsInspectArgs {
    /// Weights: .pt, .pth or .safetensors
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Write the result to standard output as JSON (default: off)
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `weights verify`.
#[derive(Debug, Args)]
pub struct WeightsVerifyArgs {
    /// Weights: .pt, .pth or .safetensors
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// JSON configuration of the network (default: from the weights)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Write the result to standard output as JSON (default: off)
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `weights convert`.
#[derive(Debug, Args)]
pub struct WeightsConvertArgs {
    /// Weights: .pt, .pth or .safetensors
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// File to write (default: FILE with the ending .safetensors)
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// What floating-point tensors become
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = PrecisionArg::Keep)]
    pub precision: PrecisionArg,
}

/// A floating-point type of converted weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PrecisionArg {
    /// As stored
    Keep,
    /// 32 bits
    F32,
    /// 16 bits, IEEE half precision
    F16,
    /// 16 bits with the range of f32
    Bf16,
}

/// Arguments of `info`.
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  hpc-seg info --json")]
pub struct InfoArgs {
    /// Write it to standard output as JSON (default: off)
    #[arg(long)]
    pub json: bool,
}
