//! Resize of a plane of floats, as PyTorch's `F.interpolate` (CPU, float32, `align_corners=False`) computes it.
//!
//! Contract, per axis of `n_in` samples to `n_out`, s = f32(n_in) / f32(n_out), c = (i + 0.5) s - 0.5:
//! * bilinear: c clamped to >= 0, taps floor(c) and its right neighbour, weights 1 - t and t;
//! * bilinear, antialiased: triangle of half-width max(s, 1) around (i + 0.5) s, cut at the edges, weights divided by their sum;
//! * bicubic: Keys' four taps with a = -0.75, indices clamped to the edges, no antialiasing;
//! * nearest ("legacy"): floor(i s), product in f32; i >> 1 when n_out = 2 n_in.
//!
//! An axis whose size does not change is copied. Planes are `[H, W]`, row by row, or channels-last `[H, W, C]`; the x axis is done first,
//! then y, taps summed left to right in f32, as PyTorch does. Its builds for x86-64 with FMA fuse multiplies and adds: positions here are fused
//! likewise (they matter most), sums are not, which leaves differences of a few ulp.
//! Source: PyTorch's documentation and behaviour; the tests quote the calls.

use anyhow::{Result, ensure};

/// Taps of one axis: output i is the sum over j < `taps` of `weight[i, j]` * input[`index[i, j]`].
#[derive(Debug, Clone)]
struct Axis {
    input: usize,
    output: usize,
    taps: usize,
    index: Vec<u32>,  // [output, taps]
    weight: Vec<f32>, // [output, taps]; tails are zeros that point at the row's first tap
}

/// A separable resize of planes of one size to another: precomputed taps, for any number of planes.
#[derive(Debug, Clone)]
pub struct ResizePlan {
    y: Axis,
    x: Axis,
}

impl ResizePlan {
    /// `F.interpolate(mode="bilinear", align_corners=False)` from `input` = (H, W) to `output` = (h, w).
    ///
    /// # Errors
    /// A size of zero, or above 2^24 (beyond which f32 cannot count pixels).
    pub fn bilinear(input: (usize, usize), output: (usize, usize)) -> Result<Self> {
        Self::with(input, output, Axis::bilinear)
    }

    /// `F.interpolate(mode="bilinear", align_corners=False, antialias=True)`.
    ///
    /// # Errors
    /// As [`ResizePlan::bilinear`].
    pub fn bilinear_antialiased(input: (usize, usize), output: (usize, usize)) -> Result<Self> {
        Self::with(input, output, Axis::bilinear_antialiased)
    }

    /// `F.interpolate(mode="bicubic", align_corners=False)`.
    ///
    /// # Errors
    /// As [`ResizePlan::bilinear`].
    pub fn bicubic(input: (usize, usize), output: (usize, usize)) -> Result<Self> {
        Self::with(input, output, Axis::bicubic)
    }

    fn with(input: (usize, usize), output: (usize, usize), axis: fn(usize, usize) -> Axis) -> Result<Self> {
        check_sizes(input, output)?;
        Ok(Self {
            y: axis(input.0, output.0),
            x: axis(input.1, output.1),
        })
    }

    /// (H, W) of the planes it takes.
    pub fn input(&self) -> (usize, usize) {
        (self.y.input, self.x.input)
    }

    /// (h, w) of the planes it makes.
    pub fn output(&self) -> (usize, usize) {
        (self.y.output, self.x.output)
    }

    /// Floats of scratch that one call needs for `channels` channels: an `[H, w, C]` plane.
    pub fn scratch_len(&self, channels: usize) -> usize {
        self.y.input * self.x.output * channels
    }

    /// Resizes `src` `[H, W]` into `out` `[h, w]`. `scratch` holds at least [`ResizePlan::scratch_len`]`(1)` floats.
    ///
    /// It runs on the calling thread (a plane takes well under a millisecond): callers spread planes over threads.
    ///
    /// # Errors
    /// A slice of another size.
    pub fn resize(&self, src: &[f32], scratch: &mut [f32], out: &mut [f32]) -> Result<()> {
        self.resize_channels(1, src, scratch, out)
    }

