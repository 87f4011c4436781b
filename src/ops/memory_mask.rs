//! `memory_mask`: what the memory encoder is fed, f(resize(x)) * scale + bias, with f the logistic function or, for prompted slices, x > 0.
//!
//! Shapes: x [N, h, w] mask logits, y [N, S, S, 1]; bilinear, align_corners false, no antialias. Source: SAM 2's `_encode_new_memory`.

use super::Cost;
use super::resize::ResizePlan;
use crate::cpu::math;
use crate::cpu::scratch;
use crate::cpu::simd::{self, Kernel, Simd};
use crate::device::Device;
use crate::tensor::Tensor;
use anyhow::Result;
use rayon::prelude::*;

/// y of the masks `x`, each [h, w] as the plan's input.
///
/// # Errors
/// A mask of another size than the plan's.
pub fn memory_mask(device: &Device, x: &[&[f32]], plan: &ResizePlan, prompted: bool, scale: f32, bias: f32) -> Result<Tensor> {
    let (height, width) = plan.output();
    let mut y = Tensor::empty(device, &[x.len(), height, width, 1]);
    y.values_mut()
        .par_chunks_exact_mut(height * width)
        .zip(x)
        .try_for_each(|(out, mask)| {
            scratch::with(plan.scratch_len(1), |buffer| plan.resize(mask, buffer, out))?;
            simd::run(Affine {
                values: out,
                prompted,
                scale,
                bias,
            });
            anyhow::Ok(())
        })?;
    Ok(y)
}

struct Affine<'a> {
    values: &'a mut [f32],
    prompted: bool,
    scale: f32,
    bias: f32,
}

impl Kernel for Affine<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        if self.prompted {
            for value in self.values.iter_mut() {
                *value = if *value > 0.0 { self.scale + self.bias } else { self.bias };
            }
            return;
        }
        // SAFETY: at the level of S.
        unsafe { math::sigmoid_slice::<S>(self.values) };
        for value in self.values.iter_mut() {
            *value = *value * self.scale + self.bias;
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
