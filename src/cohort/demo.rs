//! The demo cohort: phantoms of one organ, their pseudo-labels compared with the truth, and a picture.

use crate::atomic_file;
use crate::cohort::phantoms::{self, Request};
use crate::messages::Progress;
use crate::metrics::dice::dice;
use crate::report::montage::{Extras, montage};
use crate::stop::Stop;
use crate::volume::phantom::Sequence;
use crate::volume::{AxisMap, Volume};
use crate::weights::demo_network;
use anyhow::{Context, Result};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// The organ: the demo network follows prompts of the liver well, of others only in part.
const LIVER: u8 = 1;
/// Phantoms in all, and labelled ones among them.
const CASES: usize = 6;
const LABELLED: usize = 2;

/// Where the demo's files lie.
pub struct Demo {
    /// The phantoms, in nnU-Net's layout.
    pub phantoms: PathBuf,
    /// The demo network.
    pub weights: PathBuf,
    /// The pseudo-labels.
    pub labels: PathBuf,
    /// The picture.
    pub picture: PathBuf,
    cases: Vec<String>,
}

/// How close a pseudo-label is to the truth.
#[derive(Debug, Serialize)]
pub struct Score {
    /// The case.
    pub case: String,
    /// Dice of the liver, 0 to 1; none where truth and pseudo-label are empty.
    pub dice: Option<f64>,
}

impl Demo {
    /// Makes the phantoms and puts the demo network beside them.
    ///
    /// # Errors
    /// A folder that cannot be written to, a stop.
    pub fn prepare(out: &Path, stop: &Stop) -> Result<Self> {
        let phantoms = out.join("phantoms");
        let request = Request {
            cases: CASES,
            labelled: LABELLED,
            out: phantoms.clone(),
            seed: 0,
            sequence: Sequence::Ged4,
            size: None,
            organ: Some(LIVER),
        };
        fs::create_dir_all(out).with_context(|| format!("cannot create {}; choose another --out", out.display()))?;
        let cases = phantoms::write(&request, stop, &Progress::new("phantoms"))?;
        let weights = out.join("demo.safetensors");
        atomic_file::write_bytes(&weights, demo_network())?;
        Ok(Self {
            phantoms,
            weights,
            labels: out.join("labels"),
            picture: out.join("demo.png"),
            cases,
        })
    }

    /// Compares every pseudo-label with the truth, and draws the first one: solid outline pseudo-label, dashed the truth.
    ///
    /// # Errors
    /// A pseudo-label that is not there.
    pub fn evaluate(&self) -> Result<Vec<Score>> {
        let axes = AxisMap::default();
        let mut scores = Vec::new();
        for (index, case) in self.cases[LABELLED..].iter().enumerate() {
            let file = format!("{case}.nii.gz");
            let made = labels(&self.labels.join(&file), &axes)?;
            let truth = labels(&self.phantoms.join("labelsTs").join(&file), &axes)?;
            scores.push(Score {
                case: case.clone(),
                dice: dice(&made, &truth, LIVER)?,
            });
            if index == 0 {
                let image = Volume::open(&self.phantoms.join(format!("imagesTs/{case}_0000.nii.gz")))?;
                let extras = Extras {
                    reference: Some(&truth),
                    ..Extras::default()
                };
                let mut read = |z: usize, out: &mut [f32]| image.slice_into(&axes, z, out);
                montage(
                    &mut read,
                    &made,
                    axes.permute(image.dims()),
                    axes.permute(image.geometry().spacing),
                    extras,
                    &self.picture,
                )?;
            }
        }
        Ok(scores)
    }
}

fn labels(path: &Path, axes: &AxisMap) -> Result<Vec<u8>> {
    Ok(Volume::open(path)?
        .labels(axes)?
        .into_iter()
        .map(|label| label.min(255) as u8)
        .collect())
}
