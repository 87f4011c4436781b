//! Convolutions of volumes as sums of matrix products, one for each tap of the kernel, over rows of voxels that lie at a fixed distance from each other.
//!
//! [`multiply`] serves the forward pass, the gradient of the input (a convolution with turned weights, one for each lattice of a stride) and transposed convolutions; [`gradient`]
//! the gradients of all their weights. Inputs are padded, so that there are no borders. Parallelisation: `multiply` over blocks of rows and, when they are few, panels of columns;
//! `gradient` over segments of rows and groups of taps, segments being cut by the shape alone and added in order: results do not depend on threads. A register tile is up to
//! [`Simd::ROWS`] voxels (or input channels) by two vectors of output channels, over all taps at once. Flops 2 voxels taps C O; bytes 4 (voxels (C + O) + taps C O) at least.
//! Tried: copying each voxel's patch to a row of its own, as the 2-D product does (the copy costs a tenth at 32 channels).

use super::gemm::with_height;
use super::scratch::{self, Shared};
use super::simd::{self, Kernel, Simd};
use rayon::prelude::*;

/// Voxels that a task of [`multiply`] has at least.
const BLOCK: usize = 96;
/// Voxels over which a tile of [`gradient`] stays in registers.
const CHUNK: usize = 512;
/// Voxels of a segment of [`gradient`], and the most segments.
const SEGMENT: usize = 8192;
const MOST_SEGMENTS: usize = 16;
/// The widest pair of vectors.
const WIDEST: usize = 32;

/// Rows of voxels: how many along (n, z, y, x), and how many floats a step along each goes.
#[derive(Clone, Copy, Debug)]
pub struct Lattice {
    /// The place of the first voxel.
    pub first: usize,
    /// Floats of a step along (n, z, y, x).
    pub steps: [usize; 4],
}

impl Lattice {
    /// Of a dense array [N, D, H, W, C].
    pub fn dense([d, h, w]: [usize; 3], channels: usize) -> Self {
        Self {
            first: 0,
            steps: [d * h * w * channels, h * w * channels, w * channels, channels],
        }
    }

    /// Only every so many voxels, from a voxel on.
    pub fn every(self, strides: [usize; 3], from: [usize; 3]) -> Self {
        let mut lattice = self;
        for axis in 0..3 {
            lattice.first += from[axis] * self.steps[axis + 1];
            lattice.steps[axis + 1] *= strides[axis];
        }
        lattice
    }

    /// From this channel on.
    pub fn channel(self, channel: usize) -> Self {
        Self {
            first: self.first + channel,
            ..self
        }
    }

    /// Where row `row` of `counts` begins.
    fn row(&self, row: usize, counts: [usize; 4]) -> usize {
        let (n, z, y) = (row / (counts[1] * counts[2]), row / counts[2] % counts[1], row % counts[2]);
        self.first + n * self.steps[0] + z * self.steps[1] + y * self.steps[2]
    }

    /// The place after the last float of the last voxel, if each has `width` floats.
    fn end(&self, counts: [usize; 4], width: usize) -> usize {
        let reach: usize = self
            .steps
            .iter()
            .zip(counts)
            .map(|(step, count)| step * count.saturating_sub(1))
            .sum();
        self.first + reach + width
    }
}

/// Weights of several taps as the register tile reads them: [ceil(O / P), taps, C, P] with P two vectors wide.
pub struct Panels {
    taps: usize,
    inputs: usize,
    outputs: usize,
    panels: Vec<f32>,
    bias: Vec<f32>,
}

