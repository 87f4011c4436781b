//! `hpc-seg run`, `status` and `report`: Algorithm 1 of SSL-MedSAM2, where it stands, and what came of it.

mod dry_run;

use super::{plan, pseudo_label, thread_count, train};
use crate::cli::run::{ReportArgs, RunArgs, StatusArgs};
use crate::cli::{Cli, Command};
use crate::cohort::runner::Exit;
use crate::cohort::{output, signals};
use crate::device::Device;
use crate::messages::{self, Level};
use crate::ssl::driver::{self, Driver};
use crate::ssl::places::Places;
use crate::ssl::report;
use crate::ssl::settings::{self, Settings};
use crate::ssl::status::Status;
use crate::ssl::steps::Step;
use crate::ssl::summary::Summary;
use crate::ssl::work::Work;
use crate::stop::Stop;
use crate::{bad_input, note};
use anyhow::{Context, Result};
use clap::Parser;
use std::ffi::OsString;
use std::path::Path;
use toml::Table;

pub(super) fn run(args: &RunArgs) -> Result<Exit> {
    let stop = Stop::new();
    signals::install(&stop)?;
    let only: Option<Step> = args.only_step.as_deref().map(str::parse).transpose()?;
    let (settings, origins) = Settings::settle(flags(args), args.settings.as_deref())?;
    if !settings.weights.is_file() {
        bad_input!(
            "there is no file {}; --weights takes a .pt, .pth or .safetensors file",
            settings.weights.display()
        );
    }
    let changes = settings.changes_since(&args.out)?;
    if !changes.is_empty() && !args.redo {
        bad_input!(
            "{} holds a run with other settings: {}; give the same again, --redo to do again what depends on them, or choose another --out",
            args.out.display(),
            changes.join("; ")
        );
    }
    check_options(&settings)?;
    let device = Device::cpu(thread_count(args.threads)?)?;
    let commands = |words: Vec<OsString>, from: (&str, &str)| command(args.threads, words, from);
    let mut work = Work::new(settings, &args.out, &commands, &device, &stop)?;
    work.redo = args.redo;
    work.device_options = device_options(args);
    if args.dry_run {
        return dry_run::show(args, &work);
    }
    if let Some(step) = &only {
        driver::check_step(&work, step)?;
    }
    output::prepare(&args.out, &work.input_folders(), [].iter())?;
    let mut driver = Driver::new(&work, &origins)?;
    let exit = match &only {
        Some(step) => driver.only(step)?,
        None => driver.all()?,
    };
    if only.is_some_and(|step| step != Step::Model) {
        return Ok(exit); // others are to come
    }
    let summary = write_results(&args.out, &device)?;
    if args.json {
        messages::data_json(&summary)?;
    } else {
        messages::data(&summary.table())?;
    }
    Ok(exit)
}

/// Writes the summary and the report of a run, as far as it is.
fn write_results(out: &Path, device: &Device) -> Result<Summary> {
    let summary = Summary::of(out)?;
    summary.write()?;
    device.install(|| report::write(out, &summary))?;
    Ok(summary)
}

pub(super) fn status(args: &StatusArgs) -> Result<Exit> {
    let status = Status::of(&args.out)?;
    if args.json {
        messages::data_json(&status)?;
    } else {
        messages::data(&status.table())?;
    }
    Ok(Exit::Done)
}

pub(super) fn report(args: &ReportArgs) -> Result<Exit> {
    let device = Device::cpu(thread_count(args.threads)?)?;
    write_results(&args.out, &device)?;
    note!("wrote {}", Places::new(&args.out).report().display());
    Ok(Exit::Done)
}

