//! `hpc-seg completions` and `hpc-seg man`: what shells and `man` are to know, made of the command line's own definitions.

use crate::cli::Cli;
use crate::cli::manual::{CompletionsArgs, ManArgs};
use crate::cohort::runner::Exit;
use crate::{atomic_file, messages, note};
use anyhow::Result;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use std::path::Path;

const PROGRAM: &str = "hpc-seg";

pub(super) fn completions(args: &CompletionsArgs) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), PROGRAM, &mut script);
    messages::data(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

pub(super) fn man(args: &ManArgs) -> Result<Exit> {
    atomic_file::create_output(&args.out)?;
    let mut program = Cli::command();
    program.build();
    let pages = write(&args.out, PROGRAM, &program)?;
    note!("wrote {pages} pages to {}", args.out.display());
    Ok(Exit::Done)
}

/// Writes the pages of a command and of those below it; how many.
fn write(out: &Path, name: &str, command: &Command) -> Result<usize> {
    let mut page = Vec::new();
    Man::new(command.clone()).title(name).render(&mut page)?;
    atomic_file::write_bytes(&out.join(format!("{name}.1")), &page)?;
    let below = command.get_subcommands().filter(|command| command.get_name() != "help");
    let pages: Result<Vec<usize>> = below
        .map(|command| write(out, &format!("{name}-{}", command.get_name()), command))
        .collect();
    Ok(1 + pages?.into_iter().sum::<usize>())
}
