//! `--dry-run`: the steps, with the memory and time that training and the initial pseudo-labels take on this machine.

use super::parsed;
use crate::cli::run::RunArgs;
use crate::cli::{Cli, Command};
use crate::cohort::runner::Exit;
use crate::commands::{plan, train};
use crate::ssl::round::{Member, write_dataset};
use crate::ssl::settings;
use crate::ssl::status::Status;
use crate::ssl::work::Work;
use crate::unet::dataset::Dataset;
use crate::unet::fingerprint::fingerprint;
use crate::unet::memory;
use crate::unet::plan::Plans;
use crate::unet::trainer::timing::step_seconds;
use crate::{clock, messages};
use anyhow::{Result, anyhow};
use serde::Serialize;
use std::ffi::OsString;

#[derive(Serialize)]
struct Shown {
    status: Status,
    training: Training,
}

/// What the training of one network takes.
#[derive(Serialize)]
struct Training {
    /// Whether the plan is that of the run, or one of the labelled cases alone for now.
    is_planned: bool,
    patch: [usize; 3],
    batch: usize,
    step_bytes: usize,
    /// Measured.
    step_seconds: f64,
    fold_seconds: f64,
    /// Of all rounds, one network after the other, should the labels not settle before.
    seconds: f64,
}

pub(super) fn show(args: &RunArgs, work: &Work<'_>) -> Result<Exit> {
    let status = Status::planned(work)?;
    let folds = status.steps.iter().filter(|step| step.step.contains("/fold_")).count();
    let training = training(work, folds)?;
    if args.json {
        messages::data_json(&Shown { status, training })?;
        return Ok(Exit::Done);
    }
    let [z, y, x] = training.patch;
    let plan = if training.is_planned {
        ""
    } else {
        " (by the labelled cases; planned anew from all)"
    };
    messages::data(&format!(
        "{}\nTraining{plan}: patch {z} x {y} x {x}, {} of them a step, {:.2} GiB and {:.2} s (measured); about {} a network, {} in all for one process\n\nThe initial pseudo-labels:\n",
        status.table(),
        training.batch,
        training.step_bytes as f64 / f64::from(1 << 30),
        training.step_seconds,
        clock::spoken(training.fold_seconds),
        clock::spoken(training.seconds),
    ))?;
    let options = ("--label-options", work.settings.label_options.as_str());
    let mut words = work.label_words();
    words.extend(settings::words(options.0, options.1)?);
    words.push("--dry-run".into());
    crate::commands::run(&parsed(args.threads, words, options)?)
}

fn training(work: &Work<'_>, folds: usize) -> Result<Training> {
    let existing = Plans::read(&work.places.plans()).ok();
    let is_planned = existing.is_some();
    let plans = match existing {
        Some(plans) => plans,
        None => plan_of_labelled(work)?,
    };
    let classes = work.description.labels.len();
    let (configuration, step_seconds) = (&plans.configuration, step_seconds(work.device, &plans, classes)?);
    let fold_seconds = match command(
        &["train", "DATASET", "--out", "OUT"],
        ("--train-options", &work.settings.train_options),
    )? {
        Command::Train(args) => train::longest_seconds(&args, step_seconds)?,
        _ => return Err(anyhow!("train is another command")),
    };
    Ok(Training {
        is_planned,
        patch: configuration.patch_size,
        batch: configuration.batch_size,
        step_bytes: memory::of_plan(configuration, classes).total(),
        step_seconds,
        fold_seconds,
        seconds: fold_seconds * folds as f64,
    })
}

/// Sizes and spacings of the labelled cases stand for all.
fn plan_of_labelled(work: &Work<'_>) -> Result<Plans> {
    let overrides = match command(
        &["plan", "DATASET", "--out", "OUT"],
        ("--plan-options", &work.settings.plan_options),
    )? {
        Command::Plan(args) => plan::overrides(&args)?,
        _ => return Err(anyhow!("plan is another command")),
    };
    let folder = tempfile::tempdir()?;
    let members = work.labelled();
    write_dataset(folder.path(), &work.description, &members.iter().collect::<Vec<&Member>>())?;
    let dataset = Dataset::open(folder.path())?;
    let taken = work.device.install(|| fingerprint(&dataset, &dataset.cases()?, work.stop, || ()))?;
    crate::unet::plan::plan(&dataset, &taken, &overrides)
}

fn command(words: &[&str], options: (&str, &str)) -> Result<Command> {
    let mut line: Vec<OsString> = words.iter().map(OsString::from).collect();
    line.extend(settings::words(options.0, options.1)?);
    let Cli { command, .. } = parsed(None, line, options)?;
    Ok(command)
}
