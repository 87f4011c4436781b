//! One file per subcommand: typed arguments, the library call, what is printed. No logic of its own.

use crate::cli::{Cli, Command};
use crate::cohort::runner::Exit;
use crate::messages::{self, Talk};
use crate::volume::ReadOptions;
use crate::{atomic_file, bad_input};
use anyhow::Result;
use serde::Serialize;
use std::path::Path;

mod bench;
mod demo;
mod evaluate;
mod info;
mod manual;
mod model;
mod phantom;
mod plan;
mod predict;
mod preprocess;
mod pseudo_label;
mod run;
mod train;
mod weights;

/// Runs the command that was asked for.
///
/// # Errors
/// Whatever keeps the command as a whole from its work; failures of single cases are in the [`Exit`].
pub fn run(cli: &Cli) -> Result<Exit> {
    messages::set_talk(if cli.quiet { Talk::Troubles } else { Talk::All });
    ReadOptions::from_env()?; // said once, and not of every file
    match &cli.command {
        Command::PseudoLabel(args) => pseudo_label::run(args),
        Command::Run(args) => run::run(args),
        Command::Status(args) => run::status(args),
        Command::Report(args) => run::report(args),
        Command::Demo(args) => demo::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Preprocess(args) => preprocess::run(args),
        Command::Train(args) => train::run(args),
        Command::Predict(args) => predict::run(args),
        Command::Phantom(args) => phantom::run(args),
        Command::Evaluate(args) => evaluate::run(args),
        Command::Model(command) => model::run(command),
        Command::Weights(command) => weights::run(command),
        Command::Bench(args) => bench::run(args),
        Command::Info(args) => info::run(args),
        Command::Completions(args) => manual::completions(args),
        Command::Man(args) => manual::man(args),
    }
}

/// So many are taken on any machine; beyond eight times its own, more must be a mistake.
const MOST_THREADS: usize = 256;

/// Checks `--threads`; none means all this process may use.
fn thread_count(threads: Option<usize>) -> Result<usize> {
    match threads {
        Some(0) => bad_input!("--threads 0: at least one thread has to do the work"),
        Some(count) => {
            let most = MOST_THREADS.max(8 * crate::machine::Machine::detect().threads);
            if count > most {
                bad_input!("--threads {count}: give {most} at most; more than the machine has gain nothing");
            }
            Ok(count)
        }
        None => Ok(crate::machine::Machine::detect().threads),
    }
}

/// Writes a value as indented JSON, atomically.
fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    atomic_file::write_bytes(path, (serde_json::to_string_pretty(value)? + "\n").as_bytes())
}

/// A number of bytes such as `10GiB`, `9.5G` or `4000MiB`; units are powers of 1024.
fn byte_count(text: &str) -> Result<usize> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "gib" | "gb" | "g" => 1_u64 << 30,
        "mib" | "mb" | "m" => 1 << 20,
        _ => bad_input!("--memory {text}: give a size in GiB or MiB, such as 10GiB or 4000MiB"),
    };
    match digits.trim().parse::<f64>() {
        Ok(count) if count > 0.0 && count < 1e6 => Ok((count * unit as f64) as usize),
        _ => bad_input!("--memory {text}: give a size above 0 and below 1000000, such as 10GiB or 4000MiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(byte_count("10GiB").unwrap(), 10 << 30);
        assert_eq!(byte_count("9.5g").unwrap(), 19 << 29);
        assert_eq!(byte_count("512 MiB").unwrap(), 512 << 20);
        for wrong in ["10", "GiB", "-1GiB", "1TiB", "nanGiB", "0G", "1e9G", ""] {
            assert!(byte_count(wrong).unwrap_err().to_string().contains("such as 10GiB"), "{wrong}");
        }
    }

    #[test]
    fn no_threads_are_refused() {
        assert!(thread_count(Some(0)).is_err());
        assert_eq!(thread_count(Some(3)).unwrap(), 3);
        assert!(thread_count(Some(100_000)).unwrap_err().to_string().contains("at most"));
        assert!(thread_count(None).unwrap() >= 1);
    }
}
