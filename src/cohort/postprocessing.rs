//! Postprocessing as nnU-Net decides it: whether keeping only the largest component, of all foreground together or of a class, makes the predictions of held-out cases better.
//!
//! First the foreground as a whole: accepted if the mean Dice of the classes rises and no class's falls. Then, if there are several classes, each by itself, on what was accepted so
//! far: accepted if its own mean Dice rises. The answer is `postprocessing.json` in the model's folder.

use super::held_out;
use crate::metrics::dice::dice_per_class;
use crate::ops::components::keep_largest;
use crate::stop::Stop;
use crate::unet::exchange::Fold;
use crate::unet::trainer::fold::Prepared;
use crate::volume::Volume;
use crate::{atomic_file, bad_input};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub use crate::unet::transfer::POSTPROCESSING as FILE;
/// nnU-Net's name of the only function there is.
const FUNCTION: &str = "remove_all_but_largest_component_from_segmentation";

/// What is done to a segmentation, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Postprocessing {
    #[serde(rename = "postprocessing_fns")]
    functions: Vec<String>,
    #[serde(rename = "postprocessing_kwargs")]
    arguments: Vec<Arguments>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Arguments {
    labels_or_regions: OneOrMore,
}

/// A label, or several as one mask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(u8),
    More(Vec<u8>),
}

impl Postprocessing {
    /// That of a model's folder.
    ///
    /// # Errors
    /// A file that is missing, or asks for something else.
    pub fn read(model: &Path) -> Result<Self> {
        let path = model.join(FILE);
        let Ok(text) = fs::read_to_string(&path) else {
            bad_input!(
                "{}: cannot be read; it is written when all folds of a model are trained: leave out --postprocess",
                path.display()
            );
        };
        match serde_json::from_str::<Self>(&text) {
            Ok(found) if found.functions.len() == found.arguments.len() && found.functions.iter().all(|name| name == FUNCTION) => Ok(found),
            _ => bad_input!("{}: asks for something other than {FUNCTION}", path.display()),
        }
    }

    /// Does it to a segmentation [z, y, x].
    ///
    /// # Errors
    /// A segmentation of other sizes.
    pub fn apply(&self, labels: &mut [u8], dims: [usize; 3]) -> Result<()> {
        self.masks().try_for_each(|mask| keep_largest(labels, dims, mask))
    }

    /// The labels of each step's mask.
    pub fn masks(&self) -> impl Iterator<Item = &[u8]> {
        self.arguments.iter().map(|arguments| match &arguments.labels_or_regions {
            OneOrMore::One(label) => std::slice::from_ref(label),
            OneOrMore::More(labels) => labels,
        })
    }

    fn and(&self, labels_or_regions: OneOrMore) -> Self {
        let mut more = self.clone();
        more.functions.push(FUNCTION.to_owned());
        more.arguments.push(Arguments { labels_or_regions });
        more
    }
}

/// A held-out case: its prediction and its reference.
struct Pair {
    prediction: PathBuf,
    reference: PathBuf,
}

/// Decides it from the held-out cases of all folds, and writes `OUT/postprocessing.json`; none while a fold is missing.
///
/// # Errors
/// Predictions or references that cannot be read, a stop.
pub fn decide(prepared: &Prepared, out: &Path, stop: &Stop) -> Result<Option<Postprocessing>> {
    let folds: Vec<Fold> = (0..prepared.splits.len()).map(Fold::Number).collect();
    if !folds.iter().all(|fold| held_out::is_done(prepared, out, *fold)) {
        return Ok(None);
    }
    let pair = |fold: Fold, name: &String| {
        let file = format!("{name}{}", prepared.dataset.ending);
        Pair {
            prediction: held_out::folder(out, fold).join(&file),
            reference: prepared.folder.join(held_out::REFERENCES).join(&file),
        }
    };
    let of_fold = |fold: &Fold| prepared.split(*fold).val.iter().map(|name| pair(*fold, name)).collect::<Vec<_>>();
    let pairs: Vec<Pair> = folds.iter().flat_map(of_fold).collect();
    // Folds that are to be trained again hold out other cases now.
    if !pairs.iter().all(|pair| pair.prediction.is_file()) {
        return Ok(None);
    }
    let ignored = prepared.dataset.ignore.map(|label| label as u8);
    let decided = decide_from(&pairs, prepared.dataset.classes() as u8, ignored, stop)?;
    let path = out.join(FILE);
    atomic_file::write_bytes(&path, (serde_json::to_string_pretty(&decided)? + "\n").as_bytes())?;
    Ok(Some(decided))
}

/// Removes what was decided for networks of which one is trained anew.
///
/// # Errors
/// A file that cannot be removed.
pub fn forget(out: &Path) -> Result<()> {
    let path = out.join(FILE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).with_context(|| format!("{}: cannot be removed", path.display())),
        _ => Ok(()),
    }
}

fn decide_from(pairs: &[Pair], classes: u8, ignored: Option<u8>, stop: &Stop) -> Result<Postprocessing> {
    let mean = |of: &Postprocessing| mean_dice(pairs, classes, ignored, of, stop);
    let overall = |dice: &[f64]| dice.iter().sum::<f64>() / dice.len() as f64;
    let mut accepted = Postprocessing::default();
    let mut best = mean(&accepted)?;
    let candidate = accepted.and(OneOrMore::More((1..classes).collect()));
    let dice = mean(&candidate)?;
    let falls = dice.iter().zip(&best).any(|(new, before)| new < before);
    if overall(&dice) > overall(&best) && !falls {
        (accepted, best) = (candidate, dice);
    }
    if classes > 2 {
        for class in 1..classes {
            let candidate = accepted.and(OneOrMore::One(class));
            let dice = mean(&candidate)?;
            let at = usize::from(class) - 1;
            if dice[at] > best[at] {
                (accepted, best) = (candidate, dice);
            }
        }
    }
    Ok(accepted)
}

