//! `ensemble`: the running sum of probabilities, sigmoid(resize(x)), in integers.
//!
//! Shapes: x [h, w] mask logits, plan to the volume's [H, W]; sum [H, W] u32 in units of 2^-24 (so up to 255 runs), votes [H, W] u16: runs above one half. Integers make
//! the sum independent of order: the same bytes whatever the lanes, threads or shards. Resized directly, not by way of S x S. Source: Algorithm 2.

use super::Cost;
use super::resize::ResizePlan;
use crate::cpu::math;
use crate::cpu::scratch;
use crate::cpu::simd::{self, Kernel, Simd};
use crate::cuda::arena::Buffer;
use crate::cuda::ensemble as kernel;
use crate::device::Device;
use crate::tensor::Tensor;
use anyhow::{Result, ensure};

/// One in the sum's units.
pub const ONE: f32 = 16_777_216.0;
/// Runs a u32 sum can hold.
pub const MAX_RUNS: usize = 255;

/// One class's running sums over the slices of a volume, each a plane of `pixels` pixels.
pub struct Sums {
    place: Place,
    slices: usize,
    pixels: usize,
    runs: usize,
}

enum Place {
    Host { sum: Vec<u32>, votes: Vec<u16> },
    Cuda { sum: Buffer, votes: Buffer },
}

/// One run's logits of a slice: which plane of a tensor, for which slice of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Run {
    pub plane: usize,
    pub slice: usize,
}

impl Sums {
    /// Zeros, for `runs` runs over `slices` slices of `pixels` pixels.
    ///
    /// # Errors
    /// When the device's budget has no room for them.
    pub fn new(device: &Device, slices: usize, pixels: usize, runs: usize) -> Result<Self> {
        let voxels = slices * pixels;
        let place = match device.cuda() {
            None => Place::Host {
                sum: vec![0; voxels],
                votes: vec![0; voxels],
            },
            Some(cuda) => {
                let (sum, votes) = (cuda.arena.buffer(4 * voxels)?, cuda.arena.buffer(2 * voxels)?);
                sum.clear()?;
                votes.clear()?;
                Place::Cuda { sum, votes }
            }
        };
        Ok(Self {
            place,
            slices,
            pixels,
            runs,
        })
    }

    /// Runs whose mean it is to be.
    pub fn runs(&self) -> usize {
        self.runs
    }

    /// Voxels of the volume.
    pub(super) fn voxels(&self) -> usize {
        self.slices * self.pixels
    }

    /// The sums in units of 2^-24, and the runs above one half, of voxels in memory order; on the CPU.
    pub(super) fn host(&self) -> (&[u32], &[u16]) {
        match &self.place {
            Place::Host { sum, votes } => (sum, votes),
            Place::Cuda { .. } => panic!("sums on a CUDA device"),
        }
    }

    /// The same on a CUDA device.
    pub(super) fn on_cuda(&self) -> (&Buffer, &Buffer) {
        match &self.place {
            Place::Cuda { sum, votes } => (sum, votes),
            Place::Host { .. } => panic!("sums on the CPU"),
        }
    }

    /// Adds the probabilities of planes of `logits` [.., h, w], the plan's input, f32 on every device.
    ///
    /// # Errors
    /// A plan for planes of another size; those of a CUDA device.
    pub fn add(&mut self, logits: &Tensor, runs: &[Run], plan: &ResizePlan) -> Result<()> {
        let chosen: Vec<usize> = runs.iter().map(|run| run.plane).collect();
        let len = super::plane_len("ensemble", logits, &chosen, plan);
        ensure!(
            plan.output().0 * plan.output().1 == self.pixels && runs.iter().all(|run| run.slice < self.slices),
            "ensemble: {runs:?} of planes of {:?} for {} slices of {} pixels",
            plan.output(),
            self.slices,
            self.pixels
        );
        match (&mut self.place, logits.device().cuda()) {
            (Place::Host { sum, votes }, None) => {
                for run in runs {
                    let range = run.slice * self.pixels..(run.slice + 1) * self.pixels;
                    let plane = &logits.values()[run.plane * len..][..len];
                    ensemble(plane, plan, &mut sum[range.clone()], &mut votes[range])?;
                }
                Ok(())
            }
            (Place::Cuda { sum, votes }, Some(cuda)) => {
                let problem = kernel::Ensemble {
                    slices: self.slices,
                    input: plan.input(),
                    output: plan.output(),
                };
                let pairs: Vec<(usize, usize)> = runs.iter().map(|run| (run.plane * len, run.slice)).collect();
                let groups = problem.groups(&pairs, logits.len())?;
                let list = cuda.arena.filled(bytemuck::cast_slice(&groups.list))?;
                problem.launch(&cuda.runtime, logits.buffer(), &groups, &list, sum, votes)
            }
            _ => panic!("ensemble: sums and {logits:?} are on two devices"),
        }
    }
}

/// Adds one run's probabilities of a slice.
///
/// # Errors
/// Sizes that are not the plan's.
pub fn ensemble(x: &[f32], plan: &ResizePlan, sum: &mut [u32], votes: &mut [u16]) -> Result<()> {
    let (height, width) = plan.output();
    ensure!(
        sum.len() == height * width && votes.len() == height * width,
        "ensemble: {} sums and {} votes for planes of {height} x {width}",
        sum.len(),
        votes.len()
    );
    scratch::with(height * width, |logits| {
        scratch::with(plan.scratch_len(1), |buffer| plan.resize(x, buffer, logits))?;
        simd::run(Add { logits, sum, votes });
        Ok(())
    })
}

struct Add<'a> {
    logits: &'a mut [f32],
    sum: &'a mut [u32],
    votes: &'a mut [u16],
}

impl Kernel for Add<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for (vote, &logit) in self.votes.iter_mut().zip(self.logits.iter()) {
            *vote += u16::from(logit > 0.0);
        }
        // SAFETY: at the level of S.
        unsafe { math::sigmoid_slice::<S>(self.logits) };
        for (sum, &p) in self.sum.iter_mut().zip(self.logits.iter()) {
            *sum += (p * ONE + 0.5) as u32;
        }
    }
}

/// Cost of `pixels` output pixels.
pub fn cost(pixels: usize) -> Cost {
    Cost {
        flops: 25.0 * pixels as f64,
        bytes: 12.0 * pixels as f64,
    }
}

/// [h, w] logits to [H, W].
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Case {
    pub name: &'static str,
    pub input: (usize, usize),
    pub output: (usize, usize),
}

/// The op's table: awkward sizes, then the network's (see [`super::in_network`]).
pub fn cases() -> Vec<Case> {
    [
        ("one", (1, 1), (1, 1)),
        ("primes", (7, 5), (13, 11)),
        ("vector - 1", (8, 8), (3, 5)),
        ("vector + 1", (8, 8), (1, 17)),
        ("a copy", (6, 7), (6, 7)),
        ("tffs.square", (128, 128), (512, 512)),
        ("tffs.care", (128, 128), (208, 176)),
    ]
    .map(|(name, input, output)| Case { name, input, output })
    .to_vec()
}
