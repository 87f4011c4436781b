//! `instance_norm`: instance norm and LeakyReLU of a raw convolution output, whose result is not kept but made again, padded for the next convolution, wherever it is needed.
//!
//! Formula: a = lrelu(gamma (y - mean) rstd + beta), mean and biased variance over the voxels of each item and channel, rstd = 1 / sqrt(variance + 1e-5), lrelu(v) = v > 0 ? v : slope v, slope 0.01 or 1 (none)
//! (PyTorch's `InstanceNorm3d` and `LeakyReLU`; nnU-Net). Shapes: y [N, D, H, W, C]; gamma, beta `[C]`. Saved: y, mean and rstd [N, C]. Gradient, with g = d_a lrelu' and
//! x^ = (y - mean) rstd: d_gamma = sum g x^, d_beta = sum g, d_y = gamma rstd (g - mean(g) - x^ mean(g x^)), sums over voxels (and items).

use super::Cost;
use super::conv3d::{Channels, sizes};
use crate::cpu::scratch::Shared;
use crate::cpu::simd::{self, Kernel, Simd};
use crate::tensor::Tensor;
use anyhow::Result;
use rayon::prelude::*;

const EPS: f64 = 1e-5;
/// Of nnU-Net's LeakyReLU.
pub const SLOPE: f32 = 0.01;
/// Voxels whose sums are single precision.
const CHUNK: usize = 512;

/// Mean and rstd of every item and channel, [N, C].
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Statistics {
    pub mean: Vec<f32>,
    pub rstd: Vec<f32>,
}

/// A layer's norm.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Norm<'a> {
    pub statistics: &'a Statistics,
    pub gamma: &'a [f32],
    pub beta: &'a [f32],
    /// Of the LeakyReLU that follows, for values below 0: [`SLOPE`], or 1 if none does.
    pub slope: f32,
}

/// What goes into a convolution: a raw output with its norm, or values as they are.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Source<'a> {
    pub y: &'a Tensor,
    pub norm: Option<Norm<'a>>,
}

/// Adds up `of(voxel's index, sums)` over the voxels of each item; chunks in single precision, then in their order in double: [N, `width`].
fn sums(n: usize, voxels: usize, width: usize, of: impl Fn(usize, std::ops::Range<usize>, &mut [f32]) + Sync) -> Vec<f64> {
    let chunks = voxels.div_ceil(CHUNK);
    let partial: Vec<Vec<f32>> = (0..n * chunks)
        .into_par_iter()
        .map(|task| {
            let (item, chunk) = (task / chunks, task % chunks);
            let mut sums = vec![0.0; width];
            of(item, chunk * CHUNK..((chunk + 1) * CHUNK).min(voxels), &mut sums);
            sums
        })
        .collect();
    let mut total = vec![0.0; n * width];
    for (task, sums) in partial.iter().enumerate() {
        let item = task / chunks * width;
        for (total, sum) in total[item..item + width].iter_mut().zip(sums) {
            *total += f64::from(*sum);
        }
    }
    total
}

/// Runs a closure compiled for the processor's vector unit.
struct Vectorised<F>(F);

impl<F: FnOnce()> Kernel for Vectorised<F> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        (self.0)();
    }
}

/// Mean and rstd of y.
pub fn statistics(y: &Tensor) -> Statistics {
    let (n, size, c) = sizes(y);
    let voxels: usize = size.iter().product();
    let values = y.values();
    let rows = |item: usize, range: std::ops::Range<usize>| {
        values[(item * voxels + range.start) * c..(item * voxels + range.end) * c].chunks_exact(c)
    };
    let sum = sums(n, voxels, c, |item, range, sums| {
        simd::run(Vectorised(
            #[inline(always)]
            || {
                for row in rows(item, range) {
                    for (sum, v) in sums.iter_mut().zip(row) {
                        *sum += v;
                    }
                }
            },
        ));
    });
    let mean: Vec<f32> = sum.iter().map(|sum| (sum / voxels as f64) as f32).collect();
    let squares = sums(n, voxels, c, |item, range, sums| {
        let mean = &mean[item * c..(item + 1) * c];
        simd::run(Vectorised(
            #[inline(always)]
            || {
                for row in rows(item, range) {
                    for ((sum, v), mean) in sums.iter_mut().zip(row).zip(mean) {
                        *sum += (v - mean) * (v - mean);
                    }
                }
            },
        ));
    });
    let rstd = squares
        .iter()
        .map(|sum| (1.0 / (sum / voxels as f64 + EPS).sqrt()) as f32)
        .collect();
    Statistics { mean, rstd }
}

