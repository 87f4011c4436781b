//! Presets: the metrics of well-known tools, each by its tool's convention, since they disagree (Podobnik and Vrtovec 2024).

use anyhow::{Error, Result};
use std::str::FromStr;

/// A tool whose conventions are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// nnU-Net: Dice and IoU; no distances. A class in neither map has none.
    Nnunet,
    /// CARE 2025 (as its participants report): Dice and the largest Hausdorff distance in mm, between borders. Unconfirmed by the challenge's own code.
    Care,
    /// medpy: HD is the largest distance between borders, HD95 the 95th percentile of the distances of both directions together, ASSD the mean of them.
    Medpy,
    /// MONAI: HD as medpy's, HD95 the larger of the two directions' percentiles; NSD the share of border voxels of both within the tolerance.
    Monai,
    /// SimpleITK: HD is the largest distance from a voxel of one mask to the other mask, not to its border.
    Simpleitk,
}

impl Preset {
    /// All, by their names.
    pub const ALL: [(&'static str, Self); 5] = [
        ("nnunet", Self::Nnunet),
        ("care", Self::Care),
        ("medpy", Self::Medpy),
        ("monai", Self::Monai),
        ("simpleitk", Self::Simpleitk),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, preset)| *preset == self).map_or("", |(name, _)| name)
    }
}

impl FromStr for Preset {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match Self::ALL.iter().find(|(name, _)| *name == text) {
            Some((_, preset)) => Ok(*preset),
            None => crate::bad_input!("--preset {text}: the presets are {}", Self::ALL.map(|(name, _)| name).join(", ")),
        }
    }
}
