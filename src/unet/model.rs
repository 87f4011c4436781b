//! A trained model as a folder in nnU-Net's layout: `plans.json`, `dataset.json`, and for every fold `fold_X/checkpoint_final.pth`, or `.safetensors` with the same names.

use super::dataset::Dataset;
use super::names::Parameter;
use super::network::Network;
use super::plan::Plans;
use super::predict::Predictor;
use crate::sha256;
use crate::weights::{Checkpoint, StrictLoader};
use crate::{bad_input, warning};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The checkpoint of a fold; the first that there is.
const CHECKPOINTS: [&str; 2] = ["checkpoint_final.pth", "checkpoint_final.safetensors"];
/// What the weights of a fold are called twice by: nnU-Net registers the same tensors under these names too.
const ALIASES: [&str; 2] = ["decoder.encoder.", ".all_modules."];

/// Part of the heads' names.
const HEADS: &str = ".seg_layers.";

/// A model, ready to predict.
pub struct Model {
    /// Labels and channels.
    pub dataset: Dataset,
    /// The networks.
    pub predictor: Predictor,
    /// SHA-256 of the checkpoints, one after the other.
    pub sha256: String,
}

impl Model {
    /// Opens the folds of these names (`0`, `1`, ..., `all`), or all that there are.
    ///
    /// # Errors
    /// A folder without plans, data set or any trained fold; checkpoints of another architecture than the plans', or damaged ones.
    pub fn open(folder: &Path, folds: &[String]) -> Result<Self> {
        let plans = Plans::read(&folder.join("plans.json"))?;
        let dataset = Dataset::open(folder)?;
        let paths = checkpoints(folder, folds)?;
        let mut networks = Vec::with_capacity(paths.len());
        let mut mirrored = Vec::new();
        for (number, path) in paths.iter().enumerate() {
            let checkpoint = Checkpoint::open(path)?;
            networks.push(load(&checkpoint, &plans, &dataset)?);
            if number == 0 {
                mirrored = mirrored_axes(&checkpoint)?;
            }
        }
        Ok(Self {
            dataset,
            predictor: Predictor {
                plans,
                networks,
                mirrored,
                half: false,
            },
            sha256: sha256::of_files(&paths)?,
        })
    }
}

/// A checkpoint's tensors but for the aliases, which nobody asks for.
fn loader(checkpoint: &Checkpoint) -> StrictLoader<'_> {
    let loader = StrictLoader::new(checkpoint);
    for name in checkpoint.names().filter(|name| ALIASES.iter().any(|alias| name.contains(alias))) {
        loader.ignore(name);
    }
    loader
}

/// The values of these parameters, which must be all there are.
pub(super) fn load_values(checkpoint: &Checkpoint, parameters: &[Parameter]) -> Result<Vec<Vec<f32>>> {
    let loader = loader(checkpoint);
    let values = parameters
        .iter()
        .map(|parameter| loader.tensor(&parameter.name, &parameter.shape))
        .collect();
    loader.finish()?;
    Ok(values)
}

/// Gives a network the weights of a checkpoint, all with the same shapes; without those of the heads, where these may be for other classes.
///
/// # Errors
/// A file that is no checkpoint, or of another architecture.
pub fn load_pretrained(path: &Path, network: &mut Network, with_heads: bool) -> Result<()> {
    let checkpoint = Checkpoint::open(path)?;
    let loader = loader(&checkpoint);
    let is_left = |name: &str| !with_heads && name.contains(HEADS);
    for name in checkpoint.names().filter(|name| is_left(name)) {
        loader.ignore(name);
    }
    for (parameter, values) in network.parameters.iter().zip(&mut network.values) {
        if !is_left(&parameter.name) {
            *values = loader.tensor(&parameter.name, &parameter.shape);
        }
    }
    loader.finish()
}

fn load(checkpoint: &Checkpoint, plans: &Plans, dataset: &Dataset) -> Result<Network> {
    let loader = loader(checkpoint);
    let channels = plans.configuration.normalisation.len();
    let network = Network::load(&plans.configuration.architecture, channels, dataset.classes(), &loader);
    loader.finish()?;
    Ok(network)
}

/// The axes that training mirrored along: none if the checkpoint does not say.
pub(super) fn mirrored_axes(checkpoint: &Checkpoint) -> Result<Vec<usize>> {
    let Some(text) = checkpoint.metadata("inference_allowed_mirroring_axes") else {
        return Ok(Vec::new());
    };
    match serde_json::from_str::<Vec<usize>>(text) {
        Ok(axes) if axes.len() <= 3 && axes.iter().all(|axis| *axis < 3) && axes.is_sorted_by(|a, b| a < b) => Ok(axes),
        _ => bad_input!(
            "{}: inference_allowed_mirroring_axes is {text}; it must name axes out of 0, 1, 2",
            checkpoint.path().display()
        ),
    }
}

pub(super) fn checkpoints(folder: &Path, folds: &[String]) -> Result<Vec<PathBuf>> {
    let of = |fold: &str| {
        let files = CHECKPOINTS.map(|file| folder.join(format!("fold_{fold}")).join(file));
        files.into_iter().find(|path| path.is_file())
    };
    if !folds.is_empty() {
        let path = |fold: &String| match of(fold) {
            Some(path) => Ok(path),
            None => bad_input!(
                "{}: has no trained fold {fold}; train it, or leave it out of --folds",
                folder.display()
            ),
        };
        if let Some(twice) = folds.iter().enumerate().find(|(at, fold)| folds[..*at].contains(fold)) {
            bad_input!("--folds names {} twice; its network would count twice", twice.1);
        }
        return folds.iter().map(path).collect();
    }
    let entries = fs::read_dir(folder).with_context(|| format!("{}: cannot be read", folder.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_prefix("fold_").map(str::to_owned))
        .collect();
    // Copies that were put aside, such as fold_1.old, are no networks of the model.
    names.retain(|name| {
        let is_fold = name == "all" || name.bytes().all(|b| b.is_ascii_digit());
        if !is_fold && of(name).is_some() {
            warning!(
                "{}: is left out; folds are called fold_0, fold_1, ... or fold_all",
                folder.join(format!("fold_{name}")).display()
            );
        }
        is_fold
    });
    names.sort();
    for name in names.iter().filter(|name| *name != "all" && of(name).is_none()) {
        warning!(
            "{}: holds no {} and is left out",
            folder.join(format!("fold_{name}")).display(),
            CHECKPOINTS[0]
        );
    }
    // A network of all cases is a model of its own, not one of five.
    let is_one = |name: &String| name != "all" && of(name).is_some();
    if names.iter().any(is_one) {
        names.retain(is_one);
    }
    let paths: Vec<PathBuf> = names.iter().filter_map(|fold| of(fold)).collect();
    if paths.is_empty() {
        bad_input!(
            "{}: holds no fold_X/{}; give the folder of a trained model",
            folder.display(),
            CHECKPOINTS[0]
        );
    }
    Ok(paths)
}