/// What is wrong with the steps' options is said before any of them runs, not hours later.
fn check_options(settings: &Settings) -> Result<()> {
    let label = "pseudo-label --labelled L --unlabelled U --weights W --out O --seed 0 --device auto";
    let warm = if settings.warm_start { "--warm-start F" } else { "" };
    let train = format!("train D --out O --fold 0 --seed 0 --pseudo-cases P {warm}");
    let options = [
        (label, "--label-options", &settings.label_options),
        ("plan D --out O", "--plan-options", &settings.plan_options),
        (&*train, "--train-options", &settings.train_options),
    ];
    for (words, option, text) in options {
        let mut line: Vec<OsString> = words.split_whitespace().map(OsString::from).collect();
        line.extend(settings::words(option, text)?);
        let checked = match parsed(None, line, (option, text))?.command {
            Command::PseudoLabel(args) if args.channel != 0 => {
                bad_input!(
                    "--label-options {text:?}: networks are trained on image channel 0 (CASE_0000); leave --channel out, or give a folder in which the images to use are those"
                )
            }
            Command::PseudoLabel(args) if args.dry_run || !args.cases.is_empty() => {
                bad_input!(
                    "--label-options {text:?}: a run labels all cases; leave out --case and --dry-run, which run has too (--only-step, --dry-run)"
                )
            }
            Command::PseudoLabel(args) => pseudo_label::settings(&args).and_then(|_| check_file("--config", args.config.as_deref())),
            Command::Plan(args) => plan::overrides(&args).map(drop),
            Command::Train(args) if args.resume || args.restart => {
                bad_input!("--train-options {text:?}: folds go on by themselves; leave out --resume, and give --redo instead of --restart")
            }
            Command::Train(args) if args.plans.is_some() || args.fold != ["0"] => {
                bad_input!("--train-options {text:?}: a run plans by --plan-options and trains every fold; leave out --plans and --fold")
            }
            Command::Train(mut args) => {
                args.pseudo_cases = None; // is not there yet
                train::request(&args).and_then(|_| check_file("--pretrained", args.pretrained.as_deref()))
            }
            _ => Ok(()),
        };
        checked.with_context(|| format!("{option} {text:?} cannot be used"))?;
    }
    Ok(())
}

fn check_file(option: &str, path: Option<&Path>) -> Result<()> {
    match path.filter(|path| !path.is_file()) {
        Some(path) => bad_input!("{option}: there is no file {}", path.display()),
        None => Ok(()),
    }
}

/// What was given as options.
fn flags(args: &RunArgs) -> Table {
    let mut flags = Table::new();
    let paths = [
        ("labelled", &args.labelled),
        ("unlabelled", &args.unlabelled),
        ("weights", &args.weights),
        ("test", &args.test),
        ("groups", &args.groups),
    ];
    for (key, path) in paths {
        flags.extend(path.iter().map(|path| (key.to_owned(), path.to_string_lossy().into_owned().into())));
    }
    let texts = [
        ("group_regex", &args.group_regex),
        ("label_options", &args.label_options),
        ("plan_options", &args.plan_options),
        ("train_options", &args.train_options),
    ];
    for (key, text) in texts {
        flags.extend(text.iter().map(|text| (key.to_owned(), text.clone().into())));
    }
    for (key, number) in [("rounds", args.rounds), ("seed", args.seed)] {
        flags.extend(number.map(|number| (key.to_owned(), i64::from(number).into())));
    }
    flags.extend(args.settled.map(|dice| ("settled".to_owned(), dice.into())));
    flags.extend(args.warm_start.then(|| ("warm_start".to_owned(), true.into())));
    flags
}

fn device_options(args: &RunArgs) -> Vec<OsString> {
    let mut options = vec!["--device".into(), args.device.clone().into()];
    options.extend(args.memory.iter().flat_map(|size| ["--memory".into(), size.into()]));
    options
}

fn parsed(threads: Option<usize>, words: Vec<OsString>, (option, more): (&str, &str)) -> Result<Cli> {
    let mut line: Vec<OsString> = vec!["hpc-seg".into()];
    line.extend(words);
    if let Some(threads) = threads {
        line.extend(["--threads".into(), threads.to_string().into()]);
    }
    if !messages::is_heard(Level::Note) {
        line.push("--quiet".into());
    }
    match Cli::try_parse_from(&line) {
        Ok(mut cli) => {
            if let Command::PseudoLabel(args) = &mut cli.command {
                args.is_part_of_run = true;
            }
            Ok(cli)
        }
        Err(error) => bad_input!("{option} {more:?}: {}", error.to_string().trim_end()),
    }
}

/// Runs a command of this program. What it says to stdout is talk here.
fn command(threads: Option<usize>, words: Vec<OsString>, from: (&str, &str)) -> Result<Exit> {
    let cli = parsed(threads, words, from)?;
    messages::with_data_as_talk(|| super::run(&cli))
}
