//! `hpc-seg bench`: ops, a volume, and two measurements side by side.

use super::{byte_count, thread_count};
use crate::bench::{compare, ops, volume};
use crate::cli::{BenchArgs, BenchCommand};
use crate::cohort::runner::Exit;
use crate::cohort::signals;
use crate::device::open::{Card, Opening};
use crate::stop::Stop;
use crate::{atomic_file, bad_input, messages};
use anyhow::Result;
use serde::Serialize;

pub(super) fn run(args: &BenchArgs) -> Result<Exit> {
    if let Some(BenchCommand::Diff(files)) = &args.command {
        messages::data(&compare::diff(&files.a, &files.b)?)?;
        return Ok(Exit::Done);
    }
    let opening = Opening {
        choice: args.device.parse()?,
        threads: thread_count(args.threads)?,
        memory: args.memory.as_deref().map(byte_count).transpose()?,
        kernel_cache: args.kernel_cache.clone(),
        multiprocessors: args.sm_limit,
        maker: None,
    };
    let card = args.card.as_deref().map(Card::named).transpose()?;
    match (args.ops, args.volume) {
        (true, false) => {
            let report = ops::measure(&opening.open()?, &args.filter, card.as_ref())?;
            show(args, &report, report.text())?;
        }
        (false, true) => {
            let request = request(args, opening)?;
            // A stop is heard between steps, so that the temporary folder goes with it.
            let stop = Stop::new();
            signals::install(&stop)?;
            if args.dry_run {
                let plan = volume::plan(&request, &stop)?;
                messages::data_json(&plan)?;
                return Ok(Exit::Done);
            }
            let report = volume::measure(&request, card.as_ref(), &stop)?;
            show(args, &report, report.text())?;
        }
        _ => bad_input!("bench measures --ops or --volume, one at a time; bench diff A B compares two measurements"),
    }
    Ok(Exit::Done)
}

fn request(args: &BenchArgs, opening: Opening) -> Result<volume::Request> {
    let &[z, y, x] = &args.size[..] else {
        bad_input!("--size takes three numbers, slices first, as in --size 80,320,320");
    };
    if args.insertions == 0 || args.labelled == 0 {
        bad_input!("--labelled and --insertions: at least one of each is needed");
    }
    Ok(volume::Request {
        size: [z, y, x],
        labelled: args.labelled,
        insertions: args.insertions,
        repeats: args.repeats,
        lanes: args.lanes,
        weights: args.weights.clone().map(|weights| (weights, args.config.clone())),
        opening,
    })
}

fn show(args: &BenchArgs, report: &impl Serialize, text: String) -> Result<()> {
    if let Some(path) = &args.json {
        atomic_file::write_named(path, (serde_json::to_string_pretty(report)? + "\n").as_bytes())?;
    }
    messages::data(&text)
}
