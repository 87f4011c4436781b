//! What is convolved, and its transform: read from a padded array, or from channels without padding that are normed and activated on their way.

use super::{Rows, WIDEST};
use crate::cpu::simd::{self, Simd};
use std::ops::Range;

/// B' along an axis.
macro_rules! input_transform {
    ($s:ident, $d:expr) => {{
        let d = $d;
        [$s::sub(d[0], d[2]), $s::add(d[1], d[2]), $s::sub(d[2], d[1]), $s::sub(d[1], d[3])]
    }};
}

/// What is convolved.
#[derive(Clone, Copy)]
pub enum Input<'a> {
    /// [N, D + 2, H + 2, W + 2, C], and C.
    Padded(&'a [f32], usize),
    /// The channels of all of them, one after the other.
    Sources(&'a [Source<'a>]),
}

/// Channels without padding.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// [N, D, H, W, C]; C is a multiple of the vector's lanes.
    pub y: &'a [f32],
    /// C.
    pub channels: usize,
    /// Factor and summand [N, C] of each value, and the slope, at most 1, by which it is multiplied if it is below 0 then.
    pub norm: Option<(&'a [f32], &'a [f32], f32)>,
}

impl Input<'_> {
    /// Asserts that the arrays are of N volumes of this size; C.
    pub(super) fn check(&self, n: usize, size: [usize; 3]) -> usize {
        let voxels = |edges: usize| n * size.iter().map(|edge| edge + edges).product::<usize>();
        match self {
            Self::Padded(x, channels) => {
                assert_eq!(x.len(), voxels(2) * channels, "a convolution's padded input");
                *channels
            }
            Self::Sources(sources) => {
                let lanes = simd::level().lanes();
                for source in *sources {
                    let is_whole = source.channels.is_multiple_of(lanes) && source.y.len() == voxels(0) * source.channels;
                    let has_norm = |(scale, shift, slope): (&[f32], &[f32], f32)| {
                        scale.len() == n * source.channels && shift.len() == scale.len() && slope <= 1.0
                    };
                    assert!(
                        is_whole && source.norm.is_none_or(has_norm),
                        "a convolution's source of {} channels",
                        source.channels
                    );
                }
                sources.iter().map(|source| source.channels).sum()
            }
        }
    }
}

/// A vector of the channels at `at`; those behind the end of the array are 0.
#[inline(always)]
pub(super) unsafe fn load_part<S: Simd>(values: &[f32], at: usize) -> S::V {
    // SAFETY: reads inside `values`.
    unsafe {
        if at + S::LANES <= values.len() {
            return S::load(values.as_ptr().add(at));
        }
        let mut edge = [0f32; WIDEST];
        let left = values.len().saturating_sub(at);
        std::ptr::copy_nonoverlapping(values.as_ptr().add(at.min(values.len())), edge.as_mut_ptr(), left);
        S::load(edge.as_ptr())
    }
}

/// B' along all axes of a tile whose line (z, y) is `$line`, to places `$pitch` floats apart.
macro_rules! input_tile {
    ($s:ident, $to:expr, $pitch:expr, ($z:ident, $y:ident) => $line:expr) => {{
        let mut planes = [[$s::splat(0.0); 16]; 4];
        for ($z, plane) in planes.iter_mut().enumerate() {
            let mut lines = [[$s::splat(0.0); 4]; 4];
            for ($y, line) in lines.iter_mut().enumerate() {
                *line = input_transform!($s, $line);
            }
            for i in 0..4 {
                let turned = input_transform!($s, [lines[0][i], lines[1][i], lines[2][i], lines[3][i]]);
                (0..4).for_each(|j| plane[4 * j + i] = turned[j]);
            }
        }
        for at in 0..16 {
            let turned = input_transform!($s, [planes[0][at], planes[1][at], planes[2][at], planes[3][at]]);
            for (k, value) in turned.into_iter().enumerate() {
                $s::store($to.add((16 * k + at) * $pitch), value);
            }
        }
    }};
}

/// A block's transformed inputs: [64, tiles, `width`], places `pitch` floats apart.
pub(super) struct Transforms<'a> {
    pub(super) values: &'a mut [f32],
    pub(super) width: usize,
    pub(super) pitch: usize,
}