/// Mean Dice of each foreground class over the cases that have it, in truth or prediction; NaN if none has.
fn mean_dice(pairs: &[Pair], classes: u8, ignored: Option<u8>, of: &Postprocessing, stop: &Stop) -> Result<Vec<f64>> {
    let names: Vec<u8> = (1..classes).collect();
    let mut sums = vec![(0.0, 0usize); names.len()];
    for pair in pairs {
        stop.check()?;
        let [mut prediction, mut reference] = [read(&pair.prediction)?, read(&pair.reference)?];
        if prediction.1 != reference.1 {
            bad_input!("{}: has other sizes than {}", pair.prediction.display(), pair.reference.display());
        }
        let [x, y, z] = prediction.1;
        of.apply(&mut prediction.0, [z, y, x])?;
        let voxels = prediction.0.iter_mut().zip(&mut reference.0);
        voxels
            .filter(|(_, truth)| Some(**truth) == ignored)
            .for_each(|(judged, truth)| (*judged, *truth) = (0, 0));
        let dice = dice_per_class(&prediction.0, &reference.0, &names)?;
        for ((sum, count), dice) in sums.iter_mut().zip(dice) {
            *sum += dice.unwrap_or(0.0);
            *count += usize::from(dice.is_some());
        }
    }
    Ok(sums.into_iter().map(|(sum, count)| sum / count as f64).collect())
}

/// Labels and sizes (x, y, z).
fn read(path: &Path) -> Result<(Vec<u8>, [usize; 3])> {
    let volume = Volume::open(path)?;
    Ok((volume.labels_u8()?, volume.dims()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::{Header, Voxels, write};

    /// Two classes along a line of 12 voxels: prediction and reference of each case.
    fn decided(cases: &[([u8; 12], [u8; 12])], classes: u8, ignored: Option<u8>) -> Postprocessing {
        let folder = tempfile::tempdir().unwrap();
        let identity = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
        let header = Header::new([12, 1, 1], &identity).unwrap();
        let file = |name: String, labels: &[u8]| {
            let path = folder.path().join(name);
            write(&path, &header, Voxels::U8(labels), None, &[]).unwrap();
            path
        };
        let pair = |(at, (prediction, reference)): (usize, &([u8; 12], [u8; 12]))| Pair {
            prediction: file(format!("{at}_prediction.nii.gz"), prediction),
            reference: file(format!("{at}_reference.nii.gz"), reference),
        };
        let pairs: Vec<Pair> = cases.iter().enumerate().map(pair).collect();
        decide_from(&pairs, classes, ignored, &Stop::new()).unwrap()
    }

    fn masks(of: &Postprocessing) -> Vec<Vec<u8>> {
        of.masks().map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn the_largest_component_is_kept_where_that_is_better() {
        let truth = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        let island = [1, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0];
        assert_eq!(masks(&decided(&[(island, truth)], 2, None)), [[1]]);
        assert!(masks(&decided(&[(truth, truth)], 2, None)).is_empty(), "no better: not accepted");
        let two = [1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0];
        assert!(masks(&decided(&[(two, two)], 2, None)).is_empty(), "worse");
        let ignored = [1, 1, 1, 1, 0, 0, 2, 0, 0, 0, 0, 0];
        assert!(
            masks(&decided(&[(island, ignored)], 2, Some(2))).is_empty(),
            "an island where nothing is known"
        );
    }

    #[test]
    fn classes_are_decided_one_by_one_after_the_foreground_as_a_whole() {
        // The foreground lies in two parts, so that it is not cut as a whole; an island of class 2 goes, class 1 has two parts in truth.
        let truth = [1, 1, 0, 1, 0, 2, 2, 2, 0, 0, 0, 0];
        let judged = [1, 1, 0, 1, 0, 2, 2, 2, 0, 2, 0, 0];
        let found = decided(&[(judged, truth)], 3, None);
        assert_eq!(masks(&found), [[2]]);
        let json = serde_json::to_value(&found).unwrap();
        assert_eq!(json["postprocessing_fns"][0], FUNCTION);
        assert_eq!(json["postprocessing_kwargs"][0]["labels_or_regions"], 2);
        let mut labels = judged;
        found.apply(&mut labels, [1, 1, 12]).unwrap();
        assert_eq!(labels, truth);
        // As a whole: the islands of both classes.
        let whole = [1, 1, 2, 2, 0, 0, 1, 0, 2, 0, 0, 0];
        let truth = [1, 1, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(masks(&decided(&[(whole, truth)], 3, None)), [[1, 2]]);
    }

    #[test]
    fn other_functions_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            fs::write(folder.path().join(FILE), text).unwrap();
            Postprocessing::read(folder.path())
        };
        let kept = read(&format!(
            r#"{{"postprocessing_fns": ["{FUNCTION}"], "postprocessing_kwargs": [{{"labels_or_regions": [1, 2]}}]}}"#
        ));
        assert_eq!(masks(&kept.unwrap()), [[1, 2]]);
        for wrong in [
            "{}",
            "no",
            r#"{"postprocessing_fns": ["os.system"], "postprocessing_kwargs": [{"labels_or_regions": 1}]}"#,
        ] {
            assert!(
                read(wrong).unwrap_err().to_string().contains("asks for something other than"),
                "{wrong}"
            );
        }
        fs::remove_file(folder.path().join(FILE)).unwrap();
        assert!(
            Postprocessing::read(folder.path())
                .unwrap_err()
                .to_string()
                .contains("--postprocess")
        );
    }
}
