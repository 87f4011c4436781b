//! What each round makes of the test cases, and how good that is.

use crate::cohort::evaluation::Request;
use crate::cohort::runner::Exit;
use crate::metrics::measures::Preset;
use crate::ssl::places::read_made;
use crate::ssl::round::write_if_changed;
use crate::ssl::work::{ENDING, Work, link, words};
use crate::warning;
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

impl Work<'_> {
    /// What a round makes of the test cases.
    pub(super) fn test(&self, round: usize) -> Result<Exit> {
        let links = self.places.test();
        let mut wanted = BTreeSet::new();
        for case in &self.test {
            let image = links.join(format!("imagesTs/{}_0000{ENDING}", case.name));
            let labels = links.join(format!("labelsTs/{}{ENDING}", case.name));
            for (file, at) in [(&case.image, image), (&case.labels, labels)] {
                link(file, &at)?;
                wanted.insert(at);
            }
        }
        let there = ["imagesTs", "labelsTs"].map(|folder| fs::read_dir(links.join(folder)).into_iter().flatten().flatten());
        let is_old = |path: &PathBuf| !wanted.contains(path) && path.is_symlink();
        // Of cases that are no test cases any more.
        for old in there.into_iter().flatten().map(|entry| entry.path()).filter(is_old) {
            fs::remove_file(&old).with_context(|| format!("cannot remove {}", old.display()))?;
        }
        let out = self.places.test_masks(round);
        if round == 0 {
            return self.tffs(self.tffs_words(&links, &out), None);
        }
        let (model, input) = (self.places.of_round(round, "model"), links.join("imagesTs"));
        self.command(
            words(&[&"predict", &"--postprocess", &"--model", &model, &"--input", &input, &"--out", &out]),
            ("", ""),
        )
    }

    /// How good that is: Dice, largest HD and HD95 by class and group. How many cases could not be compared.
    pub(super) fn score(&self, round: usize) -> Result<usize> {
        let request = Request {
            predictions: self.places.test_masks(round),
            references: self.places.test().join("labelsTs"),
            only: self.test.iter().map(|case| case.name.clone()).collect(),
            preset: Preset::Care,
            tolerances_mm: Vec::new(),
            classes: (1..self.description.labels.len() as u16).collect(),
            ignored: None,
            grouping: self.grouping.clone(),
            seed: self.settings.seed,
        };
        let evaluation = self.device.install(|| request.run(self.stop))?;
        let unknown: BTreeSet<u16> = evaluation.cases.iter().flat_map(|case| &case.left_out).copied().collect();
        if !unknown.is_empty() {
            warning!("references of test cases hold labels that no labelled volume has, which are not compared: {unknown:?}");
        }
        write_if_changed(&self.places.test_scores(round), &evaluation.json())?;
        Ok(evaluation.failed.len())
    }

    /// How many cases of a round could not be compared when they were.
    pub(super) fn not_compared(&self, round: usize) -> Result<usize> {
        let scores: Value = read_made(&self.places.test_scores(round))?;
        Ok(scores.get("failed").and_then(Value::as_array).map_or(0, Vec::len))
    }
}
