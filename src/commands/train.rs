//! `hpc-seg train`: folds of a model, from a data set or its preprocessed cases.

use super::{preprocess, thread_count, write_json};
use crate::cli::train::TrainArgs;
use crate::cli::unet::PreprocessArgs;
use crate::cohort::presence::is_busy;
use crate::cohort::runner::Exit;
use crate::cohort::signals;
use crate::cohort::{held_out, postprocessing};
use crate::device::Device;
use crate::machine::Machine;
use crate::messages::Progress;
use crate::stop::{Stop, is_stopped};
use crate::unet::dataset::Dataset;
use crate::unet::exchange::Fold;
use crate::unet::fingerprint;
use crate::unet::memory;
use crate::unet::plan::{Overrides, Plans, plan};
use crate::unet::trainer::fold::{self, Outcome, Prepared, Request};
use crate::unet::trainer::schedule::{epoch_seconds, validation_iterations};
use crate::unet::trainer::siblings;
use crate::{atomic_file, bad_input, note, warning};
use anyhow::Result;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// Threads of arithmetic that one thread of batches feeds.
const THREADS_PER_LOADER: usize = 8;
/// Time between two looks at what other processes do.
const LOOK: Duration = Duration::from_millis(500);

pub(super) fn run(args: &TrainArgs) -> Result<Exit> {
    let request = request(args)?;
    let folds = args.fold.iter().map(|fold| fold_of(fold)).collect::<Result<Vec<_>>>()?;
    let stop = Stop::new();
    signals::install(&stop)?;
    let device = Device::cpu(thread_count(args.threads)?)?;
    let is_preprocessed = args.dataset.join("nnUNetPlans.json").is_file();
    if let (true, Some(plans)) = (is_preprocessed, &args.plans) {
        bad_input!(
            "--plans {}: the cases in {} are preprocessed by their own nnUNetPlans.json; leave --plans out, or give the data set they were made of",
            plans.display(),
            args.dataset.display()
        );
    }
    let folder = match is_preprocessed {
        true => args.dataset.clone(),
        false => loop {
            match prepare(args, &folds, &device, &stop)? {
                (folder, Exit::Done) => break folder,
                (folder, Exit::Elsewhere(_)) => wait_for_others(&folder, &stop)?,
                (folder, Exit::SomeFailed) => bad_input!(
                    "nothing was trained, because not all cases could be preprocessed ({} says why, in the folder of the cases); mend them, or take them out of the data set",
                    folder.join("*/failed.csv").display()
                ),
                (_, Exit::Stopped) => return Ok(Exit::Stopped),
            }
        },
    };
    let prepared = Prepared::open(&folder)?;
    check_memory(&prepared)?;
    check_pseudo(&prepared, &request)?;
    if is_unlabelled(&prepared) {
        warning!(
            "{}: no case has a labelled voxel, so that the networks will learn to label nothing; check the labels that it was made of",
            folder.display()
        );
    }
    if args.restart {
        siblings::check_model(&prepared, &args.out, &folds)?; // before anything is lost
        postprocessing::forget(&args.out)?; // first: it is of all networks together
        folds.iter().try_for_each(|fold| fold::restart(&args.out, *fold))?;
    }
    for fold in folds {
        let request = Request { fold, ..request.clone() };
        let place = args.out.join(format!("fold_{fold}"));
        if !place.join(fold::FINAL).is_file() {
            postprocessing::forget(&args.out)?; // it was decided with another network
        }
        let outcome = fold::train(&prepared, &request, &device, &stop).inspect_err(|error| {
            if args.restart && is_stopped(error) {
                note!("to go on with it, leave --restart out, which would begin anew");
            }
        })?;
        match outcome {
            Outcome::Trained => note!("{}: trained", place.display()),
            Outcome::WasFinished => note!("{}: was finished before", place.display()),
        }
        if !args.no_validation && (outcome == Outcome::Trained || !held_out::is_done(&prepared, &args.out, fold)) {
            let evaluation = held_out::compare(&prepared, &args.out, fold, &device, &stop)?;
            note!("{}: the held-out cases\n{}", place.display(), evaluation.table().trim_end());
        }
    }
    if let Some(found) = postprocessing::decide(&prepared, &args.out, &stop)? {
        let masks: Vec<&[u8]> = found.masks().collect();
        match masks.is_empty() {
            true => note!("all folds are trained; keeping largest components does not help"),
            false => {
                note!("all folds are trained; of labels {masks:?} only the largest component is to be kept (hpc-seg predict --postprocess)")
            }
        }
    }
    Ok(Exit::Done)
}