    /// Resizes `src` `[H, W, C]` into `out` `[h, w, C]`, each channel by itself.
    ///
    /// # Errors
    /// A slice of another size.
    pub fn resize_channels(&self, channels: usize, src: &[f32], scratch: &mut [f32], out: &mut [f32]) -> Result<()> {
        let (y, x) = (&self.y, &self.x);
        let scratch_len = self.scratch_len(channels);
        ensure!(
            src.len() == y.input * x.input * channels,
            "resize: {} floats for planes of {:?} x {channels}",
            src.len(),
            self.input()
        );
        ensure!(
            out.len() == y.output * x.output * channels,
            "resize: room for {} floats, need {:?} x {channels}",
            out.len(),
            self.output()
        );
        ensure!(
            scratch.len() >= scratch_len,
            "resize: {} floats of scratch, need {scratch_len}",
            scratch.len()
        );
        if channels == 0 {
            return Ok(());
        }
        match (x.is_copy(), y.is_copy()) {
            (true, true) => out.copy_from_slice(src),
            (true, false) => y.columns(src, x.output * channels, out),
            (false, true) => x.rows(src, channels, out),
            (false, false) => {
                let scratch = &mut scratch[..scratch_len];
                x.rows(src, channels, scratch);
                y.columns(scratch, x.output * channels, out);
            }
        }
        Ok(())
    }

    /// Multiply-adds and bytes moved for one plane of `channels` channels.
    pub fn cost(&self, channels: usize) -> (usize, usize) {
        let across = self.scratch_len(channels);
        let down = self.y.output * self.x.output * channels;
        let floats = self.y.input * self.x.input * channels + 2 * across + down;
        (across * self.x.taps + down * self.y.taps, 4 * floats)
    }
}

/// Nearest-neighbour resize of label planes, PyTorch's "legacy" `F.interpolate(mode="nearest")`.
#[derive(Debug, Clone)]
pub struct NearestPlan {
    input: (usize, usize),
    y: Vec<u32>, // [h] source rows
    x: Vec<u32>, // [w] source columns
}

impl NearestPlan {
    /// From `input` = (H, W) to `output` = (h, w).
    ///
    /// # Errors
    /// As [`ResizePlan::bilinear`].
    pub fn new(input: (usize, usize), output: (usize, usize)) -> Result<Self> {
        check_sizes(input, output)?;
        Ok(Self {
            input,
            y: nearest_indices(input.0, output.0),
            x: nearest_indices(input.1, output.1),
        })
    }

    /// (h, w) of the planes it makes.
    pub fn output(&self) -> (usize, usize) {
        (self.y.len(), self.x.len())
    }

    /// Resizes `src` `[H, W]` into `out` `[h, w]`.
    ///
    /// # Errors
    /// A slice of another size.
    pub fn resize<T: Copy>(&self, src: &[T], out: &mut [T]) -> Result<()> {
        let (height, width) = self.input;
        ensure!(
            src.len() == height * width,
            "nearest resize: {} values for a plane of {:?}",
            src.len(),
            self.input
        );
        ensure!(
            out.len() == self.y.len() * self.x.len(),
            "nearest resize: room for {} values, need {:?}",
            out.len(),
            self.output()
        );
        for (out_row, &y) in out.chunks_exact_mut(self.x.len()).zip(&self.y) {
            let row = &src[y as usize * width..][..width];
            for (value, &x) in out_row.iter_mut().zip(&self.x) {
                *value = row[x as usize];
            }
        }
        Ok(())
    }
}

/// Refuses sizes that have no pixels or that f32 arithmetic cannot address.
pub(super) fn check_sizes(input: (usize, usize), output: (usize, usize)) -> Result<()> {
    for n in [input.0, input.1, output.0, output.1] {
        ensure!(
            n >= 1 && n <= 1 << 24,
            "cannot resize a plane of {input:?} pixels to {output:?}: each size must be 1 to 2^24"
        );
    }
    Ok(())
}

fn nearest_indices(input: usize, output: usize) -> Vec<u32> {
    let scale = input as f32 / output as f32;
    let index = |i: usize| {
        if output == input {
            i
        } else if output == 2 * input {
            i >> 1
        } else {
            ((i as f32 * scale).floor() as usize).min(input - 1)
        }
    };
    (0..output).map(|i| index(i) as u32).collect()
}

