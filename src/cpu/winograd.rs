//! Convolutions of 3 x 3 x 3 voxels at stride 1 by Winograd's minimal filtering, F(2, 3) along each axis: a tile of 2 x 2 x 2 outputs takes 64 products instead of 216.
//!
//! Along one axis, with input d, kernel g, output y: y = A' [(G g) . (B' d)], B' d = (d0 - d2, d1 + d2, d2 - d1, d1 - d3), G g = (g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2),
//! A' m = (m0 + m1 + m2, m1 - m2 - m3) (Winograd; Lavin and Gray, 2016). The gradient of the kernel is the transpose: G' [sum over tiles of (B' d) . (A d_y)]. Of the 64 places each is
//! a matrix product [tiles, C] x [C, O] ([C, tiles] x [tiles, O] for the gradient). Parallelisation: over blocks of tiles whose transforms stay in the second-level cache; the gradient
//! over segments of tiles, cut by the shape alone and added in order. Flops: 16 voxels C O instead of 54, and about 28 additions for every input and 14 for every output; bytes: each
//! input and output once, weights 64/27 times. Error: a few times that of the direct sum. On two cores
//! with AVX-512 layers of 32 to 64 channels run at twice the rate of a direct (strided) layer of that width forward and for inputs, at 2.7 to 3 times for weights.

mod gradient;
mod input;

pub use gradient::gradient;
pub use input::{Input, Source};

use super::conv3d::sum;
use super::gemm::with_height;
use super::scratch::{self, Shared};
use super::simd::{self, Kernel, Simd};
use input::Transforms;
use rayon::prelude::*;
use std::ops::Range;

/// Places of a transformed tile.
const PLACES: usize = 64;
const TAPS: usize = 27;
/// Floats of a block's transforms, so that they and the weights of a place find room in the second-level cache.
const BLOCK_FLOATS: usize = 1 << 18;
/// Least and most tiles of a block.
const BLOCK_TILES: (usize, usize) = (12, 64);
/// Fewer channels than this are not worth the transforms; more weights than this do not stay in the caches.
const LEAST_CHANNELS: usize = 16;
const MOST_WEIGHTS: usize = 256 * 128;
const LEAST_TILES: usize = 64;
/// The widest pair of vectors.
const WIDEST: usize = 32;

/// Whether a convolution of N volumes of these sizes from C to O channels is done this way.
pub fn suits(n: usize, size: [usize; 3], channels: usize, outputs: usize) -> bool {
    channels.min(outputs) >= LEAST_CHANNELS
        && channels * outputs <= MOST_WEIGHTS
        && n * tiles(size).iter().product::<usize>() >= LEAST_TILES
}

fn tiles(size: [usize; 3]) -> [usize; 3] {
    size.map(|edge| edge.div_ceil(2))
}

/// A' along an axis.
macro_rules! output_transform {
    ($s:ident, $m:expr) => {{
        let m = $m;
        [$s::add($s::add(m[0], m[1]), m[2]), $s::sub($s::sub(m[1], m[2]), m[3])]
    }};
}

/// How wide a register tile is: one vector if that holds all outputs, else two.
fn panel_width(outputs: usize) -> usize {
    let lanes = simd::level().lanes();
    if outputs <= lanes { lanes } else { 2 * lanes }
}

/// Transformed weights as the register tile reads them: [64, ceil(O / P), C, P] with P one or two vectors wide.
pub struct Weights {
    inputs: usize,
    outputs: usize,
    panels: Vec<f32>,
}

impl Weights {
    /// Transforms `weight(tap, input, output)`.
    pub fn transform([inputs, outputs]: [usize; 2], weight: impl Fn(usize, usize, usize) -> f32 + Sync) -> Self {
        let width = panel_width(outputs);
        let count = outputs.div_ceil(width);
        let mut panels = vec![0.0; PLACES * count * inputs * width];
        let shared = Shared(panels.as_mut_ptr());
        (0..count * inputs).into_par_iter().for_each(|row| {
            let (panel, input) = (row / inputs, row % inputs);
            for column in 0..width.min(outputs - panel * width) {
                let taps: [f32; TAPS] = std::array::from_fn(|tap| weight(tap, input, panel * width + column));
                for (place, value) in transformed(&taps).into_iter().enumerate() {
                    // SAFETY: this row of every place belongs to this task.
                    unsafe { *shared.at(((place * count + panel) * inputs + input) * width + column) = value };
                }
            }
        });
        Self { inputs, outputs, panels }
    }
}

