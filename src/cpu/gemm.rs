//! The blocked matrix product: rows (gathered, normalised or summed on the way in) times packed weights, with bias, activation, scale, residual and row norm
//! applied while the result is still in registers or cache.
//!
//! Parallelisation: blocks of [`ROW_BLOCK`] rows (and column chunks when rows are few). One block copies its rows to a padded buffer once, then every register tile of
//! ROWS x 2 vectors runs over the whole inner length in one go, so each output is one chain of fused multiply-adds in index order: the result does not depend on
//! threads, blocks or the number of rows. Flops 2 M N K; bytes 4 (M K + N K + M N). Tried: packing rows transposed (one store per element, 6 % slower at N = 256);
//! blocking the inner length (no gain up to K = 3072, since the weights stream from L2).

use super::math;
use super::scratch::{self, Shared};
use super::simd::{self, Kernel, Simd};
use rayon::prelude::*;

/// Rows of one task: a multiple of every level's tile height.
pub const ROW_BLOCK: usize = 48;
/// Floats added to a row of the copied block, so that rows at a power-of-two distance do not share cache sets.
const ROW_PAD: usize = 16;

/// Calls a function generic over the tile's height R with R = `$rows`, 1 to 12.
macro_rules! with_height {
    ($rows:expr, $R:ident => $call:expr) => {
        with_height!(@arms $rows, $R => $call; 1 2 3 4 5 6 7 8 9 10 11 12)
    };
    (@arms $rows:expr, $R:ident => $call:expr; $($r:literal)*) => {
        match $rows {
            $($r => {
                const $R: usize = $r;
                $call
            })*
            _ => {}
        }
    };
}
pub(crate) use with_height;

/// Weights [N, K] as the register tile reads them: panels of two vectors of columns, [ceil(N / P), K, P], with bias and scale padded to whole panels.
pub struct Weights {
    n: usize,
    k: usize,
    panels: Vec<f32>,
    bias: Vec<f32>,
    scale: Option<Vec<f32>>,
}

impl Weights {
    /// Packs `w` [n, k] (PyTorch's `Linear.weight`), with bias `[n]` or none, and a factor per column or none.
    pub fn new(w: &[f32], n: usize, k: usize, bias: Option<&[f32]>, scale: Option<&[f32]>) -> Self {
        assert_eq!(w.len(), n * k, "weights are not [{n}, {k}]");
        let width = 2 * simd::level().lanes();
        let panel_count = n.div_ceil(width);
        let mut panels = vec![0.0; panel_count * k * width];
        for (j, panel) in panels.chunks_exact_mut((k * width).max(1)).enumerate() {
            for column in 0..width.min(n - j * width) {
                let row = &w[(j * width + column) * k..][..k];
                for (i, &value) in row.iter().enumerate() {
                    panel[i * width + column] = value;
                }
            }
        }
        let padded = |v: &[f32]| {
            assert_eq!(v.len(), n, "a vector beside weights of {n} columns has another length");
            let mut out = v.to_vec();
            out.resize(panel_count * width, 0.0);
            out
        };
        let bias = bias.map_or_else(|| vec![0.0; panel_count * width], padded);
        Self {
            n,
            k,
            panels,
            bias,
            scale: scale.map(padded),
        }
    }

    /// Columns of the result.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inner length.
    pub fn k(&self) -> usize {
        self.k
    }
}

/// Where the rows of the left operand come from.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub enum Rows<'a> {
    /// Row r is x[r * stride ..][.. K].
    Plain { x: &'a [f32], stride: usize },
    /// LayerNorm of the plain row.
    Norm {
        x: &'a [f32],
        gamma: &'a [f32],
        beta: &'a [f32],
        eps: f32,
    },
    /// x`[r]` + y[r mod rows of y], both of width K.
    Sum { x: &'a [f32], y: &'a [f32] },
    /// The patch under output pixel r of a convolution.
    Patch(Patch<'a>),
}

/// A convolution's input as rows: x [images, H, W, C], kernel side `kernel`, K = kernel^2 C in (ky, kx, c) order, zeros outside.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct Patch<'a> {
    pub x: &'a [f32],
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
}

