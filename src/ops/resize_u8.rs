//! Bicubic resize of an 8-bit plane, bit for bit as Pillow's `Image.resize((w, h))` (its default filter) does it.
//!
//! Contract, per axis, s = n_in / n_out in f64: taps within 2 max(s, 1) of (i + 0.5) s, weights Keys' cubic with a = -0.5 at
//! distance / max(s, 1), divided by their sum, then fixed point: round(weight * 2^22), half away from zero. x first, then y; each pass sums
//! in 32-bit integers from 2^21 (one half), shifts right by 22 and clamps to 0..=255. An axis whose size does not change is not filtered.
//! Planes are `[H, W]`, row by row; an RGB image is three of them. Source: Pillow's documentation ("Filters") and behaviour.
//!
//! Pillow 13 does y first when the height shrinks much more than the width (its pull request 9549), which moves some pixels by one level or
//! more; the method's authors had an earlier one, and so have we: always x first.

use super::Cost;
use anyhow::{Result, ensure};

use super::resize::check_sizes;

/// 32 bits less the 8 of a pixel and 2 for overshoot.
const PRECISION: u32 = 32 - 8 - 2;

/// Fixed-point taps of one axis; empty when the size does not change.
#[derive(Debug, Clone)]
struct Axis {
    input: usize,
    output: usize,
    spans: Vec<(u32, u32, u32)>, // per output: first input, number of taps, where its weights start
    weight: Vec<i32>,
}

/// A resize of 8-bit planes of one size to another: precomputed taps, for any number of planes.
#[derive(Debug, Clone)]
pub struct BicubicU8Plan {
    y: Axis,
    x: Axis,
}

