//! `hpc-seg evaluate`: segmentations against references.

use super::{thread_count, write_json};
use crate::cli::unet::EvaluateArgs;
use crate::cohort::evaluation::{Request, evaluate};
use crate::cohort::groups::Grouping;
use crate::cohort::runner::Exit;
use crate::cohort::signals;
use crate::device::Device;
use crate::messages::{self, Level, Progress};
use crate::metrics::summary::{csv, means, nnunet_json, table};
use crate::stop::Stop;
use crate::{atomic_file, bad_input, warning};
use anyhow::Result;
use serde_json::json;

pub(super) fn run(args: &EvaluateArgs) -> Result<Exit> {
    let stop = Stop::new();
    signals::install(&stop)?;
    if !(args.tolerance >= 0.0 && args.tolerance.is_finite()) {
        bad_input!("--tolerance {}: millimetres are not negative", args.tolerance);
    }
    let request = Request {
        predictions: args.predictions.clone(),
        references: args.references.clone(),
        preset: args.preset.parse()?,
        tolerance: args.tolerance,
        ignore: args.ignore_label,
        grouping: match (&args.groups, &args.group_regex) {
            (Some(file), _) => Grouping::from_file(file)?,
            (None, Some(pattern)) => Grouping::from_pattern(pattern)?,
            (None, None) => Grouping::One,
        },
    };
    let progress = Progress::new("evaluate");
    progress.stage("comparing", 0);
    let device = Device::cpu(thread_count(args.threads)?)?;
    let done = device.install(|| evaluate(&request, &stop, || progress.advance(1)))?;
    drop(progress);
    for name in &done.unmatched {
        warning!("{name}: a segmentation without a reference");
    }
    for (name, error) in &done.failed {
        messages::say(Level::Error, format_args!("{name} failed: {error}"));
    }
    let means = means(&done.rows);
    let preset = request.preset.name();
    if let Some(path) = &args.json {
        let failed = done.failed.iter().map(|(case, error)| json!({"case": case, "error": error}));
        let all = json!({
            "preset": preset, "tolerance_mm": args.tolerance, "ignore_label": args.ignore_label,
            "means": means, "cases": done.rows, "failed": failed.collect::<Vec<_>>()
        });
        write_json(path, &all)?;
    }
    if let Some(path) = &args.csv {
        atomic_file::write_bytes(path, &csv(&done.rows)?)?;
    }
    if let Some(path) = &args.summary {
        let file = |folder: &std::path::Path, case: &str| {
            let names = [".nii.gz", ".nii"].map(|ending| folder.join(format!("{case}{ending}")));
            names.iter().find(|path| path.is_file()).unwrap_or(&names[0]).display().to_string()
        };
        let text = nnunet_json(&done.rows, |case| [file(&args.predictions, case), file(&args.references, case)]);
        atomic_file::write_bytes(path, text.as_bytes())?;
    }
    messages::data(&format!("metrics as {preset}\n{}", table(&means, |class| class.to_string())))?;
    Ok(if done.failed.is_empty() { Exit::Done } else { Exit::SomeFailed })
}
