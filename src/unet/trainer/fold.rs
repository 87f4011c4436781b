//! One fold from preprocessed cases to `fold_X/checkpoint_final.pth`: which cases, from which weights, where to go on.

use super::batches::{Case, Feed, reductions};
use super::checkpoint::{self, State};
use super::run::{Run, Settings};
use super::schedule::{learning_rate, validation_iterations};
use super::siblings::{OtherSettings, check_model};
use crate::device::Device;
use crate::error::InputError;
use crate::keyed_rng::keyed_rng;
use crate::stop::Stop;
use crate::unet::augment::Augmentation;
use crate::unet::dataset::Dataset;
use crate::unet::exchange::{Fold, Trained, write_model};
use crate::unet::loss;
use crate::unet::model;
use crate::unet::network::Network;
use crate::unet::plan::Plans;
use crate::unet::splits::{Split, fold};
use crate::unet::store::StoredCase;
use crate::{atomic_file, bad_input, note, sha256, warning};
use anyhow::{Context, Result};
use rand::RngExt;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

/// The weights that a finished fold has.
pub const FINAL: &str = "checkpoint_final.pth";
/// What a fold is trained with; a run that goes on must be given the same.
pub(crate) const SETTINGS: &str = "training.json";
const LOCK: &str = "training.lock";
/// Folder of the held-out cases as the fold's network segments them.
pub const VALIDATION: &str = "validation";

/// Preprocessed cases and what they were made by.
pub struct Prepared {
    /// The folder that `hpc-seg preprocess` wrote.
    pub folder: PathBuf,
    /// Its plans.
    pub plans: Plans,
    /// Its `dataset.json`.
    pub dataset: Dataset,
    /// Its folds.
    pub splits: Vec<Split>,
}

impl Prepared {
    /// Opens a folder that `hpc-seg preprocess` wrote.
    ///
    /// # Errors
    /// Files that are missing or damaged.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("splits_final.json");
        let read = |text: String| serde_json::from_str::<Vec<Split>>(&text).ok();
        let splits = match fs::read_to_string(&path).ok().and_then(read) {
            Some(splits) if !splits.is_empty() => splits,
            _ => bad_input!(
                "{}: cannot be read; it must hold [{{\"train\": [names], \"val\": [names]}}, ...] as hpc-seg preprocess writes it",
                path.display()
            ),
        };
        Ok(Self {
            folder: folder.to_owned(),
            plans: Plans::read(&folder.join("nnUNetPlans.json"))?,
            dataset: Dataset::open(folder)?,
            splits,
        })
    }

    /// Names of the cases of a fold.
    pub fn split(&self, number: Fold) -> Split {
        let all = self.all_cases();
        match number {
            Fold::All => Split {
                train: all.clone(),
                val: all,
            },
            Fold::Number(number) => fold(&self.splits, &all, number),
        }
    }

    /// Those that the folds name, and all others that are preprocessed, as nnU-Net takes them.
    fn all_cases(&self) -> Vec<String> {
        let named = self.splits.iter().flat_map(|split| split.train.iter().chain(&split.val)).cloned();
        let entries = fs::read_dir(self.folder.join(&self.plans.configuration.data_identifier))
            .into_iter()
            .flatten()
            .flatten();
        let there = entries.filter_map(|entry| {
            let path = entry.path();
            let is_case = path.extension().is_some_and(|ending| ending == "data") && path.with_extension("json").is_file();
            is_case.then(|| path.file_stem()?.to_str().map(str::to_owned)).flatten()
        });
        named.chain(there).collect::<BTreeSet<String>>().into_iter().collect()
    }

    /// A case's arrays.
    ///
    /// # Errors
    /// Files that are missing or damaged.
    pub fn case(&self, name: &str) -> Result<StoredCase> {
        let folder = self.folder.join(&self.plans.configuration.data_identifier);
        if !folder.join(format!("{name}.json")).is_file() {
            bad_input!(
                "{name}: is named in {}, but not preprocessed (if it failed, {} says why); mend it and run hpc-seg preprocess again, or take it out of the data set and of the former file",
                self.folder.join("splits_final.json").display(),
                folder.join("failed.csv").display()
            );
        }
        StoredCase::open(&folder, name)
    }

    /// The arrays of these cases; pseudo-labelled ones are those with a map of uncertainty, and those `pseudo` names.
    fn cases(&self, names: &[String], pseudo: &BTreeSet<String>, pseudo_weight: f32) -> Result<Vec<Case>> {
        let case = |name: &String| {
            let stored = self.case(name)?;
            let (channels, planned) = (stored.header().channels, self.plans.configuration.normalisation.len());
            if channels != planned || stored.header().shape.contains(&0) {
                bad_input!(
                    "{}: {name} has {channels} channels and {:?} voxels, the plan is for {planned} channels; run hpc-seg preprocess again",
                    self.folder.display(),
                    stored.header().shape
                );
            }
            let is_pseudo = stored.header().has_uncertainty || pseudo.contains(name);
            Ok(Case {
                name: name.clone(),
                stored,
                weight: if is_pseudo { pseudo_weight } else { 1.0 },
            })
        };
        names.iter().map(case).collect()
    }
}

