//! Phantoms: a seeded family of abdominal MR volumes with their labels, for the demo, the tests and the benches.
//!
//! The family of specs/phantom.md: organs are unions of ellipsoids in coordinates from -1 to 1 (x left-right, y front-back, z foot-head),
//! bent by a smooth random deformation, scaled and shifted per patient; the image has each tissue's level in the sequence, texture, vessels
//! in the liver, a bias field, in-plane blur, Rician noise and a gamma. Same shapes, ranges and order of effects, its own random numbers.
//!
//! A smooth field is a sum of sine waves sin(k . p + phase). Each wave is separable as a complex product, exp(i kx x) exp(i ky y)
//! exp(i (kz z + phase)), so a voxel costs two multiply-adds per wave and no sine.

use std::f32::consts::{FRAC_PI_2, TAU};
use std::str::FromStr;

use anyhow::Result;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use rayon::prelude::*;

use crate::bad_input;
use crate::keyed_rng::keyed_rng;

/// Names of the labels, from 0.
pub const LABELS: [&str; 8] = [
    "background",
    "liver",
    "spleen",
    "left kidney",
    "right kidney",
    "stomach",
    "spine",
    "aorta",
];

/// An ellipsoid: centre (x, y, z) and semi-axes.
type Ellipsoid = ([f32; 3], [f32; 3]);

/// Organs in the order they are painted: later ones overwrite.
const ORGANS: [(u8, &[Ellipsoid]); 7] = [
    (5, &[([0.32, -0.22, 0.35], [0.24, 0.20, 0.38])]),
    (
        1,
        &[
            ([-0.38, -0.05, 0.15], [0.40, 0.46, 0.75]),
            ([0.04, -0.22, 0.35], [0.40, 0.20, 0.42]),
        ],
    ),
    (2, &[([0.58, 0.20, 0.20], [0.17, 0.26, 0.45])]),
    (3, &[([0.36, 0.35, -0.40], [0.13, 0.16, 0.42])]),
    (4, &[([-0.38, 0.36, -0.45], [0.13, 0.16, 0.42])]),
    (6, &[([0.0, 0.44, 0.0], [0.13, 0.13, 9.0])]),
    (7, &[([0.06, 0.22, 0.0], [0.055, 0.055, 9.0])]),
];

/// Tissues are 0 outside, 1 body, label + 1 the organs.
const BODY: u8 = 1;
const LIVER: u8 = 2;

/// How the scanner was set: which tissue is bright.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequence {
    /// T1 in the hepatobiliary phase: a bright liver.
    Ged4,
    /// T1 before contrast.
    T1,
    /// T2: bright fluid, dark liver.
    T2,
}

impl Sequence {
    /// Its name in options and file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ged4 => "ged4",
            Self::T1 => "t1",
            Self::T2 => "t2",
        }
    }

    /// Levels of outside, body and the organs in the order of their labels.
    fn levels(self) -> [f32; 9] {
        match self {
            Self::Ged4 => [0.02, 0.38, 0.78, 0.42, 0.55, 0.55, 0.30, 0.25, 0.50],
            Self::T1 => [0.02, 0.45, 0.62, 0.40, 0.36, 0.36, 0.25, 0.30, 0.18],
            Self::T2 => [0.02, 0.50, 0.30, 0.55, 0.72, 0.72, 0.60, 0.35, 0.08],
        }
    }
}

impl FromStr for Sequence {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "ged4" => Ok(Self::Ged4),
            "t1" => Ok(Self::T1),
            "t2" => Ok(Self::T2),
            _ => bad_input!("there is no phantom sequence '{name}'; choose ged4, t1 or t2"),
        }
    }
}

/// One patient in one sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Phantom {
    /// 0 to 7, see [`LABELS`]; `[z, y, x]`.
    pub labels: Vec<u8>,
    /// 0 to 255; `[z, y, x]`.
    pub image: Vec<u8>,
    /// Voxels along z, y, x.
    pub dims: [usize; 3],
    /// Millimetres between voxels along z, y, x: a field of view of about 170 x 320 x 320 mm, varied per patient.
    pub spacing: [f64; 3],
}

