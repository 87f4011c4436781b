//! What the result of each step of a run depends on, so that a change is noticed.

use crate::cohort::postprocessing;
use crate::ssl::round::Member;
use crate::ssl::settings;
use crate::ssl::steps::Step;
use crate::ssl::work::Work;
use anyhow::Result;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

type Files = Vec<(String, PathBuf)>;

/// What a step depends on.
pub struct Depends {
    /// Files, by the part they play.
    pub files: Files,
    /// Settings, by their names.
    pub settings: Value,
    /// The files that it leaves.
    pub outputs: Vec<PathBuf>,
}

impl Work<'_> {
    /// What a step depends on, of a run whose last round is known. The cases of steps that processes share are looked after by the commands that do them.
    ///
    /// # Errors
    /// Files of earlier steps that cannot be read.
    pub fn depends(&self, step: &Step, last_round: usize) -> Result<Depends> {
        let (places, settings) = (&self.places, &self.settings);
        // dataset.json's.
        let (channel, labels) = (&self.description.channel, &self.description.labels);
        let (files, settings, outputs) = match step {
            // The unlabelled volumes are looked at one by one.
            Step::Label => {
                let mut files = files_of(self.labelled().into_iter());
                files.push(("weights".to_owned(), settings.weights.clone()));
                let mut options = json!({"label_options": settings.label_options, "seed": settings.seed});
                if settings.groups.is_some() {
                    let cases = self.labelled().into_iter().map(|member| member.name);
                    let groups = cases.map(|name| (self.group_of(&name), name)).collect::<Vec<_>>();
                    options["groups"] = json!(groups);
                }
                (files, options, Vec::new())
            }
            Step::LabelCase(_) | Step::Preprocess(_) => (Vec::new(), json!({}), Vec::new()),
            Step::Plan => {
                let options = json!({"plan_options": settings.plan_options, "channel": channel, "labels": labels});
                let members = self.labelled().into_iter().chain(self.pseudo_labelled(0)?);
                (files_of(members), options, vec![places.plans()])
            }
            Step::Train(round, fold) => {
                let options = json!({"train_options": settings.train_options, "seed": settings.seed, "channel": channel, "labels": labels});
                let mut outputs = vec![places.checkpoint(*round, *fold)];
                outputs.extend(self.relabelled_by(*round, *fold)?);
                (self.training_files(*round, *fold)?, options, outputs)
            }
            Step::Relabel(round) => {
                let masks = self.relabelled(*round)?;
                let outputs = masks.iter().map(|(case, _)| places.pseudo_label(*round, case));
                let outputs = outputs.chain([places.agreement(*round)]).collect();
                let postprocessing = (
                    "postprocessing".to_owned(),
                    places.of_round(*round, "model").join(postprocessing::FILE),
                );
                let files = masks.into_iter().map(|(case, mask)| (format!("mask of {case}"), mask));
                (files.chain([postprocessing]).collect(), json!({}), outputs)
            }
            Step::Test(round) => {
                let groups = self.test.iter().map(|case| (case.name.as_str(), self.group_of(&case.name)));
                let groups: BTreeMap<&str, String> = groups.collect();
                (self.test_files(*round), json!({"groups": groups}), vec![places.test_scores(*round)])
            }
            Step::Model => {
                let folds = 0..self.folds()?.len();
                let files = folds
                    .clone()
                    .map(|fold| (format!("fold {fold}"), places.checkpoint(last_round, fold)));
                let mut outputs = vec![places.model().join("plans.json")];
                outputs.extend(folds.map(|fold| places.product(fold)));
                (files.collect(), json!({"round": last_round}), outputs)
            }
        };
        Ok(Depends { files, settings, outputs })
    }

    fn training_files(&self, round: usize, fold: usize) -> Result<Files> {
        let (places, arrays) = (&self.places, self.places.arrays(round));
        let splits = places.of_round(round, "preprocessed/splits_final.json");
        let mut files = vec![("plans".to_owned(), places.plans()), ("folds".to_owned(), splits)];
        for member in self.labelled().into_iter().chain(self.pseudo_labelled(0)?) {
            let file = arrays.join(format!("{}.json", member.name));
            files.push((format!("preprocessed {}", member.name), file));
        }
        // Such as --pretrained's.
        let named = settings::words("--train-options", &self.settings.train_options)?;
        files.extend(
            named
                .into_iter()
                .map(PathBuf::from)
                .filter(|path| path.is_file())
                .map(|path| (path.display().to_string(), path)),
        );
        if self.settings.warm_start && round > 1 {
            files.push(("network before".to_owned(), places.checkpoint(round - 1, fold)));
        }
        Ok(files)
    }

    fn test_files(&self, round: usize) -> Files {
        let mut files = Vec::new();
        for case in &self.test {
            files.push((format!("reference of {}", case.name), case.labels.clone()));
            let mask = self.places.test_masks(round).join(format!("{}.nii.gz", case.name));
            files.extend(mask.is_file().then(|| (format!("mask of {}", case.name), mask)));
        }
        files
    }
}

fn files_of(members: impl Iterator<Item = Member>) -> Files {
    members
        .flat_map(|member| {
            let [image, label] = ["image", "labels"].map(|kind| format!("{kind} of {}", member.name));
            [(image, member.image), (label, member.label)]
        })
        .collect()
}
