//! One file per subcommand: typed arguments, the library call, what is printed. No logic of its own.

use crate::bad_input;
use crate::cli::{Cli, Command};
use crate::cohort::runner::Exit;
use crate::messages::{self, Talk};
use anyhow::Result;

mod demo;
mod info;
mod phantom;
mod pseudo_label;
mod weights;

/// Runs the command that was asked for.
///
/// # Errors
/// Whatever keeps the command as a whole from its work; failures of single cases are in the [`Exit`].
pub fn run(cli: &Cli) -> Result<Exit> {
    messages::set_talk(if cli.quiet { Talk::Troubles } else { Talk::All });
    match &cli.command {
        Command::PseudoLabel(args) => pseudo_label::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Phantom(args) => phantom::run(args),
        Command::Weights(command) => weights::run(command),
        Command::Info(args) => info::run(args),
    }
}

/// Checks `--threads`; none means all this process may use.
fn thread_count(threads: Option<usize>) -> Result<usize> {
    match threads {
        Some(0) => bad_input!("--threads 0: at least one thread has to do the work"),
        Some(count) => Ok(count),
        None => Ok(crate::machine::Machine::detect().threads),
    }
}

/// Checks `--device`: `auto` and `cpu` are the CPU, everything else is refused with the reason.
fn require_cpu(device: &str) -> Result<()> {
    let is_cuda = |device: &str| device == "cuda" || device.strip_prefix("cuda:").is_some_and(|number| number.parse::<u32>().is_ok());
    match device {
        "auto" | "cpu" => Ok(()),
        cuda if is_cuda(cuda) => bad_input!(
            "--device {cuda}: labelling on CUDA is not there yet (the runtime and its first kernels are; attention, convolutions and the schedule are missing); use --device cpu"
        ),
        other => bad_input!("--device {other}: the devices are auto, cpu and cuda[:N]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_apart() {
        assert!(require_cpu("auto").is_ok() && require_cpu("cpu").is_ok());
        for (device, reason) in [
            ("cuda", "labelling on CUDA is not there yet"),
            ("cuda:1", "labelling on CUDA is not there yet"),
            ("cuda:x", "the devices are"),
            ("gpu", "the devices are"),
        ] {
            assert!(require_cpu(device).unwrap_err().to_string().contains(reason), "{device}");
        }
    }

    #[test]
    fn no_threads_are_refused() {
        assert!(thread_count(Some(0)).is_err());
        assert_eq!(thread_count(Some(3)).unwrap(), 3);
        assert!(thread_count(None).unwrap() >= 1);
    }
}
