//! Resampling as nnU-Net's `resample_data_or_seg_to_shape` (over scikit-image's `resize` without anti-aliasing), in double precision.
//!
//! Voxel k of an axis resized from n to m samples lies at (k + 1/2) n / m - 1/2 of the old axis. Order 1 is linear with repeated edges; order 3 a cubic B-spline through the samples,
//! of the array padded by 12 repeated edges (Unser 1999; scipy.ndimage's `spline_filter`, mode "mirror"). Both are separable, so one axis is done after the other. The result
//! is clipped to the range of what went in. Volumes with one coarse axis are resized slice by slice, and along that axis each slice is the nearest one.
//!
//! Memory: beside input and output 8 bytes for each voxel of the slices resized in plane, and a row of slices per thread.

use rayon::prelude::*;
use std::borrow::Cow;

/// An axis is coarse when its spacing is more than this times the finest.
const ANISOTROPY: f64 = 3.0;
/// Repeated edges on each side of an axis before the spline goes through it.
const PADDING: usize = 12;

/// Degree of the interpolation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Linear: logits, and indicators of labels.
    Linear,
    /// Cubic B-spline: images.
    Cubic,
}

/// Sizes after resampling from one spacing to another: rounded, halves to even.
pub fn new_shape(shape: [usize; 3], from: [f64; 3], to: [f64; 3]) -> [usize; 3] {
    std::array::from_fn(|axis| ((from[axis] / to[axis] * shape[axis] as f64).round_ties_even() as usize).max(1))
}

/// The axis along which slices are taken as they are: the coarsest of `from` if that is coarse, else of `to`. None if there is no single coarsest one.
pub fn separate_axis(from: [f64; 3], to: [f64; 3]) -> Option<usize> {
    let most = |spacing: [f64; 3]| spacing.into_iter().fold(0.0, f64::max);
    let is_coarse = |spacing: [f64; 3]| most(spacing) / spacing.into_iter().fold(f64::INFINITY, f64::min) > ANISOTROPY;
    let spacing = [from, to].into_iter().find(|spacing| is_coarse(*spacing))?;
    let mut coarsest = (0..3).filter(|&axis| spacing[axis] == most(spacing));
    let axis = coarsest.next()?;
    coarsest.next().is_none().then_some(axis)
}

/// Sample `k` of an axis resized from `n` to `m` samples, in the old axis.
fn position(k: usize, n: usize, m: usize) -> f64 {
    (n as f64 / m as f64) * (k as f64 + 0.5) - 0.5
}

/// The nearest old sample of every new one.
fn nearest(n: usize, m: usize) -> Vec<usize> {
    let index = |k| (position(k, n, m) + 0.5).floor().clamp(0.0, (n - 1) as f64) as usize;
    (0..m).map(index).collect()
}

/// How a line of samples is resized: the samples each new one takes, and how much of each.
struct Line {
    n: usize,
    order: Order,
    /// First sample (of the padded line) and weights.
    taps: Vec<(usize, [f64; 4])>,
}

impl Line {
    fn new(n: usize, m: usize, order: Order) -> Self {
        let tap = |k| {
            let c = position(k, n, m);
            match order {
                Order::Linear => {
                    let c = c.clamp(0.0, (n - 1) as f64);
                    let below = (c.floor() as usize).min(n.saturating_sub(2));
                    let t = c - below as f64;
                    (below, [1.0 - t, t, 0.0, 0.0])
                }
                Order::Cubic => {
                    let c = c + PADDING as f64;
                    let below = c.floor();
                    let (t, u) = (c - below, 1.0 - (c - below));
                    let near = |t: f64| (t * t * (t - 2.0) * 3.0 + 4.0) / 6.0;
                    let (w1, w2, w0) = (near(t), near(u), u * u * u / 6.0);
                    (below as usize - 1, [w0, w1, w2, 1.0 - w0 - w1 - w2])
                }
            }
        };
        Self {
            n,
            order,
            taps: (0..m).map(tap).collect(),
        }
    }

    /// Resizes `width` lines that lie beside each other: `from` [n, width], `to` [m, width]; `padded` is working memory.
    fn resize(&self, from: &[f64], to: &mut [f64], width: usize, padded: &mut Vec<f64>) {
        let row = |k: usize| k * width..(k + 1) * width;
        let source = match self.order {
            Order::Linear => from,
            Order::Cubic => {
                padded.clear();
                for k in 0..self.n + 2 * PADDING {
                    let k = k.saturating_sub(PADDING).min(self.n - 1);
                    padded.extend_from_slice(&from[row(k)]);
                }
                spline_coefficients(padded, width);
                &padded[..]
            }
        };
        let count = if self.order == Order::Linear { 2.min(self.n) } else { 4 };
        for (k, &(first, weights)) in self.taps.iter().enumerate() {
            let out = &mut to[row(k)];
            out.fill(0.0);
            for (tap, weight) in weights.iter().enumerate().take(count) {
                for (out, v) in out.iter_mut().zip(&source[row(first + tap)]) {
                    *out += weight * v;
                }
            }
        }
    }
}

