//! `failed.csv`: which cases failed, in which stage and why. It is rewritten whole after every change, and gone when nothing failed.

use crate::atomic_file;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The list's name in the output folder.
pub const FILE_NAME: &str = "failed.csv";

/// The failed cases of an output folder, earlier runs' included until their cases succeed.
#[derive(Debug)]
pub struct Failures {
    path: PathBuf,
    rows: BTreeMap<String, [String; 2]>, // case -> stage, error
}

impl Failures {
    /// Reads the list of an earlier run; rows that cannot be read are forgotten.
    pub fn open(folder: &Path) -> Self {
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

    /// Notes that `case` failed in `stage`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&mut self, case: &str, stage: &str, error: &str) -> Result<()> {
        self.rows.insert(case.to_string(), [stage.to_string(), error.to_string()]);
        self.write()
    }

    /// Notes that `case` did not fail after all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn remove(&mut self, case: &str) -> Result<()> {
        if self.rows.remove(case).is_some() { self.write() } else { Ok(()) }
    }

    /// How many cases are on the list.
    pub fn count(&self) -> usize {
        self.rows.len()
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