impl Axis {
    fn copy(n: usize) -> Self {
        Self {
            input: n,
            output: n,
            taps: 0,
            index: Vec::new(),
            weight: Vec::new(),
        }
    }

    fn is_copy(&self) -> bool {
        self.taps == 0
    }

    fn bilinear(input: usize, output: usize) -> Self {
        if input == output {
            return Self::copy(input);
        }
        let scale = input as f32 / output as f32;
        let (mut index, mut weight) = (Vec::with_capacity(2 * output), Vec::with_capacity(2 * output));
        for i in 0..output {
            let centre = scale.mul_add(i as f32 + 0.5, -0.5).max(0.0);
            let left = (centre.floor() as usize).min(input - 1);
            let t = (centre - left as f32).clamp(0.0, 1.0);
            index.extend([left as u32, (left + 1).min(input - 1) as u32]);
            weight.extend([1.0 - t, t]);
        }
        Self {
            input,
            output,
            taps: 2,
            index,
            weight,
        }
    }

    /// PyTorch computes some of these terms in double and rounds (0.5 is a double there); the casts follow it term by term, because a mask
    /// is cut at exactly 0.5 afterwards.
    fn bilinear_antialiased(input: usize, output: usize) -> Self {
        if input == output {
            return Self::copy(input);
        }
        let scale = input as f32 / output as f32;
        let support = scale.max(1.0);
        let inverse = if scale >= 1.0 { (1.0 / f64::from(scale)) as f32 } else { 1.0 };
        let taps = 2 * support.ceil() as usize + 1;
        let (mut index, mut weight) = (Vec::with_capacity(taps * output), Vec::with_capacity(taps * output));
        for i in 0..output {
            let centre = (f64::from(scale) * (i as f64 + 0.5)) as f32;
            let first = (f64::from(centre - support) + 0.5).max(0.0) as usize;
            let end = ((f64::from(centre + support) + 0.5) as usize).min(input);
            let count = end.saturating_sub(first).min(taps);
            let triangle = |j: usize| {
                let distance = ((f64::from((first + j) as f32 - centre) + 0.5) * f64::from(inverse)) as f32;
                (1.0 - distance.abs()).max(0.0)
            };
            let total: f32 = (0..count).map(triangle).sum();
            let divisor = if total == 0.0 { 1.0 } else { total };
            weight.extend((0..taps).map(|j| if j < count { triangle(j) / divisor } else { 0.0 }));
            index.extend((0..taps).map(|j| (first + if j < count { j } else { 0 }) as u32));
        }
        Self {
            input,
            output,
            taps,
            index,
            weight,
        }
    }

    fn bicubic(input: usize, output: usize) -> Self {
        if input == output {
            return Self::copy(input);
        }
        let scale = input as f32 / output as f32;
        let (mut index, mut weight) = (Vec::with_capacity(4 * output), Vec::with_capacity(4 * output));
        for i in 0..output {
            let centre = scale.mul_add(i as f32 + 0.5, -0.5);
            let left = centre.floor();
            weight.extend(keys_weights(centre - left));
            index.extend((-1..3).map(|j| (left as i64 + j).clamp(0, input as i64 - 1) as u32));
        }
        Self {
            input,
            output,
            taps: 4,
            index,
            weight,
        }
    }

    /// Along x: `src` `[rows, input, C]` to `out` `[rows, output, C]`.
    fn rows(&self, src: &[f32], channels: usize, out: &mut [f32]) {
        let rows = src
            .chunks_exact(self.input * channels)
            .zip(out.chunks_exact_mut(self.output * channels));
        match (channels, self.taps) {
            (1, 2) => rows.for_each(|(row, out)| self.row::<2>(row, out)),
            (1, 4) => rows.for_each(|(row, out)| self.row::<4>(row, out)),
            // A row of pixels with C channels is an [input, C] matrix: the pass over columns does it.
            _ => rows.for_each(|(row, out)| self.columns(row, channels, out)),
        }
    }

    fn row<const TAPS: usize>(&self, row: &[f32], out: &mut [f32]) {
        let taps = self.index.as_chunks::<TAPS>().0.iter().zip(self.weight.as_chunks::<TAPS>().0);
        for (value, (index, weight)) in out.iter_mut().zip(taps) {
            let mut sum = weight[0] * row[index[0] as usize];
            for j in 1..TAPS {
                sum += weight[j] * row[index[j] as usize];
            }
            *value = sum;
        }
    }

