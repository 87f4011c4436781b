//! `depthwise`: 7x7 depthwise convolution (padding 3) followed by LayerNorm over the channels, as in a ConvNeXt block.
//!
//! Shapes: x [N, H, W, C], weight [C, 1, 7, 7] as PyTorch's, bias `[C]`, y [N, H, W, C].

use super::Cost;
use super::norm::Norm;
use crate::cpu::gemm::norm_row;
use crate::cpu::simd::{self, Kernel, Simd};
use crate::cuda::depthwise as kernel;
use crate::device::Device;
use crate::tensor::{Parameter, Tensor};
use anyhow::Result;
use rayon::prelude::*;
use std::ops::Range;

/// Kernel side.
const SIDE: usize = 7;

/// Weights [49, C] tap by tap, bias and the norm that follows.
pub struct Depthwise {
    taps: Tensor,
    bias: Parameter,
    norm: Norm,
}

impl Depthwise {
    /// From `weight` [c, 1, 7, 7] and `bias` `[c]`.
    ///
    /// # Errors
    /// When the device's budget has no room for them.
    pub fn new(device: &Device, weight: &[f32], bias: Vec<f32>, norm: Norm) -> Result<Self> {
        let c = bias.len();
        let mut taps = vec![0.0; c * SIDE * SIDE];
        for channel in 0..c {
            for tap in 0..SIDE * SIDE {
                taps[tap * c + channel] = weight[channel * SIDE * SIDE + tap];
            }
        }
        Ok(Self {
            taps: Tensor::from_slice(device, &[SIDE * SIDE, c], &taps)?,
            bias: Parameter::new(device, bias)?,
            norm,
        })
    }
}

/// y = LayerNorm(depthwise(x) + bias), a new tensor.
///
/// # Errors
/// Those of a CUDA device.
pub fn depthwise(x: &Tensor, weights: &Depthwise) -> Result<Tensor> {
    let &[_, height, width, channels] = x.shape() else {
        panic!("depthwise: {x:?} is not [N, H, W, C]");
    };
    assert_eq!(
        channels,
        weights.bias.len(),
        "depthwise: {x:?} against {} channels",
        weights.bias.len()
    );
    let mut y = Tensor::empty(x.device(), x.shape())?;
    if let Some(cuda) = x.device().cuda() {
        let problem = kernel::Depthwise {
            items: x.shape()[0],
            height,
            width,
            channels,
            eps: weights.norm.eps,
        };
        let weights = kernel::Weights {
            taps: weights.taps.buffer(),
            bias: weights.bias.buffer(),
            gamma: weights.norm.gamma.buffer(),
            beta: weights.norm.beta.buffer(),
        };
        problem.launch(&cuda.runtime, x.buffer(), weights, y.buffer())?;
        return Ok(y);
    }
    let values = x.values();
    y.values_mut()
        .par_chunks_exact_mut(width * channels)
        .enumerate()
        .for_each(|(row, out)| {
            let (item, oy) = (row / height, row % height);
            let image = &values[item * height * width * channels..][..height * width * channels];
            simd::run(Row {
                image,
                weights,
                out,
                size: (height, width),
                oy,
            });
        });
    Ok(y)
}

struct Row<'a> {
    image: &'a [f32],
    weights: &'a Depthwise,
    out: &'a mut [f32],
    size: (usize, usize),
    oy: usize,
}

/// Pixels of a tile: with two vectors of channels, twelve sums in registers.
const TILE: usize = 6;

impl Kernel for Row<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let width = self.size.1;
        let c = self.weights.bias.len();
        let whole = c / (2 * S::LANES) * 2 * S::LANES;
        let mut ox = 0;
        while ox < width {
            // A tile none of whose windows crosses the left or right edge, or one pixel.
            let inside = ox >= SIDE / 2 && ox + TILE + SIDE / 2 <= width;
            for channel in (0..whole).step_by(2 * S::LANES) {
                // SAFETY: at the level of S; two vectors from `channel` on lie inside every pixel, and the tile's windows inside the map.
                unsafe {
                    if inside {
                        self.tile::<S, TILE>(ox, 0..SIDE, channel);
                    } else {
                        let columns = self.columns(ox);
                        self.tile::<S, 1>(ox, columns, channel);
                    }
                }
            }
            let count = if inside { TILE } else { 1 };
            for pixel in ox..ox + count {
                self.rest(pixel, whole);
            }
            ox += count;
        }
        let norm = &self.weights.norm;
        for out in self.out.chunks_exact_mut(c) {
            // SAFETY: at the level of S.
            unsafe { norm_row::<S>(out, &norm.gamma, &norm.beta, norm.eps, false) };
        }
    }
}