impl Patch<'_> {
    /// (height, width) of the output.
    pub fn out_size(&self) -> (usize, usize) {
        let side = |n: usize| (n + 2 * self.padding - self.kernel) / self.stride + 1;
        (side(self.height), side(self.width))
    }
}

/// What follows the bias, in this order.
#[derive(Clone, Copy, Default)]
#[allow(missing_docs)]
pub struct Epilogue<'a> {
    pub activation: Activation,
    /// Added after activation and scale: row r mod its number of rows.
    pub residual: Option<&'a [f32]>,
    /// The output's old content is the residual.
    pub accumulate: bool,
    /// LayerNorm over the finished row: (gamma, beta, eps).
    pub norm: Option<(&'a [f32], &'a [f32], f32)>,
    /// GELU after that norm.
    pub gelu_after_norm: bool,
}

/// The activation function of an epilogue.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Activation {
    #[default]
    None,
    Relu,
    Gelu,
}

/// out [m, N] = epilogue(rows [m, K] W^T + bias).
pub fn gemm(m: usize, rows: Rows<'_>, weights: &Weights, epilogue: Epilogue<'_>, out: &mut [f32]) {
    assert_eq!(out.len(), m * weights.n, "output is not [{m}, {}]", weights.n);
    if m == 0 || weights.n == 0 {
        return;
    }
    let width = 2 * simd::level().lanes();
    let panels = weights.n.div_ceil(width);
    let row_blocks = m.div_ceil(ROW_BLOCK);
    // Few rows: share the columns out too, unless a whole row is needed for the norm. Work below a few 100 kflop is not worth a task.
    let worth = (ROW_BLOCK.min(m) * weights.k * width).max(1);
    let chunk = if epilogue.norm.is_some() || row_blocks >= 8 {
        panels
    } else {
        panels.div_ceil(8).max((1 << 18) / worth).max(1)
    };
    let column_chunks = panels.div_ceil(chunk);
    let out = Shared(out.as_mut_ptr());
    let task = |index: usize| {
        let (block, part) = (index / column_chunks, index % column_chunks);
        let first = block * ROW_BLOCK;
        let count = ROW_BLOCK.min(m - first);
        let panels = (part * chunk, ((part + 1) * chunk).min(panels));
        // The buffer is fetched out here: a closure inside the kernel would be compiled without the level's features.
        scratch::with(count * (weights.k + ROW_PAD), |copy| {
            simd::run(Block {
                rows,
                weights,
                epilogue: &epilogue,
                out,
                first,
                count,
                panels,
                copy,
            });
        });
    };
    if row_blocks * column_chunks == 1 {
        task(0);
    } else {
        (0..row_blocks * column_chunks).into_par_iter().for_each(task);
    }
}

/// One task: some rows by some panels.
struct Block<'a> {
    rows: Rows<'a>,
    weights: &'a Weights,
    epilogue: &'a Epilogue<'a>,
    out: Shared<f32>,
    first: usize,
    count: usize,
    panels: (usize, usize),
    copy: &'a mut [f32],
}

impl Kernel for Block<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let k = self.weights.k;
        let stride = k + ROW_PAD;
        let width = 2 * S::LANES;
        for i in 0..self.count {
            // SAFETY: at the level of S.
            unsafe { copy_row::<S>(&self.rows, self.first + i, &mut self.copy[i * stride..][..k]) };
        }
        for j in self.panels.0..self.panels.1 {
            let panel = &self.weights.panels[j * k * width..][..k * width];
            let mut i = 0;
            while i < self.count {
                let rows = S::ROWS.min(self.count - i);
                // SAFETY: `copy` holds `rows` rows of k floats at this stride, `panel` k * width floats; the output rows belong to this task alone.
                unsafe {
                    with_height!(rows, R => self.tile::<S, R>(self.copy.as_ptr().add(i * stride), stride, panel.as_ptr(), i, j * width))
                };
                i += rows;
            }
        }
        if let Some((gamma, beta, eps)) = self.epilogue.norm {
            let n = self.weights.n;
            for i in 0..self.count {
                // SAFETY: this row is written by this task alone; at the level of S.
                unsafe {
                    let row = std::slice::from_raw_parts_mut(self.out.at((self.first + i) * n), n);
                    norm_row::<S>(row, gamma, beta, eps, self.epilogue.gelu_after_norm);
                }
            }
        }
    }
}

