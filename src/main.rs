//! The `hpc-seg` program: parse, run, report, exit code.

use clap::Parser;
use hpc_seg::cli::Cli;
use hpc_seg::cohort::signals::EXIT_STOPPED;
use hpc_seg::{commands, error, messages, note, panics, stop};
use std::io::IsTerminal;
use std::process::exit;

/// The work as a whole failed.
const EXIT_FAILED: i32 = 1;
/// The command line or an input file has to be mended first.
const EXIT_BAD_INPUT: i32 = 2;

fn main() {
    panics::install_hook();
    exit(match Cli::try_parse() {
        Ok(cli) => code_of(&panics::catch(|| commands::run(&cli)).map(|exit| exit.code())),
        Err(answer) => explain(&answer),
    });
}

/// The exit code of a finished command, after telling what went wrong.
fn code_of(result: &anyhow::Result<i32>) -> i32 {
    match result {
        Ok(code) => *code,
        Err(error) if stop::is_stopped(error) => {
            note!("{error:#}");
            EXIT_STOPPED
        }
        Err(error) => {
            messages::report(error);
            if let Some(remedy) = error::remedy(error) {
                note!("{remedy}");
            }
            if error::is_input_error(error) {
                EXIT_BAD_INPUT
            } else {
                EXIT_FAILED
            }
        }
    }
}

/// Help and version go to stdout and are a success; a usage error goes to stderr. Clap's own printing would break on a closed pipe.
fn explain(answer: &clap::Error) -> i32 {
    let text = answer.render();
    // no-color.org
    let wants_none = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let shown = |on_terminal: bool| match on_terminal && !wants_none {
        true => text.ansi().to_string(),
        false => text.to_string(),
    };
    if answer.use_stderr() {
        messages::say_as_is(&shown(std::io::stderr().is_terminal()));
        return EXIT_BAD_INPUT;
    }
    code_of(&messages::data(&shown(std::io::stdout().is_terminal())).map(|()| 0))
}
