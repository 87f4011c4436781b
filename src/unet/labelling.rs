//! Labels on the cropped grid of the file, made of logits on the plan's grid plane by plane as they are finished: never more than a few planes of all classes are in memory.
//!
//! The arithmetic is that of [`resample`](super::resample::resample), of order 1, for all classes, and of the first largest class of each voxel.

use super::predict::rounded;
use super::resample::PlaneResampler;
use rayon::prelude::*;
use std::collections::VecDeque;

/// Planes that are resized in plane at a time.
const GROUP: usize = 4;

/// Labels in the making.
pub struct Labelling {
    resampler: PlaneResampler,
    classes: usize,
    half: bool,
    /// Index of a plane of the plan's grid, and its classes resized in plane.
    planes: VecDeque<(usize, Vec<Vec<f64>>)>,
    labels: Vec<u8>,
    /// The next plane of `labels` to be made.
    next: usize,
}

impl Labelling {
    /// Of so many classes; `half`: logits are rounded to half precision.
    pub fn new(resampler: PlaneResampler, classes: usize, half: bool) -> Self {
        Self {
            labels: vec![0; resampler.new_shape().iter().product()],
            resampler,
            classes,
            half,
            planes: VecDeque::new(),
            next: 0,
        }
    }

    /// Takes the next planes of logits [planes, H, W, classes], the first of which is plane `first`.
    pub fn push(&mut self, first: usize, logits: &[f32]) {
        let [_, h, w] = self.resampler.shape();
        let (classes, plane) = (self.classes, h * w * self.classes);
        for (group, logits) in logits.chunks(GROUP * plane).enumerate() {
            let tasks = logits.len() / plane * classes;
            let mut resized: Vec<Vec<f64>> = (0..tasks)
                .into_par_iter()
                .map(|task| {
                    let from = logits[task / classes * plane..][..plane].iter();
                    let class: Vec<f32> = from.skip(task % classes).step_by(classes).copied().collect();
                    self.resampler.in_plane(&class)
                })
                .collect();
            for at in (0..logits.len() / plane).rev() {
                let of_plane = resized.split_off(at * classes);
                self.planes.push_back((first + group * GROUP + at, of_plane));
            }
            self.planes.make_contiguous().sort_by_key(|(z, _)| *z);
            self.label();
        }
    }

    /// Makes all planes of labels that can be made, and forgets what no further one needs.
    fn label(&mut self) {
        let size: usize = self.resampler.new_shape()[1..].iter().product();
        while self.next < self.resampler.new_shape()[0] {
            let taps = self.resampler.taps(self.next);
            let find = |z: usize| self.planes.iter().find(|(at, _)| *at == z).map(|(_, classes)| classes);
            let Some(found) = taps.iter().map(|(z, _)| find(*z)).collect::<Option<Vec<_>>>() else {
                return;
            };
            let (classes, half) = (self.classes, self.half);
            let of = |class: usize, at: usize| {
                let sum: f64 = taps.iter().zip(&found).map(|((_, weight), plane)| weight * plane[class][at]).sum();
                rounded(sum as f32, half)
            };
            let out = &mut self.labels[self.next * size..][..size];
            out.par_iter_mut().with_min_len(1 << 12).enumerate().for_each(|(at, label)| {
                let mut best = of(0, at);
                for class in 1..classes {
                    let value = of(class, at);
                    // Of equal ones the first.
                    if value > best {
                        (*label, best) = (class as u8, value);
                    }
                }
            });
            self.next += 1;
            let first_needed = taps.iter().map(|(z, _)| *z).min().unwrap_or(0);
            self.planes.retain(|(z, _)| *z >= first_needed);
        }
    }

    /// The labels [D', H', W'].
    pub fn finish(self) -> Vec<u8> {
        assert_eq!(self.next, self.resampler.new_shape()[0], "labelling: planes are missing");
        self.labels
    }
}
