//! `hpc-seg weights`: inspect, convert and verify checkpoints.

use crate::cli::{PrecisionArg, WeightsCommand, WeightsConvertArgs, WeightsInspectArgs, WeightsVerifyArgs};
use crate::cohort::runner::Exit;
use crate::device::Device;
use crate::sam2::Sam2;
use crate::sam2::config::Config;
use crate::weights::{self, Checkpoint, Manifest, Precision, Verdict};
use crate::{atomic_file, bad_input, messages, note};
use anyhow::Result;

pub(super) fn run(command: &WeightsCommand) -> Result<Exit> {
    match command {
        WeightsCommand::Inspect(args) => inspect(args)?,
        WeightsCommand::Convert(args) => convert(args)?,
        WeightsCommand::Verify(args) => verify(args)?,
    }
    Ok(Exit::Done)
}

fn inspect(args: &WeightsInspectArgs) -> Result<()> {
    let inventory = weights::inventory(&args.file)?;
    if args.json {
        messages::data_json(&inventory)
    } else {
        messages::data(&format!("{inventory}\n"))
    }
}

fn convert(args: &WeightsConvertArgs) -> Result<()> {
    let out = args.out.clone().unwrap_or_else(|| args.file.with_extension("safetensors"));
    let out = atomic_file::behind_links(&out);
    if out == atomic_file::behind_links(&args.file) {
        bad_input!("{} would be written over itself; name another file with --out", out.display());
    }
    if args.out.is_none() && out.exists() {
        bad_input!(
            "{} is there already; name it with --out to write over it, or another file",
            out.display()
        );
    }
    let precision = match args.precision {
        PrecisionArg::Keep => Precision::Keep,
        PrecisionArg::F32 => Precision::F32,
        PrecisionArg::F16 => Precision::F16,
        PrecisionArg::Bf16 => Precision::Bf16,
    };
    weights::convert(&args.file, &out, precision)?;
    note!("wrote {}", out.display());
    Ok(())
}

fn verify(args: &WeightsVerifyArgs) -> Result<()> {
    let verification = weights::verify(&args.file, &Manifest::built_in()?)?;
    if args.json {
        messages::data_json(&verification)?;
    } else {
        messages::data(&format!("{verification}\n"))?;
    }
    if verification.verdict == Verdict::Differs {
        bad_input!(
            "{} is not the file that is known by this name; download it again from its source",
            args.file.display()
        );
    }
    let checkpoint = Checkpoint::open(&args.file)?;
    let config = Config::of(&checkpoint, args.config.as_deref())?;
    Sam2::load(&checkpoint, config, &Device::cpu(0)?)?;
    note!("all tensors of the network are there, and no others");
    Ok(())
}
