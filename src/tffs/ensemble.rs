//! The ensemble: running sums of probabilities, then mask, uncertainty and what the runs agree on.

use crate::bad_input;
use crate::ops::ensemble::{MAX_RUNS, ONE, ensemble, entropy};
use crate::ops::resize::ResizePlan;
use crate::volume::components::largest_component;
use anyhow::Result;
use rayon::prelude::*;

/// One class's running sums over a volume [N, H, W].
pub struct Sums {
    sum: Vec<u32>,
    votes: Vec<u16>,
    runs: usize,
    pixels: usize,
}

impl Sums {
    /// Adds one run's low-resolution logits of a slice.
    ///
    /// # Errors
    /// Logits of another size than the plan's.
    pub fn add(&mut self, slice: usize, logits: &[f32], plan: &ResizePlan) -> Result<()> {
        let range = slice * self.pixels..(slice + 1) * self.pixels;
        ensemble(logits, plan, &mut self.sum[range.clone()], &mut self.votes[range])
    }

    /// Mean probability of voxel i.
    fn mean(&self, i: usize) -> f32 {
        if self.runs == 0 {
            0.0
        } else {
            (f64::from(self.sum[i]) / (f64::from(ONE) * self.runs as f64)) as f32
        }
    }

    /// Mean Dice over all pairs of runs, pooled: twice the voxels two runs share over the voxels both have. 1 if there is one run or no voxel.
    fn agreement(&self) -> f64 {
        let (mut shared, mut all) = (0u64, 0u64);
        for &votes in &self.votes {
            let votes = u64::from(votes);
            shared += votes * votes.saturating_sub(1);
            all += votes;
        }
        if self.runs < 2 || all == 0 {
            1.0
        } else {
            shared as f64 / (all * (self.runs as u64 - 1)) as f64
        }
    }
}

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
    dims: [usize; 3],
    keep_probabilities: bool,
    label: Vec<u8>,
    best: Vec<f32>,
    uncertainty: Vec<f32>,
    probabilities: Vec<f32>,
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
    pub fn new(dims: [usize; 3], threshold: f32, keep_probabilities: bool) -> Self {
        let voxels = dims.iter().product();
        Self {
            dims,
            keep_probabilities,
            label: vec![0; voxels],
            best: vec![threshold; voxels],
            uncertainty: vec![0.0; voxels],
            probabilities: Vec::new(),
            classes: Vec::new(),
        }
    }

    /// Sums for `runs` runs of one class.
    ///
    /// # Errors
    /// More runs than the sums can hold.
    pub fn sums(&self, runs: usize) -> Result<Sums> {
        if runs > MAX_RUNS {
            bad_input!(
                "{runs} runs for one class; at most {MAX_RUNS} can be averaged: use fewer insertions (--insertions) or labelled volumes"
            );
        }
        let [n, h, w] = self.dims;
        Ok(Sums {
            sum: vec![0; n * h * w],
            votes: vec![0; n * h * w],
            runs,
            pixels: h * w,
        })
    }

    /// Takes in a class whose runs are done. Of equal probabilities the class taken first wins.
    pub fn take(&mut self, class: u8, sums: Sums) {
        let rows = self
            .label
            .par_iter_mut()
            .zip(self.best.par_iter_mut())
            .zip(self.uncertainty.par_iter_mut());
        rows.enumerate().with_min_len(4096).for_each(|(i, ((label, best), uncertainty))| {
            let p = sums.mean(i);
            *uncertainty = uncertainty.max(entropy(p));
            if p > *best {
                (*best, *label) = (p, class);
            }
        });
        if self.keep_probabilities {
            self.probabilities.extend((0..sums.sum.len()).map(|i| sums.mean(i)));
        }
        let agreement = sums.agreement();
        self.classes.push(ClassSummary {
            class,
            runs: sums.runs,
            agreement,
            voxels: 0,
            components: 0,
            mean_uncertainty: 0.0,
        });
    }

    /// Mask, maps and summary; with `largest` all but each class's largest component is removed.
    ///
    /// # Errors
    /// A volume of more voxels than components can count.
    pub fn finish(mut self, largest: bool) -> Result<Labelling> {
        for summary in &mut self.classes {
            let mut kept = self.label.clone();
            summary.components = largest_component(&mut kept, self.dims, summary.class)?.sizes.len();
            if largest {
                self.label = kept;
            }
            let (mut voxels, mut total) = (0usize, 0f64);
            for (&label, &uncertainty) in self.label.iter().zip(&self.uncertainty) {
                if label == summary.class {
                    voxels += 1;
                    total += f64::from(uncertainty);
                }
            }
            summary.voxels = voxels;
            summary.mean_uncertainty = if voxels > 0 { total / voxels as f64 } else { 0.0 };
        }
        let all: f64 = self.uncertainty.iter().map(|&u| f64::from(u)).sum();
        Ok(Labelling {
            mean_uncertainty: all / self.uncertainty.len().max(1) as f64,
            labels: self.label,
            uncertainty: self.uncertainty,
            probabilities: self.keep_probabilities.then_some(self.probabilities),
            classes: self.classes,
        })
    }
}
