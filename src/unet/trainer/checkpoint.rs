//! The state of a training run, and its checkpoints: `checkpoint_latest.safetensors` and the one before it, each whole or not there at all.

use super::history::History;
use crate::bad_input;
use crate::unet::network::Network;
use crate::unet::optimiser::Optimiser;
use crate::warning;
use crate::weights::{Checkpoint, StrictLoader, write_safetensors};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const LATEST: &str = "checkpoint_latest.safetensors";
const PREVIOUS: &str = "checkpoint_previous.safetensors";
/// Complete, but the others were not renamed yet.
const NEXT: &str = "checkpoint_next.safetensors";
/// Names of momentum: this and the parameter's.
const MOMENTUM: &str = "momentum.";
const KEY: &str = "training";

/// All that a training run is between two steps.
#[derive(Clone, Debug)]
pub struct State {
    /// The network.
    pub network: Network,
    /// Momentum.
    pub optimiser: Optimiser,
    /// Everything else.
    pub course: Course,
}

/// Where a run is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Course {
    /// Epochs that it will have; 0 until a time budget is turned into them.
    pub epochs: usize,
    /// Finished epochs.
    pub history: History,
    /// The epoch in work.
    pub running: Running,
}

/// Sums of the epoch in work.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// Batches done: training's, then validation's.
    pub batches: usize,
    /// Losses of the steps.
    pub training_loss: f64,
    /// Losses of the validation's batches.
    pub validation_loss: f64,
    /// Of each class, background first: voxels in truth and prediction, in the prediction, in the truth.
    pub overlaps: Vec<[u64; 3]>,
    /// Seconds since 1970.
    pub started: f64,
    /// Seconds of work before the last interruption.
    pub seconds: f64,
}

impl State {
    /// Writes `FOLDER/checkpoint_latest.safetensors`; the one that was there becomes `checkpoint_previous.safetensors`.
    ///
    /// # Errors
    /// A full disk, a folder that takes no files; the older checkpoints stay.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let parameters = self.network.parameters.iter();
        let mut tensors: Vec<(String, Vec<usize>, &[f32])> = Vec::new();
        for (number, (parameter, values)) in parameters.zip(&self.network.values).enumerate() {
            tensors.push((parameter.name.clone(), parameter.shape.clone(), values));
            if let Some(Some(momentum)) = self.optimiser.momentum.get(number) {
                tensors.push((format!("{MOMENTUM}{}", parameter.name), parameter.shape.clone(), momentum));
            }
        }
        let course = BTreeMap::from([(KEY.to_owned(), serde_json::to_string(&self.course)?)]);
        let [next, latest, previous] = [NEXT, LATEST, PREVIOUS].map(|name| folder.join(name));
        write_safetensors(&next, &tensors, &course)?;
        let renaming = || format!("{}: the checkpoints cannot be renamed", folder.display());
        if latest.is_file() {
            fs::rename(&latest, &previous).with_context(renaming)?;
        }
        fs::rename(&next, &latest).with_context(renaming)
    }

    /// The newest checkpoint in a folder that can be read, into a network of its architecture; none if there is none.
    ///
    /// # Errors
    /// When there are checkpoints, but none can be read.
    pub fn resume(folder: &Path, network: &Network) -> Result<Option<Self>> {
        let mut damaged = Vec::new();
        for name in [NEXT, LATEST, PREVIOUS] {
            let path = folder.join(name);
            if !path.is_file() {
                continue;
            }
            match Self::load(&path, network.clone()) {
                Ok(state) => {
                    if let Some(error) = damaged.first() {
                        warning!("{error:#}; going on from {name}");
                    }
                    return Ok(Some(state));
                }
                Err(error) => damaged.push(error),
            }
        }
        match damaged.into_iter().next() {
            None => Ok(None),
            Some(error) => Err(error.context(format!(
                "{}: no checkpoint can be read; delete them to start anew",
                folder.display()
            ))),
        }
    }

    fn load(path: &Path, mut network: Network) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let Some(course) = checkpoint.metadata(KEY).and_then(|text| serde_json::from_str::<Course>(text).ok()) else {
            bad_input!("{}: is no checkpoint of a training run", path.display());
        };
        let loader = StrictLoader::new(&checkpoint);
        let mut optimiser = Optimiser::default();
        for (parameter, values) in network.parameters.iter().zip(&mut network.values) {
            *values = loader.tensor(&parameter.name, &parameter.shape);
            let momentum = format!("{MOMENTUM}{}", parameter.name);
            let is_there = checkpoint.contains(&momentum);
            optimiser
                .momentum
                .push(is_there.then(|| loader.tensor(&momentum, &parameter.shape)));
        }
        loader.finish()?;
        Ok(Self {
            network,
            optimiser,
            course,
        })
    }
}

/// Removes what only an unfinished run needs.
pub fn remove(folder: &Path) {
    for name in [NEXT, LATEST, PREVIOUS] {
        // What stays behind is only large: a finished run does not look at it.
        let _ = fs::remove_file(folder.join(name));
    }
}