/// Coefficients of the cubic B-spline through samples: `lines` [n, width] in place, along n. Beyond its ends a line is mirrored about its end samples.
fn spline_coefficients(lines: &mut [f64], width: usize) {
    let n = lines.len() / width;
    let z = 3f64.sqrt() - 2.0;
    let gain = (1.0 - z) * (1.0 - 1.0 / z);
    lines.iter_mut().for_each(|v| *v *= gain);
    for x in 0..width {
        // The sum over the mirrored line, which repeats after 2 n - 2 samples.
        let at = |k: usize| lines[k * width + x];
        let last = z.powi(n as i32 - 1);
        let mut sum = at(0) + last * at(n - 1);
        let (mut power, mut back) = (z, last * last / z);
        for k in 1..n - 1 {
            sum += at(k) * (power + back);
            power *= z;
            back /= z;
        }
        lines[x] = sum / (1.0 - last * last);
    }
    for k in 1..n {
        let (before, now) = lines.split_at_mut(k * width);
        for (now, before) in now[..width].iter_mut().zip(&before[(k - 1) * width..]) {
            *now += z * before;
        }
    }
    for x in 0..width {
        let at = |k: usize| lines[k * width + x];
        lines[(n - 1) * width + x] = z / (z * z - 1.0) * (z * at(n - 2) + at(n - 1));
    }
    for k in (0..n - 1).rev() {
        let (now, after) = lines.split_at_mut((k + 1) * width);
        for (now, after) in now[k * width..].iter_mut().zip(&after[..width]) {
            *now = z * (after - *now);
        }
    }
}

/// Resizes a slice in plane: `from` [h, w] to [h', w'].
fn resize_plane(from: &[f32], rows: &Line, columns: &Line) -> Vec<f64> {
    let (h, w) = (rows.n, columns.n);
    let (high, wide) = (rows.taps.len(), columns.taps.len());
    let mut padded = Vec::new();
    // Lines along x lie beside each other once the slice is turned: [w, h].
    let turned: Vec<f64> = (0..w).flat_map(|x| (0..h).map(move |y| f64::from(from[y * w + x]))).collect();
    let mut across = vec![0.0; wide * h];
    columns.resize(&turned, &mut across, h, &mut padded);
    let turned: Vec<f64> = (0..h).flat_map(|y| across.iter().skip(y).step_by(h).copied()).collect();
    let mut out = vec![0.0; high * wide];
    rows.resize(&turned, &mut out, wide, &mut padded);
    out
}

fn range(values: &[f32]) -> (f64, f64) {
    let (low, high) = values
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)));
    (f64::from(low), f64::from(high))
}

/// Resamples a channel [D, H, W] to `new` sizes; with `separate` slices along that axis are taken as they are.
pub fn resample<'a>(channel: &'a [f32], shape: [usize; 3], new: [usize; 3], separate: Option<usize>, order: Order) -> Cow<'a, [f32]> {
    if shape == new {
        return Cow::Borrowed(channel);
    }
    Cow::Owned(match separate {
        None => resample_whole(channel, shape, new, order),
        Some(axis) => resample_slices(channel, shape, new, axis, order),
    })
}

/// [`resample`] of order 1, plane by plane along the first axis, for volumes that do not fit into memory.
pub struct PlaneResampler {
    shape: [usize; 3],
    new: [usize; 3],
    rows: Line,
    columns: Line,
    along: Line,
    /// With the first axis separate, which old plane each new one is.
    nearest: Option<Vec<usize>>,
}

impl PlaneResampler {
    /// None if slices along another axis than the first are to be taken as they are.
    pub fn new(shape: [usize; 3], new: [usize; 3], separate: Option<usize>) -> Option<Self> {
        let line = |axis: usize| Line::new(shape[axis], new[axis], Order::Linear);
        let nearest = match separate {
            None => None,
            Some(0) => Some(nearest(shape[0], new[0])),
            Some(_) => return None,
        };
        Some(Self {
            shape,
            new,
            rows: line(1),
            columns: line(2),
            along: line(0),
            nearest,
        })
    }

