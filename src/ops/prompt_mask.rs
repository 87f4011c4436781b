//! `prompt_mask`: what a prompted slice's mask is to the network: its values for the prompt encoder, and low-resolution logits, 20 mask - 10 shrunk four times
//! (bilinear, antialiased), as if a decoder had found it.
//!
//! Shapes: N masks [S, S] of zeros and ones, S a multiple of 4; values [N, S, S, 1]; logits [N, S / 4, S / 4], f32 on every device. Source: SAM 2's `_use_mask_as_output`.

use super::Cost;
use super::resize::ResizePlan;
use crate::cpu::scratch;
use crate::cuda::prompt_mask as kernel;
use crate::device::Device;
use crate::tensor::Tensor;
use anyhow::{Result, ensure};
use rayon::prelude::*;

/// How many times the logits are smaller than the masks.
const SHRINK: usize = 4;

/// Values and logits of masks of `size` = S.
///
/// # Errors
/// A mask of another size, an S that is no multiple of 4 from 8; those of a CUDA device.
pub fn prompt_mask(device: &Device, masks: &[&[u8]], size: usize) -> Result<(Tensor, Tensor)> {
    ensure!(
        size >= 2 * SHRINK && size.is_multiple_of(SHRINK),
        "prompt_mask: a side of {size} pixels is no multiple of 4 from 8"
    );
    ensure!(
        masks.iter().all(|mask| mask.len() == size * size),
        "prompt_mask: masks of {:?} pixels, not {size} x {size}",
        masks.iter().map(|mask| mask.len()).collect::<Vec<_>>()
    );
    let (items, side) = (masks.len(), size / SHRINK);
    let (shape, shrunk) = ([items, size, size, 1], [items, side, side]);
    if let Some(cuda) = device.cuda() {
        let (square, logits) = (Tensor::empty(device, &shape)?, Tensor::empty_f32(device, &shrunk)?);
        let bytes = cuda.arena.filled(&masks.concat())?;
        kernel::PromptMask { items, side }.launch(&cuda.runtime, &bytes, square.buffer(), logits.buffer())?;
        return Ok((square, logits));
    }
    let (mut square, mut logits) = (Tensor::empty(device, &shape)?, Tensor::empty_f32(device, &shrunk)?);
    let plan = ResizePlan::bilinear_antialiased((size, size), (side, side))?;
    let planes = square.values_mut().par_chunks_exact_mut(size * size);
    let planes = planes.zip(logits.values_mut().par_chunks_exact_mut(side * side)).zip(masks);
    planes.try_for_each(|((square, logits), mask)| {
        for (value, &inside) in square.iter_mut().zip(*mask) {
            *value = 20.0 * f32::from(inside) - 10.0;
        }
        scratch::with(plan.scratch_len(1), |buffer| plan.resize(square, buffer, logits))?;
        for (value, &inside) in square.iter_mut().zip(*mask) {
            *value = f32::from(inside);
        }
        anyhow::Ok(())
    })?;
    Ok((square, logits))
}

/// Cost of `items` masks of `size` x `size`: eight taps along x for four rows of each logit, and eight along y.
pub fn cost(items: usize, size: usize) -> Cost {
    let pixels = (items * size * size) as f64;
    Cost {
        flops: (2.0 * 8.0 * 4.0 + 2.0 * 8.0) / 16.0 * pixels,
        bytes: 3.25 * pixels,
    }
}

/// N masks of S x S.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Case {
    pub name: &'static str,
    pub items: usize,
    pub size: usize,
}

/// The op's table: awkward sizes, then the network's (see [`super::in_network`]).
pub fn cases() -> Vec<Case> {
    [("least", 1, 8), ("primes", 3, 20), ("blocks + 1", 2, 68), ("prompt.mask", 1, 512)]
        .map(|(name, items, size)| Case { name, items, size })
        .to_vec()
}
