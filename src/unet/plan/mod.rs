//! Plans: how a data set is preprocessed, cut into patches and what network learns from it (nnU-Net's `nnUNetPlans.json`).

mod file;
mod planner;
mod topology;

pub use planner::{Overrides, plan};
pub use topology::{Topology, topology};

use super::architecture::Architecture;
use super::fingerprint::Intensities;
use crate::bad_input;
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The configuration this program works with.
pub const CONFIGURATION: &str = "3d_fullres";
/// Where the preprocessed cases of a plan of ours lie.
pub const DATA_IDENTIFIER: &str = "nnUNetPlans_3d_fullres";

/// Plans, with one configuration out of them. Axes are those of the arrays after `transpose_forward`, unless told otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Plans {
    /// Such as `Dataset701_LiverMR`.
    pub dataset_name: String,
    /// Such as `nnUNetPlans`.
    pub plans_name: String,
    /// Which of the file's axes (z, y, x) become the array's.
    pub transpose_forward: [usize; 3],
    /// And back.
    pub transpose_backward: [usize; 3],
    /// Median spacing of the data set.
    pub original_median_spacing: [f64; 3],
    /// Median sizes after cropping.
    pub original_median_shape: [usize; 3],
    /// By channel; what CT is normalised by.
    pub intensities: BTreeMap<String, Intensities>,
    /// The configuration `3d_fullres`.
    pub configuration: Configuration,
    /// The file, word for word, where it was read.
    pub json: Option<Value>,
}

/// A configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration {
    /// Name of the folder of preprocessed cases.
    pub data_identifier: String,
    /// Patches of a training step.
    pub batch_size: usize,
    /// Voxels along each axis.
    pub patch_size: [usize; 3],
    /// Median sizes after resampling; may end in .5.
    pub median_size: [f64; 3],
    /// To which everything is resampled, in mm.
    pub spacing: [f64; 3],
    /// By channel.
    pub normalisation: Vec<Normalisation>,
    /// The network.
    pub architecture: Architecture,
    /// Whether Dice is that of the whole batch instead of a mean over its patches.
    pub batch_dice: bool,
}

/// How a channel's intensities are made comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Normalisation {
    /// By what.
    pub scheme: Scheme,
    /// Whether only voxels of the nonzero mask count and are changed.
    pub uses_mask: bool,
}

/// nnU-Net's schemes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Clipped to percentiles of the data set's foreground, then by its mean and standard deviation.
    Ct,
    /// By the volume's own mean and standard deviation.
    ZScore,
    /// As they are.
    None,
    /// From the volume's minimum and maximum to 0..1.
    RescaleTo01,
    /// From 0..255 to 0..1.
    RgbTo01,
}

impl Scheme {
    const NAMES: [(Self, &str, &str); 5] = [
        (Self::Ct, "ct", "CTNormalization"),
        (Self::None, "nonorm", "NoNormalization"),
        (Self::ZScore, "zscore", "ZScoreNormalization"),
        (Self::RescaleTo01, "rescale_to_0_1", "RescaleTo01Normalization"),
        (Self::RgbTo01, "rgb_to_0_1", "RGBTo01Normalization"),
    ];

    /// For a channel of this name; any but nnU-Net's own is z-scored.
    pub fn of_channel(name: &str) -> Self {
        let name = name.to_lowercase();
        let found = Self::NAMES.iter().find(|(_, channel, _)| *channel == name);
        found.map_or(Self::ZScore, |(scheme, ..)| *scheme)
    }

    fn class_name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(scheme, ..)| *scheme == self)
            .map_or("", |(.., class)| class)
    }

    fn of_class(name: &str) -> Result<Self> {
        match Self::NAMES.iter().find(|(.., class)| *class == name) {
            Some((scheme, ..)) => Ok(*scheme),
            None => bad_input!(
                "normalisation {name:?} is not known; known are {:?}",
                Self::NAMES.map(|(.., class)| class)
            ),
        }
    }
}

impl Plans {
    /// Reads plans.
    ///
    /// # Errors
    /// A file that is missing or no plans; a configuration that is missing, or not three-dimensional; a network that is not known.
    pub fn read(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => bad_input!(
                "{}: the plans cannot be read ({error}); hpc-seg plan makes them, and a trained model's folder holds them",
                path.display()
            ),
        };
        let Ok(json) = serde_json::from_str::<Value>(&text) else {
            bad_input!("{}: is no JSON; repair it, or make it anew with hpc-seg plan", path.display());
        };
        file::read(&json).with_context(|| format!("{}: cannot be used as plans", path.display()))
    }

    /// As JSON, keys and values nnU-Net's.
    pub fn to_json(&self) -> Value {
        self.json.clone().unwrap_or_else(|| file::write(self))
    }
}
