//! The journal is the memory of an output folder: one JSON object per line, only ever appended to, so that a run killed at any moment can go on.
//!
//! A case is finished when its last event is `done` and its outputs are there. A line that was torn by a crash is passed over.

use crate::bad_input;
use crate::clock;
use crate::cohort::hashes::{FileHashes, HashedFile};
use crate::cohort::settings::hash_of;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The journal's name in the output folder.
pub const FILE_NAME: &str = "journal.jsonl";

/// What happened to a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// Work on it began.
    Started,
    /// All its outputs are written.
    Done,
    /// It failed; the others go on.
    Failed,
    /// It was finished already.
    Skipped,
    /// A signal ended the work on it.
    Stopped,
}

/// What a result depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Files by the part they play, such as `image` or `case_03 labels`.
    pub inputs: BTreeMap<String, HashedFile>,
    /// SHA-256 of the network's weights.
    pub weights_sha256: String,
    /// Hash of `settings` ([`hash_of`]).
    pub settings_sha256: String,
    /// The settings themselves, so that a change can be named.
    pub settings: Value,
}

impl Fingerprint {
    /// Puts the parts together and hashes the settings.
    ///
    /// # Errors
    /// Never for settings made of plain values.
    pub fn new(inputs: BTreeMap<String, HashedFile>, weights_sha256: String, settings: Value) -> Result<Self> {
        Ok(Self {
            inputs,
            weights_sha256,
            settings_sha256: hash_of(&settings)?,
            settings,
        })
    }

    /// What is different now from `before`, in the user's terms; empty when nothing is.
    pub fn changes_since(&self, before: &Fingerprint) -> Vec<String> {
        let mut changes = Vec::new();
        let roles: BTreeSet<&String> = self.inputs.keys().chain(before.inputs.keys()).collect();
        for role in roles {
            match (before.inputs.get(role), self.inputs.get(role)) {
                (Some(old), Some(new)) if old.sha256 != new.sha256 => changes.push(format!("{role} ({}) changed", new.path.display())),
                (Some(_), None) => changes.push(format!("{role} is no longer used")),
                (None, Some(_)) => changes.push(format!("{role} is new")),
                _ => {}
            }
        }
        if self.weights_sha256 != before.weights_sha256 {
            changes.push("the weights changed".to_string());
        }
        if self.settings_sha256 != before.settings_sha256 {
            changes.extend(setting_changes(&before.settings, &self.settings));
        }
        changes
    }
}

/// `threshold was 0.5 and is 0.4`, for every key whose value differs.
fn setting_changes(before: &Value, now: &Value) -> Vec<String> {
    let keys_of = |value: &Value| {
        value
            .as_object()
            .map(|map| map.keys().cloned().collect::<Vec<_>>())
            .unwrap_or_default()
    };
    let keys: BTreeSet<String> = keys_of(before).into_iter().chain(keys_of(now)).collect();
    let shown = |value: Option<&Value>| value.map_or("unset".to_string(), Value::to_string);
    let (old, new) = (|key: &str| before.get(key), |key: &str| now.get(key));
    keys.iter()
        .filter(|key| old(key) != new(key))
        .map(|key| format!("{key} was {} and is {}", shown(old(key)), shown(new(key))))
        .collect()
}

/// One line of the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// When, in UTC.
    pub time: String,
    /// The case.
    pub case: String,
    /// What happened.
    pub event: Event,
    /// Version of this program.
    #[serde(default)]
    pub version: String,
    /// What the result depends on; with `done`.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
    /// The stage that failed and the error; with `failed`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

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

/// The open journal of an output folder. While it is open, no other process can open it (where the file system knows locks).
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    finished: HashMap<String, Fingerprint>,
    known: BTreeSet<String>,
    unreadable_lines: usize,
    is_locked: bool,
}

impl Journal {
    /// Opens or creates the journal of `folder` and reads what it says.
    ///
    /// # Errors
    /// When the file cannot be opened, or another process works in the folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE_NAME);
        let opening = || format!("cannot open the journal {}", path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .with_context(opening)?;
        let is_locked = match file.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => {
                bad_input!(
                    "another hpc-seg is writing to {}; wait for it, or choose another --out",
                    folder.display()
                );
            }
            // Not every network file system knows locks; the journal works without one.
            Err(TryLockError::Error(_)) => false,
        };
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).with_context(opening)?;
        file.read_to_end(&mut bytes).with_context(opening)?;
        if bytes.last().is_some_and(|last| *last != b'\n') {
            file.write_all(b"\n").with_context(opening)?; // ends the torn line, so that the next entry stands alone
        }
        let (finished, known) = (HashMap::new(), BTreeSet::new());
        let mut journal = Self {
            file,
            path,
            finished,
            known,
            unreadable_lines: 0,
            is_locked,
        };
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice::<Entry>(line) {
                Ok(entry) => journal.take_in(entry),
                Err(_) => journal.unreadable_lines += 1,
            }
        }
        Ok(journal)
    }

    /// Appends an event and sends it to the disk.
    ///
    /// # Errors
    /// When the journal cannot be written to.
    pub fn append(&mut self, case: &str, event: Event, fingerprint: Option<Fingerprint>, error: &str) -> Result<()> {
        let (time, version) = (clock::now(), env!("CARGO_PKG_VERSION").to_string());
        let entry = Entry {
            time,
            case: case.to_string(),
            event,
            version,
            fingerprint,
            error: error.to_string(),
        };
        let writing = || format!("cannot write to the journal {}", self.path.display());
        let line = serde_json::to_string(&entry)? + "\n";
        self.file
            .write_all(line.as_bytes())
            .and_then(|()| self.file.sync_data())
            .with_context(writing)?;
        self.take_in(entry);
        Ok(())
    }

    /// Whether `case` is finished with exactly this fingerprint, all of `outputs` being there.
    pub fn status(&self, case: &str, now: &Fingerprint, outputs: &[PathBuf]) -> Status {
        let Some(before) = self.finished.get(case) else {
            return Status::Open;
        };
        let mut changes = now.changes_since(before);
        changes.extend(
            outputs
                .iter()
                .filter(|path| !path.is_file())
                .map(|path| format!("{} is not there", path.display())),
        );
        if changes.is_empty() {
            Status::Finished
        } else {
            Status::Changed(changes)
        }
    }

    /// Whether any event of `case` was ever written down.
    pub fn knows(&self, case: &str) -> bool {
        self.known.contains(case)
    }

    /// How many lines could not be read (torn by a crash, or edited).
    pub fn unreadable_lines(&self) -> usize {
        self.unreadable_lines
    }

    /// Whether this process has the folder for itself for certain.
    pub fn is_locked(&self) -> bool {
        self.is_locked
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

    fn take_in(&mut self, entry: Entry) {
        self.known.insert(entry.case.clone());
        match (entry.event, entry.fingerprint) {
            (Event::Done, Some(fingerprint)) => {
                self.finished.insert(entry.case, fingerprint);
            }
            (Event::Skipped, _) => {}
            // A new attempt may have replaced some outputs and not others, so what was finished before no longer is.
            _ => {
                self.finished.remove(&entry.case);
            }
        }
    }
}
