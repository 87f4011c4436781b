//! Batches: patches of random cases, cut from the mapped arrays, augmented, with a target for each head of the network. A batch is a function of (seed, purpose, number) alone, so
//! that it does not matter which thread makes it, when, or whether the run was interrupted.

use crate::keyed_rng::keyed_rng;
use crate::unet::architecture::Architecture;
use crate::unet::augment::{Augmentation, Sample};
use crate::unet::patches::{Window, box_size, is_forced};
use crate::unet::store::StoredCase;
use anyhow::{Result, anyhow};
use rand::RngExt;
use std::ops::Range;
use std::sync::mpsc::sync_channel;
use std::thread;

/// A case that is trained on, or validated with.
#[derive(Debug)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// Its arrays.
    pub stored: StoredCase,
    /// How much its voxels count in the loss; less than 1 for a pseudo-labelled case that is not trusted.
    pub weight: f32,
}

/// What a step is made with.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// [N, D, H, W, C].
    pub image: Vec<f32>,
    /// For each head, the finest first, [N, voxels].
    pub labels: Vec<Vec<i16>>,
    /// As the labels; none if every voxel counts 1.
    pub weights: Option<Vec<Vec<f32>>>,
    /// Names of the cases.
    pub cases: Vec<String>,
}

/// What a batch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Augmented patches of the cases that are trained on.
    Training,
    /// Plain patches of those that are held out.
    Validation,
}

/// Makes batches.
#[derive(Debug)]
pub struct Feed<'a> {
    /// Cases that are trained on.
    pub training: &'a [Case],
    /// Cases that are held out.
    pub validation: &'a [Case],
    /// How patches are augmented, and their sizes.
    pub augmentation: Augmentation,
    /// Patches of a batch.
    pub batch: usize,
    /// By what each head's logits are coarser than the patch, along each axis; the finest first.
    pub reductions: Vec<[usize; 3]>,
    /// Chooses all random numbers.
    pub seed: u64,
}

/// By what each head's logits are coarser than the patch: products of the strides.
pub fn reductions(architecture: &Architecture) -> Vec<[usize; 3]> {
    let heads = &architecture.strides[..architecture.strides.len() - 1];
    let product = |so_far: &mut [usize; 3], strides: &[usize; 3]| {
        *so_far = std::array::from_fn(|axis| so_far[axis] * strides[axis]);
        Some(*so_far)
    };
    heads.iter().scan([1; 3], product).collect()
}

impl Feed<'_> {
    /// The batch of this number.
    pub fn batch(&self, purpose: Purpose, number: usize) -> Batch {
        let samples: Vec<(&Case, Sample)> = (0..self.batch).map(|at| self.sample(purpose, number, at)).collect();
        let channels = samples[0].1.image.len();
        let mut image = Vec::with_capacity(samples.len() * channels * samples[0].1.label.len());
        for (_, sample) in &samples {
            interleave(&sample.image, &mut image);
        }
        let shape = self.augmentation.patch;
        let is_weighed = samples
            .iter()
            .any(|(case, sample)| case.weight != 1.0 || sample.uncertainty.is_some());
        let weights = is_weighed.then(|| {
            let of = |by: &[usize; 3]| {
                samples
                    .iter()
                    .flat_map(move |(case, sample)| weights(sample, case.weight, shape, *by))
                    .collect()
            };
            self.reductions.iter().map(of).collect()
        });
        let labels = |by: &[usize; 3]| {
            samples
                .iter()
                .flat_map(move |(_, sample)| reduced(&sample.label, shape, *by))
                .collect()
        };
        Batch {
            image,
            labels: self.reductions.iter().map(labels).collect(),
            weights,
            cases: samples.iter().map(|(case, _)| case.name.clone()).collect(),
        }
    }

    fn sample(&self, purpose: Purpose, number: usize, at: usize) -> (&Case, Sample) {
        let patch = self.augmentation.patch;
        let (cases, name, size) = match purpose {
            Purpose::Training => (self.training, "training", box_size(patch)),
            Purpose::Validation => (self.validation, "validation", patch),
        };
        let key = [name, &number.to_string(), &at.to_string()];
        let rng = |what: &'static str| keyed_rng(self.seed, &[&key[..], &[what]].concat());
        let mut place = rng("place");
        let case = &cases[place.random_range(0..cases.len())];
        let view = case.stored.view();
        let window = Window::draw(&view, size, patch, is_forced(at, self.batch), &mut place);
        let sample = match purpose {
            Purpose::Training => self.augmentation.train(&window, &mut rng("augmentation")),
            Purpose::Validation => self.augmentation.plain(&window),
        };
        (case, sample)
    }
}

