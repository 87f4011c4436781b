//! Where a cohort's results go: masks at the top of the output folder and nothing else there, everything beside them in folders of their own.

use crate::cohort::discover::is_same;
use crate::{atomic_file, bad_input};
use anyhow::Result;
use std::path::{Path, PathBuf};

/// The files of one case, relative to the output folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseFiles {
    /// The mask, `CASE.nii.gz`.
    pub mask: PathBuf,
    /// Binary entropy of the mean probability, `uncertainty/CASE.nii.gz`.
    pub uncertainty: PathBuf,
    /// Mean probability, `probability/CASE.nii.gz`, if it is wanted.
    pub probability: Option<PathBuf>,
    /// The same, if it is not.
    pub unwanted: Option<PathBuf>,
    /// What was done and found, `cases/CASE.json`.
    pub record: PathBuf,
    /// Contours on some slices, `cases/CASE.png`.
    pub picture: PathBuf,
    /// Seconds per stage, `timings/CASE.json`.
    pub timings: PathBuf,
}

impl CaseFiles {
    /// The files of the case `name`.
    pub fn new(name: &str, save_probabilities: bool) -> Self {
        let (volume, json) = (format!("{name}.nii.gz"), format!("{name}.json"));
        let (probability, unwanted) = optional(Path::new("probability").join(&volume), save_probabilities);
        Self {
            mask: PathBuf::from(&volume),
            uncertainty: Path::new("uncertainty").join(&volume),
            probability,
            unwanted,
            record: Path::new("cases").join(&json),
            picture: Path::new("cases").join(format!("{name}.png")),
            timings: Path::new("timings").join(&json),
        }
    }

    /// All of them, the mask last: where it is, the others are too.
    pub fn all(&self) -> Vec<PathBuf> {
        let mut files = vec![&self.uncertainty, &self.record, &self.picture, &self.timings];
        files.extend(&self.probability);
        files.push(&self.mask);
        files.into_iter().cloned().collect()
    }
}

/// A file that is written only if it is wanted, first if it is and second if it is not.
pub fn optional(file: PathBuf, is_wanted: bool) -> (Option<PathBuf>, Option<PathBuf>) {
    match is_wanted {
        true => (Some(file), None),
        false => (None, Some(file)),
    }
}

/// Creates the output folder with the folders that `files` go into, and makes sure that each can be written to, before any work starts.
///
/// # Errors
/// When `out` is one of the folders that inputs are read from, or cannot be created or written to.
pub fn prepare<'a>(out: &Path, input_folders: &[PathBuf], files: impl Iterator<Item = &'a PathBuf>) -> Result<()> {
    for folder in input_folders.iter().map(PathBuf::as_path).chain([out]) {
        if std::path::absolute(folder).is_ok_and(|whole| whole.to_str().is_none()) {
            bad_input!(
                "{}: is no valid UTF-8, as records of results need it; rename the folder, or go there by a link",
                folder.display()
            );
        }
    }
    if let Some(input) = input_folders.iter().find(|input| is_same(input, out)) {
        bad_input!(
            "--out {} is a folder that volumes are read from; results there could replace them. Choose another",
            input.display()
        );
    }
    let mut folders: Vec<PathBuf> = files.filter_map(|file| Some(out.join(file.parent()?))).collect();
    folders.push(out.to_path_buf());
    folders.sort();
    folders.dedup();
    folders.iter().try_for_each(|folder| atomic_file::create_output(folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn a_folder_whose_name_no_record_can_hold_is_refused_before_it_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let latin = folder.path().join(OsStr::from_bytes(b"r\xe9sultat"));
        for (out, inputs) in [(latin.clone(), vec![]), (folder.path().join("out"), vec![latin.clone()])] {
            let error = prepare(&out, &inputs, [].iter()).unwrap_err().to_string();
            assert!(error.contains("is no valid UTF-8") && error.contains("rename"), "{error}");
        }
        assert!(!latin.exists() && !folder.path().join("out").exists());
    }
}