/// The next convolution's input: the channels of all sources one after the other, normed and activated where a norm is given, with `padding` zeros around: a new tensor
/// [N, D + 2 pd, H + 2 ph, W + 2 pw, C].
///
/// # Errors
/// When the device's budget has no room for it.
pub fn activate(sources: &[Source<'_>], padding: [usize; 3]) -> Result<Tensor> {
    let (n, size, _) = sizes(sources[0].y);
    assert!(
        sources.iter().all(|source| sizes(source.y).0 == n && sizes(source.y).1 == size),
        "instance_norm: sources of other sizes"
    );
    let channels: usize = sources.iter().map(|source| source.y.width()).sum();
    let [d, h, w]: [usize; 3] = std::array::from_fn(|axis| size[axis] + 2 * padding[axis]);
    let mut out = Tensor::empty(sources[0].y.device(), &[n, d, h, w, channels])?;
    // y -> scale y + shift, per item.
    let folded: Vec<Option<Folded>> = sources.iter().map(|source| source.norm.map(|norm| fold(&norm, n))).collect();
    out.values_mut().par_chunks_mut(w * channels).enumerate().for_each(|(row, out)| {
        let (item, z, y) = (row / (d * h), row / h % d, row % h);
        let inside = |at: usize, axis: usize| at.checked_sub(padding[axis]).filter(|at| *at < size[axis]);
        let (Some(z), Some(y)) = (inside(z, 0), inside(y, 1)) else {
            out.fill(0.0);
            return;
        };
        let edge = padding[2] * channels;
        out[..edge].fill(0.0);
        out[(w - padding[2]) * channels..].fill(0.0);
        let mut first = 0;
        for (source, folded) in sources.iter().zip(&folded) {
            let c = source.y.width();
            let start = ((item * size[0] + z) * size[1] + y) * size[2] * c;
            let from = source.y.values()[start..start + size[2] * c].chunks_exact(c);
            let to = out[edge..edge + size[2] * channels].chunks_exact_mut(channels);
            let rows = to.map(|to| &mut to[first..first + c]).zip(from);
            match folded {
                None => rows.for_each(|(to, from)| to.copy_from_slice(from)),
                Some(Folded { scale, shift, slope }) => {
                    let slope = *slope;
                    let (scale, shift) = (&scale[item * c..(item + 1) * c], &shift[item * c..(item + 1) * c]);
                    simd::run(Vectorised(
                        #[inline(always)]
                        || {
                            for (to, from) in rows {
                                for i in 0..c {
                                    let v = from[i] * scale[i] + shift[i];
                                    to[i] = if v > 0.0 { v } else { slope * v };
                                }
                            }
                        },
                    ));
                }
            }
            first += c;
        }
    });
    Ok(out)
}

/// A norm as y -> lrelu(scale y + shift), [N, C] each.
pub(super) struct Folded {
    pub(super) scale: Vec<f32>,
    pub(super) shift: Vec<f32>,
    pub(super) slope: f32,
}

/// scale = gamma rstd, shift = beta - mean gamma rstd.
pub(super) fn fold(norm: &Norm<'_>, n: usize) -> Folded {
    let c = norm.gamma.len();
    let at = |i: usize| {
        (
            norm.statistics.mean[i],
            norm.statistics.rstd[i],
            norm.gamma[i % c],
            norm.beta[i % c],
        )
    };
    let scale = (0..n * c).map(at).map(|(_, rstd, gamma, _)| gamma * rstd);
    let shift = (0..n * c).map(at).map(|(mean, rstd, gamma, beta)| beta - mean * (gamma * rstd));
    Folded {
        scale: scale.collect(),
        shift: shift.collect(),
        slope: norm.slope,
    }
}

/// Gradients of a layer's norm and of what came before.
pub struct Gradients {
    /// Of y, padded: [N, D + 2 pd, H + 2 ph, W + 2 pw, C].
    pub d_y: Tensor,
    /// `[C]`.
    pub d_gamma: Vec<f32>,
    /// `[C]`.
    pub d_beta: Vec<f32>,
    /// Of the convolution's bias: `[C]`.
    pub d_bias: Vec<f32>,
}

/// The gradient before the LeakyReLU.
struct Slope<'a> {
    y: &'a [f32],
    /// Values of each user, floats from voxel to voxel, the first of them.
    users: Vec<(&'a [f32], usize, usize)>,
    folded: (&'a [f32], &'a [f32]),
    voxels: usize,
    channels: usize,
    below_zero: f32,
}

impl Slope<'_> {
    /// Of one voxel, into g `[C]`.
    #[inline(always)]
    fn at(&self, item: usize, voxel: usize, g: &mut [f32]) {
        let (c, at) = (self.channels, item * self.voxels + voxel);
        let g = &mut g[..c];
        for (number, &(values, step, first)) in self.users.iter().enumerate() {
            let d = &values[at * step + first..][..c];
            if number == 0 {
                g.copy_from_slice(d);
            } else {
                for i in 0..c {
                    g[i] += d[i];
                }
            }
        }
        let (v, scale, shift) = (
            &self.y[at * c..][..c],
            &self.folded.0[item * c..][..c],
            &self.folded.1[item * c..][..c],
        );
        for i in 0..c {
            // A choice of factors, not of whether to multiply: vectors can do that.
            g[i] *= if v[i] * scale[i] + shift[i] > 0.0 { 1.0 } else { self.below_zero };
        }
    }

    /// Sums of g and of g x^ over the voxels of each item: [N, 2 C].
    fn totals(&self, n: usize, statistics: &Statistics) -> Vec<f64> {
        let (c, voxels) = (self.channels, self.voxels);
        sums(n, voxels, 2 * c, |item, range, sums| {
            let (of_g, of_gx) = sums.split_at_mut(c);
            let of_gx = &mut of_gx[..c];
            let (mean, rstd) = (&statistics.mean[item * c..][..c], &statistics.rstd[item * c..][..c]);
            let mut g = vec![0.0; c];
            simd::run(Vectorised(
                #[inline(always)]
                || {
                    for voxel in range {
                        self.at(item, voxel, &mut g);
                        let v = &self.y[(item * voxels + voxel) * c..][..c];
                        for i in 0..c {
                            of_g[i] += g[i];
                            of_gx[i] += g[i] * ((v[i] - mean[i]) * rstd[i]);
                        }
                    }
                },
            ));
        })
    }
}

