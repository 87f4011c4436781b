//! Arguments of `evaluate`.

use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Arguments of `evaluate`.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  hpc-seg evaluate --predictions out --references Dataset001/labelsTs --preset care --json scores.json\n\n\
Presets: full (Dice, IoU, volumes, HD, HD95 and ASSD by MedPy's rules, NSD by surface-distance's), nnunet (Dice, IoU), care (Dice, largest HD, HD95), \
medpy, surface-distance, monai, simpleitk (each program's own HD, HD95 and NSD as far as it has them). All distances are in mm and know the spacing.\n\n\
A class that neither map holds has no value but its volumes, 0 ml. A class that one map holds alone has Dice, IoU and NSD 0; its distances are infinite, left out \
of means and counted as missed. A case that cannot be compared fails by itself (exit code 3)."
)]
pub struct EvaluateArgs {
    /// Folder of the label maps to be judged, CASE.nii.gz
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    pub predictions: PathBuf,
    /// Folder of the true label maps, with the same file names
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    pub references: PathBuf,
    /// Also write all values to this file as JSON (default: none)
    #[arg(long, value_name = "FILE", help_heading = "Input and output")]
    pub json: Option<PathBuf>,
    /// Also write a line per case and class to this file (default: none)
    #[arg(long, value_name = "FILE", help_heading = "Input and output")]
    pub csv: Option<PathBuf>,
    /// Also write nnU-Net's summary.json to this file (default: none)
    #[arg(long, value_name = "FILE", help_heading = "Input and output")]
    pub summary: Option<PathBuf>,

    /// Which measures, and by whose rules
    #[arg(long, value_name = "NAME", value_enum, default_value_t = PresetArg::Full, help_heading = "Measures")]
    pub preset: PresetArg,
    /// Distances in mm up to which surfaces count as equal (NSD), such as 1,3 (default: 3)
    #[arg(long, value_name = "MM", value_delimiter = ',', help_heading = "Measures")]
    pub tolerance: Vec<f64>,
    /// Labels to compare, such as 1,2 (default: all but 0 that occur)
    #[arg(long, value_name = "LABELS", value_delimiter = ',', help_heading = "Measures")]
    pub classes: Vec<u16>,
    /// Leave voxels out that the reference labels so (default: none)
    #[arg(long, value_name = "LABEL", help_heading = "Measures")]
    pub ignore_label: Option<u16>,
    /// Seed of the 95 % intervals (bootstrap over cases)
    #[arg(long, value_name = "S", default_value_t = 0, help_heading = "Measures")]
    pub seed: u64,

    /// Table of lines CASE,GROUP: means for each group too (default: one group)
    #[arg(long, value_name = "FILE", conflicts_with = "group_regex", help_heading = "Groups")]
    pub groups: Option<PathBuf>,
    /// Take the group from the case's name: the first capture of this expression (default: one group)
    #[arg(long, value_name = "RE", help_heading = "Groups")]
    pub group_regex: Option<String>,

    /// Threads to work with (default: all this process may use)
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub threads: Option<usize>,
}

/// A list of measures, see `metrics::measures::Preset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PresetArg {
    /// All measures
    Full,
    /// Dice and IoU
    Nnunet,
    /// Dice, largest HD, HD95
    Care,
    /// MedPy's HD, HD95, ASSD
    Medpy,
    /// surface-distance's HD, HD95, NSD
    SurfaceDistance,
    /// MONAI's HD, HD95, NSD of voxels
    Monai,
    /// SimpleITK's HD
    Simpleitk,
}
