//! The loop: steps, online validation, checkpoints every few minutes, an early end.

use super::batches::{Batch, Feed, Purpose, ahead};
use super::checkpoint::{Course, State};
use super::history::{Epoch, Progress};
use super::schedule::{epoch_seconds, epochs_within, learning_rate};
use crate::atomic_file::is_disk_full;
use crate::clock;
use crate::device::Device;
use crate::messages;
use crate::stop::Stop;
use crate::tensor::Tensor;
use crate::unet::loss::{Settings as LossSettings, Targets, head_weights, loss};
use crate::unet::network::Network;
use crate::unet::optimiser::norm;
use crate::weights::write_safetensors;
use crate::{note, warning};
use anyhow::Result;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Steps after whose speed a time budget becomes a number of epochs.
const TIMED_STEPS: usize = 5;

/// How a run is to go.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Most epochs.
    pub epochs: usize,
    /// Steps of an epoch.
    pub iterations: usize,
    /// Batches of validation of an epoch.
    pub validation_iterations: usize,
    /// Seconds that the run may take: decides how many epochs it has.
    pub time_budget: Option<f64>,
    /// Epochs without a better running Dice after which it ends.
    pub patience: Option<usize>,
    /// Seconds between checkpoints.
    pub checkpoint_seconds: f64,
    /// Threads that make batches.
    pub loaders: usize,
    /// Of the loss.
    pub loss: LossSettings,
}

/// A run: what does not change while it goes.
pub struct Run<'a> {
    /// Where the arithmetic is done.
    pub device: &'a Device,
    /// Gives the batches.
    pub feed: &'a Feed<'a>,
    /// How it goes.
    pub settings: &'a Settings,
    /// Where checkpoints and a bad batch are written.
    pub folder: &'a Path,
    /// Names of the foreground classes.
    pub classes: &'a [String],
    /// The wish to stop.
    pub stop: &'a Stop,
}