impl Block<'_> {
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize>(&self, a: *const f32, stride: usize, panel: *const f32, i: usize, column: usize) {
        // SAFETY: the caller's pointers hold what is read; the output tile belongs to this task.
        unsafe {
            let width = 2 * S::LANES;
            let bias = self.weights.bias.as_ptr().add(column);
            let start = [S::load(bias), S::load(bias.add(S::LANES))];
            let acc = product::<S, R>(a, stride, 1, panel, self.weights.k, [start; R]);
            let n = self.weights.n;
            for r in 0..R {
                let row = self.first + i + r;
                let out = self.out.at(row * n + column);
                let residual = match self.epilogue.residual {
                    Some(y) => y.as_ptr().add((row % (y.len() / n)) * n + column),
                    None if self.epilogue.accumulate => out.cast_const(),
                    None => std::ptr::null(),
                };
                if column + width <= n {
                    self.finish::<S>(acc[r], column, residual, out);
                } else {
                    let mut edge = [0f32; 32];
                    let mut tail = [0f32; 32];
                    if !residual.is_null() {
                        std::ptr::copy_nonoverlapping(residual, tail.as_mut_ptr(), n - column);
                    }
                    self.finish::<S>(
                        acc[r],
                        column,
                        if residual.is_null() { residual } else { tail.as_ptr() },
                        edge.as_mut_ptr(),
                    );
                    std::ptr::copy_nonoverlapping(edge.as_ptr(), out, n - column);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, acc: [S::V; 2], column: usize, residual: *const f32, out: *mut f32) {
        // SAFETY: two vectors fit at `out` and, unless null, `residual`; scale is padded to whole panels.
        unsafe {
            for v in 0..2 {
                let mut x = acc[v];
                match self.epilogue.activation {
                    Activation::None => {}
                    Activation::Relu => x = S::max(x, S::splat(0.0)),
                    Activation::Gelu => x = math::gelu::<S>(x),
                }
                if let Some(scale) = &self.weights.scale {
                    x = S::mul(x, S::load(scale.as_ptr().add(column + v * S::LANES)));
                }
                if !residual.is_null() {
                    x = S::add(x, S::load(residual.add(v * S::LANES)));
                }
                S::store(out.add(v * S::LANES), x);
            }
        }
    }
}

/// The register tile: `acc` plus R rows times a [k][2 vectors] panel; element (r, e) of the rows stands at `a[r * row_stride + e * step]`.
///
/// # Safety
/// `a` holds those elements, `panel` k times two vectors; at the level of `S`.
#[inline(always)]
pub unsafe fn product<S: Simd, const R: usize>(
    a: *const f32,
    row_stride: usize,
    step: usize,
    panel: *const f32,
    k: usize,
    mut acc: [[S::V; 2]; R],
) -> [[S::V; 2]; R] {
    // SAFETY: by contract.
    unsafe {
        for e in 0..k {
            let b = [
                S::load(panel.add(e * 2 * S::LANES)),
                S::load(panel.add(e * 2 * S::LANES + S::LANES)),
            ];
            for r in 0..R {
                let x = S::splat(*a.add(r * row_stride + e * step));
                acc[r][0] = S::fma(x, b[0], acc[r][0]);
                acc[r][1] = S::fma(x, b[1], acc[r][1]);
            }
        }
        acc
    }
}

/// Brings row r of the left operand into `out` [K].
#[inline(always)]
unsafe fn copy_row<S: Simd>(rows: &Rows<'_>, r: usize, out: &mut [f32]) {
    let k = out.len();
    match *rows {
        Rows::Plain { x, stride } => out.copy_from_slice(&x[r * stride..][..k]),
        Rows::Norm { x, gamma, beta, eps } => {
            out.copy_from_slice(&x[r * k..][..k]);
            // SAFETY: at the level of S.
            unsafe { norm_row::<S>(out, gamma, beta, eps, false) };
        }
        Rows::Sum { x, y } => {
            let (x, y) = (&x[r * k..][..k], &y[(r % (y.len() / k)) * k..][..k]);
            for i in 0..k {
                out[i] = x[i] + y[i];
            }
        }
        Rows::Patch(patch) => copy_patch(&patch, r, out),
    }
}

#[inline(always)]
fn copy_patch(p: &Patch<'_>, r: usize, out: &mut [f32]) {
    let (out_h, out_w) = p.out_size();
    let (image, pixel) = (r / (out_h * out_w), r % (out_h * out_w));
    let (oy, ox) = (pixel / out_w, pixel % out_w);
    let x = &p.x[image * p.height * p.width * p.channels..][..p.height * p.width * p.channels];
    let span = p.kernel * p.channels;
    for ky in 0..p.kernel {
        let row = &mut out[ky * span..][..span];
        let y = (oy * p.stride + ky).wrapping_sub(p.padding);
        if y >= p.height {
            row.fill(0.0);
            continue;
        }
        let left = ox * p.stride;
        // Columns kx with 0 <= left + kx - padding < width.
        let (from, to) = (
            p.padding.saturating_sub(left).min(p.kernel),
            (p.width + p.padding).saturating_sub(left).min(p.kernel),
        );
        row[..from * p.channels].fill(0.0);
        row[to * p.channels..].fill(0.0);
        if from < to {
            let start = (y * p.width + left + from - p.padding) * p.channels;
            row[from * p.channels..to * p.channels].copy_from_slice(&x[start..][..(to - from) * p.channels]);
        }
    }
}

/// LayerNorm of one row in place: (x - mean) / sqrt(variance + eps) gamma + beta, then GELU if asked.
///
/// # Safety
/// At the level of `S`.
#[inline(always)]
pub unsafe fn norm_row<S: Simd>(row: &mut [f32], gamma: &[f32], beta: &[f32], eps: f32, gelu: bool) {
    let n = row.len();
    let whole = n / S::LANES * S::LANES;
    // SAFETY: offsets stay below `whole` <= n = gamma.len() = beta.len() (checked here); at the level of S.
    unsafe {
        assert!(gamma.len() == n && beta.len() == n);
        let p = row.as_mut_ptr();
        let mut total = S::splat(0.0);
        for i in (0..whole).step_by(S::LANES) {
            total = S::add(total, S::load(p.add(i)));
        }
        let mean = (math::sum::<S>(total) + row[whole..].iter().sum::<f32>()) / n as f32;
        let centre = S::splat(mean);
        let mut square = S::splat(0.0);
        for i in (0..whole).step_by(S::LANES) {
            let d = S::sub(S::load(p.add(i)), centre);
            square = S::fma(d, d, square);
        }
        let tail: f32 = row[whole..].iter().map(|x| (x - mean) * (x - mean)).sum();
        let rstd = 1.0 / ((math::sum::<S>(square) + tail) / n as f32 + eps).sqrt();
        let factor = S::splat(rstd);
        for i in (0..whole).step_by(S::LANES) {
            let x = S::mul(S::sub(S::load(p.add(i)), centre), factor);
            let mut y = S::fma(x, S::load(gamma.as_ptr().add(i)), S::load(beta.as_ptr().add(i)));
            if gelu {
                y = math::gelu::<S>(y);
            }
            S::store(p.add(i), y);
        }
        if whole < n {
            let mut edge = [0f32; 16];
            for i in whole..n {
                edge[i - whole] = (row[i] - mean) * rstd * gamma[i] + beta[i];
            }
            if gelu {
                S::store(edge.as_mut_ptr(), math::gelu::<S>(S::load(edge.as_ptr())));
            }
            row[whole..].copy_from_slice(&edge[..n - whole]);
        }
    }
}
