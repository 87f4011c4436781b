//! `memory_mask`: what the memory encoder is fed, f(resize(x)) * scale + bias, with f the logistic function or, for prompted slices, x > 0.
//!
//! Shapes: x [.., h, w] mask logits, f32 on every device, of which N are taken; y [N, S, S, 1]; bilinear, align_corners false, no antialias. Source: SAM 2's `_encode_new_memory`.

use super::Cost;
use super::resize::ResizePlan;
use crate::cpu::math;
use crate::cpu::scratch;
use crate::cpu::simd::{self, Kernel, Simd};
use crate::cuda::memory_mask as kernel;
use crate::tensor::Tensor;
use anyhow::Result;
use rayon::prelude::*;

/// What the logits become.
#[derive(Clone, Copy, Debug)]
pub struct Affine {
    /// Whether the masks are prompts, of which only the sign counts.
    pub prompted: bool,
    /// Factor of what is in 0..1.
    pub scale: f32,
    /// Added to it.
    pub bias: f32,
}

/// y of the masks number `chosen` of x, whose planes [h, w] are the plan's input.
///
/// # Errors
/// Those of a CUDA device.
pub fn memory_mask(x: &Tensor, chosen: &[usize], plan: &ResizePlan, affine: Affine) -> Result<Tensor> {
    let (height, width) = plan.output();
    let pixels = super::plane_len("memory_mask", x, chosen, plan);
    let mut y = Tensor::empty(x.device(), &[chosen.len(), height, width, 1])?;
    if let Some(cuda) = x.device().cuda() {
        let problem = kernel::MemoryMask {
            items: chosen.len(),
            input: plan.input(),
            output: (height, width),
            scale: affine.scale,
            bias: affine.bias,
        };
        let offsets = super::list(cuda, chosen.iter().map(|plane| plane * pixels))?;
        let prompted = affine.prompted.then(|| super::list(cuda, chosen.iter().map(|_| 1))).transpose()?;
        problem.launch(&cuda.runtime, x.buffer(), Some(&offsets), prompted.as_ref(), y.buffer())?;
        return Ok(y);
    }
    let masks = x.values();
    y.values_mut()
        .par_chunks_exact_mut(height * width)
        .zip(chosen)
        .try_for_each(|(out, mask)| {
            scratch::with(plan.scratch_len(1), |buffer| {
                plan.resize(&masks[mask * pixels..][..pixels], buffer, out)
            })?;
            simd::run(Apply { values: out, affine });
            anyhow::Ok(())
        })?;
    Ok(y)
}

struct Apply<'a> {
    values: &'a mut [f32],
    affine: Affine,
}

impl Kernel for Apply<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Affine { prompted, scale, bias } = self.affine;
        if prompted {
            for value in self.values.iter_mut() {
                *value = if *value > 0.0 { scale + bias } else { bias };
            }
            return;
        }
        // SAFETY: at the level of S.
        unsafe { math::sigmoid_slice::<S>(self.values) };
        for value in self.values.iter_mut() {
            *value = *value * scale + bias;
        }
    }
}

/// Cost of `pixels` output pixels.
pub fn cost(pixels: usize) -> Cost {
    Cost {
        flops: 25.0 * pixels as f64,
        bytes: 8.0 * pixels as f64,
    }
}

/// N masks [h, w] to [H, W].
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Case {
    pub name: &'static str,
    pub items: usize,
    pub input: (usize, usize),
    pub output: (usize, usize),
}

/// The op's table: awkward sizes, then the network's (see [`super::in_network`]).
pub fn cases() -> Vec<Case> {
    [
        ("one", 1, (1, 1), (1, 1)),
        ("primes", 2, (5, 7), (13, 11)),
        ("vector - 1", 1, (4, 4), (3, 5)),
        ("vector + 1", 3, (4, 4), (1, 17)),
        ("memory_encoder.input", 1, (128, 128), (512, 512)),
    ]
    .map(|(name, items, input, output)| Case {
        name,
        items,
        input,
        output,
    })
    .to_vec()
}
