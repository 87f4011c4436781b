//! The gradient of the kernel: of each of the 64 places a product [C, tiles] x [tiles, O], added up over blocks of tiles.

use super::input::{Transforms, load_part};
use super::{Input, PLACES, Rows, TAPS, panel_width, pitch};
use crate::cpu::conv3d::sum;
use crate::cpu::gemm::with_height;
use crate::cpu::scratch::{self, Shared};
use crate::cpu::simd::{self, Kernel, Simd};
use rayon::prelude::*;
use std::ops::Range;

/// Tiles of a segment, at least, and the most segments.
const SEGMENT_TILES: usize = 256;
const MOST_SEGMENTS: usize = 16;
/// Floats of the sums of all segments.
const MOST_SUMS: usize = 1 << 24;

/// A along an axis.
macro_rules! gradient_transform {
    ($s:ident, $y:expr) => {{
        let y = $y;
        [y[0], $s::add(y[0], y[1]), $s::sub(y[0], y[1]), $s::sub($s::splat(0.0), y[1])]
    }};
}

/// G' along all axes.
fn gathered(places: &[f32; PLACES]) -> [f32; TAPS] {
    let g = |[a, b, c, d]: [f32; 4]| [a + 0.5 * (b + c), 0.5 * (b - c), 0.5 * (b + c) + d];
    let mut z = [[0.0; 16]; 3];
    for at in 0..16 {
        let column = g([0, 1, 2, 3].map(|k| places[16 * k + at]));
        (0..3).for_each(|k| z[k][at] = column[k]);
    }
    let mut out = [0.0; TAPS];
    for (k, plane) in z.iter().enumerate() {
        let mut y = [[0.0; 4]; 3];
        for i in 0..4 {
            let column = g([0, 1, 2, 3].map(|j| plane[4 * j + i]));
            (0..3).for_each(|j| y[j][i] = column[j]);
        }
        for (j, row) in y.iter().enumerate() {
            out[9 * k + 3 * j..][..3].copy_from_slice(&g(*row));
        }
    }
    out
}

/// The gradient of the weights, [27, C, O]; d_y [N, D + 2, H + 2, W + 2, O] is padded.
pub fn gradient(n: usize, size: [usize; 3], x: Input<'_>, d_y: &[f32], outputs: usize) -> Vec<f32> {
    let inputs = x.check(n, size);
    let voxels = n * size.iter().map(|edge| edge + 2).product::<usize>();
    assert_eq!(d_y.len(), voxels * outputs, "a gradient's padded output");
    let lanes = simd::level().lanes();
    let widths = [inputs.next_multiple_of(lanes), outputs.next_multiple_of(panel_width(outputs))];
    let rows = Rows::new(n, size, widths[0] + widths[1]);
    let length = PLACES * inputs * widths[1];
    let most = MOST_SEGMENTS.min(MOST_SUMS / length).max(1);
    let segments = (rows.all * rows.tiles[2] / SEGMENT_TILES).clamp(1, most).min(rows.blocks());
    let mut sums = vec![0f32; segments * length];
    sums.par_chunks_exact_mut(length).enumerate().for_each(|(segment, sums)| {
        for block in segment * rows.blocks() / segments..(segment + 1) * rows.blocks() / segments {
            let range = rows.block(block);
            let pitches = widths.map(|width| pitch(range.len() * rows.tiles[2], width));
            scratch::with(PLACES * (pitches[0] + pitches[1]), |buffer| {
                let (v, m) = buffer.split_at_mut(PLACES * pitches[0]);
                let channels = [inputs, outputs];
                simd::run(Gradient {
                    rows,
                    range: range.clone(),
                    x,
                    d_y,
                    channels,
                    widths,
                    pitches,
                    v,
                    m,
                    sums: &mut *sums,
                });
            });
        }
    });
    let (first, rest) = sums.split_at_mut(length);
    for part in rest.chunks_exact(length) {
        first
            .par_iter_mut()
            .zip(part)
            .with_min_len(1 << 14)
            .for_each(|(sum, part)| *sum += part);
    }
    let mut out = vec![0.0; TAPS * inputs * outputs];
    let shared = Shared(out.as_mut_ptr());
    (0..inputs).into_par_iter().for_each(|input| {
        for output in 0..outputs {
            let places = std::array::from_fn(|place| first[(place * inputs + input) * widths[1] + output]);
            for (tap, value) in gathered(&places).into_iter().enumerate() {
                // SAFETY: this input's weights belong to this task.
                unsafe { *shared.at((tap * inputs + input) * outputs + output) = value };
            }
        }
    });
    out
}

