//! Where a run's files lie in its output folder.

use crate::bad_input;
use crate::ssl::steps::Step;
use crate::unet::plan::DATA_IDENTIFIER;
use crate::unet::trainer::fold::{FINAL, SETTINGS};
use crate::unet::trainer::history;
use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use std::fs;
use std::path::{Path, PathBuf};

/// The output folder.
#[derive(Clone, Debug)]
pub struct Places(PathBuf);

impl Places {
    /// Of the output folder `out`.
    pub fn new(out: &Path) -> Self {
        Self(out.to_owned())
    }

    /// The folder itself.
    pub fn out(&self) -> &Path {
        &self.0
    }

    /// The pseudo-labels of a round, `CASE.nii.gz`; round 0 are those of TFFS.
    pub fn pseudo_labels(&self, round: usize) -> PathBuf {
        self.0.join("pseudo_labels").join(round_name(round))
    }

    /// The pseudo-label of a case.
    pub fn pseudo_label(&self, round: usize, case: &str) -> PathBuf {
        self.pseudo_labels(round).join(format!("{case}.nii.gz"))
    }

    /// A round's work: `dataset`, `preprocessed`, `model`.
    pub fn of_round(&self, round: usize, name: &str) -> PathBuf {
        self.0.join("rounds").join(round_name(round)).join(name)
    }

    /// A round's cases, preprocessed.
    pub fn arrays(&self, round: usize) -> PathBuf {
        self.of_round(round, "preprocessed").join(DATA_IDENTIFIER)
    }

    /// A round's network.
    pub fn checkpoint(&self, round: usize, fold: usize) -> PathBuf {
        self.of_round(round, "model").join(format!("fold_{fold}")).join(FINAL)
    }

    /// Whether a network of any round was begun.
    pub fn has_begun_networks(&self) -> bool {
        let below = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let folds = below(self.0.join("rounds")).flat_map(|round| below(round.join("model")));
        folds.into_iter().any(|fold| fold.join(SETTINGS).is_file())
    }

    /// Seconds of a network's epochs, in however many attempts.
    pub fn trained_seconds(&self, round: usize, fold: usize) -> f64 {
        let columns = history::columns(&self.checkpoint(round, fold).with_file_name("progress.csv"));
        let seconds = columns.get("seconds").into_iter().flatten();
        seconds.filter(|seconds| seconds.is_finite()).sum()
    }

    /// Where processes share the cases of a step, if they do.
    pub fn shared(&self, step: &Step) -> Option<PathBuf> {
        match step {
            Step::Label | Step::LabelCase(_) => Some(self.pseudo_labels(0)),
            Step::Preprocess(round) => Some(self.arrays(*round)),
            Step::Test(round) => Some(self.test_masks(*round)),
            Step::Plan | Step::Train(..) | Step::Relabel(_) | Step::Model => None,
        }
    }

    /// How far a round's pseudo-labels agree with those before.
    pub fn agreement(&self, round: usize) -> PathBuf {
        self.of_round(round, "agreement.json")
    }

    /// The plans of all rounds.
    pub fn plans(&self) -> PathBuf {
        self.0.join("plans/nnUNetPlans.json")
    }

    /// Which case is re-labelled by which fold.
    pub fn folds(&self) -> PathBuf {
        self.0.join("folds.json")
    }

    /// The test cases: links in nnU-Net's layout, `imagesTs` and `labelsTs`.
    pub fn test(&self) -> PathBuf {
        self.0.join("test")
    }

    /// What a round makes of the test cases; round 0 is TFFS.
    pub fn test_masks(&self, round: usize) -> PathBuf {
        self.test().join(round_name(round))
    }

    /// How good that is.
    pub fn test_scores(&self, round: usize) -> PathBuf {
        self.test().join(format!("{}.json", round_name(round)))
    }

    /// The product.
    pub fn model(&self) -> PathBuf {
        self.0.join("model")
    }

    /// A network of the product.
    pub fn product(&self, fold: usize) -> PathBuf {
        self.model().join(format!("fold_{fold}")).join(FINAL)
    }

    /// What came of it all, for programs.
    pub fn summary(&self) -> PathBuf {
        self.0.join("summary.json")
    }

    /// The same, for people.
    pub fn report(&self) -> PathBuf {
        self.0.join("report.html")
    }
}

/// As in `round_1`.
pub fn round_name(round: usize) -> String {
    format!("round_{round}")
}

/// A JSON file that a step has made.
///
/// # Errors
/// A file that cannot be read, or is not what the step wrote.
pub fn read_made<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    match serde_json::from_str(&text) {
        Ok(made) => Ok(made),
        Err(error) => bad_input!(
            "{}: is damaged ({error}); remove it, and the same command makes it again",
            path.display()
        ),
    }
}