/// Refuses names of pseudo-labelled cases that are none: their cases would count in full.
fn check_pseudo(prepared: &Prepared, request: &Request) -> Result<()> {
    let cases = prepared.split(Fold::All).train;
    if let Some(unknown) = request.pseudo.iter().find(|name| !cases.contains(name)) {
        bad_input!(
            "--pseudo-cases: {} has no case {unknown}; give names without _0000 and ending",
            prepared.folder.display()
        );
    }
    Ok(())
}

/// Waits until no other process preprocesses cases below `folder`.
fn wait_for_others(folder: &Path, stop: &Stop) -> Result<()> {
    note!("waiting for cases that another hpc-seg preprocesses");
    let is_others = || {
        fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| is_busy(&entry.path()))
    };
    while is_others() {
        stop.check()?;
        sleep(LOOK);
    }
    sleep(LOOK); // a process that has claimed a case and is gone, or is about to claim the next
    stop.check()
}

/// Whether all cases that can be read are background.
fn is_unlabelled(prepared: &Prepared) -> bool {
    let names = prepared.split(Fold::All).train;
    let mut cases = names.iter().filter_map(|name| prepared.case(name).ok()).peekable();
    cases.peek().is_some() && cases.all(|case| case.header().locations.iter().all(|(_, count)| *count == 0))
}

/// Says what a step takes, and refuses what this machine never had.
fn check_memory(prepared: &Prepared) -> Result<()> {
    let step = memory::of_plan(&prepared.plans.configuration, prepared.dataset.classes());
    let machine = Machine::detect();
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let needed = step.total() as u64;
    if let Some(all) = machine.memory_bytes.filter(|all| needed > *all) {
        bad_input!(
            "a training step takes {:.1} GiB, this machine has {:.1}; plan with a smaller --patch, --batch or --features",
            gib(needed),
            gib(all)
        );
    }
    match machine.memory_available_bytes.filter(|available| needed > *available) {
        Some(available) => warning!("a training step takes {:.1} GiB, {:.1} are free", gib(needed), gib(available)),
        None => note!("a training step takes {:.2} GiB", gib(needed)),
    }
    Ok(())
}

pub(super) fn request(args: &TrainArgs) -> Result<Request> {
    for (option, number) in [("--epochs", args.epochs), ("--iterations", args.iterations)] {
        if !(1..=1_000_000).contains(&number) {
            bad_input!("{option} {number}: 1 to 1000000 are possible");
        }
    }
    if !(args.pseudo_weight >= 0.0 && args.pseudo_weight.is_finite()) {
        bad_input!(
            "--pseudo-weight {}: give a number from 0 (they count nothing) upwards",
            args.pseudo_weight
        );
    }
    if !(args.checkpoint_minutes > 0.0 && args.checkpoint_minutes < 1e6) {
        bad_input!("--checkpoint-minutes {}: give minutes above 0", args.checkpoint_minutes);
    }
    if args.patience == Some(0) {
        bad_input!("--patience 0: give at least one epoch, or leave it out");
    }
    let threads = thread_count(args.threads)?;
    Ok(Request {
        fold: Fold::All,
        out: args.out.clone(),
        seed: args.seed,
        epochs: args.epochs,
        iterations: args.iterations,
        time_budget: args.time_budget.as_deref().map(seconds).transpose()?,
        patience: args.patience,
        checkpoint_seconds: 60.0 * args.checkpoint_minutes,
        loaders: args.loaders.unwrap_or(threads.div_ceil(THREADS_PER_LOADER)).clamp(1, 64),
        mirrored: if args.no_mirroring { Vec::new() } else { vec![0, 1, 2] },
        pseudo: args.pseudo_cases.as_deref().map(names).transpose()?.unwrap_or_default(),
        pseudo_weight: args.pseudo_weight,
        pretrained: args.pretrained.clone().or(args.warm_start.clone()),
        pretrained_heads: args.warm_start.is_some(),
        must_resume: args.resume,
    })
}

/// The most seconds that a network's training takes, if a step takes `step_seconds`.
pub(super) fn longest_seconds(args: &TrainArgs, step_seconds: f64) -> Result<f64> {
    let Request {
        epochs,
        iterations,
        time_budget,
        ..
    } = request(args)?;
    let all = epochs as f64 * epoch_seconds(step_seconds, iterations, validation_iterations(iterations));
    Ok(time_budget.map_or(all, |budget| budget.min(all)))
}

fn fold_of(text: &str) -> Result<Fold> {
    match (text, text.parse()) {
        ("all", _) => Ok(Fold::All),
        (_, Ok(number)) if number < 1000 => Ok(Fold::Number(number)),
        _ => bad_input!("--fold {text}: give 0, 1, 2, 3, 4, or all"),
    }
}