/// Channels side by side.
fn interleave(channels: &[Vec<f32>], out: &mut Vec<f32>) {
    match channels {
        [channel] => out.extend_from_slice(channel),
        _ => (0..channels[0].len()).for_each(|at| out.extend(channels.iter().map(|channel| channel[at]))),
    }
}

/// A volume taken at every `by`-th voxel: of each pair the upper one, of each four the third (PyTorch's `nearest-exact`).
fn reduced<T: Copy>(volume: &[T], [d, h, w]: [usize; 3], by: [usize; 3]) -> impl Iterator<Item = T> {
    let along = move |size: usize, axis: usize| (by[axis] / 2..size).step_by(by[axis]);
    along(d, 0).flat_map(move |z| along(h, 1).flat_map(move |y| along(w, 2).map(move |x| volume[(z * h + y) * w + x])))
}

fn weights(sample: &Sample, weight: f32, shape: [usize; 3], by: [usize; 3]) -> Vec<f32> {
    match &sample.uncertainty {
        Some(uncertainty) => reduced(uncertainty, shape, by)
            .map(|uncertainty| weight * (1.0 - uncertainty.clamp(0.0, 1.0)))
            .collect(),
        None => vec![weight; shape.iter().zip(by).map(|(size, by)| size / by).product()],
    }
}

/// Lets `work` take the batches of these numbers, in order; `threads` threads make them ahead, two each.
///
/// # Errors
/// What `work` returns; a thread that died.
pub fn ahead<R>(
    make: &(dyn Fn(usize) -> Batch + Sync),
    numbers: Range<usize>,
    threads: usize,
    work: impl FnOnce(&mut dyn FnMut() -> Result<Batch>) -> Result<R>,
) -> Result<R> {
    thread::scope(|scope| {
        let start = |thread: usize| {
            let (sender, receiver) = sync_channel(1);
            let mine = numbers.clone().skip(thread).step_by(threads);
            scope.spawn(move || {
                for number in mine {
                    // Nobody waits any more: the run has ended.
                    if sender.send(make(number)).is_err() {
                        return;
                    }
                }
            });
            receiver
        };
        let receivers: Vec<_> = (0..threads).map(start).collect();
        let mut taken = 0;
        let mut next = || {
            taken += 1;
            let batch = receivers[(taken - 1) % threads].recv();
            batch.map_err(|_| anyhow!("a thread that makes batches has died"))
        };
        let result = work(&mut next);
        drop(receivers);
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coarser_targets_take_the_upper_voxel_of_each_pair() {
        let line: Vec<i16> = (0..8).collect();
        let of = |by: usize| reduced(&line, [1, 1, 8], [1, 1, by]).collect::<Vec<_>>();
        assert_eq!(of(2), [1, 3, 5, 7]);
        assert_eq!(of(4), [2, 6]);
        assert_eq!(of(8), [4]);
        let cube: Vec<i16> = (0..64).collect();
        assert_eq!(
            reduced(&cube, [4; 3], [2, 1, 4]).collect::<Vec<_>>(),
            [18, 22, 26, 30, 50, 54, 58, 62]
        );
    }

    #[test]
    fn batches_come_in_order_whatever_threads_make_them_and_the_rest_is_dropped() {
        let make = |number: usize| Batch {
            image: vec![number as f32],
            labels: Vec::new(),
            weights: None,
            cases: Vec::new(),
        };
        for threads in 1..4 {
            let seen = ahead(&make, 3..1000, threads, |next| {
                (0..10).map(|_| Ok(next()?.image[0])).collect::<Result<Vec<f32>>>()
            });
            assert_eq!(seen.unwrap(), (3..13).map(|number| number as f32).collect::<Vec<_>>());
        }
        let after_the_end = ahead(&make, 0..2, 2, |next| (0..3).map(|_| next()).collect::<Result<Vec<_>>>());
        assert!(after_the_end.is_err());
    }
}
