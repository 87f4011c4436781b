//! `depthwise`: 7x7 depthwise convolution (padding 3) followed by LayerNorm over the channels, as in a ConvNeXt block.
//!
//! Shapes: x [N, H, W, C], weight [C, 1, 7, 7] as PyTorch's, bias [C], y [N, H, W, C].

use super::Cost;
use super::norm::Norm;
use crate::cpu::gemm::norm_row;
use crate::cpu::simd::{self, Kernel, Simd};
use crate::tensor::Tensor;
use rayon::prelude::*;

/// Kernel side.
const SIDE: usize = 7;

/// Weights [49, C] tap by tap, bias and the norm that follows.
pub struct Depthwise {
    taps: Vec<f32>,
    bias: Vec<f32>,
    norm: Norm,
}

impl Depthwise {
    /// From `weight` [c, 1, 7, 7] and `bias` [c].
    pub fn new(weight: &[f32], bias: Vec<f32>, norm: Norm) -> Self {
        let c = bias.len();
        let mut taps = vec![0.0; c * SIDE * SIDE];
        for channel in 0..c {
            for tap in 0..SIDE * SIDE {
                taps[tap * c + channel] = weight[channel * SIDE * SIDE + tap];
            }
        }
        Self { taps, bias, norm }
    }
}

/// y = LayerNorm(depthwise(x) + bias), a new tensor.
pub fn depthwise(x: &Tensor, weights: &Depthwise) -> Tensor {
    let &[_, height, width, channels] = x.shape() else {
        panic!("depthwise: {x:?} is not [N, H, W, C]");
    };
    assert_eq!(
        channels,
        weights.bias.len(),
        "depthwise: {x:?} against {} channels",
        weights.bias.len()
    );
    let mut y = Tensor::empty(x.device(), x.shape());
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
    y
}

struct Row<'a> {
    image: &'a [f32],
    weights: &'a Depthwise,
    out: &'a mut [f32],
    size: (usize, usize),
    oy: usize,
}

impl Kernel for Row<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (height, width) = self.size;
        let c = self.weights.bias.len();
        let rows = self.oy.saturating_sub(SIDE / 2)..(self.oy + SIDE / 2 + 1).min(height);
        for ox in 0..width {
            let columns = ox.saturating_sub(SIDE / 2)..(ox + SIDE / 2 + 1).min(width);
            let out = &mut self.out[ox * c..][..c];
            out.copy_from_slice(&self.weights.bias);
            for y in rows.clone() {
                for x in columns.clone() {
                    let tap = (y + SIDE / 2 - self.oy) * SIDE + x + SIDE / 2 - ox;
                    let (taps, pixel) = (&self.weights.taps[tap * c..][..c], &self.image[(y * width + x) * c..][..c]);
                    for i in 0..c {
                        out[i] += taps[i] * pixel[i];
                    }
                }
            }
            // SAFETY: at the level of S.
            unsafe { norm_row::<S>(out, &self.weights.norm.gamma, &self.weights.norm.beta, self.weights.norm.eps, false) };
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