/// A time such as `8h`, `90m` or `45s`, in seconds.
fn seconds(text: &str) -> Result<f64> {
    let unit = match text.chars().last() {
        Some('h') => 3600.0,
        Some('m') => 60.0,
        Some('s') => 1.0,
        _ => bad_input!("--time-budget {text}: give a time with its unit, such as 8h, 90m or 45s"),
    };
    match text[..text.len() - 1].parse::<f64>() {
        Ok(count) if count > 0.0 && count < 1e6 => Ok(count * unit),
        _ => bad_input!("--time-budget {text}: give a time with its unit, such as 8h, 90m or 45s"),
    }
}

fn names(path: &Path) -> Result<BTreeSet<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect()),
        Err(error) => bad_input!(
            "{}: cannot be read ({error}); give a file with a case's name on each line",
            path.display()
        ),
    }
}

/// Plans and preprocesses a data set; the folder of the cases.
fn prepare(args: &TrainArgs, folds: &[Fold], device: &Device, stop: &Stop) -> Result<(PathBuf, Exit)> {
    let folder = args.out.join("preprocessed");
    let plans = match &args.plans {
        Some(plans) => {
            // Before cases that a fold goes on with are preprocessed by others.
            let anew: &[Fold] = if args.restart { folds } else { &[] };
            siblings::agree_on_plans(&args.out, &Plans::read(plans)?.to_json(), anew)?;
            plans.clone()
        }
        None => {
            let planned = folder.join("nnUNetPlans.json");
            if !planned.is_file() {
                plan_to(&args.dataset, &planned, device, stop)?;
            }
            planned
        }
    };
    let asked = PreprocessArgs {
        dataset: args.dataset.clone(),
        plans,
        out: folder.clone(),
        uncertainty: None,
        threads: args.threads,
        json: false,
    };
    let exit = preprocess::make_ready(&asked, stop)?;
    Ok((folder, exit))
}

fn plan_to(dataset: &Path, path: &Path, device: &Device, stop: &Stop) -> Result<()> {
    let dataset = Dataset::open(dataset)?;
    let cases = dataset.cases()?;
    let folder = path.parent().unwrap_or(path);
    atomic_file::create_output(folder)?;
    let progress = Progress::new("plan");
    progress.stage("reading", cases.len() as u64);
    let taken = device.install(|| fingerprint::fingerprint(&dataset, &cases, stop, || progress.advance(1)))?;
    write_json(&folder.join(fingerprint::FILE), &taken)?;
    write_json(path, &plan(&dataset, &taken, &Overrides::default())?.to_json())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cohort::phantoms;
    use crate::messages::Progress;
    use crate::volume::phantom::Sequence;

    #[test]
    fn times_have_units() {
        assert_eq!(seconds("8h").unwrap(), 28_800.0);
        assert_eq!(seconds("1.5m").unwrap(), 90.0);
        assert_eq!(seconds("45s").unwrap(), 45.0);
        for wrong in ["8", "h", "-1h", "0s", "nanh", "", "1d", "8é"] {
            assert!(seconds(wrong).unwrap_err().to_string().contains("such as 8h"), "{wrong}");
        }
    }

    #[test]
    fn folds_are_numbers_or_all() {
        assert_eq!(fold_of("all").unwrap(), Fold::All);
        assert_eq!(fold_of("4").unwrap(), Fold::Number(4));
        assert!(fold_of("-1").is_err() && fold_of("first").is_err());
    }

    #[test]
    fn a_data_set_is_planned_with_its_fingerprint_beside_the_plans() {
        let folder = tempfile::tempdir().unwrap();
        let (data, out) = (folder.path().join("data"), folder.path().join("out"));
        let request = phantoms::Request {
            cases: 3,
            first: 0,
            labelled: 3,
            out: data.clone(),
            seed: 0,
            sequence: Sequence::Ged4,
            size: Some([6, 40, 48]),
            organ: None,
        };
        let stop = Stop::new();
        phantoms::write(&request, &stop, &Progress::silent()).unwrap();
        plan_to(&data, &out.join("nnUNetPlans.json"), &Device::cpu(1).unwrap(), &stop).unwrap();
        let fingerprint = fs::read_to_string(out.join(fingerprint::FILE)).unwrap();
        assert!(fingerprint.contains("shapes_after_crop"), "{fingerprint}");
        assert!(Plans::read(&out.join("nnUNetPlans.json")).is_ok());
    }
}
