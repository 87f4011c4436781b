//! `failed.csv`: which cases failed, in which stage and why. It is rewritten whole after every change, and gone when nothing failed.

use crate::atomic_file;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The list's name in the output folder.
pub const FILE_NAME: &str = "failed.csv";

/// The failed cases of an output folder, earlier runs' and other processes' included until their cases succeed.
#[derive(Debug)]
struct Failures {
    path: PathBuf,
    rows: BTreeMap<String, [String; 2]>, // case -> stage, error
}

/// Notes that `case` failed in `stage`. Only one process at a time may do so.
///
/// # Errors
/// When the file cannot be written.
pub fn add(folder: &Path, case: &str, stage: &str, error: &str) -> Result<()> {
    let mut failures = Failures::read(folder);
    failures.rows.insert(case.to_string(), [stage.to_string(), error.to_string()]);
    failures.write()
}

/// Notes that `case` did not fail after all. Only one process at a time may do so.
///
/// # Errors
/// When the file cannot be written.
pub fn remove(folder: &Path, case: &str) -> Result<()> {
    let mut failures = Failures::read(folder);
    match failures.rows.remove(case) {
        Some(_) => failures.write(),
        None => Ok(()),
    }
}

/// Forgets the cases that are not among `cases`, all that there are: their files are gone. Only one process at a time may do so.
///
/// # Errors
/// When the file cannot be written.
pub fn keep_only(folder: &Path, cases: &BTreeSet<&str>) -> Result<()> {
    let mut failures = Failures::read(folder);
    let before = failures.rows.len();
    failures.rows.retain(|case, _| cases.contains(case.as_str()));
    match failures.rows.len() < before {
        true => failures.write(),
        false => Ok(()),
    }
}

impl Failures {
    /// Reads the list; rows that cannot be read are forgotten.
    fn read(folder: &Path) -> Self {
        let path = folder.join(FILE_NAME);
        let records = csv::Reader::from_path(&path)
            .map(|reader| reader.into_records().flatten().collect::<Vec<_>>())
            .unwrap_or_default();
        let rows = records
            .iter()
            .filter(|row| row.len() == 3)
            .map(|row| (row[0].to_string(), [row[1].to_string(), row[2].to_string()]));
        Self {
            rows: rows.collect(),
            path,
        }
    }

    fn write(&self) -> Result<()> {
        if self.rows.is_empty() {
            return fs::remove_file(&self.path).with_context(|| format!("cannot remove {}", self.path.display()));
        }
        let mut table = csv::Writer::from_writer(Vec::new());
        table.write_record(["case", "stage", "error"])?;
        for (case, [stage, error]) in &self.rows {
            table.write_record([case, stage, error])?;
        }
        atomic_file::write_bytes(&self.path, &table.into_inner()?)
    }
}