/// G along all axes.
fn transformed(taps: &[f32; TAPS]) -> [f32; PLACES] {
    let g = |[a, b, c]: [f32; 3]| [a, 0.5 * (a + b + c), 0.5 * (a - b + c), c];
    let mut x = [[0.0; 4]; 9];
    for (row, x) in x.iter_mut().enumerate() {
        *x = g([taps[3 * row], taps[3 * row + 1], taps[3 * row + 2]]);
    }
    let mut y = [[[0.0; 4]; 4]; 3];
    for (z, y) in y.iter_mut().enumerate() {
        for i in 0..4 {
            let column = g([x[3 * z][i], x[3 * z + 1][i], x[3 * z + 2][i]]);
            (0..4).for_each(|j| y[j][i] = column[j]);
        }
    }
    let mut out = [0.0; PLACES];
    for at in 0..16 {
        let column = g([0, 1, 2].map(|z: usize| y[z][at / 4][at % 4]));
        (0..4).for_each(|z| out[16 * z + at] = column[z]);
    }
    out
}

/// N volumes, their tiles in rows, and how many rows a block has.
#[derive(Clone, Copy)]
struct Rows {
    size: [usize; 3],
    tiles: [usize; 3],
    all: usize,
    each: usize,
}

impl Rows {
    fn new(n: usize, size: [usize; 3], width: usize) -> Self {
        let tiles = tiles(size);
        let fit = (BLOCK_FLOATS / (PLACES * width)).clamp(BLOCK_TILES.0, BLOCK_TILES.1);
        Self {
            size,
            tiles,
            all: n * tiles[0] * tiles[1],
            each: (fit / tiles[2]).max(1),
        }
    }

    fn blocks(&self) -> usize {
        self.all.div_ceil(self.each)
    }

    fn block(&self, block: usize) -> Range<usize> {
        block * self.each..((block + 1) * self.each).min(self.all)
    }

    /// Item and first voxel of a row of tiles along (z, y).
    fn at(&self, row: usize) -> (usize, usize, usize) {
        let [d, h, _] = self.tiles;
        (row / (d * h), 2 * (row / h % d), 2 * (row % h))
    }
}

/// Floats between the places of a block's transform: a cache line more than is needed, so that places do not meet in one set of the cache.
fn pitch(tiles: usize, width: usize) -> usize {
    tiles * width + 16
}

/// y = bias + the convolution of x; y [N, D, H, W, O].
pub fn convolve(n: usize, size: [usize; 3], x: Input<'_>, weights: &Weights, bias: Option<&[f32]>, y: &mut [f32]) {
    let [d, h, w] = size;
    let (inputs, outputs, lanes) = (weights.inputs, weights.outputs, simd::level().lanes());
    assert!(
        x.check(n, size) == inputs && y.len() == n * d * h * w * outputs && bias.is_none_or(|bias| bias.len() == outputs),
        "a convolution's arrays have other sizes"
    );
    let widths = [inputs.next_multiple_of(lanes), outputs.next_multiple_of(panel_width(outputs))];
    let mut padded = bias.map_or_else(Vec::new, <[f32]>::to_vec);
    padded.resize(widths[1], 0.0);
    let rows = Rows::new(n, size, widths[0] + widths[1]);
    let y = Shared(y.as_mut_ptr());
    (0..rows.blocks()).into_par_iter().for_each(|block| {
        let range = rows.block(block);
        let pitches = widths.map(|width| pitch(range.len() * rows.tiles[2], width));
        scratch::with(PLACES * (pitches[0] + pitches[1]), |buffer| {
            let (v, m) = buffer.split_at_mut(PLACES * pitches[0]);
            simd::run(Convolve {
                rows,
                range,
                x,
                weights,
                bias: &padded,
                widths,
                pitches,
                v,
                m,
                y,
            });
        });
    });
}

struct Convolve<'a> {
    rows: Rows,
    range: Range<usize>,
    x: Input<'a>,
    weights: &'a Weights,
    bias: &'a [f32],
    widths: [usize; 2],
    pitches: [usize; 2],
    v: &'a mut [f32],
    m: &'a mut [f32],
    y: Shared<f32>,
}

impl Kernel for Convolve<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let tiles = self.range.len() * self.rows.tiles[2];
        // SAFETY: at the level of S; arrays have the sizes that `convolve` has checked, buffers those it made.
        unsafe {
            let mut inputs = Transforms {
                values: &mut *self.v,
                width: self.widths[0],
                pitch: self.pitches[0],
            };
            inputs.fill::<S>(self.rows, self.range.clone(), self.x);
            for place in 0..PLACES {
                if self.widths[1] == S::LANES {
                    self.products::<S, 1>(place, tiles);
                } else {
                    self.products::<S, 2>(place, tiles);
                }
            }
            self.outputs::<S>();
        }
    }
}

