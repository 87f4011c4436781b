//! `hpc-seg model`: models to and from nnU-Net.

use crate::cli::model::ModelCommand;
use crate::cohort::runner::Exit;
use crate::note;
use crate::unet::transfer::{Form, transfer};
use anyhow::Result;

pub(super) fn run(command: &ModelCommand) -> Result<Exit> {
    let (args, form) = match command {
        ModelCommand::Export(args) => (args, Form::NnUnet),
        ModelCommand::Import(args) => (args, Form::Safetensors),
    };
    for path in transfer(&args.model, &args.folds, &args.out, form)? {
        note!("wrote {}", path.display());
    }
    Ok(Exit::Done)
}
