//! The runner takes a cohort's cases one after the other: skips the finished ones, keeps going past those that fail, stops when asked to.

use crate::cohort::failed::Failures;
use crate::cohort::hashes::FileHashes;
use crate::cohort::journal::{Event, Fingerprint, Journal, Status};
use crate::messages::{self, Level, Progress};
use crate::stop::{self, Stop};
use crate::{atomic_file, bad_input, note, panics, warning};
use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// One case to work on.
#[derive(Clone, Debug)]
pub struct Task<T> {
    /// The case's name.
    pub name: String,
    /// The files its result depends on, by the part they play (`image`, `case_03 labels`).
    pub inputs: Vec<(String, PathBuf)>,
    /// The files it will have written when it is done, relative to the output folder.
    pub outputs: Vec<PathBuf>,
    /// Whatever else the work needs to know.
    pub payload: T,
}

/// What the results of all cases depend on, besides their files.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// SHA-256 of the weights.
    pub weights_sha256: String,
    /// The settings, as a JSON object.
    pub settings: Value,
}

/// What the work on a case has to say when it is done.
#[derive(Clone, Debug, Default)]
pub struct CaseOutcome {
    /// A few words for the log: `liver 812 ml`.
    pub line: String,
    /// Things the user should look at.
    pub warnings: Vec<String>,
}

/// What became of the cases.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// Worked on and finished.
    pub done: Vec<String>,
    /// Finished before.
    pub skipped: Vec<String>,
    /// Failed in this run, with their errors.
    pub failed: Vec<(String, String)>,
    /// Whether a signal ended the run.
    pub stopped: bool,
    /// Not begun, or interrupted, because of the signal.
    pub open: Vec<String>,
}

/// How a command ended, when it did not fail as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything is done.
    Done,
    /// Done, but some cases failed; they are listed in `failed.csv`.
    SomeFailed,
    /// Stopped on a signal; the same command goes on.
    Stopped,
}

impl Exit {
    /// The process's exit code.
    pub fn code(self) -> i32 {
        match self {
            Exit::Done => 0,
            Exit::SomeFailed => 3,
            Exit::Stopped => crate::cohort::signals::EXIT_STOPPED,
        }
    }
}

impl Summary {
    /// How the run ended.
    pub fn exit(&self) -> Exit {
        match (self.stopped, self.failed.is_empty()) {
            (true, _) => Exit::Stopped,
            (false, true) => Exit::Done,
            (false, false) => Exit::SomeFailed,
        }
    }

    /// One line for the end of the log.
    pub fn line(&self) -> String {
        let start = if self.stopped {
            "stopped by a signal, the same command goes on: "
        } else {
            ""
        };
        let mut parts = vec![format!("{start}{} done", self.done.len())];
        let counts = [
            (self.skipped.len(), "were finished before"),
            (self.failed.len(), "failed (see failed.csv)"),
            (self.open.len(), "left open"),
        ];
        parts.extend(
            counts
                .iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, what)| format!("{count} {what}")),
        );
        parts.join(", ")
    }
}

/// Runs `work` on every task that is not finished yet. `out` must have been [prepared](crate::cohort::output::prepare) and `journal` be its own.
///
/// Errors and panics of a case are written to `failed.csv`, and the next case is taken. Work should call [`Stop::check`] after every step
/// and pass its error on, and name its stages to the [`Progress`].
///
/// # Errors
/// When a file would be overwritten that this program did not write, when the disk is full, or when the journal cannot be written.
pub fn run<T>(
    out: &Path,
    journal: &mut Journal,
    tasks: &[Task<T>],
    conditions: &Conditions,
    stop: &Stop,
    mut work: impl FnMut(&Task<T>, &Stop, &Progress) -> Result<CaseOutcome>,
) -> Result<Summary> {
    refuse_foreign_files(out, journal, tasks)?;
    clean_up(out, journal, tasks);
    let mut failures = Failures::open(out);
    let mut hashes = journal.hashes();
    let mut summary = Summary::default();
    for (index, task) in tasks.iter().enumerate() {
        if stop.is_requested() {
            summary.stopped = true;
            summary.open.extend(tasks[index..].iter().map(|task| task.name.clone()));
            break;
        }
        let progress = Progress::new(format!("{} ({} of {})", task.name, index + 1, tasks.len()));
        let result = panics::catch(|| attempt(out, journal, task, conditions, &mut hashes, || work(task, stop, &progress)));
        let stage = progress.current_stage();
        drop(progress); // clears the bar before anything is said
        match result {
            Ok(Attempt::Skipped) => {
                note!("{}: finished before, skipped", task.name);
                failures.remove(&task.name)?;
                summary.skipped.push(task.name.clone());
            }
            Ok(Attempt::Done(outcome)) => {
                outcome.warnings.iter().for_each(|text| warning!("{}: {text}", task.name));
                note!("{}: done. {}", task.name, outcome.line);
                failures.remove(&task.name)?;
                summary.done.push(task.name.clone());
            }
            Err(error) if stop::is_stopped(&error) => {
                stop.request(1); // also when the error came from elsewhere: the loop ends at its head
                journal.append(&task.name, Event::Stopped, None, "")?;
                summary.open.push(task.name.clone());
                summary.stopped = true;
            }
            Err(error) if atomic_file::is_disk_full(&error) => {
                return Err(error.context(format!(
                    "no space is left for {}; free some and give the same command again to go on",
                    out.display()
                )));
            }
            Err(error) => {
                let text = one_line(&error);
                let stage = if stage.is_empty() { "start" } else { &stage };
                messages::say(Level::Error, format_args!("{} failed ({stage}): {text}", task.name));
                journal.append(&task.name, Event::Failed, None, &format!("{stage}: {text}"))?;
                failures.add(&task.name, stage, &text)?;
                summary.failed.push((task.name.clone(), text));
            }
        }
    }
    Ok(summary)
}

