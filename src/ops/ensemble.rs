//! `ensemble`: the running sum of probabilities, sigmoid(resize(x)), in integers.
//!
//! Shapes: x [h, w] mask logits, plan to the volume's [H, W]; sum [H, W] u32 in units of 2^-24 (so up to 255 runs), votes [H, W] u16: runs above one half. Integers make
//! the sum independent of order: the same bytes whatever the lanes, threads or shards. Resized directly, not by way of S x S. Source: Algorithm 2.

use super::Cost;
use super::resize::ResizePlan;
use crate::cpu::math;
use crate::cpu::scratch;
use crate::cpu::simd::{self, Kernel, Simd};
use anyhow::{Result, ensure};

/// One in the sum's units.
pub const ONE: f32 = 16_777_216.0;
/// Runs a u32 sum can hold.
pub const MAX_RUNS: usize = 255;

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

/// Binary entropy -(p ln(p + e) + (1 - p) ln(1 - p + e)), e = 1e-8, in nats.
pub fn entropy(p: f32) -> f32 {
    let p = f64::from(p);
    (-(p * (p + 1e-8).ln() + (1.0 - p) * (1.0 - p + 1e-8).ln())).max(0.0) as f32
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