impl Panels {
    /// Packs `weight(tap, input, output)`, with bias `[outputs]` or none.
    pub fn pack([taps, inputs, outputs]: [usize; 3], bias: Option<&[f32]>, weight: impl Fn(usize, usize, usize) -> f32 + Sync) -> Self {
        let width = 2 * simd::level().lanes();
        let count = outputs.div_ceil(width);
        let mut panels = vec![0.0; count * taps * inputs * width];
        panels
            .par_chunks_mut((taps * inputs * width).max(1))
            .enumerate()
            .for_each(|(panel, to)| {
                // The taps of an input and output lie beside each other in PyTorch's order: they are read one after the other.
                for input in 0..inputs {
                    for tap in 0..taps {
                        let row = &mut to[(tap * inputs + input) * width..][..width];
                        for (column, value) in row.iter_mut().enumerate().take(outputs - panel * width) {
                            *value = weight(tap, input, panel * width + column);
                        }
                    }
                }
            });
        let mut padded = bias.map_or_else(Vec::new, <[f32]>::to_vec);
        padded.resize(count * width, 0.0);
        Self {
            taps,
            inputs,
            outputs,
            panels,
            bias: padded,
        }
    }
}

/// `out[v] = bias + sum over t of from[v + taps[t]] W[t]`, for every voxel v of `counts` along (n, z, y, x).
pub fn multiply(counts: [usize; 4], (from, at): (&[f32], Lattice), taps: &[usize], panels: &Panels, (out, to): (&mut [f32], Lattice)) {
    assert_eq!(taps.len(), panels.taps, "taps and weights");
    if counts.contains(&0) || panels.outputs == 0 {
        return;
    }
    let reach = taps.iter().max().map_or(0, |most| at.end(counts, panels.inputs) + most);
    assert!(
        reach <= from.len() && to.end(counts, panels.outputs) <= out.len(),
        "a convolution leaves its arrays"
    );
    let rows = counts[0] * counts[1] * counts[2];
    let rows_each = BLOCK.div_ceil(counts[3]);
    let blocks = rows.div_ceil(rows_each);
    let panel_count = panels.outputs.div_ceil(2 * simd::level().lanes());
    let parts = if blocks >= 8 { 1 } else { panel_count.min(8) };
    let out = Shared(out.as_mut_ptr());
    (0..blocks * parts).into_par_iter().for_each(|task| {
        let (block, part) = (task / parts, task % parts);
        simd::run(Multiply {
            counts,
            from,
            at,
            taps,
            panels,
            out,
            to,
            rows: (block * rows_each, ((block + 1) * rows_each).min(rows)),
            part: (part * panel_count / parts, (part + 1) * panel_count / parts),
        });
    });
}

/// Some rows by some panels.
struct Multiply<'a> {
    counts: [usize; 4],
    from: &'a [f32],
    at: Lattice,
    taps: &'a [usize],
    panels: &'a Panels,
    out: Shared<f32>,
    to: Lattice,
    rows: (usize, usize),
    part: (usize, usize),
}

impl Kernel for Multiply<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let width = self.counts[3];
        let tiles = width.div_ceil(S::ROWS);
        for panel in self.part.0..self.part.1 {
            for row in self.rows.0..self.rows.1 {
                for tile in 0..tiles {
                    // As even as can be, so that no tile is much smaller than the others.
                    let (x, end) = (tile * width / tiles, (tile + 1) * width / tiles);
                    // SAFETY: `multiply` has checked that all reads and writes lie inside the arrays; voxels belong to one task, or their panels do.
                    unsafe { with_height!(end - x, R => self.tile::<S, R>(panel, row, x)) };
                }
            }
        }
    }
}

impl Multiply<'_> {
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize>(&self, panel: usize, row: usize, x: usize) {
        // SAFETY: as the caller's.
        unsafe {
            let (k, width) = (self.panels.inputs, 2 * S::LANES);
            let column = panel * width;
            let step = self.at.steps[3];
            let a = self.from.as_ptr().add(self.at.row(row, self.counts) + x * step);
            let mut b = self.panels.panels.as_ptr().add(panel * self.taps.len() * k * width);
            let bias = self.panels.bias.as_ptr().add(column);
            let mut acc = [[S::load(bias), S::load(bias.add(S::LANES))]; R];
            for &tap in self.taps {
                acc = sum::<S, R, 2>(a.add(tap), step, 1, b, width, k, acc);
                b = b.add(k * width);
            }
            let out = self.out.at(self.to.row(row, self.counts) + x * self.to.steps[3] + column);
            let left = self.panels.outputs - column;
            for r in 0..R {
                let out = out.add(r * self.to.steps[3]);
                if left >= width {
                    S::store(out, acc[r][0]);
                    S::store(out.add(S::LANES), acc[r][1]);
                } else {
                    let mut edge = [0f32; WIDEST];
                    S::store(edge.as_mut_ptr(), acc[r][0]);
                    S::store(edge.as_mut_ptr().add(S::LANES), acc[r][1]);
                    std::ptr::copy_nonoverlapping(edge.as_ptr(), out, left);
                }
            }
        }
    }
}

