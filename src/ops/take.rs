//! `take`: a class whose runs are summed joins the maps: its mean probability against the best so far, and the uncertainty it adds.
//!
//! Shapes: sums and maps [N, H, W] in memory order. p = sum / (2^24 runs); a voxel takes the class if p exceeds the threshold and the best probability so far;
//! uncertainty = max over classes of the binary entropy of p, in nats. Source: Algorithm 2.

use super::Cost;
use super::components::largest_component;
use super::ensemble::{ONE, Sums};
use crate::cuda::arena::Buffer;
use crate::cuda::components::{Components, Found};
use crate::cuda::take as kernel;
use crate::device::Device;
use anyhow::Result;
use rayon::prelude::*;

/// The most probable class of every voxel so far, its probability, and the largest uncertainty of any class.
pub struct Maps {
    place: Place,
    voxels: usize,
    threshold: f32,
}

enum Place {
    Host {
        label: Vec<u8>,
        best: Vec<f32>,
        uncertainty: Vec<f32>,
    },
    Cuda {
        device: Device,
        label: Buffer,
        best: Buffer,
        uncertainty: Buffer,
    },
}

/// Votes of runs over a volume: summed over voxels, v (v - 1) and v of v runs that see the object there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Votes {
    pub shared: u64,
    pub all: u64,
}

impl Maps {
    /// No class anywhere; a class must exceed `threshold`, which is 0 or more.
    ///
    /// # Errors
    /// When the device's budget has no room for them.
    pub fn new(device: &Device, voxels: usize, threshold: f32) -> Result<Self> {
        let place = match device.cuda() {
            None => Place::Host {
                label: vec![0; voxels],
                best: vec![0.0; voxels],
                uncertainty: vec![0.0; voxels],
            },
            Some(cuda) => {
                let buffer = |bytes: usize| {
                    let buffer = cuda.arena.buffer(bytes)?;
                    buffer.clear().map(|()| buffer)
                };
                Place::Cuda {
                    label: buffer(voxels)?,
                    best: buffer(4 * voxels)?,
                    uncertainty: buffer(4 * voxels)?,
                    device: device.clone(),
                }
            }
        };
        Ok(Self { place, voxels, threshold })
    }

    /// Takes a class in and says how its runs voted; its mean probabilities are added to `probabilities` if they are wanted. Of equal probabilities the class taken
    /// first wins.
    ///
    /// # Errors
    /// Those of a CUDA device.
    pub fn take(&mut self, class: u8, sums: &Sums, probabilities: Option<&mut Vec<f32>>) -> Result<Votes> {
        assert_eq!(sums.voxels(), self.voxels, "take: sums of another volume");
        match &mut self.place {
            Place::Host { label, best, uncertainty } => {
                Ok(on_cpu((class, self.threshold), sums, (label, best, uncertainty), probabilities))
            }
            Place::Cuda {
                device,
                label,
                best,
                uncertainty,
            } => {
                let result = kernel::Labels { best, label, uncertainty };
                on_cuda(device, (class, self.threshold), sums, result, probabilities)
            }
        }
    }

    /// Counts the components of a class in a volume of `dims` [N, H, W]; with `largest` all but the largest become background.
    ///
    /// # Errors
    /// A volume of more voxels than components can count; those of a CUDA device.
    pub fn components(&mut self, class: u8, dims: [usize; 3], largest: bool) -> Result<usize> {
        match &mut self.place {
            Place::Host { label, .. } => {
                let mut kept = label.clone();
                let found = largest_component(&mut kept, dims, class)?.sizes.len();
                if largest {
                    *label = kept;
                }
                Ok(found)
            }
            Place::Cuda { device, label, .. } => {
                let Some(cuda) = device.cuda() else { return Ok(0) };
                let [depth, height, width] = dims;
                let problem = Components {
                    depth,
                    height,
                    width,
                    class,
                    erase: largest,
                };
                let (scratch, found) = (cuda.arena.buffer(problem.scratch_bytes()?)?, cuda.arena.buffer(Found::BYTES)?);
                problem.launch(&cuda.runtime, label, &scratch, &found)?;
                Ok(Found::read(&found)?.components as usize)
            }
        }
    }

    /// Labels and uncertainty.
    ///
    /// # Errors
    /// Those of a CUDA device.
    pub fn finish(self) -> Result<(Vec<u8>, Vec<f32>)> {
        match self.place {
            Place::Host { label, uncertainty, .. } => Ok((label, uncertainty)),
            Place::Cuda { label, uncertainty, .. } => Ok((label.to_vec()?, bytemuck::pod_collect_to_vec(&uncertainty.to_vec()?))),
        }
    }
}

fn on_cpu(
    (class, threshold): (u8, f32),
    sums: &Sums,
    (label, best, uncertainty): (&mut [u8], &mut [f32], &mut [f32]),
    probabilities: Option<&mut Vec<f32>>,
) -> Votes {
    let (sum, votes) = sums.host();
    let runs = sums.runs();
    let voxels = label.par_iter_mut().zip(best).zip(uncertainty).zip(sum);
    voxels.with_min_len(4096).for_each(|(((label, best), uncertainty), &sum)| {
        let p = mean(sum, runs);
        *uncertainty = uncertainty.max(entropy(p));
        if p > best.max(threshold) {
            (*best, *label) = (p, class);
        }
    });
    if let Some(probabilities) = probabilities {
        probabilities.extend(sum.iter().map(|&sum| mean(sum, runs)));
    }
    votes.iter().fold(Votes::default(), |total, &votes| {
        let votes = u64::from(votes);
        Votes {
            shared: total.shared + votes * votes.saturating_sub(1),
            all: total.all + votes,
        }
    })
}

fn on_cuda(
    device: &Device,
    (class, threshold): (u8, f32),
    sums: &Sums,
    result: kernel::Labels<'_>,
    probabilities: Option<&mut Vec<f32>>,
) -> Result<Votes> {
    let Some(cuda) = device.cuda() else { return Ok(Votes::default()) };
    let voxels = sums.voxels();
    let problem = kernel::Take {
        voxels,
        runs: sums.runs(),
        class,
        threshold,
    };
    let partial = cuda.arena.buffer(problem.partial_bytes())?;
    let mean = probabilities.is_some().then(|| cuda.arena.buffer(4 * voxels)).transpose()?;
    problem.launch(&cuda.runtime, sums.on_cuda(), result, mean.as_ref().map(|mean| (mean, 0)), &partial)?;
    if let (Some(probabilities), Some(mean)) = (probabilities, mean) {
        probabilities.extend(bytemuck::pod_collect_to_vec::<u8, f32>(&mean.to_vec()?));
    }
    let (shared, all) = problem.votes(&partial)?;
    Ok(Votes { shared, all })
}

/// Mean probability of a sum of `runs` runs.
fn mean(sum: u32, runs: usize) -> f32 {
    if runs == 0 {
        0.0
    } else {
        (f64::from(sum) / (f64::from(ONE) * runs as f64)) as f32
    }
}

/// Binary entropy -(p ln(p + e) + (1 - p) ln(1 - p + e)), e = 1e-8, in nats.
pub fn entropy(p: f32) -> f32 {
    let p = f64::from(p);
    (-(p * (p + 1e-8).ln() + (1.0 - p) * (1.0 - p + 1e-8).ln())).max(0.0) as f32
}

/// Cost of V voxels.
pub fn cost(voxels: usize) -> Cost {
    Cost {
        flops: 10.0 * voxels as f64,
        bytes: 24.0 * voxels as f64,
    }
}