/// What to train.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which cases.
    pub fold: Fold,
    /// The model's folder.
    pub out: PathBuf,
    /// Chooses initial weights, patches and augmentation.
    pub seed: u64,
    /// Most epochs.
    pub epochs: usize,
    /// Steps of an epoch.
    pub iterations: usize,
    /// Seconds that may be taken.
    pub time_budget: Option<f64>,
    /// Epochs without a better Dice after which training ends.
    pub patience: Option<usize>,
    /// Seconds between checkpoints.
    pub checkpoint_seconds: f64,
    /// Threads that make batches.
    pub loaders: usize,
    /// Axes along which patches are mirrored.
    pub mirrored: Vec<usize>,
    /// Names of pseudo-labelled cases, besides those with a map of uncertainty.
    pub pseudo: BTreeSet<String>,
    /// How much their voxels count.
    pub pseudo_weight: f32,
    /// A checkpoint whose weights training starts from.
    pub pretrained: Option<PathBuf>,
    /// Whether those of the heads are taken too.
    pub pretrained_heads: bool,
    /// Whether there must be a checkpoint to go on from.
    pub must_resume: bool,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was trained now.
    Trained,
    /// It was finished before, by the same settings.
    WasFinished,
}

/// Trains a fold, or goes on with it.
///
/// # Errors
/// Cases that cannot be read, settings other than those it was begun with, another process at work, a stop, a loss that is no number, a full disk.
pub fn train(prepared: &Prepared, request: &Request, device: &Device, stop: &Stop) -> Result<Outcome> {
    let folder = request.out.join(format!("fold_{}", request.fold));
    atomic_file::create_output(&folder)?;
    let _lock = lock(&folder)?;
    atomic_file::remove_leftovers(&folder);
    let split = prepared.split(request.fold);
    if split.train.is_empty() || split.val.is_empty() {
        bad_input!(
            "fold {} has {} cases to train on and {} held out; give more cases, or --fold all",
            request.fold,
            split.train.len(),
            split.val.len()
        );
    }
    warn_of_overlap(request.fold, &split);
    warn_of_unnamed(prepared, &split);
    let training = prepared.cases(&split.train, &request.pseudo, request.pseudo_weight)?;
    let validation = prepared.cases(&split.val, &BTreeSet::new(), 1.0)?;
    check_model(prepared, &request.out, &[request.fold])?;
    let settings = settings_of(prepared, request, &training, &validation)?;
    let is_new = agree_on_settings(&folder, &settings)?;
    if is_new && folder.join(FINAL).is_file() {
        bad_input!(
            "{}: holds a network, but no {SETTINGS} that says what it was trained with; choose another --out, or start anew with --restart",
            folder.display()
        );
    }
    if folder.join(FINAL).is_file() {
        checkpoint::remove(&folder);
        return Ok(Outcome::WasFinished);
    }
    forget_held_out(&folder)?; // of an earlier network; under the lock, and before there is a new one
    let seed = keyed_rng(request.seed, &["fold", &request.fold.to_string()]).random::<u64>();
    let mut state = start(prepared, request, &folder, seed)?;
    if is_new {
        atomic_file::write_bytes(&folder.join(SETTINGS), (serde_json::to_string_pretty(&settings)? + "\n").as_bytes())?;
    }
    let configuration = &prepared.plans.configuration;
    let settings = Settings {
        epochs: request.epochs,
        iterations: request.iterations,
        validation_iterations: validation_iterations(request.iterations),
        time_budget: request.time_budget,
        patience: request.patience,
        checkpoint_seconds: request.checkpoint_seconds,
        loaders: request.loaders,
        loss: loss::Settings {
            batch_dice: configuration.batch_dice,
            ignore: prepared.dataset.ignore.map(|label| label as i16),
        },
    };
    let feed = Feed {
        training: &training,
        validation: &validation,
        augmentation: Augmentation {
            patch: configuration.patch_size,
            mirrored: request.mirrored.clone(),
            masked: configuration.normalisation.iter().map(|n| n.uses_mask).collect(),
        },
        batch: configuration.batch_size,
        reductions: reductions(&configuration.architecture),
        seed,
    };
    let run = Run {
        device,
        feed: &feed,
        settings: &settings,
        folder: &folder,
        classes: &prepared.dataset.labels[1..],
        stop,
    };
    run.go(&mut state)?;
    finish(prepared, request, &folder, &state)?;
    Ok(Outcome::Trained)
}

