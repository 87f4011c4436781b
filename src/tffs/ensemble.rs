//! The ensemble: running sums of probabilities, then mask, uncertainty and what the runs agree on.

use crate::bad_input;
use crate::device::Device;
use crate::ops::ensemble::{MAX_RUNS, Sums};
use crate::ops::take::{Maps, Votes};
use anyhow::Result;

/// What is known of one class.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassSummary {
    /// Its label.
    pub class: u8,
    /// Runs that were averaged.
    pub runs: usize,
    /// Mean pairwise Dice of the runs.
    pub agreement: f64,
    /// Voxels of the final mask.
    pub voxels: usize,
    /// Components before all but the largest were removed (or simply counted).
    pub components: usize,
    /// Mean uncertainty over the class's voxels, in nats.
    pub mean_uncertainty: f64,
}

/// The result in the making: the most probable class so far, its probability, and the largest uncertainty of any class.
pub struct Ensemble {
    device: Device,
    dims: [usize; 3],
    maps: Maps,
    probabilities: Option<Vec<f32>>,
    classes: Vec<ClassSummary>,
}

/// A finished ensemble of a volume [N, H, W].
pub struct Labelling {
    /// The class of each voxel, 0 for background.
    pub labels: Vec<u8>,
    /// Binary entropy of the mean probability, in nats; the largest over the classes.
    pub uncertainty: Vec<f32>,
    /// Mean probabilities [class, N, H, W], if they were asked for.
    pub probabilities: Option<Vec<f32>>,
    /// Per class, in the order they were run.
    pub classes: Vec<ClassSummary>,
    /// Mean uncertainty over the whole volume.
    pub mean_uncertainty: f64,
}

impl Ensemble {
    /// An empty result for a volume of `dims` [N, H, W]; a voxel takes its most probable class if that exceeds `threshold`.
    ///
    /// # Errors
    /// When the device's budget has no room for it.
    pub fn new(device: &Device, dims: [usize; 3], threshold: f32, keep_probabilities: bool) -> Result<Self> {
        Ok(Self {
            device: device.clone(),
            dims,
            maps: Maps::new(device, dims.iter().product(), threshold)?,
            probabilities: keep_probabilities.then(Vec::new),
            classes: Vec::new(),
        })
    }

    /// Sums for `runs` runs of one class.
    ///
    /// # Errors
    /// More runs than the sums can hold.
    pub fn sums(&self, runs: usize) -> Result<Sums> {
        check_runs(runs)?;
        let [n, h, w] = self.dims;
        Sums::new(&self.device, n, h * w, runs)
    }

    /// Takes in a class whose runs are done. Of equal probabilities the class taken first wins.
    ///
    /// # Errors
    /// Those of a CUDA device.
    pub fn take(&mut self, class: u8, sums: &Sums) -> Result<()> {
        let votes = self.maps.take(class, sums, self.probabilities.as_mut())?;
        self.classes.push(ClassSummary {
            class,
            runs: sums.runs(),
            agreement: agreement(votes, sums.runs()),
            voxels: 0,
            components: 0,
            mean_uncertainty: 0.0,
        });
        Ok(())
    }

    /// Mask, maps and summary; with `largest` all but each class's largest component is removed.
    ///
    /// # Errors
    /// A volume of more voxels than components can count.
    pub fn finish(mut self, largest: bool) -> Result<Labelling> {
        for summary in &mut self.classes {
            summary.components = self.maps.components(summary.class, self.dims, largest)?;
        }
        let (labels, uncertainty) = self.maps.finish()?;
        for summary in &mut self.classes {
            let (mut voxels, mut total) = (0usize, 0f64);
            for (&label, &uncertainty) in labels.iter().zip(&uncertainty) {
                if label == summary.class {
                    voxels += 1;
                    total += f64::from(uncertainty);
                }
            }
            summary.voxels = voxels;
            summary.mean_uncertainty = if voxels > 0 { total / voxels as f64 } else { 0.0 };
        }
        let all: f64 = uncertainty.iter().map(|&u| f64::from(u)).sum();
        Ok(Labelling {
            mean_uncertainty: all / uncertainty.len().max(1) as f64,
            labels,
            uncertainty,
            probabilities: self.probabilities,
            classes: self.classes,
        })
    }
}

/// Whether so many runs of a class can be averaged.
///
/// # Errors
/// More than the sums can hold.
pub fn check_runs(runs: usize) -> Result<()> {
    if runs > MAX_RUNS {
        bad_input!(
            "{runs} runs for one class; at most {MAX_RUNS} can be averaged: use fewer insertions (--insertions) or labelled volumes"
        );
    }
    Ok(())
}

/// Mean Dice over all pairs of runs, pooled: twice the voxels two runs share over the voxels both have. 1 if there is one run or no voxel.
fn agreement(votes: Votes, runs: usize) -> f64 {
    if runs < 2 || votes.all == 0 {
        1.0
    } else {
        votes.shared as f64 / (votes.all * (runs as u64 - 1)) as f64
    }
}
