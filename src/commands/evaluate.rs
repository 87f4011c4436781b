//! `hpc-seg evaluate`: label maps against references.

use super::thread_count;
use crate::atomic_file;
use crate::cli::evaluate::{EvaluateArgs, PresetArg};
use crate::cohort::evaluation::{Evaluation, Request};
use crate::cohort::groups::Grouping;
use crate::cohort::runner::Exit;
use crate::cohort::signals;
use crate::device::Device;
use crate::metrics::measures::{Measure, Preset};
use crate::stop::Stop;
use crate::volume::is_volume_name;
use crate::{bad_input, messages, note, warning};
use anyhow::Result;
use std::io;
use std::path::{self, PathBuf};

/// Of the NSD, where none is given.
const TOLERANCE_MM: f64 = 3.0;

pub(super) fn run(args: &EvaluateArgs) -> Result<Exit> {
    check_outputs(args)?;
    let stop = Stop::new();
    signals::install(&stop)?;
    let device = Device::cpu(thread_count(args.threads)?)?;
    let request = request(args)?;
    let evaluation = device.install(|| request.run(&stop))?;
    let compared = evaluation.cases.iter().map(|case| &*case.name);
    let names: Vec<&str> = compared.chain(evaluation.failed.iter().map(|(name, _)| &**name)).collect();
    if let Some(remark) = evaluation.request.grouping.remark(&names) {
        warning!("{remark}");
    }
    write(args, &evaluation)?;
    messages::data(&evaluation.table())?;
    let failed = evaluation.failed.len();
    note!("{} cases compared, {failed} failed", evaluation.cases.len());
    Ok(if failed == 0 { Exit::Done } else { Exit::SomeFailed })
}

fn request(args: &EvaluateArgs) -> Result<Request> {
    let preset = match args.preset {
        PresetArg::Full => Preset::Full,
        PresetArg::Nnunet => Preset::NnUnet,
        PresetArg::Care => Preset::Care,
        PresetArg::Medpy => Preset::MedPy,
        PresetArg::SurfaceDistance => Preset::SurfaceDistance,
        PresetArg::Monai => Preset::Monai,
        PresetArg::Simpleitk => Preset::SimpleItk,
    };
    let has_nsd = preset
        .measures(&[TOLERANCE_MM])
        .iter()
        .any(|measure| matches!(measure, Measure::Nsd(..)));
    if !args.tolerance.is_empty() && !has_nsd {
        bad_input!("--tolerance: this --preset has no NSD; leave --tolerance out, or give --preset full");
    }
    let grouping = Grouping::of(args.groups.as_deref(), args.group_regex.as_deref())?;
    Ok(Request {
        predictions: args.predictions.clone(),
        references: args.references.clone(),
        only: Vec::new(),
        preset,
        tolerances_mm: match args.tolerance.is_empty() {
            true => vec![TOLERANCE_MM],
            false => args.tolerance.clone(),
        },
        classes: args.classes.clone(),
        ignored: args.ignore_label,
        grouping,
        seed: args.seed,
    })
}

/// Refuses, before any work, tables that would replace a volume or each other, or have no folder.
fn check_outputs(args: &EvaluateArgs) -> Result<()> {
    let given = [&args.json, &args.csv, &args.summary].into_iter().flatten();
    let given = given.map(|path| path::absolute(atomic_file::behind_links(path)));
    let given = given.collect::<io::Result<Vec<PathBuf>>>()?;
    for (number, path) in given.iter().enumerate() {
        if is_volume_name(path) {
            bad_input!(
                "{}: is a volume's name, which no table should replace; name it .json or .csv",
                path.display()
            );
        }
        if path.parent().is_some_and(|folder| !folder.is_dir()) {
            bad_input!("{}: its folder does not exist; make it first", path.display());
        }
        if given[..number].contains(path) {
            bad_input!(
                "{}: is named for two results; give each of --json, --csv and --summary a file of its own",
                path.display()
            );
        }
    }
    Ok(())
}

fn write(args: &EvaluateArgs, evaluation: &Evaluation) -> Result<()> {
    if let Some(path) = &args.csv {
        atomic_file::write_named(path, &evaluation.csv()?)?;
    }
    if let Some(path) = &args.json {
        atomic_file::write_named(path, (serde_json::to_string_pretty(&evaluation.json())? + "\n").as_bytes())?;
    }
    if let Some(path) = &args.summary {
        atomic_file::write_named(path, evaluation.summary_json().as_bytes())?;
    }
    Ok(())
}