/// Cases that no fold names may be new, or may have been taken out of the data set.
fn warn_of_unnamed(prepared: &Prepared, split: &Split) {
    let of_folds = prepared.splits.iter().flat_map(|split| split.train.iter().chain(&split.val));
    let of_folds: BTreeSet<&String> = of_folds.collect();
    let all: BTreeSet<&String> = split.train.iter().chain(&split.val).collect();
    let unnamed: Vec<&str> = all.difference(&of_folds).map(|name| name.as_str()).collect();
    if !unnamed.is_empty() {
        warning!(
            "{}: also takes cases that splits_final.json does not name: {}; of those that are in the data set no longer remove the files there",
            prepared.folder.join(&prepared.plans.configuration.data_identifier).display(),
            unnamed.join(", ")
        );
    }
}

fn warn_of_overlap(fold: Fold, split: &Split) {
    let both: Vec<&String> = split.val.iter().filter(|name| split.train.contains(name)).collect();
    if let (Fold::Number(number), Some(first)) = (fold, both.first()) {
        warning!(
            "fold {number}: {} of the held-out cases are trained on too, such as {first}: its scores will look better than they are; mend splits_final.json",
            both.len()
        );
    }
}

/// Holds the folder until it is dropped.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => bad_input!(
            "another hpc-seg is training in {}; wait for it, or choose another --fold or --out",
            folder.display()
        ),
        // Not every network file system knows locks; training works without one.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// All that results depend on.
fn settings_of(prepared: &Prepared, request: &Request, training: &[Case], validation: &[Case]) -> Result<Value> {
    let names = |cases: &[Case]| -> Value {
        let entries = cases.iter().map(|case| (case.name.clone(), json!(case.stored.header().sha256)));
        Value::Object(entries.collect())
    };
    let weighed = training.iter().filter(|case| case.weight != 1.0).map(|case| &case.name);
    Ok(json!({
        "fold": request.fold.to_string(),
        "seed": request.seed,
        "epochs": request.epochs,
        "iterations": request.iterations,
        "time_budget_seconds": request.time_budget,
        "patience": request.patience,
        "mirrored_axes": request.mirrored,
        "pseudo_weight": request.pseudo_weight,
        "pseudo_labelled": weighed.collect::<Vec<_>>(),
        "pretrained_sha256": request.pretrained.as_deref().map(sha256::of_file).transpose()?,
        "pretrained_heads": request.pretrained.is_some() && request.pretrained_heads,
        "plans": prepared.plans.to_json(),
        "training_cases": names(training),
        "validation_cases": names(validation),
    }))
}