impl BicubicU8Plan {
    /// From `input` = (H, W) to `output` = (h, w).
    ///
    /// # Errors
    /// A size of zero, or above 2^24.
    pub fn new(input: (usize, usize), output: (usize, usize)) -> Result<Self> {
        check_sizes(input, output)?;
        Ok(Self {
            y: Axis::new(input.0, output.0),
            x: Axis::new(input.1, output.1),
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

    /// Bytes of scratch that one call needs: an `[H, w]` plane.
    pub fn scratch_len(&self) -> usize {
        self.y.input * self.x.output
    }

    /// The taps of x and of y as the kernels read them: per output first input, number of taps and where its weights begin, then all weights; empty for an axis
    /// that is not filtered.
    pub fn tables(&self) -> [Vec<i32>; 2] {
        [&self.x, &self.y].map(|axis| {
            // Sizes are at most 2^24, weights are already i32.
            let spans = axis.spans.iter().flat_map(|&(first, taps, start)| [first, taps, start]);
            spans.map(u32::cast_signed).chain(axis.weight.iter().copied()).collect()
        })
    }

    /// Resizes `src` `[H, W]` into `out` `[h, w]`. `scratch` holds at least [`BicubicU8Plan::scratch_len`] bytes.
    ///
    /// # Errors
    /// A slice of another size.
    pub fn resize(&self, src: &[u8], scratch: &mut [u8], out: &mut [u8]) -> Result<()> {
        let (y, x) = (&self.y, &self.x);
        ensure!(
            src.len() == y.input * x.input,
            "8-bit resize: {} pixels for planes of {:?}",
            src.len(),
            self.input()
        );
        ensure!(
            out.len() == y.output * x.output,
            "8-bit resize: room for {} pixels, need {:?}",
            out.len(),
            self.output()
        );
        ensure!(
            scratch.len() >= self.scratch_len(),
            "8-bit resize: {} bytes of scratch, need {}",
            scratch.len(),
            self.scratch_len()
        );
        match (x.is_copy(), y.is_copy()) {
            (true, true) => out.copy_from_slice(src),
            (true, false) => y.columns(src, x.output, out),
            (false, true) => x.rows(src, out),
            (false, false) => {
                let scratch = &mut scratch[..y.input * x.output];
                x.rows(src, scratch);
                y.columns(scratch, x.output, out);
            }
        }
        Ok(())
    }

    /// Cost of one plane, its integer operations counted as flops.
    pub fn cost(&self) -> Cost {
        let across = self.y.input * self.x.weight.len();
        let down = self.x.output * self.y.weight.len();
        let between = if self.x.is_copy() || self.y.is_copy() {
            0
        } else {
            self.scratch_len()
        };
        let bytes = self.y.input * self.x.input + 2 * between + self.y.output * self.x.output;
        Cost {
            flops: 2.0 * (across + down) as f64,
            bytes: bytes as f64,
        }
    }
}

impl Axis {
    fn new(input: usize, output: usize) -> Self {
        let (mut spans, mut weight) = (Vec::new(), Vec::new());
        let scale = input as f64 / output as f64;
        let stretch = scale.max(1.0);
        for i in 0..if input == output { 0 } else { output } {
            let centre = (i as f64 + 0.5) * scale;
            let first = (centre - 2.0 * stretch + 0.5).max(0.0) as usize;
            let end = ((centre + 2.0 * stretch + 0.5) as usize).min(input);
            let inverse = 1.0 / stretch;
            let taps: Vec<f64> = (first..end).map(|j| keys((j as f64 - centre + 0.5) * inverse)).collect();
            let total: f64 = taps.iter().sum();
            spans.push((first as u32, taps.len() as u32, weight.len() as u32));
            weight.extend(taps.iter().map(|w| fixed_point(if total == 0.0 { *w } else { w / total })));
        }
        Self {
            input,
            output,
            spans,
            weight,
        }
    }

    fn is_copy(&self) -> bool {
        self.spans.is_empty()
    }

    fn taps(&self, span: (u32, u32, u32)) -> (usize, &[i32]) {
        (span.0 as usize, &self.weight[span.2 as usize..][..span.1 as usize])
    }

    fn rows(&self, src: &[u8], out: &mut [u8]) {
        for (row, out_row) in src.chunks_exact(self.input).zip(out.chunks_exact_mut(self.output)) {
            for (value, &span) in out_row.iter_mut().zip(&self.spans) {
                let (first, weight) = self.taps(span);
                let sum: i32 = row[first..].iter().zip(weight).map(|(&p, &w)| i32::from(p) * w).sum();
                *value = to_pixel(sum + HALF);
            }
        }
    }

    /// Whole rows at a time, in blocks of columns whose sums stay in registers and the first cache.
    fn columns(&self, src: &[u8], width: usize, out: &mut [u8]) {
        const BLOCK: usize = 256;
        for (out_row, &span) in out.chunks_exact_mut(width).zip(&self.spans) {
            let (first, weight) = self.taps(span);
            for (block, pixels) in out_row.chunks_mut(BLOCK).enumerate() {
                let mut sums = [HALF; BLOCK];
                for (j, &w) in weight.iter().enumerate() {
                    let row = &src[(first + j) * width + block * BLOCK..][..pixels.len()];
                    for (sum, &p) in sums.iter_mut().zip(row) {
                        *sum += i32::from(p) * w;
                    }
                }
                for (pixel, &sum) in pixels.iter_mut().zip(&sums) {
                    *pixel = to_pixel(sum);
                }
            }
        }
    }
}

const HALF: i32 = 1 << (PRECISION - 1);

fn to_pixel(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Rounded half away from zero: a half is added on the side of the sign, and the rest cut.
fn fixed_point(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << PRECISION);
    (scaled + 0.5_f64.copysign(scaled)) as i32
}

/// Keys' cubic with a = -0.5.
fn keys(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// A plane of one size to another.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Case {
    pub name: &'static str,
    pub input: (usize, usize),
    pub output: (usize, usize),
}

/// The op's table: awkward sizes, then the network's (see [`super::in_network`]).
pub fn cases() -> Vec<Case> {
    [
        ("from one", (1, 1), (5, 7)),
        ("to one", (7, 5), (1, 1)),
        ("tile + 1 to tile", (31, 33), (32, 32)),
        ("primes", (13, 17), (512, 512)),
        ("four times down", (512, 512), (128, 128)),
        ("tffs.care", (208, 176), (512, 512)),
        ("primes down", (67, 512), (512, 61)),
        ("one axis, up", (512, 40), (512, 97)),
        ("one axis, down", (40, 300), (7, 300)),
        ("tffs.small", (96, 112), (512, 512)),
        ("thin", (701, 3), (11, 257)),
    ]
    .map(|(name, input, output)| Case { name, input, output })
    .to_vec()
}