struct Gradient<'a> {
    rows: Rows,
    range: Range<usize>,
    x: Input<'a>,
    d_y: &'a [f32],
    channels: [usize; 2],
    widths: [usize; 2],
    pitches: [usize; 2],
    v: &'a mut [f32],
    m: &'a mut [f32],
    sums: &'a mut [f32],
}

impl Kernel for Gradient<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let tiles = self.range.len() * self.rows.tiles[2];
        // SAFETY: at the level of S; arrays have the sizes that `gradient` has checked, buffers and sums those it made.
        unsafe {
            let mut transforms = Transforms {
                values: &mut *self.v,
                width: self.widths[0],
                pitch: self.pitches[0],
            };
            transforms.fill::<S>(self.rows, self.range.clone(), self.x);
            self.transform_gradients::<S>();
            for place in 0..PLACES {
                if self.widths[1] == S::LANES {
                    self.products::<S, 1>(place, tiles);
                } else {
                    self.products::<S, 2>(place, tiles);
                }
            }
        }
    }
}

impl Gradient<'_> {
    /// A place's matrix product, added to the sums.
    #[inline(always)]
    unsafe fn products<S: Simd, const W: usize>(&mut self, place: usize, tiles: usize) {
        let (inputs, width) = (self.channels[0], W * S::LANES);
        let parts = inputs.div_ceil(S::ROWS);
        // SAFETY: places of the buffers and of the sums, as they were made.
        unsafe {
            let v = self.v.as_ptr().add(place * self.pitches[0]);
            for column in (0..self.widths[1]).step_by(width) {
                let b = self.m.as_ptr().add(place * self.pitches[1] + column);
                for part in 0..parts {
                    let (input, end) = (part * inputs / parts, (part + 1) * inputs / parts);
                    let out = self.sums.as_mut_ptr().add((place * inputs + input) * self.widths[1] + column);
                    with_height!(end - input, R => {
                        let mut acc = [[S::splat(0.0); W]; R];
                        for (r, acc) in acc.iter_mut().enumerate() {
                            for (at, value) in acc.iter_mut().enumerate() {
                                *value = S::load(out.add(r * self.widths[1] + at * S::LANES));
                            }
                        }
                        let acc = sum::<S, R, W>(v.add(input), 1, self.widths[0], b, self.widths[1], tiles, acc);
                        for (r, acc) in acc.iter().enumerate() {
                            for (at, value) in acc.iter().enumerate() {
                                S::store(out.add(r * self.widths[1] + at * S::LANES), *value);
                            }
                        }
                    });
                }
            }
        }
    }

    /// A along all axes; beyond an odd size lies padding, which is 0.
    #[inline(always)]
    unsafe fn transform_gradients<S: Simd>(&mut self) {
        let padded = self.rows.size.map(|edge| edge + 2);
        let outputs = self.channels[1];
        let mut tile = 0;
        for row in self.range.clone() {
            let (item, z, y) = self.rows.at(row);
            for x in (0..self.rows.size[2]).step_by(2) {
                for first in (0..outputs).step_by(S::LANES) {
                    // SAFETY: at the level of S; `load_part` stays inside d_y, and the buffer holds 64 places of every tile.
                    unsafe {
                        let to = self.m.as_mut_ptr().add(tile * self.widths[1] + first);
                        let mut planes = [[S::splat(0.0); 16]; 2];
                        for (dz, plane) in planes.iter_mut().enumerate() {
                            let mut lines = [[S::splat(0.0); 4]; 2];
                            for (dy, line) in lines.iter_mut().enumerate() {
                                let start = ((item * padded[0] + z + dz + 1) * padded[1] + y + dy + 1) * padded[2] + x + 1;
                                let d = [
                                    load_part::<S>(self.d_y, start * outputs + first),
                                    load_part::<S>(self.d_y, (start + 1) * outputs + first),
                                ];
                                *line = gradient_transform!(S, d);
                            }
                            for i in 0..4 {
                                let turned = gradient_transform!(S, [lines[0][i], lines[1][i]]);
                                (0..4).for_each(|j| plane[4 * j + i] = turned[j]);
                            }
                        }
                        for at in 0..16 {
                            let turned = gradient_transform!(S, [planes[0][at], planes[1][at]]);
                            for (k, value) in turned.into_iter().enumerate() {
                                S::store(to.add((16 * k + at) * self.pitches[1]), value);
                            }
                        }
                    }
                }
                tile += 1;
            }
        }
    }
}
