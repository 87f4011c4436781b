//! `upscale`: transposed convolution 2x2 with stride 2, plus a skip map, then LayerNorm over the channels if any, then GELU.
//!
//! Shapes: x [N, H, W, C], weight [C, O, 2, 2] as PyTorch's `nn.ConvTranspose2d`, bias `[O]`, skip as y, y [N, 2H, 2W, O]. The 2x2 cell under a
//! pixel is four rows of one product with 4 O columns: no overlap, no scatter-add. Source: SAM's mask decoder `output_upscaling`.

use super::Cost;
use super::linear::{Epilogue, Input, Linear, linear_new};
use super::norm::Norm;
use crate::cpu::gemm::norm_row;
use crate::cpu::math;
use crate::cpu::simd::{self, Kernel, Simd};
use crate::cuda::upscale as kernel;
use crate::device::Device;
use crate::tensor::{Parameter, Tensor};
use anyhow::Result;
use rayon::prelude::*;

/// Weights of the transposed convolution and the norm that follows.
pub struct Upscale {
    linear: Linear,
    bias: Parameter,
    norm: Option<Norm>,
}

impl Upscale {
    /// From `weight` [c, o, 2, 2] and `bias` `[o]`.
    ///
    /// # Errors
    /// When the device's budget has no room for them.
    pub fn new(device: &Device, weight: &[f32], c: usize, o: usize, bias: &[f32], norm: Option<Norm>) -> Result<Self> {
        // Row (dy, dx, o) of the product's weights is weight[:, o, dy, dx].
        let mut rows = vec![0.0; 4 * o * c];
        for tap in 0..4 {
            for column in 0..o {
                for i in 0..c {
                    rows[(tap * o + column) * c + i] = weight[(i * o + column) * 4 + tap];
                }
            }
        }
        Ok(Self {
            linear: Linear::new(device, &rows, 4 * o, c, Some(&bias.repeat(4)))?,
            bias: Parameter::new(device, bias.to_vec())?,
            norm,
        })
    }
}

/// y = GELU(LayerNorm(upscale(x) + skip)), with `skip` of the shape of y or the same rows, [N * 4 H W, O].
///
/// # Errors
/// Those of a CUDA device.
pub fn upscale(x: &Tensor, weights: &Upscale, skip: &Tensor) -> Result<Tensor> {
    let &[n, height, width, _] = x.shape() else {
        panic!("upscale: {x:?} is not [N, H, W, C]");
    };
    let o = weights.linear.n() / 4;
    assert!(
        skip.rows() == n * 4 * height * width && skip.width() == o,
        "upscale: skip {skip:?} does not fit {x:?}"
    );
    let mut y = Tensor::empty(x.device(), &[n, 2 * height, 2 * width, o])?;
    if let Some(cuda) = x.device().cuda() {
        let problem = kernel::Upscale {
            items: n,
            height,
            width,
            inner: x.width(),
            columns: o,
        };
        let on_device = weights.linear.cuda();
        let norm = weights.norm.as_ref();
        let of = kernel::Weights {
            weight: on_device.weight.buffer(),
            bias: weights.bias.buffer(),
            norm: norm.map(|norm| (norm.gamma.buffer(), norm.beta.buffer(), norm.eps)),
        };
        let skips = kernel::Skips {
            maps: skip.buffer(),
            slices: None,
        };
        problem.launch(&cuda.runtime, x.buffer(), of, skips, y.buffer())?;
        return Ok(y);
    }
    let cells = linear_new(Input::Plain(x), &weights.linear, Epilogue::NONE)?;
    let (cells, skips) = (cells.values(), skip.values());
    y.values_mut()
        .par_chunks_exact_mut(2 * width * o)
        .enumerate()
        .for_each(|(row, out)| {
            let (item, oy) = (row / (2 * height), row % (2 * height));
            let cells = &cells[(item * height + oy / 2) * width * 4 * o..][..width * 4 * o];
            let skip = &skips[row * 2 * width * o..][..2 * width * o];
            simd::run(Row {
                cells,
                skip,
                out,
                o,
                dy: oy % 2,
                norm: weights.norm.as_ref(),
            });
        });
    Ok(y)
}

struct Row<'a> {
    cells: &'a [f32],
    skip: &'a [f32],
    out: &'a mut [f32],
    o: usize,
    dy: usize,
    norm: Option<&'a Norm>,
}

impl Kernel for Row<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let o = self.o;
        for (x, out) in self.out.chunks_exact_mut(o).enumerate() {
            let cell = &self.cells[x / 2 * 4 * o + (2 * self.dy + x % 2) * o..][..o];
            let skip = &self.skip[x * o..][..o];
            for i in 0..o {
                out[i] = cell[i] + skip[i];
            }
        }
        // SAFETY: at the level of S; offsets inside the row.
        unsafe {
            match self.norm {
                Some(norm) => {
                    for out in self.out.chunks_exact_mut(o) {
                        norm_row::<S>(out, &norm.gamma, &norm.beta, norm.eps, true);
                    }
                }
                None => math::gelu_slice::<S>(self.out),
            }
        }
    }
}

/// Cost of `pixels` input pixels.
pub fn cost(pixels: usize, c: usize, o: usize) -> Cost {
    Cost {
        flops: 8.0 * (pixels * c * o) as f64,
        bytes: 4.0 * (pixels * (c + 8 * o)) as f64,
    }
}

/// N maps [H, W, C] to O channels.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Case {
    pub name: &'static str,
    pub items: usize,
    pub size: (usize, usize),
    pub c: usize,
    pub o: usize,
    pub norm: bool,
}

/// The op's table: awkward sizes, then the network's (see [`super::in_network`]).
pub fn cases() -> Vec<Case> {
    [
        ("one", 1, (1, 1), 1, 2, true),
        ("primes", 2, (3, 5), 13, 7, true),
        ("vector - 1", 1, (4, 3), 31, 15, false),
        ("vector + 1", 1, (2, 7), 9, 17, true),
        ("tile + 1", 1, (7, 7), 5, 8, false),
        ("decoder.first", 1, (32, 32), 256, 64, true),
        ("decoder.second", 1, (64, 64), 64, 32, false),
    ]
    .map(|(name, items, size, c, o, norm)| Case {
        name,
        items,
        size,
        c,
        o,
        norm,
    })
    .to_vec()
}