    /// Sizes before.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Sizes after.
    pub fn new_shape(&self) -> [usize; 3] {
        self.new
    }

    /// A plane [H, W] resized to [H', W'].
    pub fn in_plane(&self, plane: &[f32]) -> Vec<f64> {
        if self.shape[1..] == self.new[1..] {
            return plane.iter().map(|v| f64::from(*v)).collect();
        }
        let resized = resize_plane(plane, &self.rows, &self.columns);
        if self.nearest.is_none() {
            return resized;
        }
        let (low, high) = range(plane);
        resized.into_iter().map(|v| f64::from(v.clamp(low, high) as f32)).collect()
    }

    /// The old planes that a new one is made of, and how much of each.
    pub fn taps(&self, plane: usize) -> Vec<(usize, f64)> {
        if self.shape == self.new {
            return vec![(plane, 1.0)];
        }
        if let Some(nearest) = &self.nearest {
            return vec![(nearest[plane], 1.0)];
        }
        let (first, weights) = self.along.taps[plane];
        (0..2.min(self.shape[0])).map(|tap| (first + tap, weights[tap])).collect()
    }
}

fn resample_whole(channel: &[f32], shape: [usize; 3], new: [usize; 3], order: Order) -> Vec<f32> {
    let (rows, columns) = (Line::new(shape[1], new[1], order), Line::new(shape[2], new[2], order));
    let (low, high) = range(channel);
    let planes: Vec<Vec<f64>> = channel
        .par_chunks(shape[1] * shape[2])
        .map(|plane| resize_plane(plane, &rows, &columns))
        .collect();
    let along = Line::new(shape[0], new[0], order);
    let (row, plane) = (new[2], new[1] * new[2]);
    // Rows of all slices together: [D, W'] to [D', W'].
    let resized: Vec<Vec<f32>> = (0..new[1])
        .into_par_iter()
        .map(|y| {
            let lines: Vec<f64> = planes.iter().flat_map(|plane| &plane[y * row..(y + 1) * row]).copied().collect();
            let mut out = vec![0.0; new[0] * row];
            along.resize(&lines, &mut out, row, &mut Vec::new());
            out.into_iter().map(|v| v.clamp(low, high) as f32).collect()
        })
        .collect();
    let mut out = vec![0.0; new[0] * plane];
    out.par_chunks_mut(plane).enumerate().for_each(|(z, plane)| {
        for (to, from) in plane.chunks_exact_mut(row).zip(&resized) {
            to.copy_from_slice(&from[z * row..(z + 1) * row]);
        }
    });
    out
}

/// The axes of a slice across `axis`, and where a voxel of it lies: offset of the slice, strides of row and column.
fn plane_of(shape: [usize; 3], axis: usize) -> ([usize; 2], [usize; 3]) {
    let strides = [shape[1] * shape[2], shape[2], 1];
    match axis {
        0 => ([1, 2], strides),
        1 => ([0, 2], [strides[1], strides[0], 1]),
        _ => ([0, 1], [1, strides[0], strides[1]]),
    }
}

/// Slice `index` across `axis`, [rows, columns].
fn slice<T: Copy>(volume: &[T], shape: [usize; 3], axis: usize, index: usize) -> Vec<T> {
    let ([r, c], [offset, row, column]) = plane_of(shape, axis);
    let rows = (0..shape[r]).map(|y| index * offset + y * row);
    rows.flat_map(|start| (0..shape[c]).map(move |x| volume[start + x * column]))
        .collect()
}

/// Puts slices together along `axis`: slice k of the result is `slices[of[k]]`.
fn stack<T: Copy + Default>(slices: &[Vec<T>], of: &[usize], new: [usize; 3], axis: usize) -> Vec<T> {
    let ([r, c], [offset, row, column]) = plane_of(new, axis);
    let mut out = vec![T::default(); new.iter().product()];
    for (k, &from) in of.iter().enumerate() {
        for y in 0..new[r] {
            for x in 0..new[c] {
                out[k * offset + y * row + x * column] = slices[from][y * new[c] + x];
            }
        }
    }
    out
}

