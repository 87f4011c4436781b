//! Model folders from one form into the other: nnU-Net's checkpoints (`.pth`) and this program's (`.safetensors`). Weights, plans and what prediction needs are carried over;
//! momentum and the log of training are not, so that training starts anew from the weights.

use super::dataset::Dataset;
use super::exchange::{Fold, Trained, write_model, write_shared};
use super::model::{checkpoints, load_values, mirrored_axes};
use super::names::parameters;
use super::plan::Plans;
use super::trainer::fold::SETTINGS;
use super::trainer::history::History;
use crate::weights::{Checkpoint, write_safetensors};
use crate::{atomic_file, bad_input};
use anyhow::{Context, Result};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What the written checkpoints are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `checkpoint_final.pth`, which nnU-Net loads.
    NnUnet,
    /// `checkpoint_final.safetensors`.
    Safetensors,
}

/// How the segmentations of all folds together are postprocessed, in a model's folder.
pub const POSTPROCESSING: &str = "postprocessing.json";

/// Writes the folds of these names, or all, of the model in `folder` to `out`, and returns the paths of what was written: checkpoints, and, where
/// no fold is named, `postprocessing.json`, if there is one. Every tensor is checked against the plans first.
///
/// # Errors
/// As for opening a model; the same folder twice; a folder that cannot be written, holds another model's plans, or networks that were trained there.
pub fn transfer(folder: &Path, folds: &[String], out: &Path, form: Form) -> Result<Vec<PathBuf>> {
    if matches!((folder.canonicalize(), out.canonicalize()), (Ok(a), Ok(b)) if a == b) {
        bad_input!("{}: would be written into itself; choose another --out", out.display());
    }
    let (plans, dataset) = (Plans::read(&folder.join("plans.json"))?, Dataset::open(folder)?);
    let channels = plans.configuration.normalisation.len();
    let parameters = parameters(&plans.configuration.architecture, channels, dataset.classes());
    let checkpoints = checkpoints(folder, folds)?;
    let found: Vec<Fold> = checkpoints.iter().map(|path| fold_of(path)).collect::<Result<_>>()?;
    let trained_there = found
        .iter()
        .map(|fold| out.join(format!("fold_{fold}")))
        .find(|place| place.join(SETTINGS).is_file());
    if let Some(place) = trained_there {
        bad_input!(
            "{}: holds a network that was trained there, which would be lost; choose another --out",
            place.display()
        );
    }
    let mut written = Vec::new();
    for (path, fold) in checkpoints.into_iter().zip(found) {
        let checkpoint = Checkpoint::open(&path)?;
        let (values, mirrored) = (load_values(&checkpoint, &parameters)?, mirrored_axes(&checkpoint)?);
        let trained = Trained {
            parameters: &parameters,
            values: &values,
            optimiser: None,
            history: &History::default(),
            plans: &plans.to_json(),
            dataset: &dataset.json,
            fold,
            mirrored: &mirrored,
        };
        written.push(match form {
            Form::NnUnet => write_model(out, &trained)?,
            Form::Safetensors => write_own(out, &trained)?,
        });
    }
    let postprocessing = folder.join(POSTPROCESSING);
    // It is of all folds' segmentations together.
    if folds.is_empty() && postprocessing.is_file() {
        let bytes = fs::read(&postprocessing).with_context(|| format!("{}: cannot be read", postprocessing.display()))?;
        written.push(out.join(POSTPROCESSING));
        atomic_file::write_bytes(&out.join(POSTPROCESSING), &bytes)?;
    }
    Ok(written)
}

fn write_own(out: &Path, trained: &Trained<'_>) -> Result<PathBuf> {
    let path = write_shared(out, trained)?.join("checkpoint_final.safetensors");
    let tensors = trained.parameters.iter().zip(trained.values);
    let tensors: Vec<_> = tensors
        .map(|(parameter, values)| (parameter.name.clone(), parameter.shape.clone(), values.clone()))
        .collect();
    let mirrored = ("inference_allowed_mirroring_axes".to_owned(), json!(trained.mirrored).to_string());
    write_safetensors(&path, &tensors, &BTreeMap::from([mirrored]))?;
    Ok(path)
}

/// The fold of `.../fold_X/checkpoint_final.pth`.
fn fold_of(path: &Path) -> Result<Fold> {
    let folder = path.parent().unwrap_or(path);
    let name = folder
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.strip_prefix("fold_"));
    match (name, name.and_then(|name| name.parse().ok())) {
        (Some("all"), _) => Ok(Fold::All),
        (_, Some(number)) => Ok(Fold::Number(number)),
        _ => bad_input!(
            "{}: folds are called fold_0, fold_1, ... or fold_all; rename the folder",
            folder.display()
        ),
    }
}
