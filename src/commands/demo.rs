//! `hpc-seg demo`: phantoms, their pseudo-labels by the demo network, mean Dice and a picture.

use super::thread_count;
use crate::cli::DemoArgs;
use crate::cohort::runner::Exit;
use anyhow::{Result, bail};

pub(super) fn run(args: &DemoArgs) -> Result<Exit> {
    let threads = thread_count(args.threads)?;
    label_phantoms(args, threads)
}

// PLACEHOLDER: phantoms, pseudo-labels and evaluation are called here.
fn label_phantoms(args: &DemoArgs, threads: usize) -> Result<Exit> {
    bail!(
        "demo is not built yet; it would work in {} with {threads} threads",
        args.out.display()
    )
}
