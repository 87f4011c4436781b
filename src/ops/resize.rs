//! Resize of a plane of floats, as PyTorch's `F.interpolate` (CPU, float32, `align_corners=False`) computes it.
//!
//! Contract, per axis of `n_in` samples to `n_out`, s = f32(n_in) / f32(n_out), c = (i + 0.5) s - 0.5:
//! * bilinear: c clamped to >= 0, taps floor(c) and its right neighbour, weights 1 - t and t;
//! * bilinear, antialiased: triangle of half-width max(s, 1) around (i + 0.5) s, cut at the edges, weights divided by their sum;
//! * bicubic: Keys' four taps with a = -0.75, indices clamped to the edges, no antialiasing.
//!
//! An axis whose size does not change is copied. Planes are `[H, W]`, row by row, or channels-last `[H, W, C]`; the x axis is done first,
//! then y, taps summed left to right in f32, as PyTorch does. Its builds for x86-64 with FMA fuse multiplies and adds: positions here are
//! fused likewise (they matter most), sums are not, which leaves differences of a few ulp.
//! Source: PyTorch's documentation and behaviour; the tests quote the calls.

use super::Cost;
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
    /// It runs on the calling thread (a 512 x 512 plane takes 0.1 to 1.5 ms): callers spread planes over threads.
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

    /// Cost of one plane of `channels` channels.
    pub fn cost(&self, channels: usize) -> Cost {
        let (across, down) = (self.scratch_len(channels), self.y.output * self.x.output * channels);
        let between = if self.x.is_copy() || self.y.is_copy() { 0 } else { across };
        let floats = self.y.input * self.x.input * channels + 2 * between + down;
        Cost {
            flops: 2.0 * (across * self.x.taps + down * self.y.taps) as f64,
            bytes: 4.0 * floats as f64,
        }
    }
}

/// Refuses sizes that have no pixels or that f32 arithmetic cannot address.
pub(super) fn check_sizes(input: (usize, usize), output: (usize, usize)) -> Result<()> {
    for n in [input.0, input.1, output.0, output.1] {
        ensure!(
            (1..=1 << 24).contains(&n),
            "cannot resize a plane of {input:?} pixels to {output:?}: each size must be 1 to 2^24"
        );
    }
    Ok(())
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
            // Antialiased: larger, and up to two, three and four times smaller.
            (1, 3) => rows.for_each(|(row, out)| self.row::<3>(row, out)),
            (1, 5) => rows.for_each(|(row, out)| self.row::<5>(row, out)),
            (1, 7) => rows.for_each(|(row, out)| self.row::<7>(row, out)),
            (1, 9) => rows.for_each(|(row, out)| self.row::<9>(row, out)),
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

/// A plane of one size to another.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Case {
    pub name: &'static str,
    pub input: (usize, usize),
    pub output: (usize, usize),
}

/// The op's table (see [`super::in_network`]). The tests hold PyTorch's results for the first ten: add at the end.
pub fn cases() -> Vec<Case> {
    [
        ("from one", (1, 1), (5, 7)),
        ("to one", (7, 5), (1, 1)),
        ("tile + 1 to tile", (31, 33), (32, 32)),
        ("tile to tile + 1", (32, 32), (31, 33)),
        ("one axis", (16, 16), (13, 16)),
        ("a smaller plane", (128, 128), (96, 112)),
        ("four times down", (64, 48), (16, 12)),
        ("primes", (208, 176), (64, 61)),
        ("hiera.position", (7, 7), (128, 128)),
        ("thin", (17, 2), (3, 19)),
        ("tffs.logits", (128, 128), (512, 512)),
        ("tffs.care", (128, 128), (208, 176)),
        ("prompt.mask", (512, 512), (128, 128)),
    ]
    .map(|(name, input, output)| Case { name, input, output })
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_with_code_for_their_taps_have_the_bits_of_those_without() {
        for (input, output, taps) in [(5, 13, 3), (20, 13, 5), (31, 11, 7), (64, 16, 9)] {
            let axis = Axis::bilinear_antialiased(input, output);
            assert_eq!(axis.taps, taps);
            let row: Vec<f32> = (0..3 * input).map(|i| ((i * 37) % 23) as f32 / 7.0 - 1.0).collect();
            let (mut fast, mut plain) = (vec![0.0; 3 * output], vec![0.0; 3 * output]);
            axis.rows(&row, 1, &mut fast);
            for (row, out) in row.chunks_exact(input).zip(plain.chunks_exact_mut(output)) {
                axis.columns(row, 1, out);
            }
            assert_eq!(fast, plain, "{taps} taps");
        }
    }
}