impl Phantom {
    /// The phantom of (`seed`, `case`) in `sequence`, of `dims` [z, y, x] voxels (usually [24, 128, 128]).
    ///
    /// Anatomy and spacing depend on seed, case and size alone: one patient can be imaged in several sequences.
    ///
    /// # Errors
    /// A size of zero, or 2^31 voxels or more.
    pub fn generate(seed: u64, case: &str, sequence: Sequence, dims: [usize; 3]) -> Result<Self> {
        let voxels = dims[0].checked_mul(dims[1]).and_then(|n| n.checked_mul(dims[2]));
        let Some(voxels @ 1..0x8000_0000) = voxels else {
            bad_input!("a phantom of {dims:?} voxels (z, y, x) cannot be made; give sizes of at least 1 and fewer than 2^31 voxels");
        };
        let mut tissue = vec![0; voxels];
        Anatomy::draw(&mut keyed_rng(seed, &["phantom", case, "anatomy"]), dims).paint(&mut tissue);
        let scanner = Scanner::draw(&mut keyed_rng(seed, &["phantom", case, "image", sequence.name()]), sequence, dims);
        let noise = |z: usize| keyed_rng(seed, &["phantom", case, "noise", sequence.name(), &z.to_string()]);
        let image = scanner.image(&tissue, noise);
        tissue.par_iter_mut().for_each(|tissue| *tissue = tissue.saturating_sub(1));
        let spacing = spacing(&mut keyed_rng(seed, &["phantom", case, "spacing"]), dims);
        Ok(Self {
            labels: tissue,
            image,
            dims,
            spacing,
        })
    }
}

/// Millimetres along z, y, x, to a hundredth; in plane the two are equal when the matrix is square.
fn spacing(rng: &mut ChaCha8Rng, dims: [usize; 3]) -> [f64; 3] {
    let along_z = 170.0 * uniform(rng, 0.92, 1.08);
    let in_plane = 320.0 * uniform(rng, 0.92, 1.08);
    let step = |view: f32, n: usize| ((100.0 * f64::from(view) / n as f64).round() / 100.0).max(0.01);
    [step(along_z, dims[0]), step(in_plane, dims[1]), step(in_plane, dims[2])]
}

