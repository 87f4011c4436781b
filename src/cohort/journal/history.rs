//! What a journal says of the cases.

use super::{Cost, Entry, Event, FILE_NAME, Fingerprint};
use crate::cohort::hashes::FileHashes;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Whether a case has to be worked on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It was never finished, or the last attempt did not end well.
    Open,
    /// Its outputs are there and all they depend on is as it was.
    Finished,
    /// It was finished, but these things are different now.
    Changed(Vec<String>),
}

/// What became of the cases, as far as it was written down.
#[derive(Debug, Default)]
pub struct History {
    finished: HashMap<String, Fingerprint>,
    latest: BTreeMap<String, Entry>,
    /// What processes put into cases that are not done yet.
    shared: BTreeMap<String, Cost>,
    unreadable_lines: usize,
}

impl History {
    /// What the journal in `folder` says now, without entering the folder or waiting for anybody; nothing where there is none.
    ///
    /// # Errors
    /// A journal that cannot be read.
    pub fn of(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE_NAME);
        let mut history = Self::default();
        match fs::read(&path) {
            Ok(bytes) => history.read(&bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("{}: cannot be read", path.display())),
        }
        Ok(history)
    }

    /// Takes in whole lines of the journal.
    pub(super) fn read(&mut self, lines: &[u8]) {
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice::<Entry>(line) {
                Ok(entry) => self.take_in(entry),
                Err(_) => self.unreadable_lines += 1,
            }
        }
    }

    /// The last event of every case, by name.
    pub fn latest(&self) -> &BTreeMap<String, Entry> {
        &self.latest
    }

    /// Whether `case` is finished with exactly this fingerprint, all of `outputs` being there and holding something.
    pub fn status(&self, case: &str, now: &Fingerprint, outputs: &[PathBuf]) -> Status {
        let Some(before) = self.finished.get(case) else {
            return Status::Open;
        };
        let mut changes = now.changes_since(before);
        changes.extend(
            outputs
                .iter()
                .filter_map(|path| Some(format!("{} {}", path.display(), loss(path)?))),
        );
        if changes.is_empty() {
            Status::Finished
        } else {
            Status::Changed(changes)
        }
    }

    /// Whether any event of `case` was ever written down.
    pub fn knows(&self, case: &str) -> bool {
        self.latest.contains_key(case)
    }

    /// Whether the last attempt at `case` ended with an error, or was never heard of again.
    pub fn was_in_vain(&self, case: &str) -> bool {
        let latest = self.latest.get(case).map(|entry| entry.event);
        matches!(latest, Some(Event::Started | Event::Failed))
    }

    /// What processes said that they put into `case`, which is not done yet.
    pub fn shared(&self, case: &str) -> Option<Cost> {
        self.shared.get(case).copied()
    }

    /// How many finished cases were made on another kind of device than this one.
    pub fn count_of_other_devices(&self, device: &str) -> usize {
        let devices = self.finished.values().map(|fingerprint| fingerprint.device.as_str());
        devices.filter(|made_on| !made_on.is_empty() && *made_on != device).count()
    }

    /// How many lines could not be read (torn by a crash, or edited).
    pub fn unreadable_lines(&self) -> usize {
        self.unreadable_lines
    }

    /// The hashes of all files that finished cases depend on.
    pub fn hashes(&self) -> FileHashes {
        let mut hashes = FileHashes::default();
        self.finished
            .values()
            .flat_map(|fingerprint| fingerprint.inputs.values())
            .for_each(|file| hashes.remember(file));
        hashes
    }

    fn take_in(&mut self, mut entry: Entry) {
        let case = entry.case.clone();
        match (entry.event, entry.fingerprint.take()) {
            (Event::Done, Some(fingerprint)) => {
                self.shared.remove(&case);
                self.finished.insert(case.clone(), fingerprint);
            }
            (Event::Skipped, _) if self.latest.contains_key(&case) => return,
            (Event::Shared, _) => {
                if let Some(cost) = entry.cost.filter(|_| !self.finished.contains_key(&case)) {
                    let sum = self.shared(&case).map_or(cost, |before| before.with(cost));
                    self.shared.insert(case, sum);
                }
                return;
            }
            // A new attempt may have replaced some outputs and not others, so what was finished before no longer is.
            (Event::Started, _) => {
                self.finished.remove(&case);
            }
            // What is said before an attempt, such as that an input cannot be read, changes nothing of what was made of it before.
            _ => {}
        }
        self.latest.insert(case, entry);
    }
}

/// What became of a file that is not there any more, or was cut to nothing as a full disk or an interrupted copy leaves it.
pub fn loss(path: &Path) -> Option<&'static str> {
    match path.metadata() {
        Ok(metadata) if metadata.is_file() => (metadata.len() == 0).then_some("is empty"),
        _ => Some("is not there"),
    }
}