/// Gradients, given those of a from each of its users, which are added up.
///
/// # Errors
/// When the device's budget has no room for them.
pub fn backward(y: &Tensor, norm: Norm<'_>, users: &[Channels<'_>], padding: [usize; 3]) -> Result<Gradients> {
    let (n, size, c) = sizes(y);
    let voxels: usize = size.iter().product();
    assert!(
        !users.is_empty() && users.iter().all(|user| user.count == c && user.tensor.rows() == n * voxels),
        "instance_norm: gradients of other sizes than {y:?}"
    );
    let values = y.values();
    let Folded { scale, shift, .. } = fold(&norm, n);
    let (mean, rstd) = (&norm.statistics.mean, &norm.statistics.rstd);
    let slope = Slope {
        y: values,
        users: users
            .iter()
            .map(|user| (user.tensor.values(), user.tensor.width(), user.first))
            .collect(),
        folded: (&scale, &shift),
        voxels,
        channels: c,
        below_zero: norm.slope,
    };
    let totals = slope.totals(n, norm.statistics);
    let over_items = |from: usize| -> Vec<f32> {
        (0..c)
            .map(|i| (0..n).map(|item| totals[item * 2 * c + from + i]).sum::<f64>() as f32)
            .collect()
    };
    let share =
        |item: usize, from: usize| -> Vec<f32> { (0..c).map(|i| (totals[item * 2 * c + from + i] / voxels as f64) as f32).collect() };
    let means: Vec<[Vec<f32>; 2]> = (0..n).map(|item| [share(item, 0), share(item, c)]).collect();
    let [d, h, w]: [usize; 3] = std::array::from_fn(|axis| size[axis] + 2 * padding[axis]);
    let mut d_y = Tensor::empty(y.device(), &[n, d, h, w, c])?;
    let out = Shared(d_y.values_mut().as_mut_ptr());
    let d_bias = sums_of_rows([n, d, h], c, |row, sums| {
        // SAFETY: rows are disjoint, and `d_y` has as many.
        let out = unsafe { std::slice::from_raw_parts_mut(out.at(row * w * c), w * c) };
        let (item, z, y_at) = (row / (d * h), row / h % d, row % h);
        let inside = |at: usize, axis: usize| at.checked_sub(padding[axis]).filter(|at| *at < size[axis]);
        let (Some(z), Some(y_at)) = (inside(z, 0), inside(y_at, 1)) else {
            out.fill(0.0);
            return;
        };
        out[..padding[2] * c].fill(0.0);
        out[(w - padding[2]) * c..].fill(0.0);
        let (mean, rstd, gamma) = (&mean[item * c..][..c], &rstd[item * c..][..c], &norm.gamma[..c]);
        let (of_g, of_gx, sums) = (&means[item][0][..c], &means[item][1][..c], &mut sums[..c]);
        simd::run(Vectorised(
            #[inline(always)]
            || {
                for x in 0..size[2] {
                    let voxel = (z * size[1] + y_at) * size[2] + x;
                    let to = &mut out[(x + padding[2]) * c..][..c];
                    slope.at(item, voxel, to);
                    let v = &values[(item * voxels + voxel) * c..][..c];
                    for i in 0..c {
                        let x = (v[i] - mean[i]) * rstd[i];
                        to[i] = gamma[i] * rstd[i] * (to[i] - of_g[i] - x * of_gx[i]);
                        sums[i] += to[i];
                    }
                }
            },
        ));
    });
    Ok(Gradients {
        d_y,
        d_gamma: over_items(c),
        d_beta: over_items(0),
        d_bias,
    })
}