impl Transforms<'_> {
    /// B' along all axes, for all tiles of some rows.
    #[inline(always)]
    pub(super) unsafe fn fill<S: Simd>(&mut self, rows: Rows, range: Range<usize>, x: Input<'_>) {
        // SAFETY: as the caller's.
        unsafe {
            match x {
                Input::Padded(x, channels) => self.fill_from_padded::<S>(rows, range, x, channels),
                Input::Sources(sources) => {
                    let mut first = 0;
                    for source in sources {
                        self.fill_from_source::<S>(rows, range.clone(), *source, first);
                        first += source.channels;
                    }
                }
            }
        }
    }

    /// Channels behind the last are those of the next voxel, and never used; what lies beyond an odd size is read from the last voxel, and goes into outputs that nobody wants.
    #[inline(always)]
    unsafe fn fill_from_padded<S: Simd>(&mut self, rows: Rows, range: Range<usize>, x: &[f32], channels: usize) {
        let padded = rows.size.map(|edge| edge + 2);
        let mut tile = 0;
        for row in range {
            let (item, z0, y0) = rows.at(row);
            for x0 in (0..rows.size[2]).step_by(2) {
                let column: [usize; 4] = std::array::from_fn(|i| (x0 + i).min(padded[2] - 1) * channels);
                for first in (0..channels).step_by(S::LANES) {
                    // SAFETY: at the level of S; `load_part` stays inside x, and the buffer holds 64 places of every tile.
                    unsafe {
                        let to = self.values.as_mut_ptr().add(tile * self.width + first);
                        input_tile!(S, to, self.pitch, (dz, dy) => {
                            let z = (item * padded[0] + (z0 + dz).min(padded[0] - 1)) * padded[1];
                            let start = (z + (y0 + dy).min(padded[1] - 1)) * padded[2] * channels + first;
                            [
                                load_part::<S>(x, start + column[0]),
                                load_part::<S>(x, start + column[1]),
                                load_part::<S>(x, start + column[2]),
                                load_part::<S>(x, start + column[3]),
                            ]
                        });
                    }
                }
                tile += 1;
            }
        }
    }

    /// Padding is made up; voxels are normed and activated on their way.
    #[inline(always)]
    unsafe fn fill_from_source<S: Simd>(&mut self, rows: Rows, range: Range<usize>, source: Source<'_>, before: usize) {
        let ([d, h, w], channels) = (rows.size, source.channels);
        let mut tile = 0;
        for row in range {
            let (item, z0, y0) = rows.at(row);
            for x0 in (0..w).step_by(2) {
                for first in (0..channels).step_by(S::LANES) {
                    // SAFETY: at the level of S; only voxels of the volume are read, whole vectors of channels each, and the buffer holds 64 places of every tile.
                    unsafe {
                        let (scale, shift, slope) = match source.norm {
                            Some((scale, shift, slope)) => {
                                let at = item * channels + first;
                                (S::load(scale.as_ptr().add(at)), S::load(shift.as_ptr().add(at)), S::splat(slope))
                            }
                            None => (S::splat(1.0), S::splat(0.0), S::splat(1.0)),
                        };
                        let to = self.values.as_mut_ptr().add(tile * self.width + before + first);
                        input_tile!(S, to, self.pitch, (dz, dy) => {
                            let (z, y) = (z0 + dz, y0 + dy);
                            let mut line = [S::splat(0.0); 4];
                            if (1..=d).contains(&z) && (1..=h).contains(&y) {
                                let start = ((item * d + z - 1) * h + y - 1) * w;
                                for (dx, v) in line.iter_mut().enumerate() {
                                    if (1..=w).contains(&(x0 + dx)) {
                                        let at = (start + x0 + dx - 1) * channels + first;
                                        let normed = S::fma(S::load(source.y.as_ptr().add(at)), scale, shift);
                                        // For slopes of at most 1 the larger one is LeakyReLU.
                                        *v = S::max(normed, S::mul(normed, slope));
                                    }
                                }
                            }
                            line
                        });
                    }
                }
                tile += 1;
            }
        }
    }
}
