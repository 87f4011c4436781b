//! `--dry-run`: what would run, with the memory and time it would take.

use super::Plan;
use crate::cohort::estimate::{Estimate, product_rate};
use crate::cohort::journal::Status;
use crate::cohort::runner::{Conditions, outlook};
use crate::cohort::settings::Settings;
use crate::tffs::plan;
use crate::{clock, messages};
use anyhow::{Result, anyhow};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What is written.
#[derive(Serialize)]
struct Shown<'a> {
    out: &'a Path,
    threads: usize,
    gigaflops_per_second: f64,
    settings: &'a Settings,
    labelled: Vec<&'a str>,
    cases: Vec<ShownCase<'a>>,
    /// Of the largest case.
    peak_bytes: usize,
    seconds: f64,
}

#[derive(Serialize)]
struct ShownCase<'a> {
    case: &'a str,
    image: &'a PathBuf,
    group: &'a str,
    labelled: Vec<&'a str>,
    mask: PathBuf,
    /// Whether it was finished before and would be skipped.
    is_finished: bool,
    /// What is different since it was finished, so that it would be done again.
    changes: Vec<String>,
    /// None for a finished case either.
    estimate: Option<Estimate>,
    /// Why this case would fail, as far as it can be seen.
    problem: Option<String>,
}

/// Loads the network and looks at the journal, and at the volume's header and the label files of every case that is not finished; computes and writes nothing.
pub(super) fn show(plan: &Plan<'_>) -> Result<()> {
    let mut labeller = plan.labeller(&plan.openings[0])?;
    let device = labeller.network()?.device().clone();
    let rate = product_rate(&device)?;
    let conditions = Conditions {
        weights_sha256: labeller.weights_sha256().to_owned(),
        settings: serde_json::to_value(&plan.settings)?,
        device: labeller.kind_of_device()?,
    };
    let mut cases = Vec::new();
    for (task, status) in plan.tasks.iter().zip(outlook(&plan.args.out, &plan.tasks, &conditions)?) {
        let query = &task.payload;
        let labelled = plan.supports(query);
        let is_finished = status == Status::Finished;
        let estimate = match labelled.is_empty() {
            _ if is_finished => Ok(None),
            true => Err(anyhow!("its group has no labelled volume")),
            // On its threads: labels are read on all cores that --threads gives.
            false => device
                .install(|| labeller.estimate(&query.case, &labelled, plan.args.save_probabilities, rate))
                .map(Some),
        };
        cases.push(ShownCase {
            case: &task.name,
            image: &task.inputs[0].1,
            group: &query.group,
            labelled: labelled.iter().map(|case| case.name.as_str()).collect(),
            mask: plan.args.out.join(&query.files.mask),
            problem: estimate.as_ref().err().map(|error| format!("{error:#}")),
            is_finished,
            changes: match status {
                Status::Changed(changes) => changes,
                _ => Vec::new(),
            },
            estimate: estimate.ok().flatten(),
        });
    }
    let estimates = || cases.iter().filter_map(|case| case.estimate.as_ref());
    // Supports are made for the first case that needs them and kept.
    let supports = estimates().map(|e| e.support_seconds).fold(0f64, f64::max);
    let shown = Shown {
        out: &plan.args.out,
        threads: plan.openings[0].threads,
        gigaflops_per_second: rate / 1e9,
        settings: &plan.settings,
        labelled: plan.cohort.labelled.iter().map(|case| case.name.as_str()).collect(),
        peak_bytes: estimates().map(|e| e.bytes.total).max().unwrap_or(0),
        seconds: estimates().map(|e| e.seconds).sum::<f64>() + supports,
        cases,
    };
    if plan.args.json {
        messages::data_json(&shown)
    } else {
        messages::data(&text(&shown))
    }
}

fn text(shown: &Shown<'_>) -> String {
    let mut text = format!(
        "{} cases to label from {} labelled volumes, with {} threads ({:.0} GFLOP/s)\n",
        shown.cases.len(),
        shown.labelled.len(),
        shown.threads,
        shown.gigaflops_per_second
    );
    for case in &shown.cases {
        let from = if case.labelled.is_empty() {
            "nothing".to_string()
        } else {
            case.labelled.join(" ")
        };
        text += &format!("{} (group {}) from {from} -> {}\n", case.case, case.group, case.mask.display());
        match (&case.estimate, &case.problem) {
            (Some(e), _) => text += &estimate_lines(e),
            (None, Some(problem)) => text += &format!("    this case will fail: {problem}\n"),
            (None, None) => text += "    finished before, would be skipped\n",
        }
        if !case.changes.is_empty() {
            text += &format!("    finished before, would be done again, because {}\n", case.changes.join("; "));
        }
    }
    text + &format!(
        "in all about {}, at most {} of memory\n",
        clock::spoken(shown.seconds),
        size(shown.peak_bytes)
    )
}

fn estimate_lines(e: &Estimate) -> String {
    let b = &e.bytes;
    format!(
        "    {} slices, {} lane steps against {} conditioning slices: about {}, and {} for the supports\n    \
         memory {}: network {}, query {}, supports {}, maps {}, working {}\n",
        e.slices,
        e.lane_steps,
        e.conditioning_slices,
        clock::spoken(e.seconds),
        clock::spoken(e.support_seconds),
        size(b.total),
        size(b.network),
        size(b.query),
        size(b.supports),
        size(b.maps),
        size(b.working)
    ) + &e.plan.as_ref().map_or(String::new(), plan_line)
}

fn plan_line(plan: &plan::Plan) -> String {
    let place = |spilled: bool| if spilled { "host" } else { "device" };
    format!(
        "    {} lanes per step, {} slices encoded at once, features in {} memory, supports in {} memory\n",
        plan.lanes,
        plan.batch,
        place(plan.spilled_query),
        place(plan.spilled_supports)
    )
}

fn size(bytes: usize) -> String {
    match bytes as f64 / f64::from(1 << 20) {
        mib if mib >= 1024.0 => format!("{:.1} GiB", mib / 1024.0),
        mib if mib >= 1.0 => format!("{mib:.0} MiB"),
        mib => format!("{:.0} KiB", mib * 1024.0),
    }
}
