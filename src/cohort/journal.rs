//! The journal is the memory of an output folder: one JSON object per line, only ever appended to, so that a run killed at any moment can go on.
//!
//! Several processes may append to it; each reads what the others wrote before it takes a case. A case is finished when its last event is `done` and its outputs are there. A line that was torn by a crash is passed over.

mod history;

use crate::cohort::hashes::HashedFile;
use crate::cohort::presence::Presence;
use crate::cohort::settings::hash_of;
use crate::{clock, machine};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

pub use history::{History, Status, loss};

/// The journal's name in the output folder.
pub const FILE_NAME: &str = "journal.jsonl";

/// Letters of a setting's value that is shown when it changed.
const LONGEST_SHOWN: usize = 100;

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
    /// This process took part in the work on it, which another one ends.
    Shared,
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
    /// The kind of device that the result was made on, if it makes a difference; another one alone is no reason to make it again.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub device: String,
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
            device: String::new(),
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
    let change = |key: &String| match (shown(old(key)), shown(new(key))) {
        // Whole plans are not read by anyone.
        (old, new) if old.len().max(new.len()) > LONGEST_SHOWN => format!("{key} changed"),
        (old, new) => format!("{key} was {old} and is {new}"),
    };
    keys.iter().filter(|key| old(key) != new(key)).map(change).collect()
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
    /// Host and number of the process that says so.
    #[serde(default)]
    pub process: String,
    /// What the result depends on; with `done`.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
    /// What it took; with `done` and `shared`, where it was measured.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    /// The stage that failed and the error; with `failed`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

impl Entry {
    /// Of now, by this process.
    fn new(case: &str, event: Event) -> Self {
        Self {
            time: clock::now(),
            case: case.to_string(),
            event,
            version: env!("CARGO_PKG_VERSION").to_string(),
            process: machine::process(),
            fingerprint: None,
            cost: None,
            error: String::new(),
        }
    }
}

/// What a piece of work took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Seconds of work, summed over the processes that took part and went on to the end.
    pub seconds: f64,
    /// The most memory that one of them held meanwhile; none where the system does not tell.
    pub peak_memory_bytes: Option<u64>,
}

impl Cost {
    /// Of both.
    pub fn with(self, other: Self) -> Self {
        Self {
            seconds: self.seconds + other.seconds,
            peak_memory_bytes: self.peak_memory_bytes.max(other.peak_memory_bytes),
        }
    }
}

/// The open journal of an output folder.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    presence: Presence,
    history: History,
    /// How much of the file is taken in.
    read: u64,
}

impl Journal {
    /// Opens or creates the journal of `folder` and reads what it says. Others who open it wait until this one [lets them in](Presence::let_others_in).
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE_NAME);
        let opening = || format!("cannot open the journal {}", path.display());
        let presence = Presence::enter(folder).with_context(opening)?;
        let file = OpenOptions::new().read(true).append(true).create(true).open(&path);
        let mut journal = Self {
            file: file.with_context(opening)?,
            path: path.clone(),
            presence,
            history: History::default(),
            read: 0,
        };
        journal.refresh().with_context(opening)?;
        Ok(journal)
    }

    /// Takes in what was written since, by this process or others.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn refresh(&mut self) -> Result<()> {
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(self.read))?;
        self.file.read_to_end(&mut bytes)?;
        // A last line without an end may still be in the writing, unless nobody else is there to write it.
        let whole = match self.presence.is_alone() {
            true => bytes.len(),
            false => bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1),
        };
        self.read += whole as u64;
        self.history.read(&bytes[..whole]);
        Ok(())
    }

    /// Appends an event and sends it to the disk.
    ///
    /// # Errors
    /// When the journal cannot be written to.
    pub fn append(&mut self, case: &str, event: Event, fingerprint: Option<Fingerprint>, error: &str) -> Result<()> {
        self.append_with(case, event, fingerprint, None, error)
    }

    /// The same, with what the work took.
    ///
    /// # Errors
    /// When the journal cannot be written to.
    pub fn append_with(
        &mut self,
        case: &str,
        event: Event,
        fingerprint: Option<Fingerprint>,
        cost: Option<Cost>,
        error: &str,
    ) -> Result<()> {
        let entry = Entry {
            fingerprint,
            cost,
            error: error.to_string(),
            ..Entry::new(case, event)
        };
        let path = self.path.clone();
        self.exclusively(|journal| journal.write(&entry))
            .and_then(|()| self.refresh())
            .with_context(|| format!("cannot write to the journal {}", path.display()))
    }

    /// Appends that work on `case` begins, unless another process said meanwhile that it is done; whether it did not.
    ///
    /// # Errors
    /// When the journal cannot be read or written to.
    pub fn start_unless_done(&mut self, case: &str) -> Result<bool> {
        let entry = Entry::new(case, Event::Started);
        self.exclusively(|journal| {
            journal.refresh()?;
            let is_done = journal.history.latest().get(case).is_some_and(|entry| entry.event == Event::Done);
            if !is_done {
                journal.write(&entry)?;
                journal.refresh()?;
            }
            Ok(!is_done)
        })
        .with_context(|| format!("cannot write to the journal {}", self.path.display()))
    }

    fn write(&mut self, entry: &Entry) -> Result<()> {
        // A torn line of a killed process is ended, so that this one stands alone.
        let end = if self.ends_torn()? { "\n" } else { "" };
        let line = format!("{end}{}\n", serde_json::to_string(entry)?);
        self.file.write_all(line.as_bytes())?;
        Ok(self.file.sync_data()?)
    }

    fn ends_torn(&mut self) -> Result<bool> {
        let mut last = [b'\n'];
        if self.file.seek(SeekFrom::End(0))? > 0 {
            self.file.seek(SeekFrom::End(-1))?;
            self.file.read_exact(&mut last)?;
        }
        Ok(last != [b'\n'])
    }

    /// Does something while no other process does so.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn exclusively<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        // Where the file system knows no locks, only one process may work anyway.
        let is_locked = self.file.lock().is_ok();
        let result = work(self);
        if is_locked {
            self.file.unlock()?;
        }
        result
    }

    /// This process among those in the folder.
    pub fn presence(&mut self) -> &mut Presence {
        &mut self.presence
    }

    /// What it says of the cases.
    pub fn history(&self) -> &History {
        &self.history
    }
}