enum Attempt {
    Skipped,
    Done(CaseOutcome),
}

/// One case: skip it, or do it and write that down.
fn attempt<T>(
    out: &Path,
    journal: &mut Journal,
    task: &Task<T>,
    conditions: &Conditions,
    hashes: &mut FileHashes,
    work: impl FnOnce() -> Result<CaseOutcome>,
) -> Result<Attempt> {
    let inputs = task
        .inputs
        .iter()
        .map(|(role, path)| Ok((role.clone(), hashes.of(path)?)))
        .collect::<Result<BTreeMap<_, _>>>()?;
    let fingerprint = Fingerprint::new(inputs, conditions.weights_sha256.clone(), conditions.settings.clone())?;
    let outputs: Vec<PathBuf> = task.outputs.iter().map(|path| out.join(path)).collect();
    match journal.status(&task.name, &fingerprint, &outputs) {
        Status::Finished => {
            journal.append(&task.name, Event::Skipped, None, "")?;
            return Ok(Attempt::Skipped);
        }
        Status::Changed(changes) => note!("{}: done again, because {}", task.name, changes.join("; ")),
        Status::Open => {}
    }
    journal.append(&task.name, Event::Started, None, "")?;
    // Files of an earlier attempt would pass for results of this one if it failed half-way.
    for path in outputs.iter().filter(|path| path.exists()) {
        fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))?;
    }
    let outcome = work()?;
    if let Some(missing) = outputs.iter().find(|path| !path.is_file()) {
        return Err(anyhow!("internal error: {} was not written", missing.display()));
    }
    journal.append(&task.name, Event::Done, Some(fingerprint), "")?;
    Ok(Attempt::Done(outcome))
}

/// A file under a result's name that the journal knows nothing about is somebody's work, perhaps a manual segmentation.
fn refuse_foreign_files<T>(out: &Path, journal: &Journal, tasks: &[Task<T>]) -> Result<()> {
    let unknown = tasks.iter().filter(|task| !journal.knows(&task.name));
    let foreign = unknown
        .flat_map(|task| &task.outputs)
        .map(|path| out.join(path))
        .find(|path| path.exists());
    if let Some(path) = foreign {
        bad_input!(
            "{} exists and was not written by a run into {}; choose another --out, or move the file away",
            path.display(),
            out.display()
        );
    }
    Ok(())
}

/// What a killed process left behind, where nobody else can be at work.
fn clean_up<T>(out: &Path, journal: &Journal, tasks: &[Task<T>]) {
    if journal.unreadable_lines() > 0 {
        note!(
            "{} unreadable lines of the journal are passed over; their cases count as open",
            journal.unreadable_lines()
        );
    }
    if journal.is_locked() {
        let mut folders: Vec<PathBuf> = tasks
            .iter()
            .flat_map(|task| &task.outputs)
            .filter_map(|path| Some(out.join(path).parent()?.to_path_buf()))
            .collect();
        folders.sort();
        folders.dedup();
        let removed: usize = folders.iter().map(|folder| atomic_file::remove_leftovers(folder)).sum();
        if removed > 0 {
            note!("{removed} half-written files of a killed run were removed");
        }
    }
}

/// An error and its causes in one line, for tables.
fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").replace(['\n', '\r'], " ")
}
