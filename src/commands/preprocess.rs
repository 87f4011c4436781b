//! `hpc-seg preprocess`: a data set made ready for training.

use super::{thread_count, write_json};
use crate::cli::unet::PreprocessArgs;
use crate::cohort::held_out::REFERENCES;
use crate::cohort::journal::Journal;
use crate::cohort::output;
use crate::cohort::runner::{self, CaseOutcome, Conditions, Exit, Task};
use crate::cohort::signals;
use crate::device::Device;
use crate::messages::{self, Progress};
use crate::stop::Stop;
use crate::unet::dataset::{CaseFiles, Dataset};
use crate::unet::plan::Plans;
use crate::unet::preprocess::preprocess;
use crate::unet::splits::{Split, five_folds};
use crate::{atomic_file, bad_input, note, warning};
use anyhow::{Context, Result};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Threads that one case keeps busy; with more, several cases are in work.
const THREADS_PER_CASE: usize = 4;

pub(super) fn run(args: &PreprocessArgs) -> Result<Exit> {
    let stop = Stop::new();
    signals::install(&stop)?;
    make_ready(args, &stop)
}

/// The same, for a command that listens to signals already.
pub(super) fn make_ready(args: &PreprocessArgs, stop: &Stop) -> Result<Exit> {
    let plans = Plans::read(&args.plans)?;
    let dataset = Dataset::open(&args.dataset)?;
    let mut cases = dataset.cases()?;
    if let Some(maps) = &args.uncertainty {
        dataset.find_uncertainty(&mut cases, maps)?;
    }
    let folder = args.out.join(&plans.configuration.data_identifier);
    let tasks: Vec<Task<CaseFiles>> = cases.into_iter().map(task).collect();
    let references = args.out.join(REFERENCES);
    let inputs = [args.dataset.join("imagesTr"), args.dataset.join("labelsTr")];
    output::prepare(&folder, &inputs, tasks.iter().flat_map(|task| &task.outputs))?;
    let mut journal = Journal::open(&folder)?;
    if journal.presence().is_alone() {
        atomic_file::remove_leftovers(&args.out);
        atomic_file::remove_leftovers(&references);
    }
    if journal.presence().is_first() {
        write_descriptions(&args.out, &dataset, &plans, &tasks)?;
    }
    let conditions = Conditions {
        device: "cpu".into(),
        weights_sha256: String::new(),
        settings: json!({"plans": plans.to_json(), "dataset": dataset.description()}),
    };
    let threads = thread_count(args.threads)?;
    let device = Device::cpu(threads)?;
    let worker = || {
        let (device, dataset, plans, folder, references) = (&device, &dataset, &plans, &folder, &references);
        move |task: &Task<CaseFiles>, _: &Stop, progress: &Progress| {
            progress.stage("preprocessing", 0);
            let (ready, header) = device.install(|| preprocess(dataset, plans, &task.payload))?;
            progress.stage("writing", 0);
            if let Some(label) = &task.payload.label {
                keep_reference(label, references, &format!("{}{}", task.name, dataset.ending))?;
            }
            ready.write(folder, &task.name)?;
            let [d, h, w] = ready.shape;
            Ok(CaseOutcome {
                line: format!("{d} x {h} x {w} voxels"),
                warnings: ready.warnings().into_iter().chain(header.geometry().contradiction()).collect(),
            })
        }
    };
    let workers = (0..threads.div_ceil(THREADS_PER_CASE)).map(|_| worker()).collect();
    let summary = runner::run(&folder, &mut journal, &tasks, &conditions, stop, workers)?;
    note!("{}", summary.line(&folder));
    if args.json {
        messages::data_json(&summary)?;
    }
    Ok(summary.exit())
}

/// What training asks of the folder, besides the cases.
fn write_descriptions(out: &Path, dataset: &Dataset, plans: &Plans, tasks: &[Task<CaseFiles>]) -> Result<()> {
    write_json(&out.join("dataset.json"), &dataset.json)?;
    write_json(&out.join("nnUNetPlans.json"), &plans.to_json())?;
    let splits = out.join("splits_final.json");
    let names: Vec<String> = tasks.iter().map(|task| task.name.clone()).collect();
    let given = given_splits(&dataset.folder.join("splits_final.json"))?;
    if !splits.is_file() {
        write_json(&splits, &given.clone().unwrap_or_else(|| five_folds(&names)))?;
    } else if given.is_some_and(|given| read_splits(&splits).is_none_or(|there| there != given)) {
        warning!(
            "{}: other folds than those in {}, which are not taken; remove the file to take them",
            splits.display(),
            dataset.folder.display()
        );
    }
    warn_of_other_cases(&splits, &names);
    Ok(())
}

/// The data set's own folds, such as by patient, if it has some.
fn given_splits(path: &Path) -> Result<Option<Vec<Split>>> {
    match read_splits(path) {
        None if path.is_file() => bad_input!(
            "{}: cannot be read; it must hold [{{\"train\": [names], \"val\": [names]}}, ...], or be taken away",
            path.display()
        ),
        splits => Ok(splits),
    }
}

fn read_splits(path: &Path) -> Option<Vec<Split>> {
    let splits: Vec<Split> = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
    (!splits.is_empty()).then_some(splits)
}

/// Says which cases the folds name that the data set has no longer, and which it has that they do not name.
fn warn_of_other_cases(path: &Path, names: &[String]) {
    let Some(splits) = read_splits(path) else {
        return; // training says so
    };
    let of_folds: BTreeSet<&String> = splits.iter().flat_map(|split| split.train.iter().chain(&split.val)).collect();
    let names: BTreeSet<&String> = names.iter().collect();
    let listed = |cases: Vec<&&String>| cases.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    let (gone, new) = (
        of_folds.difference(&names).collect::<Vec<_>>(),
        names.difference(&of_folds).collect::<Vec<_>>(),
    );
    if !gone.is_empty() {
        warning!(
            "{}: networks are still trained on cases that the data set has no longer: {}; remove the file to have folds made anew",
            path.display(),
            listed(gone)
        );
    }
    if !new.is_empty() {
        warning!(
            "{}: no network but that of --fold all is trained on cases that came later: {}; remove the file to have folds made anew",
            path.display(),
            listed(new)
        );
    }
}

/// A copy of the label as it is, which predictions of held-out cases are compared with.
fn keep_reference(label: &Path, folder: &Path, name: &str) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let bytes = fs::read(label).with_context(|| format!("{}: cannot be read", label.display()))?;
    atomic_file::write_bytes(&folder.join(name), &bytes)
}

fn task(case: CaseFiles) -> Task<CaseFiles> {
    let channels = case.images.iter().enumerate();
    let mut inputs: Vec<(String, PathBuf)> = channels
        .map(|(channel, path)| (format!("channel {channel}"), path.clone()))
        .collect();
    inputs.extend(case.label.iter().map(|path| ("label".to_owned(), path.clone())));
    inputs.extend(case.uncertainty.iter().map(|path| ("uncertainty".to_owned(), path.clone())));
    Task {
        name: case.name.clone(),
        inputs,
        // The description last: where it is, the arrays are too.
        outputs: vec![
            PathBuf::from(format!("{}.data", case.name)),
            PathBuf::from(format!("{}.json", case.name)),
        ],
        unwanted: Vec::new(),
        payload: case,
    }
}