/// `acc` and R rows times a matrix of W vectors' width; element (r, e) of the rows at `a[r * row + e * step]`, row e of the matrix at `b[e * next]`.
///
/// # Safety
/// Those places can be read; at the level of `S`.
#[inline(always)]
pub(super) unsafe fn sum<S: Simd, const R: usize, const W: usize>(
    a: *const f32,
    row: usize,
    step: usize,
    b: *const f32,
    next: usize,
    k: usize,
    mut acc: [[S::V; W]; R],
) -> [[S::V; W]; R] {
    // SAFETY: by contract.
    unsafe {
        for e in 0..k {
            let b = b.add(e * next);
            let mut columns = [S::splat(0.0); W];
            for (at, column) in columns.iter_mut().enumerate() {
                *column = S::load(b.add(at * S::LANES));
            }
            for r in 0..R {
                let x = S::splat(*a.add(r * row + e * step));
                for at in 0..W {
                    acc[r][at] = S::fma(x, columns[at], acc[r][at]);
                }
            }
        }
        acc
    }
}

/// `d_w[t] = sum over v of from[v + taps[t]]^T d_out[v]`, [taps, C, O], over the voxels v of `counts`.
pub fn gradient(
    counts: [usize; 4],
    (from, at): (&[f32], Lattice),
    taps: &[usize],
    (d_out, of): (&[f32], Lattice),
    [inputs, outputs]: [usize; 2],
) -> Vec<f32> {
    let size = taps.len() * inputs * outputs;
    let voxels: usize = counts.iter().product();
    if voxels == 0 || size == 0 {
        return vec![0.0; size];
    }
    let reach = taps.iter().max().map_or(0, |most| at.end(counts, inputs) + most);
    assert!(
        reach <= from.len() && of.end(counts, outputs) <= d_out.len(),
        "a convolution leaves its arrays"
    );
    let rows = counts[0] * counts[1] * counts[2];
    // A function of the shape alone.
    let segments = (voxels / SEGMENT).clamp(1, MOST_SEGMENTS).min(rows);
    let groups = if segments >= 8 { taps.len().min(3) } else { taps.len() };
    let mut partial = vec![0.0; segments * size];
    let out = Shared(partial.as_mut_ptr());
    (0..segments * groups).into_par_iter().for_each(|task| {
        let (segment, group) = (task / groups, task % groups);
        scratch::with(CHUNK.max(counts[3]) * WIDEST, |tail| {
            simd::run(Gradient {
                counts,
                from,
                at,
                taps,
                d_out,
                of,
                size: [inputs, outputs],
                // SAFETY: the segment's part of `partial`.
                out: Shared(unsafe { out.at(segment * size) }),
                rows: (segment * rows / segments, (segment + 1) * rows / segments),
                group: (group * taps.len() / groups, (group + 1) * taps.len() / groups),
                tail: Shared(tail.as_mut_ptr()),
            });
        });
    });
    for segment in 1..segments {
        let (first, rest) = partial.split_at_mut(size);
        let part = &rest[(segment - 1) * size..segment * size];
        first
            .par_iter_mut()
            .zip(part)
            .with_min_len(1 << 14)
            .for_each(|(sum, part)| *sum += part);
    }
    partial.truncate(size);
    partial
}