    /// Along y: `src` `[input, width]` to `out` `[output, width]`, whole rows at a time.
    fn columns(&self, src: &[f32], width: usize, out: &mut [f32]) {
        let taps = self.index.chunks_exact(self.taps).zip(self.weight.chunks_exact(self.taps));
        for (out_row, (index, weight)) in out.chunks_exact_mut(width).zip(taps) {
            let row = |j: usize| &src[index[j] as usize * width..][..width];
            for (value, a) in out_row.iter_mut().zip(row(0)) {
                *value = weight[0] * a;
            }
            for j in (1..self.taps).filter(|&j| weight[j] != 0.0) {
                for (value, a) in out_row.iter_mut().zip(row(j)) {
                    *value += weight[j] * a;
                }
            }
        }
    }
}

/// Keys' cubic with a = -0.75 at distances t + 1, t, 1 - t, 2 - t, in the order of operations PyTorch uses.
fn keys_weights(t: f32) -> [f32; 4] {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [((usize, usize), (usize, usize)); 10] = [
        ((1, 1), (5, 7)),
        ((7, 5), (1, 1)),
        ((31, 33), (32, 32)),
        ((32, 32), (31, 33)),
        ((16, 16), (13, 16)),
        ((128, 128), (96, 112)),
        ((64, 48), (16, 12)),
        ((208, 176), (64, 61)),
        ((7, 7), (128, 128)),
        ((17, 2), (3, 19)),
    ];

    fn plane(n: usize) -> Vec<f32> {
        (0..n as u64)
            .map(|i| ((i * i * 2_654_435_761 + i * 40_503) >> 13) as u8 as f32 / 16.0 - 8.0)
            .collect()
    }

    fn resized(plan: &ResizePlan, channels: usize, src: &[f32]) -> Vec<f32> {
        let (h, w) = plan.output();
        let mut out = vec![f32::NAN; h * w * channels];
        plan.resize_channels(channels, src, &mut vec![f32::NAN; plan.scratch_len(channels)], &mut out)
            .unwrap();
        out
    }

    /// sum over y, x of k(y) k(x) src, with k given as all weights of an output position, in f64.
    fn oracle(src: &[f32], input: (usize, usize), output: (usize, usize), weights: impl Fn(usize, usize, usize) -> Vec<f64>) -> Vec<f64> {
        let across: Vec<Vec<f64>> = (0..output.1).map(|i| weights(i, input.1, output.1)).collect();
        let mut out = Vec::new();
        for i in 0..output.0 {
            let down = weights(i, input.0, output.0);
            for row in &across {
                let mut sum = 0.0;
                for (y, wy) in down.iter().enumerate() {
                    for (x, wx) in row.iter().enumerate() {
                        sum += wy * wx * f64::from(src[y * input.1 + x]);
                    }
                }
                out.push(sum);
            }
        }
        out
    }

    fn kernel_weights(i: usize, input: usize, output: usize, stretch: f64, kernel: impl Fn(f64) -> f64) -> Vec<f64> {
        let centre = (i as f64 + 0.5) * input as f64 / output as f64;
        (0..input).map(|j| kernel((j as f64 + 0.5 - centre) / stretch)).collect()
    }

    fn triangle(x: f64) -> f64 {
        (1.0 - x.abs()).max(0.0)
    }

    fn assert_close(out: &[f32], expected: &[f64], tolerance: f64, what: &str) {
        assert_eq!(out.len(), expected.len());
        for (i, (&a, &b)) in out.iter().zip(expected).enumerate() {
            assert!(
                (f64::from(a) - b).abs() <= tolerance,
                "{what}: position {i} is {a}, should be {b} within {tolerance:e}"
            );
        }
    }

    /// What f32 allows: pixels of at most 8, source positions with three roundings of n 2^-24 per axis, and kernels whose weights change by
    /// at most 3.5 in sum (Keys) when the position moves by 1; then the sums' own rounding.
    fn tolerance(input: (usize, usize)) -> f64 {
        let ulp = 2f64.powi(-24);
        8.0 * 3.5 * 3.0 * ulp * (input.0 + input.1) as f64 + 8.0 * 8.0 * ulp
    }

    #[test]
    fn bilinear_equals_a_plain_loop() {
        for (input, output) in SIZES {
            let src = plane(input.0 * input.1);
            let plan = ResizePlan::bilinear(input, output).unwrap();
            // Beyond the outermost centres the edge value holds: all weight that falls outside belongs to the edge pixel.
            let expected = oracle(&src, input, output, |i, n, m| {
                let centre = ((i as f64 + 0.5) * n as f64 / m as f64 - 0.5).clamp(0.0, n as f64 - 1.0);
                (0..n).map(|j| triangle(j as f64 - centre)).collect()
            });
            assert_close(
                &resized(&plan, 1, &src),
                &expected,
                tolerance(input),
                &format!("{input:?} to {output:?}"),
            );
        }
    }

    #[test]
    fn antialiased_bilinear_equals_a_plain_loop() {
        for (input, output) in SIZES {
            let src = plane(input.0 * input.1);
            let plan = ResizePlan::bilinear_antialiased(input, output).unwrap();
            let expected = oracle(&src, input, output, |i, n, m| {
                let weights = kernel_weights(i, n, m, (n as f64 / m as f64).max(1.0), triangle);
                let total: f64 = weights.iter().sum();
                weights.iter().map(|w| w / total).collect()
            });
            assert_close(
                &resized(&plan, 1, &src),
                &expected,
                tolerance(input),
                &format!("{input:?} to {output:?}"),
            );
        }
    }

    #[test]
    fn bicubic_equals_a_plain_loop() {
        let keys = |x: f64| {
            let (a, x) = (-0.75, x.abs());
            if x <= 1.0 {
                (a + 2.0) * x.powi(3) - (a + 3.0) * x.powi(2) + 1.0
            } else if x < 2.0 {
                a * (x.powi(3) - 5.0 * x.powi(2) + 8.0 * x - 4.0)
            } else {
                0.0
            }
        };
        for (input, output) in SIZES {
            let src = plane(input.0 * input.1);
            let plan = ResizePlan::bicubic(input, output).unwrap();
            let expected = oracle(&src, input, output, |i, n, m| {
                let centre = (i as f64 + 0.5) * n as f64 / m as f64 - 0.5;
                let mut weights = vec![0.0; n];
                for j in centre.floor() as i64 - 1..=centre.floor() as i64 + 2 {
                    weights[j.clamp(0, n as i64 - 1) as usize] += if n == m {
                        triangle(j as f64 - centre)
                    } else {
                        keys(j as f64 - centre)
                    };
                }
                weights
            });
            assert_close(
                &resized(&plan, 1, &src),
                &expected,
                tolerance(input),
                &format!("{input:?} to {output:?}"),
            );
        }
    }

    #[test]
    fn channels_are_resized_each_by_itself() {
        let makers: [fn((usize, usize), (usize, usize)) -> Result<ResizePlan>; 3] =
            [ResizePlan::bilinear, ResizePlan::bilinear_antialiased, ResizePlan::bicubic];
        for (maker, (input, output)) in makers.iter().flat_map(|maker| SIZES.map(|sizes| (maker, sizes))) {
            let plan = maker(input, output).unwrap();
            let src = plane(input.0 * input.1 * 3);
            let out = resized(&plan, 3, &src);
            for c in 0..3 {
                let one: Vec<f32> = src.iter().skip(c).step_by(3).copied().collect();
                let expected = resized(&plan, 1, &one);
                let channel: Vec<f32> = out.iter().skip(c).step_by(3).copied().collect();
                assert_eq!(channel, expected, "channel {c} of {input:?} to {output:?}");
            }
        }
    }

    #[test]
    fn equal_sizes_copy_bit_for_bit() {
        let src = plane(5 * 7);
        for plan in [
            ResizePlan::bilinear((5, 7), (5, 7)),
            ResizePlan::bilinear_antialiased((5, 7), (5, 7)),
            ResizePlan::bicubic((5, 7), (5, 7)),
        ] {
            assert_eq!(resized(&plan.unwrap(), 1, &src), src);
        }
    }

    // The places where f32 arithmetic differs from exact arithmetic, from specs/tffs.md: 9 each.
    #[test]
    fn nearest_differs_from_exact_arithmetic_where_pytorch_does() {
        for (input, output) in [(208, 176), (224, 368)] {
            let differences = (0..output)
                .filter(|&i| nearest_indices(input, output)[i] as usize != i * input / output)
                .count();
            assert_eq!(differences, 9, "{input} to {output}");
        }
        assert_eq!(nearest_indices(3, 6), [0, 0, 1, 1, 2, 2]);
        assert_eq!(nearest_indices(5, 5), [0, 1, 2, 3, 4]);
        assert_eq!(nearest_indices(1, 3), [0, 0, 0]);
        assert_eq!(nearest_indices(7, 3), [0, 2, 4]);
    }

    #[test]
    fn nearest_picks_rows_and_columns() {
        let mut out = [9u8; 6];
        NearestPlan::new((2, 2), (3, 2)).unwrap().resize(&[1, 2, 3, 4], &mut out).unwrap();
        assert_eq!(out, [1, 2, 1, 2, 3, 4]);
    }

    #[test]
    fn sizes_of_zero_and_slices_of_another_size_are_refused() {
        assert!(ResizePlan::bilinear((0, 3), (2, 2)).is_err());
        assert!(NearestPlan::new((2, 3), (2, 0)).is_err());
        let plan = ResizePlan::bilinear((2, 3), (4, 5)).unwrap();
        assert!(plan.resize(&[0.0; 5], &mut [0.0; 10], &mut [0.0; 20]).is_err());
        assert!(plan.resize(&[0.0; 6], &mut [0.0; 9], &mut [0.0; 20]).is_err());
        assert!(plan.resize(&[0.0; 6], &mut [0.0; 10], &mut [0.0; 19]).is_err());
        assert!(NearestPlan::new((2, 2), (3, 2)).unwrap().resize(&[1u8; 4], &mut [0; 5]).is_err());
    }

    // torch 2.15.0 (AVX512 CPU): i = np.arange(H * W, dtype=np.uint64)
    //   x = ((i * i * 2654435761 + i * 40503) >> 13).astype(np.uint8).astype(np.float32) / 16 - 8, as (1, 1, H, W)
    //   y = F.interpolate(x, size=(h, w), mode=..., align_corners=False[, antialias=True]).numpy().astype(np.float64).ravel()
    //   (y * ((np.arange(y.size) * 37 % 101 - 50) / 50)).sum()    for SIZES in order
    #[test]
    fn weighted_sums_are_those_of_pytorch() {
        let bilinear = [
            5.76, 2.5625, -4.04755, -130.19062, -20.32858, 6.4413, -6.91938, 33.42238, -14.71764, -7.89663,
        ];
        let antialiased = [
            5.76, 0.15834, -0.48211, -128.92292, -21.66177, -51.07828, -4.63406, 72.49388, -14.71764, -3.13849,
        ];
        let bicubic = [
            5.75999, 2.5625, -1.77783, -165.32541, -17.3015, -9.08999, -7.04915, 20.83758, -13.21043, -8.65882,
        ];
        let makers: [(fn((usize, usize), (usize, usize)) -> Result<ResizePlan>, [f64; 10]); 3] = [
            (ResizePlan::bilinear, bilinear),
            (ResizePlan::bilinear_antialiased, antialiased),
            (ResizePlan::bicubic, bicubic),
        ];
        for (kind, (maker, sums)) in makers.iter().enumerate() {
            for ((input, output), expected) in SIZES.iter().zip(sums) {
                let out = resized(&maker(*input, *output).unwrap(), 1, &plane(input.0 * input.1));
                let sum: f64 = out
                    .iter()
                    .enumerate()
                    .map(|(i, v)| f64::from(*v) * ((i * 37 % 101) as f64 - 50.0) / 50.0)
                    .sum();
                // Pixels of up to 8 differ by at most about 16 ulp, with random signs; the sums above are rounded to 1e-5.
                let tolerance = 8e-6 * (out.len() as f64).sqrt() + 1e-5;
                assert!(
                    (sum - expected).abs() < tolerance,
                    "kind {kind}, {input:?} to {output:?}: {sum}, PyTorch {expected}"
                );
            }
        }
    }
}
