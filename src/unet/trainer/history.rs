//! What every epoch brought: kept in the checkpoint, and shown as `progress.csv`, TensorBoard events and `progress.svg`.

use crate::atomic_file;
use crate::report::chart::{self, Curve, Panel};
use crate::report::tensorboard::EventFile;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Of the running mean of pseudo-Dice.
const KEPT: f64 = 0.9;

/// One epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Its learning rate.
    pub learning_rate: f64,
    /// Mean training loss.
    pub train_loss: f64,
    /// Mean loss of the validation patches.
    pub validation_loss: f64,
    /// Pseudo-Dice of each foreground class, over all validation patches together; none where the class is in neither truth nor prediction.
    pub dice: Vec<Option<f64>>,
    /// Seconds since 1970 at its start and end.
    pub started: f64,
    /// The same at its end.
    pub ended: f64,
}

impl Epoch {
    /// Mean pseudo-Dice over the classes that have one.
    pub fn mean_dice(&self) -> Option<f64> {
        let known: Vec<f64> = self.dice.iter().copied().flatten().collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    }
}

/// All epochs so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// From epoch 0 on.
    pub epochs: Vec<Epoch>,
}

impl History {
    /// Running means of the mean pseudo-Dice: the first as it is, then 0.9 of the one before and 0.1 of the new one; an epoch without any keeps the one before.
    pub fn running_dice(&self) -> Vec<Option<f64>> {
        let next = |before: &mut Option<f64>, epoch: &Epoch| {
            *before = match (*before, epoch.mean_dice()) {
                (Some(before), Some(new)) => Some(KEPT * before + (1.0 - KEPT) * new),
                (before, new) => new.or(before),
            };
            Some(*before)
        };
        self.epochs.iter().scan(None, next).collect()
    }

    /// Epochs since the best one.
    pub fn epochs_since_best(&self) -> usize {
        let running = self.running_dice();
        let best = running
            .iter()
            .enumerate()
            .fold((0, f64::NEG_INFINITY), |(at, best), (epoch, dice)| match dice {
                Some(dice) if *dice > best => (epoch, *dice),
                _ => (at, best),
            });
        running.len().saturating_sub(best.0 + 1)
    }
}

/// The columns of a `progress.csv`, by name; what is no number is NaN. None where there is no such file.
pub fn columns(path: &Path) -> BTreeMap<String, Vec<f64>> {
    let mut columns: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let Ok(mut reader) = csv::Reader::from_path(path) else {
        return columns;
    };
    let heads = reader.headers().cloned().unwrap_or_default();
    for row in reader.records().flatten() {
        for (head, cell) in heads.iter().zip(&row) {
            columns.entry(head.to_owned()).or_default().push(cell.parse().unwrap_or(f64::NAN));
        }
    }
    columns
}

/// The files that show a history.
pub struct Progress<'a> {
    folder: &'a Path,
    classes: &'a [String],
    events: EventFile,
}