/// Some rows for some taps.
struct Gradient<'a> {
    counts: [usize; 4],
    from: &'a [f32],
    at: Lattice,
    taps: &'a [usize],
    d_out: &'a [f32],
    of: Lattice,
    size: [usize; 2],
    out: Shared<f32>,
    rows: (usize, usize),
    group: (usize, usize),
    /// Columns that do not fill two vectors, padded: [voxels of a chunk, two vectors].
    tail: Shared<f32>,
}

impl Kernel for Gradient<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let ([inputs, outputs], width) = (self.size, 2 * S::LANES);
        let rows_each = (CHUNK / self.counts[3]).max(1);
        let mut row = self.rows.0;
        while row < self.rows.1 {
            let rows = (row, (row + rows_each).min(self.rows.1));
            for column in (0..outputs).step_by(width) {
                let is_tail = column + width > outputs;
                if is_tail {
                    // SAFETY: reads voxels of `d_out`, checked by `gradient`; `tail` holds a chunk of them.
                    unsafe { copy_tail(&self, rows, column, width) };
                }
                for tap in self.group.0..self.group.1 {
                    let tiles = inputs.div_ceil(S::ROWS);
                    for tile in 0..tiles {
                        let (input, end) = (tile * inputs / tiles, (tile + 1) * inputs / tiles);
                        // SAFETY: reads are inside the arrays, checked by `gradient`; this part of the result belongs to this task.
                        unsafe { with_height!(end - input, R => self.tile::<S, R>(rows, tap, input, column, is_tail)) };
                    }
                }
            }
            row = rows.1;
        }
    }
}

#[inline(always)]
unsafe fn copy_tail(of: &Gradient<'_>, rows: (usize, usize), column: usize, width: usize) {
    let (left, count) = (of.size[1] - column, of.counts[3]);
    for row in rows.0..rows.1 {
        for x in 0..count {
            // SAFETY: the caller's.
            unsafe {
                let from = of.d_out.as_ptr().add(of.of.row(row, of.counts) + x * of.of.steps[3] + column);
                let to = of.tail.at(((row - rows.0) * count + x) * width);
                std::ptr::copy_nonoverlapping(from, to, left);
                std::ptr::write_bytes(to.add(left), 0, width - left);
            }
        }
    }
}

impl Gradient<'_> {
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize>(&self, rows: (usize, usize), tap: usize, input: usize, column: usize, is_tail: bool) {
        // SAFETY: as the caller's.
        unsafe {
            let ([inputs, outputs], width) = (self.size, 2 * S::LANES);
            let left = (outputs - column).min(width);
            let out = self.out.at((tap * inputs + input) * outputs + column);
            let mut acc = [[S::splat(0.0); 2]; R];
            let mut edge = [0f32; WIDEST];
            for r in 0..R {
                if left == width {
                    let out = out.add(r * outputs);
                    acc[r] = [S::load(out), S::load(out.add(S::LANES))];
                } else {
                    std::ptr::copy_nonoverlapping(out.add(r * outputs), edge.as_mut_ptr(), left);
                    acc[r] = [S::load(edge.as_ptr()), S::load(edge.as_ptr().add(S::LANES))];
                }
            }
            for row in rows.0..rows.1 {
                let a = self.from.as_ptr().add(self.at.row(row, self.counts) + self.taps[tap] + input);
                let (b, next) = match is_tail {
                    true => (self.tail.at((row - rows.0) * self.counts[3] * width).cast_const(), width),
                    false => (self.d_out.as_ptr().add(self.of.row(row, self.counts) + column), self.of.steps[3]),
                };
                acc = sum::<S, R, 2>(a, 1, self.at.steps[3], b, next, self.counts[3], acc);
            }
            for r in 0..R {
                let out = out.add(r * outputs);
                if left == width {
                    S::store(out, acc[r][0]);
                    S::store(out.add(S::LANES), acc[r][1]);
                } else {
                    S::store(edge.as_mut_ptr(), acc[r][0]);
                    S::store(edge.as_mut_ptr().add(S::LANES), acc[r][1]);
                    std::ptr::copy_nonoverlapping(edge.as_ptr(), out, left);
                }
            }
        }
    }
}