impl Run<'_> {
    /// Trains until the last epoch, or an early end; writes the progress files and checkpoints on the way.
    ///
    /// # Errors
    /// A stop, after a checkpoint; a loss that is no number, after the batch is written; files that cannot be written.
    pub fn go(&self, state: &mut State) -> Result<()> {
        let per_epoch = self.settings.iterations + self.settings.validation_iterations;
        let make = |number: usize| {
            let (epoch, at) = (number / per_epoch, number % per_epoch);
            match at.checked_sub(self.settings.iterations) {
                None => self.feed.batch(Purpose::Training, epoch * self.settings.iterations + at),
                Some(at) => self
                    .feed
                    .batch(Purpose::Validation, epoch * self.settings.validation_iterations + at),
            }
        };
        if self.settings.time_budget.is_none() {
            state.course.epochs = self.settings.epochs;
        }
        let mut shown = Progress::new(self.folder, self.classes, &state.course.history)?;
        let first = state.course.history.epochs.len() * per_epoch + state.course.running.batches;
        let last = self.settings.epochs * per_epoch;
        ahead(&make, first..last.max(first), self.settings.loaders, |next| {
            let mut saved = Instant::now();
            while !self.is_over(state) {
                self.epoch(state, next, &mut saved)?;
                shown.add(&state.course.history)?;
            }
            Ok(())
        })
    }

    fn is_over(&self, state: &State) -> bool {
        let course = &state.course;
        let (done, epochs) = (course.history.epochs.len(), course.epochs);
        let is_done = epochs > 0 && done >= epochs;
        let gave_up = self
            .settings
            .patience
            .is_some_and(|patience| course.history.epochs_since_best() >= patience);
        if gave_up && !is_done {
            note!(
                "no better Dice for {} epochs: training ends early",
                course.history.epochs_since_best()
            );
        }
        is_done || gave_up
    }

    /// The rest of the epoch in work.
    fn epoch(&self, state: &mut State, next: &mut dyn FnMut() -> Result<Batch>, saved: &mut Instant) -> Result<()> {
        let epoch = state.course.history.epochs.len();
        let (iterations, per_epoch) = (
            self.settings.iterations,
            self.settings.iterations + self.settings.validation_iterations,
        );
        if state.course.running.batches == 0 {
            state.course.running.started = seconds_since_1970();
            state.course.running.overlaps = vec![[0; 3]; state.network.classes()];
        }
        let bar = messages::Progress::new(format!("epoch {}", epoch + 1));
        bar.stage("training", per_epoch as u64);
        bar.advance(state.course.running.batches as u64);
        let (before, begun) = (state.course.running.seconds, Instant::now());
        let first = state.course.running.batches;
        while state.course.running.batches < per_epoch {
            let batch = next()?;
            if state.course.running.batches < iterations {
                let rate = learning_rate(epoch, state.course.epochs);
                state.course.running.training_loss += self.device.install(|| self.step(state, &batch, rate))?;
            } else {
                let (loss, overlaps) = self.device.install(|| self.validate(&state.network, &batch))?;
                let running = &mut state.course.running;
                running.validation_loss += loss;
                let sums = running.overlaps.iter_mut().flatten();
                sums.zip(overlaps.iter().flatten()).for_each(|(sum, count)| *sum += count);
            }
            state.course.running.batches += 1;
            state.course.running.seconds = before + begun.elapsed().as_secs_f64();
            bar.advance(1);
            self.decide_epochs(&mut state.course, (first, begun));
            self.save_if_due(state, saved)?;
        }
        drop(bar);
        self.close_epoch(state);
        Ok(())
    }

    /// Turns the time budget into a number of epochs, once, from the speed of the first steps; the learning rate of epoch 0 does not depend on it.
    fn decide_epochs(&self, course: &mut Course, (first, since): (usize, Instant)) {
        let Some(budget) = self.settings.time_budget.filter(|_| course.epochs == 0) else {
            return;
        };
        let steps = course.running.batches.min(self.settings.iterations).saturating_sub(first);
        if steps >= TIMED_STEPS || course.running.batches >= self.settings.iterations {
            let step = since.elapsed().as_secs_f64() / steps.max(1) as f64;
            let epoch = epoch_seconds(step, self.settings.iterations, self.settings.validation_iterations);
            course.epochs = epochs_within(budget, epoch, self.settings.epochs);
            note!("{step:.2} s a step: {} epochs in {}", course.epochs, clock::spoken(budget));
        }
    }

    /// A checkpoint when it is time, or when the run is to stop.
    fn save_if_due(&self, state: &State, saved: &mut Instant) -> Result<()> {
        if self.stop.is_requested() {
            state.save(self.folder)?;
            note!("saved {}", self.folder.display());
            return self.stop.check();
        }
        if saved.elapsed() < Duration::from_secs_f64(self.settings.checkpoint_seconds) {
            return Ok(());
        }
        *saved = Instant::now();
        match state.save(self.folder) {
            // Room may be made until the next one is due.
            Err(error) if is_disk_full(&error) => warning!("{error:#}; training goes on, make room before the next checkpoint"),
            other => other?,
        }
        Ok(())
    }

    fn image(&self, network: &Network, batch: &Batch) -> Result<Tensor> {
        let [d, h, w] = self.feed.augmentation.patch;
        Tensor::from_slice(self.device, &[batch.cases.len(), d, h, w, network.channels()], &batch.image)
    }

    /// One step; gives the loss.
    fn step(&self, state: &mut State, batch: &Batch, rate: f64) -> Result<f64> {
        let image = self.image(&state.network, batch)?;
        let step = state.network.step(&image, &targets(batch), self.settings.loss)?;
        if !step.loss.is_finite() || !norm(&step.gradients).is_finite() {
            return Err(self.bad_batch(state, batch, step.loss));
        }
        state.optimiser.step(&mut state.network.values, &step.gradients, rate);
        Ok(step.loss)
    }

    /// Loss and overlaps of a batch that is held out.
    fn validate(&self, network: &Network, batch: &Batch) -> Result<(f64, Vec<[u64; 3]>)> {
        let image = self.image(network, batch)?;
        let logits = network.forward(&image)?.logits;
        let mut sum = 0.0;
        for ((logits, targets), weight) in logits.iter().zip(targets(batch)).zip(head_weights(logits.len())) {
            if weight > 0.0 {
                let mut unused = vec![0.0; logits.values().len()];
                sum += weight * loss(logits.values(), targets, batch.cases.len(), self.settings.loss, 1.0, &mut unused)?;
            }
        }
        Ok((sum, overlaps(logits[0].values(), &batch.labels[0], self.settings.loss.ignore)))
    }

    /// Writes the batch whose loss is no number, and says so.
    fn bad_batch(&self, state: &State, batch: &Batch, loss: f64) -> anyhow::Error {
        let path = self.folder.join("bad_batch.safetensors");
        let [d, h, w] = self.feed.augmentation.patch;
        let n = batch.cases.len();
        let labels: Vec<f32> = batch.labels[0].iter().map(|label| f32::from(*label)).collect();
        let tensors = [
            ("image".to_owned(), vec![n, d, h, w, state.network.channels()], &batch.image[..]),
            ("label".to_owned(), vec![n, d, h, w], &labels[..]),
        ];
        let cases = BTreeMap::from([("cases".to_owned(), batch.cases.join(","))]);
        let written = match write_safetensors(&path, &tensors, &cases) {
            Ok(()) => format!("it is in {}", path.display()),
            Err(error) => format!("it could not be written ({error:#})"),
        };
        anyhow::anyhow!(
            "the loss of iteration {} of epoch {} is {loss} (cases {}); {written}. Look at these cases' images and labels; the same command goes on from the last checkpoint",
            state.course.running.batches + 1,
            state.course.history.epochs.len() + 1,
            batch.cases.join(", ")
        )
    }

    /// Adds the epoch in work to the history, and tells of it.
    fn close_epoch(&self, state: &mut State) {
        let course = &mut state.course;
        let (number, running) = (course.history.epochs.len(), std::mem::take(&mut course.running));
        let dice = |[both, predicted, there]: &[u64; 3]| (predicted + there > 0).then(|| 2.0 * *both as f64 / (predicted + there) as f64);
        let epoch = Epoch {
            learning_rate: learning_rate(number, course.epochs),
            train_loss: running.training_loss / self.settings.iterations as f64,
            validation_loss: running.validation_loss / self.settings.validation_iterations.max(1) as f64,
            dice: running.overlaps.iter().skip(1).map(dice).collect(),
            started: running.started,
            ended: running.started + running.seconds,
        };
        let left = course.epochs.saturating_sub(number + 1) as f64 * running.seconds;
        let known = |dice: Option<f64>| dice.map_or("-".to_owned(), |dice| format!("{dice:.3}"));
        let per_class = self
            .classes
            .iter()
            .zip(&epoch.dice)
            .map(|(name, dice)| format!("{name} {}", known(*dice)));
        note!(
            "{} epoch {} of {}: loss {:.4}, validation {:.4}, Dice {} ({}), {}, about {} left",
            clock::now(),
            number + 1,
            course.epochs,
            epoch.train_loss,
            epoch.validation_loss,
            known(epoch.mean_dice()),
            per_class.collect::<Vec<_>>().join(", "),
            clock::spoken(running.seconds),
            clock::spoken(left)
        );
        course.history.epochs.push(epoch);
    }
}

fn targets(batch: &Batch) -> Vec<Targets<'_>> {
    let weights = |head: usize| batch.weights.as_ref().map(|weights| &weights[head][..]);
    let all = batch.labels.iter().enumerate();
    all.map(|(head, labels)| Targets {
        labels,
        weights: weights(head),
    })
    .collect()
}

/// Of each class: voxels in truth and prediction, in the prediction, in the truth. Voxels of the ignore label count nowhere.
fn overlaps(logits: &[f32], labels: &[i16], ignore: Option<i16>) -> Vec<[u64; 3]> {
    let classes = logits.len() / labels.len();
    let mut counts = vec![[0; 3]; classes];
    for (logits, label) in logits
        .chunks_exact(classes)
        .zip(labels)
        .filter(|(_, label)| Some(**label) != ignore)
    {
        let mut best = 0;
        for class in 1..classes {
            if logits[class] > logits[best] {
                best = class;
            }
        }
        counts[best][1] += 1;
        if let Some(truth) = usize::try_from(*label).ok().and_then(|label| counts.get_mut(label)) {
            truth[2] += 1;
            truth[0] += u64::from(best == *label as usize);
        }
    }
    counts
}

fn seconds_since_1970() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