/// Checks that `training.json` says the same; whether there is none yet.
fn agree_on_settings(folder: &Path, settings: &Value) -> Result<bool> {
    let path = folder.join(SETTINGS);
    if !path.is_file() {
        return Ok(true);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let before: Value = serde_json::from_str(&text).unwrap_or_default();
    let changed = settings.as_object().into_iter().flatten();
    let changed: Vec<&str> = changed
        .filter(|(key, value)| before.get(key.as_str()) != Some(value))
        .map(|(key, _)| key.as_str())
        .collect();
    if !changed.is_empty() {
        let text = format!(
            "{}: this fold was begun with other {}; give the same again, choose another --out, or start anew with --restart",
            path.display(),
            changed.join(", ")
        );
        return Err(anyhow::Error::new(InputError::new(text)).context(OtherSettings));
    }
    Ok(false)
}

/// The state of the last checkpoint, or that of a beginning.
fn start(prepared: &Prepared, request: &Request, folder: &Path, seed: u64) -> Result<State> {
    let configuration = &prepared.plans.configuration;
    let mut network = Network::new(
        &configuration.architecture,
        configuration.normalisation.len(),
        prepared.dataset.classes(),
        seed,
    );
    if let Some(state) = State::resume(folder, &network)? {
        let course = &state.course;
        note!(
            "{}: going on after epoch {} and {} batches",
            folder.display(),
            course.history.epochs.len(),
            course.running.batches
        );
        return Ok(state);
    }
    if request.must_resume {
        bad_input!("{}: holds no checkpoint to go on from; leave out --resume", folder.display());
    }
    if let Some(path) = &request.pretrained {
        model::load_pretrained(path, &mut network, request.pretrained_heads)?;
    }
    Ok(State {
        network,
        optimiser: Default::default(),
        course: Default::default(),
    })
}

/// Writes the model, and removes the checkpoints on the way to it.
fn finish(prepared: &Prepared, request: &Request, folder: &Path, state: &State) -> Result<()> {
    // Should the model not find room, nothing has to be trained again.
    if let Err(error) = state.save(folder) {
        warning!("{error:#}");
    }
    let history = &state.course.history;
    let rate = learning_rate(history.epochs.len().saturating_sub(1), state.course.epochs);
    write_model(
        &request.out,
        &Trained {
            parameters: &state.network.parameters,
            values: &state.network.values,
            optimiser: Some((&state.optimiser, rate)),
            history,
            plans: &prepared.plans.to_json(),
            dataset: &prepared.dataset.description(),
            fold: request.fold,
            mirrored: &request.mirrored,
        },
    )?;
    checkpoint::remove(folder);
    Ok(())
}

fn forget_held_out(folder: &Path) -> Result<()> {
    let masks = folder.join(VALIDATION);
    match masks.is_dir() {
        true => fs::remove_dir_all(&masks).with_context(|| format!("{}: cannot be removed", masks.display())),
        false => Ok(()),
    }
}

/// Removes what a fold's folder knows of earlier training, so that it begins anew.
///
/// # Errors
/// Files that cannot be removed; another process at work.
pub fn restart(out: &Path, fold: Fold) -> Result<()> {
    clear(&out.join(format!("fold_{fold}")))
}

/// The same of the fold in a folder.
pub(super) fn clear(folder: &Path) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    let _lock = lock(folder)?;
    let remove = |name: &str| {
        let path = folder.join(name);
        match path.is_file() {
            true => fs::remove_file(&path).with_context(|| format!("{}: cannot be removed", path.display())),
            false => Ok(()),
        }
    };
    forget_held_out(folder)?; // first: were it killed in between, nobody would take old masks for new ones
    remove(FINAL)?;
    checkpoint::remove(folder);
    remove(SETTINGS) // last: without them, nothing says that what is left belongs to other ones
}
