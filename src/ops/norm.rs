//! `norm`: LayerNorm over the last axis, y = (x - mean) / sqrt(variance + eps) gamma + beta, then GELU if asked; of channels-last maps it is SAM's LayerNorm2d.
//!
//! Shapes: x [M, C], gamma, beta `[C]`. Mostly fused into `linear` (before) or `conv` (after); alone at the end of memory attention.

use super::Cost;
use crate::cpu::gemm::norm_row;
use crate::cpu::simd::{self, Kernel, Simd};
use crate::cuda::norm as kernel;
use crate::device::Device;
use crate::tensor::{Parameter, Tensor};
use anyhow::Result;
use rayon::prelude::*;

/// Parameters of a LayerNorm.
pub struct Norm {
    /// Factor per channel.
    pub gamma: Parameter,
    /// Offset per channel.
    pub beta: Parameter,
    /// Added to the variance.
    pub eps: f32,
}

impl Norm {
    /// Parameters on this device.
    ///
    /// # Errors
    /// When the device's budget has no room for them.
    pub fn new(device: &Device, gamma: Vec<f32>, beta: Vec<f32>, eps: f32) -> Result<Self> {
        Ok(Self {
            gamma: Parameter::new(device, gamma)?,
            beta: Parameter::new(device, beta)?,
            eps,
        })
    }
}

/// Rows per task.
const ROWS: usize = 64;

/// LayerNorm of every row of `x` in place, then GELU if `gelu`.
///
/// # Errors
/// Those of a CUDA device.
pub fn norm(x: &mut Tensor, norm: &Norm, gelu: bool) -> Result<()> {
    let c = x.width();
    assert_eq!(norm.gamma.len(), c, "norm: {x:?} against {} channels", norm.gamma.len());
    if let Some(cuda) = x.device().cuda() {
        let problem = kernel::Norm {
            rows: x.rows(),
            channels: c,
            eps: norm.eps,
            gelu,
        };
        return problem.launch(&cuda.runtime, x.buffer(), norm.gamma.buffer(), norm.beta.buffer(), x.buffer());
    }
    x.values_mut()
        .par_chunks_mut(ROWS * c)
        .for_each(|rows| simd::run(Rows { rows, norm, gelu }));
    Ok(())
}

struct Rows<'a> {
    rows: &'a mut [f32],
    norm: &'a Norm,
    gelu: bool,
}

impl Kernel for Rows<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let c = self.norm.gamma.len();
        for row in self.rows.chunks_exact_mut(c) {
            // SAFETY: at the level of S.
            unsafe { norm_row::<S>(row, &self.norm.gamma, &self.norm.beta, self.norm.eps, self.gelu) };
        }
    }
}

/// Cost of M rows.
pub fn cost(m: usize, c: usize) -> Cost {
    Cost {
        flops: 8.0 * (m * c) as f64,
        bytes: 8.0 * (m * c) as f64,
    }
}

/// M rows of C.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Case {
    pub name: &'static str,
    pub m: usize,
    pub c: usize,
}

/// The op's table: awkward sizes, then the network's (see [`super::in_network`]).
pub fn cases() -> Vec<Case> {
    [
        ("one row", 1, 2),
        ("primes", 67, 13),
        ("vector - 1", 63, 15),
        ("vector", 64, 16),
        ("vector + 1", 65, 17),
        ("two vectors - 1", 3, 31),
        ("memory_attention.end", 5120, 256),
    ]
    .map(|(name, m, c)| Case { name, m, c })
    .to_vec()
}
