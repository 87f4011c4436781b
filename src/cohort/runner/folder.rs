//! What an output folder holds before the work on a cohort begins.

use super::{Conditions, Task};
use crate::cohort::journal::{History, Journal, Status};
use crate::{atomic_file, bad_input, note};
use anyhow::Result;
use std::path::{Path, PathBuf};

/// What a run would find of every task in `out`, which need not exist; nothing is written, and nobody is waited for. A task whose inputs cannot be read is open.
///
/// # Errors
/// A file that the run would refuse to replace, and a journal that cannot be read.
pub fn outlook<T>(out: &Path, tasks: &[Task<T>], conditions: &Conditions) -> Result<Vec<Status>> {
    let is_there = |task: &&Task<T>| task.outputs_in(out).iter().any(|path| path.exists());
    let found: Vec<&Task<T>> = tasks.iter().filter(is_there).collect();
    let history = History::of(out)?; // after that: another process may have begun with them
    refuse(out, foreign_file(out, &history, found.into_iter()))?;
    let mut hashes = history.hashes();
    let mut status = |task: &Task<T>| {
        // Files of a case that is new need not be hashed.
        let known = history.knows(&task.name).then(|| task.fingerprint(conditions, &mut hashes).ok());
        let status = |now| history.status(&task.name, &now, &task.outputs_in(out));
        known.flatten().map_or(Status::Open, status)
    };
    Ok(tasks.iter().map(&mut status).collect())
}

/// A file under a result's name that the journal knows nothing about is somebody's work, perhaps a manual segmentation.
pub(super) fn refuse_foreign_files<T>(out: &Path, journal: &mut Journal, tasks: &[Task<T>]) -> Result<()> {
    let has_file = |task: &&Task<T>| foreign_file(out, journal.history(), [*task].into_iter()).is_some();
    let found: Vec<&Task<T>> = tasks.iter().filter(has_file).collect();
    journal.refresh()?; // another process may have begun with them while they were looked for
    refuse(out, foreign_file(out, journal.history(), found.into_iter()))
}

/// The first output that is there of a case that the journal does not know.
fn foreign_file<'a, T: 'a>(out: &Path, history: &History, tasks: impl Iterator<Item = &'a Task<T>>) -> Option<PathBuf> {
    let mut unknown = tasks.filter(|task| !history.knows(&task.name));
    unknown.find_map(|task| task.outputs_in(out).into_iter().find(|path| path.exists()))
}

fn refuse(out: &Path, foreign: Option<PathBuf>) -> Result<()> {
    if let Some(path) = foreign {
        bad_input!(
            "{} exists and was not written by a run into {}; choose another --out, or move the file away",
            path.display(),
            out.display()
        );
    }
    Ok(())
}

/// Removes what a killed process left behind, where nobody else can be at work.
pub(super) fn clean_up<T>(out: &Path, journal: &mut Journal, tasks: &[Task<T>]) {
    let unreadable = journal.history().unreadable_lines();
    if unreadable > 0 {
        note!("{unreadable} unreadable lines of the journal are passed over; their cases count as open");
    }
    if journal.presence().is_alone() {
        let mut folders: Vec<PathBuf> = tasks
            .iter()
            .flat_map(|task| task.outputs.iter().chain(&task.unwanted))
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
