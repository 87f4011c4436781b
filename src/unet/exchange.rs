//! Models written as nnU-Net writes them: a folder with `plans.json`, `dataset.json` and `fold_X/checkpoint_final.pth`, which `nnUNetv2_predict` loads strictly and
//! `nnUNetv2_train --c` goes on from. [`super::model`] reads such folders.

use super::names::{Parameter, keys};
use super::optimiser::{MOMENTUM, Optimiser, WEIGHT_DECAY};
use super::trainer::history::History;
use crate::weights::pickle::Value;
use crate::weights::write_torch;
use crate::{atomic_file, bad_input};
use anyhow::{Context, Result};
use serde_json::Value as Json;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// nnU-Net looks for a Python class of this name when it opens a checkpoint.
const TRAINER: &str = "nnUNetTrainer";
const CONFIGURATION: &str = "3d_fullres";

/// Which cases a model was trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// All but those of this fold.
    Number(usize),
    /// All.
    All,
}

impl fmt::Display for Fold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::All => f.write_str("all"),
        }
    }
}

/// What `dataset.json` may say for people: the same network comes of other words.
const DESCRIPTIVE: [&str; 10] = [
    "name",
    "description",
    "reference",
    "licence",
    "license",
    "release",
    "tensorImageSize",
    "numTraining",
    "numTest",
    "converted_by",
];

/// A network and how it came about.
#[derive(Clone, Copy, Debug)]
pub struct Trained<'a> {
    /// Names and shapes, as [`super::names::parameters`] gives them.
    pub parameters: &'a [Parameter],
    /// Their values.
    pub values: &'a [Vec<f32>],
    /// Momentum and the learning rate of the last epoch; none: nnU-Net can predict with the checkpoint, but not train on.
    pub optimiser: Option<(&'a Optimiser, f64)>,
    /// The finished epochs.
    pub history: &'a History,
    /// `plans.json`.
    pub plans: &'a Json,
    /// `dataset.json`.
    pub dataset: &'a Json,
    /// The fold.
    pub fold: Fold,
    /// Axes that training mirrored along, for test-time mirroring.
    pub mirrored: &'a [usize],
}

/// Writes `FOLDER/plans.json`, `FOLDER/dataset.json` and `FOLDER/fold_X/checkpoint_final.pth`, and returns the path of the last; other folds in the folder stay.
///
/// # Errors
/// A folder that cannot be written; one that holds another model's plans.
pub fn write_model(folder: &Path, trained: &Trained<'_>) -> Result<PathBuf> {
    let path = write_shared(folder, trained)?.join("checkpoint_final.pth");
    write_checkpoint(&path, trained)?;
    Ok(path)
}

/// Writes what the folds of a model share, and makes the folder of this fold.
pub(super) fn write_shared(folder: &Path, trained: &Trained<'_>) -> Result<PathBuf> {
    if let Some(text) = other_model(folder, trained.plans, trained.dataset, &[])? {
        bad_input!("{text}");
    }
    let fold = folder.join(format!("fold_{}", trained.fold));
    atomic_file::create_output(&fold)?;
    for (name, json) in [("plans.json", trained.plans), ("dataset.json", trained.dataset)] {
        let path = folder.join(name);
        if !is_said(&path, json)? {
            atomic_file::write_bytes(&path, (serde_json::to_string_pretty(json)? + "\n").as_bytes())?;
        }
    }
    Ok(fold)
}

/// That a folder has networks of another model, of other plans, channels or labels, in other folds than these, with the remedy. What no network depends on any more may
/// be replaced.
///
/// # Errors
/// Files that cannot be read.
pub(super) fn other_model(folder: &Path, plans: &Json, dataset: &Json, but: &[Fold]) -> Result<Option<String>> {
    let but: Vec<String> = but.iter().map(|fold| format!("fold_{fold}")).collect();
    let is_fold = |name: &str| name.starts_with("fold_") && but.iter().all(|fold| fold != name);
    let has_network = |place: PathBuf| {
        ["pth", "safetensors"]
            .iter()
            .any(|ending| place.join(format!("checkpoint_final.{ending}")).is_file())
    };
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    if !entries.any(|entry| is_fold(&entry.file_name().to_string_lossy()) && has_network(entry.path())) {
        return Ok(None);
    }
    for (name, json, what) in [("plans.json", plans, "plans"), ("dataset.json", dataset, "channels and labels")] {
        let path = folder.join(name);
        if path.is_file() && !is_said(&path, json)? {
            return Ok(Some(format!(
                "{}: belongs to another model; folds of one model share their {what}: choose another folder",
                path.display()
            )));
        }
    }
    Ok(None)
}