fn resample_slices(channel: &[f32], shape: [usize; 3], new: [usize; 3], axis: usize, order: Order) -> Vec<f32> {
    let ([r, c], _) = plane_of(shape, axis);
    let (rows, columns) = (Line::new(shape[r], new[r], order), Line::new(shape[c], new[c], order));
    let resized = |index: usize| -> Vec<f32> {
        let slice = slice(channel, shape, axis, index);
        if (shape[r], shape[c]) == (new[r], new[c]) {
            return slice;
        }
        let (low, high) = range(&slice);
        let resized = resize_plane(&slice, &rows, &columns).into_iter();
        resized.map(|v| v.clamp(low, high) as f32).collect()
    };
    let slices: Vec<Vec<f32>> = (0..shape[axis]).into_par_iter().map(resized).collect();
    stack(&slices, &nearest(shape[axis], new[axis]), new, axis)
}

/// Resamples labels [D, H, W]: the label whose linearly resized indicator is largest; of equal ones the nearest voxel's, else the smallest.
pub fn resample_labels<'a>(labels: &'a [i16], shape: [usize; 3], new: [usize; 3], separate: Option<usize>) -> Cow<'a, [i16]> {
    if shape == new {
        return Cow::Borrowed(labels);
    }
    let Some(axis) = separate else {
        let axes = [0, 1, 2].map(|axis| LabelAxis::new(shape[axis], new[axis]));
        let plane = new[1] * new[2];
        let mut out = vec![0; new[0] * plane];
        out.par_chunks_mut(plane)
            .enumerate()
            .for_each(|(z, out)| label_plane(labels, shape, &axes, z, out));
        return Cow::Owned(out);
    };
    let ([r, c], _) = plane_of(shape, axis);
    let axes = [
        LabelAxis::new(1, 1),
        LabelAxis::new(shape[r], new[r]),
        LabelAxis::new(shape[c], new[c]),
    ];
    let resized = |index: usize| {
        let slice = slice(labels, shape, axis, index);
        let mut out = vec![0; new[r] * new[c]];
        label_plane(&slice, [1, shape[r], shape[c]], &axes, 0, &mut out);
        out
    };
    let slices: Vec<Vec<i16>> = (0..shape[axis]).into_par_iter().map(resized).collect();
    Cow::Owned(stack(&slices, &nearest(shape[axis], new[axis]), new, axis))
}

/// For every new sample of an axis: the two old ones, the weights, and the nearest.
struct LabelAxis {
    pairs: Vec<([usize; 2], [f64; 2])>,
    nearest: Vec<usize>,
}

impl LabelAxis {
    fn new(n: usize, m: usize) -> Self {
        let line = Line::new(n, m, Order::Linear);
        let pair = |&(below, [w0, w1, ..]): &(usize, [f64; 4])| ([below, (below + 1).min(n - 1)], [w0, w1]);
        Self {
            pairs: line.taps.iter().map(pair).collect(),
            nearest: nearest(n, m),
        }
    }
}

fn label_plane(labels: &[i16], shape: [usize; 3], axes: &[LabelAxis; 3], z: usize, out: &mut [i16]) {
    let [planes, rows, columns] = axes;
    let at = |z: usize, y: usize, x: usize| labels[(z * shape[1] + y) * shape[2] + x];
    let (zs, wz) = planes.pairs[z];
    for (y, out) in out.chunks_exact_mut(columns.pairs.len()).enumerate() {
        let (ys, wy) = rows.pairs[y];
        for (x, out) in out.iter_mut().enumerate() {
            let (xs, wx) = columns.pairs[x];
            let corner = |i: usize| {
                let [a, b, c] = [i >> 2, i >> 1 & 1, i & 1];
                (at(zs[a], ys[b], xs[c]), wz[a] * wy[b] * wx[c])
            };
            let first = corner(0).0;
            *out = match (1..8).all(|i| corner(i).0 == first) {
                true => first,
                false => heaviest(
                    [0, 1, 2, 3, 4, 5, 6, 7].map(corner),
                    at(planes.nearest[z], rows.nearest[y], columns.nearest[x]),
                ),
            };
        }
    }
}

/// The label of most weight; of equal ones `nearest`, else the smallest.
fn heaviest(corners: [(i16, f64); 8], nearest: i16) -> i16 {
    let mut sums = [(0i16, 0f64); 8];
    let mut known = 0;
    for (label, weight) in corners {
        let at = sums[..known].iter().position(|(of, _)| *of == label).unwrap_or(known);
        known = known.max(at + 1);
        sums[at] = (label, sums[at].1 + weight);
    }
    let most = sums[..known].iter().map(|(_, sum)| *sum).fold(0.0, f64::max);
    let tied = || sums[..known].iter().filter(|(_, sum)| *sum == most).map(|(label, _)| *label);
    if tied().any(|label| label == nearest) {
        nearest
    } else {
        tied().min().unwrap_or(nearest)
    }
}
