//! nnU-Net's augmentation of a training patch, in its order: rotation and scaling, noise, blur, brightness, contrast, low resolution, gamma (inverted, then plain), mirroring, and
//! what is outside the nonzero mask. What happens to a patch is drawn from its own generator, and each transform is a pure function of what was drawn.

mod blur;
mod intensity;
mod spatial;

pub use blur::{blur, low_resolution};
pub use intensity::{add_noise, contrast, gamma};
pub use spatial::{Matrix, Sample, cut, rotation_and_scale};

use super::patches::{Window, is_flat};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use std::f64::consts::PI;

/// What patches are augmented with.
#[derive(Clone, Debug, PartialEq)]
pub struct Augmentation {
    /// Voxels of a patch.
    pub patch: [usize; 3],
    /// Axes along which patches are mirrored.
    pub mirrored: Vec<usize>,
    /// Channels that are 0 outside the nonzero mask.
    pub masked: Vec<bool>,
}

/// Uniform in [from, to).
fn uniform(rng: &mut ChaCha8Rng, from: f64, to: f64) -> f64 {
    from + (to - from) * rng.random::<f64>()
}

/// As often below 1 as above, uniform on either side.
fn around_one(rng: &mut ChaCha8Rng, from: f64, to: f64) -> f64 {
    if rng.random_bool(0.5) {
        uniform(rng, from, 1.0)
    } else {
        uniform(rng, 1.0, to)
    }
}

impl Augmentation {
    /// A training patch out of a box.
    pub fn train(&self, window: &Window<'_>, rng: &mut ChaCha8Rng) -> Sample {
        let mut sample = cut(window, self.patch, self.draw_matrix(rng));
        self.intensities(&mut sample, rng);
        for &axis in &self.mirrored {
            if rng.random_bool(0.5) {
                sample.mirror(axis);
            }
        }
        self.finish(&mut sample);
        sample
    }

    /// A patch as it is, for validation.
    pub fn plain(&self, window: &Window<'_>) -> Sample {
        let mut sample = cut(window, self.patch, None);
        sample.background_outside();
        sample
    }

    /// Rotation and scaling, each for every fifth patch; none if neither.
    fn draw_matrix(&self, rng: &mut ChaCha8Rng) -> Option<Matrix> {
        let flat = is_flat(self.patch);
        let angles = rng.random_bool(0.2).then(|| {
            if flat {
                return [uniform(rng, -PI, PI), 0.0, 0.0];
            }
            std::array::from_fn(|_| uniform(rng, -PI / 6.0, PI / 6.0))
        });
        let scale = rng.random_bool(0.2).then(|| uniform(rng, 0.7, 1.4));
        if angles.is_none() && scale.is_none() {
            return None;
        }
        let scale = scale.unwrap_or(1.0);
        let scales = if flat { [1.0, scale, scale] } else { [scale; 3] };
        Some(rotation_and_scale(angles.unwrap_or_default(), scales))
    }

    /// Noise, blur, brightness, contrast, low resolution, gamma.
    fn intensities(&self, sample: &mut Sample, rng: &mut ChaCha8Rng) {
        let shape = self.patch;
        if rng.random_bool(0.1) {
            let deviation = uniform(rng, 0.0, 0.1) as f32;
            for channel in &mut sample.image {
                add_noise(channel, deviation, || StandardNormal.sample(rng));
            }
        }
        if rng.random_bool(0.2) {
            for channel in &mut sample.image {
                if rng.random_bool(0.5) {
                    let deviations = std::array::from_fn(|_| uniform(rng, 0.5, 1.0));
                    blur(channel, shape, deviations);
                }
            }
        }
        if rng.random_bool(0.15) {
            for channel in &mut sample.image {
                let factor = around_one(rng, 0.75, 1.25) as f32;
                channel.iter_mut().for_each(|v| *v *= factor);
            }
        }
        if rng.random_bool(0.15) {
            for channel in &mut sample.image {
                contrast(channel, around_one(rng, 0.75, 1.25) as f32);
            }
        }
        if rng.random_bool(0.25) {
            for channel in &mut sample.image {
                if rng.random_bool(0.5) {
                    let zoom = uniform(rng, 0.5, 1.0);
                    let along_first = if is_flat(self.patch) { 1.0 } else { zoom };
                    low_resolution(channel, shape, [along_first, zoom, zoom]);
                }
            }
        }
        for (share, inverted) in [(0.1, true), (0.3, false)] {
            if rng.random_bool(share) {
                for channel in &mut sample.image {
                    gamma(channel, around_one(rng, 0.7, 1.5) as f32, inverted);
                }
            }
        }
    }

    /// Masked channels are 0 outside the mask, whose label becomes background.
    fn finish(&self, sample: &mut Sample) {
        for (channel, _) in sample.image.iter_mut().zip(&self.masked).filter(|(_, masked)| **masked) {
            for (v, label) in channel.iter_mut().zip(&sample.label) {
                if *label < 0 {
                    *v = 0.0;
                }
            }
        }
        sample.background_outside();
    }
}