/// Whether the file says the same, as far as a network depends on it: not on how its data are described or counted.
fn is_said(path: &Path, json: &Json) -> Result<bool> {
    if !path.is_file() {
        return Ok(false);
    }
    let there = fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let essential = |json: &Json| -> Json {
        let fields = json.as_object().into_iter().flatten();
        fields
            .filter(|(key, _)| !DESCRIPTIVE.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    Ok(serde_json::from_str(&there).is_ok_and(|there| essential(&there) == essential(json)))
}

/// Writes a checkpoint that nnU-Net loads: every alias of a parameter refers to one storage.
///
/// # Errors
/// A place that cannot be written.
pub fn write_checkpoint(path: &Path, trained: &Trained<'_>) -> Result<()> {
    let parameters = trained.parameters;
    assert_eq!(parameters.len(), trained.values.len(), "exchange: values of other parameters");
    let mut storages: Vec<&[f32]> = trained.values.iter().map(Vec::as_slice).collect();
    let weights = keys(parameters).into_iter().map(|(name, number)| {
        let tensor = Value::Tensor(number, parameters[number].shape.clone());
        (Value::Text(name), tensor)
    });
    let weights = Value::OrderedDict(weights.collect());
    let optimiser = match trained.optimiser {
        Some((optimiser, rate)) => optimiser_state(parameters, optimiser, rate, &mut storages),
        None => Value::None,
    };
    let running = trained.history.running_dice().into_iter().flatten();
    let best = running.reduce(f64::max).map_or(Value::None, Value::Float);
    let fold = match trained.fold {
        Fold::Number(number) => Value::Int(number as i64),
        Fold::All => Value::Text("all".to_owned()),
    };
    let text = |text: &str| Value::Text(text.to_owned());
    let arguments = Value::dict([
        ("plans", Value::from(trained.plans)),
        ("configuration", text(CONFIGURATION)),
        ("fold", fold),
        ("dataset_json", Value::from(trained.dataset)),
        ("device", Value::Device("cpu")),
    ]);
    let mirrored = trained.mirrored.iter().map(|&axis| Value::Int(axis as i64)).collect();
    let root = Value::dict([
        ("network_weights", weights),
        ("optimizer_state", optimiser),
        ("grad_scaler_state", Value::None),
        ("logging", logging(trained.history)),
        ("_best_ema", best),
        ("current_epoch", Value::Int(trained.history.epochs.len() as i64)),
        ("init_args", arguments),
        ("trainer_name", text(TRAINER)),
        ("inference_allowed_mirroring_axes", Value::Tuple(mirrored)),
    ]);
    write_torch(path, &root, &storages)
}

/// PyTorch's `SGD.state_dict()`; momentum goes by the numbers of the parameters. A parameter that never had a gradient has none.
fn optimiser_state<'a>(parameters: &[Parameter], optimiser: &'a Optimiser, rate: f64, storages: &mut Vec<&'a [f32]>) -> Value {
    let mut state = Vec::new();
    for (number, (parameter, momentum)) in parameters.iter().zip(&optimiser.momentum).enumerate() {
        if let Some(momentum) = momentum {
            let buffer = Value::Tensor(storages.len(), parameter.shape.clone());
            storages.push(momentum);
            state.push((Value::Int(number as i64), Value::dict([("momentum_buffer", buffer)])));
        }
    }
    // The shortest decimals of the f32 constants, as Python would read them.
    let decimal = |value: f32| Value::Float(value.to_string().parse().unwrap_or(f64::from(value)));
    let group = Value::dict([
        ("lr", Value::Float(rate)),
        ("momentum", decimal(MOMENTUM)),
        ("dampening", Value::Int(0)),
        ("weight_decay", decimal(WEIGHT_DECAY)),
        ("nesterov", Value::Bool(true)),
        ("maximize", Value::Bool(false)),
        ("foreach", Value::None),
        ("differentiable", Value::Bool(false)),
        ("fused", Value::None),
        (
            "params",
            Value::List((0..parameters.len()).map(|number| Value::Int(number as i64)).collect()),
        ),
    ]);
    Value::dict([("state", Value::Dict(state)), ("param_groups", Value::List(vec![group]))])
}

/// nnU-Net's eight lists; a Dice that is not there is NaN, as it writes it.
fn logging(history: &History) -> Value {
    let known = |dice: Option<f64>| Value::Float(dice.unwrap_or(f64::NAN));
    let list = |of: &dyn Fn(&super::trainer::history::Epoch) -> Value| Value::List(history.epochs.iter().map(of).collect());
    Value::dict([
        ("mean_fg_dice", list(&|epoch| known(epoch.mean_dice()))),
        ("ema_fg_dice", Value::List(history.running_dice().into_iter().map(known).collect())),
        (
            "dice_per_class_or_region",
            list(&|epoch| Value::List(epoch.dice.iter().copied().map(known).collect())),
        ),
        ("train_losses", list(&|epoch| Value::Float(epoch.train_loss))),
        ("val_losses", list(&|epoch| Value::Float(epoch.validation_loss))),
        ("lrs", list(&|epoch| Value::Float(epoch.learning_rate))),
        ("epoch_start_timestamps", list(&|epoch| Value::Float(epoch.started))),
        ("epoch_end_timestamps", list(&|epoch| Value::Float(epoch.ended))),
    ])
}