impl Convolve<'_> {
    /// A place's matrix product.
    #[inline(always)]
    unsafe fn products<S: Simd, const W: usize>(&mut self, place: usize, tiles: usize) {
        let (k, width) = (self.weights.inputs, W * S::LANES);
        let panels = self.widths[1] / width;
        let parts = tiles.div_ceil(S::ROWS);
        // SAFETY: places of the buffers and of the panels, as they were made.
        unsafe {
            let v = self.v.as_ptr().add(place * self.pitches[0]);
            let m = self.m.as_mut_ptr().add(place * self.pitches[1]);
            for panel in 0..panels {
                let b = self.weights.panels.as_ptr().add((place * panels + panel) * k * width);
                for part in 0..parts {
                    let (t, end) = (part * tiles / parts, (part + 1) * tiles / parts);
                    let (a, out) = (v.add(t * self.widths[0]), m.add(t * self.widths[1] + panel * width));
                    with_height!(end - t, R => {
                        let acc = sum::<S, R, W>(a, self.widths[0], 1, b, width, k, [[S::splat(0.0); W]; R]);
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

    /// A' along all axes, and bias.
    #[inline(always)]
    unsafe fn outputs<S: Simd>(&self) {
        let ([d, h, w], outputs) = (self.rows.size, self.weights.outputs);
        let mut tile = 0;
        for row in self.range.clone() {
            let (item, z, y) = self.rows.at(row);
            for x in (0..w).step_by(2) {
                for first in (0..outputs).step_by(S::LANES) {
                    let left = (outputs - first).min(S::LANES);
                    // SAFETY: at the level of S; a tile's places are in the buffer, and its voxels belong to this task.
                    unsafe {
                        let m = self.m.as_ptr().add(tile * self.widths[1] + first);
                        let bias = S::load(self.bias.as_ptr().add(first));
                        let values = output_tile::<S>(m, self.pitches[1]);
                        for (at, value) in values.into_iter().enumerate() {
                            let place = [z + at / 4, y + at / 2 % 2, x + at % 2];
                            if place[0] >= d || place[1] >= h || place[2] >= w {
                                continue;
                            }
                            let voxel = ((item * d + place[0]) * h + place[1]) * w + place[2];
                            store_part::<S>(self.y.at(voxel * outputs + first), S::add(value, bias), left);
                        }
                    }
                }
                tile += 1;
            }
        }
    }
}

#[inline(always)]
unsafe fn store_part<S: Simd>(to: *mut f32, value: S::V, left: usize) {
    // SAFETY: `left` floats can be written.
    unsafe {
        if left == S::LANES {
            S::store(to, value);
        } else {
            let mut edge = [0f32; WIDEST];
            S::store(edge.as_mut_ptr(), value);
            std::ptr::copy_nonoverlapping(edge.as_ptr(), to, left);
        }
    }
}

/// The eight outputs of a tile whose places lie `pitch` floats apart.
#[inline(always)]
unsafe fn output_tile<S: Simd>(m: *const f32, pitch: usize) -> [S::V; 8] {
    // SAFETY: 64 places can be read; at the level of S.
    unsafe {
        let mut planes = [[S::splat(0.0); 4]; 4];
        for (k, plane) in planes.iter_mut().enumerate() {
            let mut lines = [[S::splat(0.0); 2]; 4];
            for (j, line) in lines.iter_mut().enumerate() {
                let at = m.add((16 * k + 4 * j) * pitch);
                *line = output_transform!(
                    S,
                    [
                        S::load(at),
                        S::load(at.add(pitch)),
                        S::load(at.add(2 * pitch)),
                        S::load(at.add(3 * pitch))
                    ]
                );
            }
            for i in 0..2 {
                let [upper, lower] = output_transform!(S, [lines[0][i], lines[1][i], lines[2][i], lines[3][i]]);
                (plane[i], plane[2 + i]) = (upper, lower);
            }
        }
        let mut out = [S::splat(0.0); 8];
        for at in 0..4 {
            let [front, back] = output_transform!(S, [planes[0][at], planes[1][at], planes[2][at], planes[3][at]]);
            (out[at], out[4 + at]) = (front, back);
        }
        out
    }
}
