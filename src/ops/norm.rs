//! `norm`: LayerNorm over the last axis, y = (x - mean) / sqrt(variance + eps) gamma + beta, then GELU if asked; of channels-last maps it is SAM's LayerNorm2d.
//!
//! Shapes: x [M, C], gamma, beta [C]. Mostly fused into `linear` (before) or `conv` (after); alone at the end of memory attention.

use super::Cost;
use crate::cpu::gemm::norm_row;
use crate::cpu::simd::{self, Kernel, Simd};
use crate::tensor::Tensor;
use rayon::prelude::*;

/// Parameters of a LayerNorm.
pub struct Norm {
    /// Factor per channel.
    pub gamma: Vec<f32>,
    /// Offset per channel.
    pub beta: Vec<f32>,
    /// Added to the variance.
    pub eps: f32,
}

/// Rows per task.
const ROWS: usize = 64;

/// LayerNorm of every row of `x` in place, then GELU if `gelu`.
pub fn norm(x: &mut Tensor, norm: &Norm, gelu: bool) {
    let c = x.width();
    assert_eq!(norm.gamma.len(), c, "norm: {x:?} against {} channels", norm.gamma.len());
    x.values_mut().par_chunks_mut(ROWS * c).for_each(|rows| simd::run(Rows { rows, norm, gelu }));
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
    Cost { flops: 8.0 * (m * c) as f64, bytes: 8.0 * (m * c) as f64 }
}