/// Adds up what every row of [N, D, H] gives, in order: `[width]`.
fn sums_of_rows([n, d, h]: [usize; 3], width: usize, of: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let planes: Vec<Vec<f64>> = (0..n * d)
        .into_par_iter()
        .map(|plane| {
            let mut total = vec![0f64; width];
            for row in plane * h..(plane + 1) * h {
                let mut sums = vec![0.0; width];
                of(row, &mut sums);
                total.iter_mut().zip(sums).for_each(|(total, sum)| *total += f64::from(sum));
            }
            total
        })
        .collect();
    let mut total = vec![0f64; width];
    planes
        .iter()
        .for_each(|plane| total.iter_mut().zip(plane).for_each(|(total, sum)| *total += sum));
    total.into_iter().map(|sum| sum as f32).collect()
}

/// Cost of statistics and of making a convolution's input, for `voxels` voxels of C channels.
pub fn cost(voxels: usize, channels: usize) -> Cost {
    let values = (voxels * channels) as f64;
    Cost {
        flops: 8.0 * values,
        bytes: 16.0 * values,
    }
}

/// N items of `size` voxels; channels of one or two sources.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Case {
    pub name: &'static str,
    pub items: usize,
    pub size: [usize; 3],
    pub channels: [usize; 2],
    pub padding: [usize; 3],
}

/// The op's table: awkward sizes.
pub fn cases() -> Vec<Case> {
    [
        // Of two voxels the gradient is nothing but rounding.
        ("three voxels", 1, [1, 1, 3], [1, 0], [0, 0, 0]),
        ("primes", 2, [3, 5, 7], [5, 3], [1, 1, 1]),
        ("flat padding", 3, [2, 3, 4], [8, 16], [0, 1, 1]),
        ("chunk + 1", 1, [1, 27, 19], [17, 1], [1, 0, 0]),
        ("vectors and a tail", 1, [2, 2, 3], [33, 31], [1, 1, 1]),
    ]
    .map(|(name, items, size, channels, padding)| Case {
        name,
        items,
        size,
        channels,
        padding,
    })
    .to_vec()
}
