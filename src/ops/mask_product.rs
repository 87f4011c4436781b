//! `mask_product`: mask logits as the product of each mask's token with the upscaled features, y[n, k, p] = sum over c of x[n, p, c] token[n, k, c], or a constant
//! where an item shows no object.
//!
//! Shapes: x [N, H, W, C], tokens [N, masks, C], y [N, masks, H, W], f32 on every device. Source: SAM's mask decoder (hypernetworks).

use super::Cost;
use crate::cuda::mask_product as kernel;
use crate::tensor::Tensor;
use anyhow::Result;
use rayon::prelude::*;

/// Pixels per task.
const PIXELS: usize = 1024;

/// y = tokens . x for every mask and pixel; `absent` everywhere in the masks of items that are not `present`.
///
/// # Errors
/// Those of a CUDA device.
pub fn mask_product(x: &Tensor, tokens: &Tensor, present: &[bool], absent: f32) -> Result<Tensor> {
    let (&[n, height, width, channels], &[items, masks, token_width]) = (x.shape(), tokens.shape()) else {
        panic!("mask_product: {x:?} by {tokens:?}");
    };
    assert!(
        items == n && token_width == channels && present.len() == n,
        "mask_product: {x:?} by {tokens:?}"
    );
    let pixels = height * width;
    let mut y = Tensor::empty_f32(x.device(), &[n, masks, height, width])?;
    if let Some(cuda) = x.device().cuda() {
        let problem = kernel::MaskProduct {
            items: n,
            pixels,
            masks,
            channels,
        };
        let flags = super::list(cuda, present.iter().map(|&present| usize::from(!present)))?;
        let absent = kernel::Absent {
            flags: &flags,
            filling: absent,
        };
        problem.launch(&cuda.runtime, x.buffer(), tokens.buffer(), Some(absent), y.buffer())?;
        return Ok(y);
    }
    let (x, tokens) = (x.values(), tokens.values());
    y.values_mut().par_chunks_mut(pixels).enumerate().for_each(|(index, out)| {
        let item = index / masks;
        if !present[item] {
            out.fill(absent);
            return;
        }
        let token = &tokens[index * channels..][..channels];
        out.par_chunks_mut(PIXELS).enumerate().for_each(|(part, out)| {
            for (i, out) in out.iter_mut().enumerate() {
                let row = &x[(item * pixels + part * PIXELS + i) * channels..][..channels];
                // Eight partial sums, so that the compiler may keep them in one vector.
                let mut sums = [0f32; 8];
                for (a, b) in row.chunks_exact(8).zip(token.chunks_exact(8)) {
                    for j in 0..8 {
                        sums[j] += a[j] * b[j];
                    }
                }
                let rest: f32 = row
                    .chunks_exact(8)
                    .remainder()
                    .iter()
                    .zip(token.chunks_exact(8).remainder())
                    .map(|(a, b)| a * b)
                    .sum();
                *out = sums.iter().sum::<f32>() + rest;
            }
        });
    });
    Ok(y)
}

/// Cost of `pixels` pixels.
pub fn cost(pixels: usize, masks: usize, c: usize) -> Cost {
    Cost {
        flops: 2.0 * (pixels * masks * c) as f64,
        bytes: 4.0 * (pixels * (c + masks)) as f64,
    }
}

/// N maps of `pixels` by `masks` tokens of C.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Case {
    pub name: &'static str,
    pub items: usize,
    pub size: (usize, usize),
    pub masks: usize,
    pub channels: usize,
}

/// The op's table: awkward sizes, then the network's (see [`super::in_network`]).
pub fn cases() -> Vec<Case> {
    [
        ("one", 1, (1, 1), 1, 1),
        ("primes", 2, (5, 7), 3, 13),
        ("task - 1", 1, (31, 33), 2, 7),
        ("task + 1", 1, (25, 41), 2, 9),
        ("a tail", 1, (3, 4), 4, 31),
        ("decoder.masks", 1, (128, 128), 4, 32),
        ("decoder.masks of 5 lanes", 5, (128, 128), 4, 32),
    ]
    .map(|(name, items, size, masks, channels)| Case {
        name,
        items,
        size,
        masks,
        channels,
    })
    .to_vec()
}