impl<'a> Progress<'a> {
    /// Files in `folder` for foreground classes of these names, with what is known already; those of an earlier run are replaced.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn new(folder: &'a Path, classes: &'a [String], history: &History) -> Result<Self> {
        let seconds = history.epochs.first().map_or(0.0, |epoch| epoch.started);
        let events = EventFile::create(&folder.join("events.out.tfevents.hpc-seg"), seconds)?;
        let mut progress = Self { folder, classes, events };
        for epoch in 0..history.epochs.len() {
            progress.add_event(history, epoch)?;
        }
        Ok(progress)
    }

    /// Shows the last epoch of the history too.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn add(&mut self, history: &History) -> Result<()> {
        if let Some(last) = history.epochs.len().checked_sub(1) {
            self.add_event(history, last)?;
        }
        atomic_file::write_bytes(&self.folder.join("progress.csv"), &self.table(history)?)?;
        chart::write(&self.folder.join("progress.svg"), &self.panels(history))
    }

    fn add_event(&mut self, history: &History, epoch: usize) -> Result<()> {
        let at = &history.epochs[epoch];
        let dice = self.classes.iter().zip(&at.dice);
        let dice = dice.filter_map(|(name, dice)| Some((format!("pseudo_dice/{name}"), (*dice)? as f32)));
        let mean = at.mean_dice().map(|dice| ("pseudo_dice/mean".to_owned(), dice as f32));
        let mut scalars = vec![
            ("loss/train".to_owned(), at.train_loss as f32),
            ("loss/validation".to_owned(), at.validation_loss as f32),
            ("learning_rate".to_owned(), at.learning_rate as f32),
            ("epoch_seconds".to_owned(), (at.ended - at.started) as f32),
        ];
        scalars.extend(mean.into_iter().chain(dice));
        let scalars = scalars.iter().map(|(name, value)| (name.as_str(), *value));
        self.events.scalars(epoch as u64, at.ended, scalars)
    }

    fn table(&self, history: &History) -> Result<Vec<u8>> {
        let mut table = csv::Writer::from_writer(Vec::new());
        let fixed = [
            "epoch",
            "learning_rate",
            "train_loss",
            "validation_loss",
            "mean_dice",
            "running_dice",
            "seconds",
        ];
        let names = self.classes.iter().map(|name| format!("dice_{name}"));
        table.write_record(fixed.into_iter().map(str::to_owned).chain(names))?;
        for (at, (epoch, running)) in history.epochs.iter().zip(history.running_dice()).enumerate() {
            let known = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.6}"));
            let mut row = vec![
                at.to_string(),
                format!("{:.6e}", epoch.learning_rate),
                format!("{:.6}", epoch.train_loss),
                format!("{:.6}", epoch.validation_loss),
                known(epoch.mean_dice()),
                known(running),
                format!("{:.2}", epoch.ended - epoch.started),
            ];
            row.extend(epoch.dice.iter().map(|dice| known(*dice)));
            table.write_record(row)?;
        }
        Ok(table.into_inner()?)
    }

    fn panels(&self, history: &History) -> Vec<Panel> {
        let curve = |name: &str, values: &mut dyn Iterator<Item = f64>| Curve {
            name: name.to_owned(),
            values: values.collect(),
        };
        let epochs = &history.epochs;
        let losses = vec![
            curve("training", &mut epochs.iter().map(|e| e.train_loss)),
            curve("validation", &mut epochs.iter().map(|e| e.validation_loss)),
        ];
        let known = |dice: Option<f64>| dice.unwrap_or(f64::NAN);
        let running = history.running_dice();
        let mut dice = vec![curve("running mean", &mut running.into_iter().map(known))];
        dice.extend(self.classes.iter().enumerate().map(|(class, name)| {
            let values = epochs.iter().map(|e| known(e.dice.get(class).copied().flatten()));
            curve(name, &mut values.into_iter())
        }));
        let rates = vec![curve("learning rate", &mut epochs.iter().map(|e| e.learning_rate))];
        let panel = |title: &str, curves| Panel {
            title: title.to_owned(),
            curves,
        };
        vec![panel("loss", losses), panel("pseudo-Dice", dice), panel("learning rate", rates)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn epoch(dice: &[Option<f64>]) -> Epoch {
        Epoch {
            learning_rate: 0.01,
            train_loss: -0.5,
            validation_loss: -0.4,
            dice: dice.to_vec(),
            started: 10.0,
            ended: 12.5,
        }
    }

    fn history(dice: &[Option<f64>]) -> History {
        History {
            epochs: dice.iter().map(|dice| epoch(&[*dice, None])).collect(),
        }
    }

    #[test]
    fn the_running_dice_is_nnu_nets_and_an_epoch_without_classes_keeps_it() {
        let running = history(&[Some(0.5), Some(1.0), None, Some(0.0)]).running_dice();
        let wanted = [0.5, 0.55, 0.55, 0.495];
        assert!(running.iter().zip(wanted).all(|(got, want)| (got.unwrap() - want).abs() < 1e-12));
        assert_eq!(history(&[None]).running_dice(), [None]);
    }

    #[test]
    fn the_best_epoch_is_that_of_the_highest_running_dice() {
        assert_eq!(history(&[Some(0.5), Some(0.6), Some(0.1), Some(0.1)]).epochs_since_best(), 2);
        assert_eq!(history(&[]).epochs_since_best(), 0);
    }

    #[test]
    fn files_of_a_resumed_run_are_those_of_an_unbroken_one() {
        let classes = ["liver".to_owned(), "spleen".to_owned()];
        let all = history(&[Some(0.5), Some(0.6), Some(0.7)]);
        let files = |resumed_after: usize| {
            let folder = tempfile::tempdir().unwrap();
            let mut known = History {
                epochs: all.epochs[..resumed_after].to_vec(),
            };
            let mut progress = Progress::new(folder.path(), &classes, &known).unwrap();
            for epoch in &all.epochs[resumed_after..] {
                known.epochs.push(epoch.clone());
                progress.add(&known).unwrap();
            }
            ["progress.csv", "progress.svg", "events.out.tfevents.hpc-seg"].map(|name| fs::read(folder.path().join(name)).unwrap())
        };
        let whole = files(0);
        assert!(files(2)[..2] == whole[..2]);
        assert_eq!(files(2)[2].len(), whole[2].len());
        let table = String::from_utf8(whole[0].clone()).unwrap();
        assert!(
            table.starts_with("epoch,learning_rate,train_loss,validation_loss,mean_dice,running_dice,seconds,dice_liver,dice_spleen\n0,1.000000e-2,-0.500000,-0.400000,0.500000,0.500000,2.50,0.500000,\n"),
            "{table}"
        );
    }
}
