//! `hpc-seg phantom`: a cohort of phantoms with known labels.

use crate::cli::{PhantomArgs, SequenceArg};
use crate::cohort::phantoms::{self, Request};
use crate::cohort::runner::Exit;
use crate::cohort::signals;
use crate::messages::Progress;
use crate::stop::Stop;
use crate::volume::phantom::{LABELS, Sequence};
use crate::{bad_input, note};
use anyhow::Result;

pub(super) fn run(args: &PhantomArgs) -> Result<Exit> {
    let stop = Stop::new();
    signals::install(&stop)?;
    let names = phantoms::write(&request(args)?, &stop, &Progress::new("phantoms"))?;
    note!(
        "wrote {} phantoms, {} of them labelled, to {}",
        names.len(),
        args.labelled,
        args.out.display()
    );
    Ok(Exit::Done)
}

fn request(args: &PhantomArgs) -> Result<Request> {
    let size = match args.size.as_deref() {
        None => None,
        Some(&[z, y, x]) => Some([z, y, x]),
        Some(_) => bad_input!("--size takes three numbers, slices first, as in --size 24,128,128"),
    };
    let sequence = match args.sequence {
        SequenceArg::Ged4 => Sequence::Ged4,
        SequenceArg::T1 => Sequence::T1,
        SequenceArg::T2 => Sequence::T2,
    };
    Ok(Request {
        cases: args.cases,
        first: args.first,
        labelled: args.labelled,
        out: args.out.clone(),
        seed: args.seed,
        sequence,
        size,
        organ: args.organ.as_deref().map(organ).transpose()?,
    })
}

/// The label of an organ.
fn organ(name: &str) -> Result<u8> {
    match (1..).zip(&LABELS[1..]).find(|(_, known)| **known == name) {
        Some((label, _)) => Ok(label),
        None => bad_input!("--organ {name}: the phantoms have {}", LABELS[1..].join(", ")),
    }
}