/// Own arithmetic rather than a crate's distribution, so that no update of it changes the phantoms.
fn uniform(rng: &mut ChaCha8Rng, low: f32, high: f32) -> f32 {
    low + (high - low) * (rng.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
}

fn uniform3(rng: &mut ChaCha8Rng, low: f32, high: f32) -> [f32; 3] {
    [uniform(rng, low, high), uniform(rng, low, high), uniform(rng, low, high)]
}

/// `n` coordinates from -1 to 1.
fn coordinate(i: usize, n: usize) -> f32 {
    if n > 1 { 2.0 * i as f32 / (n - 1) as f32 - 1.0 } else { -1.0 }
}

/// A smooth random scalar field over the volume, as tables of its waves along each axis.
struct Field {
    waves: usize,
    dims: [usize; 3],
    z: Vec<(f32, f32)>, // [waves, Z] (sin, cos) of kz z + phase
    y: Vec<(f32, f32)>, // [waves, Y] (sin, cos) of ky y
    x_sin: Vec<f32>,    // [waves, X]
    x_cos: Vec<f32>,    // [waves, X]
    gain: f32,
}

impl Field {
    fn draw(rng: &mut ChaCha8Rng, dims: [usize; 3], amplitude: f32, waves: usize, max_frequency: f32) -> Self {
        let gain = amplitude / (waves as f32 / 2.0).sqrt();
        let mut field = Self {
            waves,
            dims,
            z: Vec::new(),
            y: Vec::new(),
            x_sin: Vec::new(),
            x_cos: Vec::new(),
            gain,
        };
        for _ in 0..waves {
            let [kx, ky, kz] = uniform3(rng, -max_frequency, max_frequency);
            let phase = uniform(rng, 0.0, TAU);
            field
                .z
                .extend((0..dims[0]).map(|i| (kz * coordinate(i, dims[0]) * FRAC_PI_2 + phase).sin_cos()));
            field
                .y
                .extend((0..dims[1]).map(|i| (ky * coordinate(i, dims[1]) * FRAC_PI_2).sin_cos()));
            field
                .x_sin
                .extend((0..dims[2]).map(|i| (kx * coordinate(i, dims[2]) * FRAC_PI_2).sin()));
            field
                .x_cos
                .extend((0..dims[2]).map(|i| (kx * coordinate(i, dims[2]) * FRAC_PI_2).cos()));
        }
        field
    }

    /// Adds the field along one row of voxels to `out` `[X]`.
    fn add_row(&self, z: usize, y: usize, out: &mut [f32]) {
        for wave in 0..self.waves {
            let (z_sin, z_cos) = self.z[wave * self.dims[0] + z];
            let (y_sin, y_cos) = self.y[wave * self.dims[1] + y];
            let sin = self.gain * (z_sin * y_cos + z_cos * y_sin);
            let cos = self.gain * (z_cos * y_cos - z_sin * y_sin);
            let tables = self.x_sin[wave * self.dims[2]..].iter().zip(&self.x_cos[wave * self.dims[2]..]);
            for (value, (x_sin, x_cos)) in out.iter_mut().zip(tables) {
                *value += cos * x_sin + sin * x_cos;
            }
        }
    }

    fn set_row(&self, z: usize, y: usize, out: &mut [f32]) {
        out.fill(0.0);
        self.add_row(z, y, out);
    }
}

/// One patient.
struct Anatomy {
    dims: [usize; 3],
    bend: [Field; 3], // displacement along x, y, z
    size: [f32; 3],
    organs: Vec<(u8, Ellipsoid)>, // in painting order; semi-axes as their inverses
}

impl Anatomy {
    fn draw(rng: &mut ChaCha8Rng, dims: [usize; 3]) -> Self {
        let bend = [0; 3].map(|_| Field::draw(rng, dims, 0.05, 6, 2.5));
        let size = uniform3(rng, 0.92, 1.06);
        let mut organs = Vec::new();
        for (label, parts) in ORGANS {
            let shift = uniform3(rng, -0.05, 0.05);
            let scale = uniform3(rng, 0.85, 1.15);
            for (centre, axes) in parts {
                let centre = [0, 1, 2].map(|i| centre[i] + shift[i]);
                organs.push((label, (centre, [0, 1, 2].map(|i| 1.0 / (axes[i] * scale[i])))));
            }
        }
        Self { dims, bend, size, organs }
    }

    fn paint(&self, tissue: &mut [u8]) {
        let [_, height, width] = self.dims;
        tissue.par_chunks_mut(height * width).enumerate().for_each(|(z, slice)| {
            let mut q = [vec![0.0; width], vec![0.0; width], vec![0.0; width]];
            for (y, row) in slice.chunks_exact_mut(width).enumerate() {
                self.bent_row(z, y, &mut q);
                self.paint_row(&q, row);
            }
        });
    }

    /// Coordinates x, y, z of a row's voxels in the undeformed body.
    fn bent_row(&self, z: usize, y: usize, q: &mut [Vec<f32>; 3]) {
        let [depth, height, width] = self.dims;
        for (i, q) in q.iter_mut().enumerate() {
            self.bend[i].set_row(z, y, q);
            let fixed = [0.0, coordinate(y, height), coordinate(z, depth)][i];
            let inverse = 1.0 / self.size[i];
            for (x, q) in q.iter_mut().enumerate() {
                *q = (*q + if i == 0 { coordinate(x, width) } else { fixed }) * inverse;
            }
        }
    }

    fn paint_row(&self, q: &[Vec<f32>; 3], row: &mut [u8]) {
        const POWER: f32 = 2.4;
        let weight = [0.88f32, 0.68, 0.82, 0.62].map(|half| half.powf(-POWER));
        for (x, tissue) in row.iter_mut().enumerate() {
            let (qx, qy) = (q[0][x].abs().powf(POWER), q[1][x].abs().powf(POWER));
            if weight[0] * qx + weight[1] * qy >= 1.0 {
                continue;
            }
            *tissue = BODY;
            if weight[2] * qx + weight[3] * qy >= 1.0 {
                continue;
            }
            for (label, (centre, inverse)) in &self.organs {
                let distance = |i: usize| ((q[i][x] - centre[i]) * inverse[i]).powi(2);
                if distance(0) + distance(1) + distance(2) < 1.0 {
                    *tissue = label + 1;
                }
            }
        }
    }
}

/// One scan: everything of an image that is not anatomy.
struct Scanner {
    dims: [usize; 3],
    levels: [f32; 9], // by tissue
    texture: Field,
    vessels: Field,
    vessel_gain: f32,
    bias: Field, // logarithm of a factor
    blur: f32,   // weight of each neighbour
    sigma: f32,
    gamma: f32,
}

impl Scanner {
    fn draw(rng: &mut ChaCha8Rng, sequence: Sequence, dims: [usize; 3]) -> Self {
        const JITTER: f32 = 0.06;
        let factor = [0; 9].map(|_| uniform(rng, 1.0 - JITTER, 1.0 + JITTER));
        let offset = [0; 9].map(|_| 0.3 * uniform(rng, -JITTER, JITTER));
        let level = sequence.levels();
        let mut levels = [0, 1, 2, 3, 4, 5, 6, 7, 8].map(|i| level[i] * factor[i] + offset[i]);
        levels[0] = level[0];
        Self {
            dims,
            levels,
            texture: Field::draw(rng, dims, 0.04, 10, 14.0),
            vessels: Field::draw(rng, dims, 1.0, 8, 9.0),
            vessel_gain: uniform(rng, 0.75, 1.25),
            bias: Field::draw(rng, dims, 0.12, 4, 1.2),
            blur: uniform(rng, 0.1, 0.3),
            sigma: uniform(rng, 0.01, 0.045),
            gamma: uniform(rng, 0.85, 1.15),
        }
    }

    /// The 8-bit image of a tissue map; `noise` gives each slice's generator.
    fn image(&self, tissue: &[u8], noise: impl Fn(usize) -> ChaCha8Rng + Sync) -> Vec<u8> {
        let area = self.dims[1] * self.dims[2];
        let mut signal = vec![0.0; tissue.len()];
        signal
            .par_chunks_mut(area)
            .zip(tissue.par_chunks(area))
            .enumerate()
            .for_each(|(z, (slice, tissue))| {
                self.signal(z, tissue, slice);
                self.blur(slice);
                self.measure(&mut noise(z), slice);
            });
        // The 99.5th percentile is full scale.
        let factor = 255.0 / percentile_of_positive(&signal, 0.995);
        signal.par_iter().map(|value| (value * factor).min(255.0) as u8).collect()
    }

    fn signal(&self, z: usize, tissue: &[u8], slice: &mut [f32]) {
        let width = self.dims[2];
        let (mut texture, mut vessels, mut bias) = (vec![0.0; width], vec![0.0; width], vec![0.0; width]);
        for (y, (row, tissue)) in slice.chunks_exact_mut(width).zip(tissue.chunks_exact(width)).enumerate() {
            self.texture.set_row(z, y, &mut texture);
            self.bias.set_row(z, y, &mut bias);
            let has_liver = tissue.contains(&LIVER);
            if has_liver {
                self.vessels.set_row(z, y, &mut vessels);
            }
            for x in 0..width {
                let mut value = self.levels[usize::from(tissue[x])];
                if tissue[x] >= BODY {
                    value += texture[x];
                }
                if has_liver && tissue[x] == LIVER && vessels[x].abs() < 0.05 {
                    value *= self.vessel_gain;
                }
                row[x] = value * bias[x].exp();
            }
        }
    }

    /// Three taps along y, then along x, around the edges.
    fn blur(&self, slice: &mut [f32]) {
        let [_, height, width] = self.dims;
        let (side, middle) = (self.blur, 1.0 - 2.0 * self.blur);
        let src = slice.to_vec();
        for (y, row) in slice.chunks_exact_mut(width).enumerate() {
            let (above, below) = (&src[(y + height - 1) % height * width..], &src[(y + 1) % height * width..]);
            for x in 0..width {
                row[x] = middle * row[x] + side * (above[x] + below[x]);
            }
        }
        let mut copy = vec![0.0; width];
        for row in slice.chunks_exact_mut(width) {
            copy.copy_from_slice(row);
            for x in 0..width {
                row[x] =
                    middle * copy[x] + side * (copy[if x > 0 { x - 1 } else { width - 1 }] + copy[if x + 1 < width { x + 1 } else { 0 }]);
            }
        }
    }

    /// Rician noise (the length of signal + noise in two channels; Box and Muller's pair is one for each), then gamma.
    fn measure(&self, rng: &mut ChaCha8Rng, slice: &mut [f32]) {
        for value in slice {
            let radius = self.sigma * (-2.0 * (1.0 - uniform(rng, 0.0, 1.0)).ln()).sqrt();
            let (sin, cos) = uniform(rng, 0.0, TAU).sin_cos();
            let (real, imaginary) = (*value + radius * cos, radius * sin);
            *value = (real * real + imaginary * imaginary).sqrt().powf(self.gamma);
        }
    }
}

/// By linear interpolation between order statistics; 1 if no value is above zero.
fn percentile_of_positive(values: &[f32], quantile: f64) -> f32 {
    let mut positive: Vec<f32> = values.iter().copied().filter(|v| *v > 0.0).collect();
    if positive.is_empty() {
        return 1.0;
    }
    let place = (positive.len() - 1) as f64 * quantile;
    let (_, low, above) = positive.select_nth_unstable_by(place as usize, f32::total_cmp);
    let low = *low;
    let high = above.iter().copied().min_by(f32::total_cmp).unwrap_or(low);
    low + (high - low) * place.fract() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_the_sum_of_its_sines() {
        let (dims, waves) = ([5, 7, 11], 3);
        let field = Field::draw(&mut keyed_rng(3, &["field"]), dims, 0.5, waves, 9.0);
        let mut rng = keyed_rng(3, &["field"]);
        let terms: Vec<([f32; 3], f32)> = (0..waves)
            .map(|_| (uniform3(&mut rng, -9.0, 9.0), uniform(&mut rng, 0.0, TAU)))
            .collect();
        let mut row = [0.0; 11];
        for (z, y) in (0..5).flat_map(|z| (0..7).map(move |y| (z, y))) {
            field.set_row(z, y, &mut row);
            for (x, &value) in row.iter().enumerate() {
                let p = [coordinate(x, 11), coordinate(y, 7), coordinate(z, 5)].map(f64::from);
                let wave = |(k, phase): &([f32; 3], f32)| {
                    let angle: f64 = k.iter().zip(p).map(|(k, p)| f64::from(*k) * p).sum();
                    (angle * std::f64::consts::FRAC_PI_2 + f64::from(*phase)).sin()
                };
                let expected = terms.iter().map(wave).sum::<f64>() * 0.5 / 1.5f64.sqrt();
                assert!((f64::from(value) - expected).abs() < 5e-6, "{z} {y} {x}: {value} {expected}");
            }
        }
    }

    #[test]
    fn one_patient_has_one_anatomy_in_every_sequence_and_for_any_number_of_threads() {
        let make = |sequence| Phantom::generate(9, "patient", sequence, [5, 31, 37]).unwrap();
        let (t1, t2) = (make(Sequence::T1), make(Sequence::T2));
        assert!(t1.labels == t2.labels && t1.spacing == t2.spacing && t1.image != t2.image);
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert!(pool.install(|| make(Sequence::T1)) == t1);
        }
        assert_ne!(Phantom::generate(9, "other", Sequence::T1, [5, 31, 37]).unwrap().labels, t1.labels);
    }

    #[test]
    fn any_size_can_be_made_and_impossible_ones_are_refused() {
        for dims in [[1, 1, 1], [1, 64, 48], [3, 1, 5], [2, 13, 1]] {
            assert_eq!(
                Phantom::generate(0, "c", Sequence::T2, dims).unwrap().image.len(),
                dims.iter().product::<usize>()
            );
        }
        for dims in [[0, 4, 4], [1 << 40, 1 << 40, 1], [2048, 2048, 2048]] {
            assert!(
                Phantom::generate(0, "c", Sequence::T2, dims)
                    .unwrap_err()
                    .to_string()
                    .contains("cannot be made")
            );
        }
        assert!("t3".parse::<Sequence>().unwrap_err().to_string().contains("choose ged4, t1 or t2"));
        assert_eq!("ged4".parse::<Sequence>().unwrap().name(), "ged4");
    }

    #[test]
    fn spacing_is_that_of_an_abdomen() {
        let phantom = Phantom::generate(0, "c", Sequence::T1, [24, 128, 128]).unwrap();
        let [z, y, x] = phantom.spacing;
        assert!(
            (6.5..7.7).contains(&z) && (2.3..2.71).contains(&y) && y == x,
            "{:?}",
            phantom.spacing
        );
    }
}
