//! `hpc-seg weights`: inspect, convert and verify checkpoints.

use crate::bad_input;
use crate::cli::WeightsCommand;
use crate::cohort::runner::Exit;
use anyhow::{Result, bail};
use std::path::Path;

pub(super) fn run(command: &WeightsCommand) -> Result<Exit> {
    match command {
        WeightsCommand::Inspect(args) | WeightsCommand::Verify(args) => require_file(&args.file)?,
        WeightsCommand::Convert(args) => {
            require_file(&args.file)?;
            let out = args.out.clone().unwrap_or_else(|| args.file.with_extension("safetensors"));
            if out == args.file {
                bad_input!("{} would be written over itself; name another file with --out", out.display());
            }
        }
    }
    call(command)
}

// PLACEHOLDER: the calls of the library's weights go here.
fn call(_command: &WeightsCommand) -> Result<Exit> {
    bail!("weights is not built yet")
}

fn require_file(file: &Path) -> Result<()> {
    if !file.is_file() {
        bad_input!("there is no file {}; weights are .pt, .pth or .safetensors files", file.display());
    }
    Ok(())
}