impl Row<'_> {
    /// Window rows that lie inside the map.
    #[inline(always)]
    fn rows(&self) -> Range<usize> {
        (SIDE / 2).saturating_sub(self.oy)..(self.size.0 + SIDE / 2 - self.oy).min(SIDE)
    }

    /// Window columns of pixel `ox` that lie inside the map.
    #[inline(always)]
    fn columns(&self, ox: usize) -> Range<usize> {
        (SIDE / 2).saturating_sub(ox)..(self.size.1 + SIDE / 2 - ox).min(SIDE)
    }

    /// Two vectors of channels of R pixels from `ox` on, over window columns that lie inside the map for all of them.
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize>(&mut self, ox: usize, columns: Range<usize>, channel: usize) {
        let c = self.weights.bias.len();
        // SAFETY: by the caller's choice of columns and channel every load and store lies inside its slice.
        unsafe {
            let bias = self.weights.bias.as_ptr().add(channel);
            let mut acc = [[S::load(bias), S::load(bias.add(S::LANES))]; R];
            for ky in self.rows() {
                let row = (self.oy + ky - SIDE / 2) * self.size.1;
                for kx in columns.clone() {
                    let taps = self.weights.taps.values().as_ptr().add((ky * SIDE + kx) * c + channel);
                    let taps = [S::load(taps), S::load(taps.add(S::LANES))];
                    let pixel = self.image.as_ptr().add((row + ox + kx - SIDE / 2) * c + channel);
                    for r in 0..R {
                        acc[r][0] = S::fma(taps[0], S::load(pixel.add(r * c)), acc[r][0]);
                        acc[r][1] = S::fma(taps[1], S::load(pixel.add(r * c + S::LANES)), acc[r][1]);
                    }
                }
            }
            let out = self.out.as_mut_ptr().add(ox * c + channel);
            for r in 0..R {
                S::store(out.add(r * c), acc[r][0]);
                S::store(out.add(r * c + S::LANES), acc[r][1]);
            }
        }
    }

    /// Channels from `first` on, too few for two vectors, of one pixel.
    #[inline(always)]
    fn rest(&mut self, ox: usize, first: usize) {
        let c = self.weights.bias.len();
        for channel in first..c {
            let mut sum = self.weights.bias[channel];
            for ky in self.rows() {
                for kx in self.columns(ox) {
                    let pixel = (self.oy + ky - SIDE / 2) * self.size.1 + ox + kx - SIDE / 2;
                    sum += self.weights.taps.values()[(ky * SIDE + kx) * c + channel] * self.image[pixel * c + channel];
                }
            }
            self.out[ox * c + channel] = sum;
        }
    }
}

/// Cost of `pixels` pixels of C channels.
pub fn cost(pixels: usize, c: usize) -> Cost {
    Cost {
        flops: 98.0 * (pixels * c) as f64,
        bytes: 8.0 * (pixels * c) as f64,
    }
}

/// N maps [H, W, C].
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Case {
    pub name: &'static str,
    pub items: usize,
    pub size: (usize, usize),
    pub channels: usize,
}

/// The op's table: awkward sizes, then the network's (see [`super::in_network`]).
pub fn cases() -> Vec<Case> {
    [
        ("one", 1, (1, 1), 2),
        ("primes", 2, (5, 11), 13),
        ("vector - 1", 1, (7, 6), 15),
        ("vector + 1", 1, (8, 9), 17),
        ("two vectors + 1", 1, (9, 13), 33),
        ("one column", 1, (10, 1), 8),
        ("one row", 1, (1, 19), 40),
        ("memory_encoder.fuser", 1, (32, 32), 256),
    ]
    .map(|(name, items, size, channels)| Case {
        name,
        items,
        size,
        channels,
    })
    .to_vec()
}
