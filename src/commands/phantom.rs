//! `hpc-seg phantom`: a cohort of phantoms with known labels.

use crate::bad_input;
use crate::cli::{PhantomArgs, SequenceArg};
use crate::cohort::runner::Exit;
use anyhow::{Result, bail};
use std::path::PathBuf;

/// The arguments after their checks.
#[derive(Debug, PartialEq)]
struct Request {
    cases: usize,
    labelled: usize,
    out: PathBuf,
    seed: u64,
    sequence: &'static str,
    size: Option<[usize; 3]>, // z, y, x
}

pub(super) fn run(args: &PhantomArgs) -> Result<Exit> {
    make(&request(args)?)
}

// PLACEHOLDER: the call of the library's phantoms goes here.
fn make(request: &Request) -> Result<Exit> {
    bail!("phantom is not built yet; the request was {request:?}")
}

fn request(args: &PhantomArgs) -> Result<Request> {
    if args.cases == 0 || args.labelled > args.cases {
        bad_input!(
            "--cases {} --labelled {}: there must be at least one case, and no more labelled ones than cases",
            args.cases,
            args.labelled
        );
    }
    let size = match args.size.as_deref() {
        None => None,
        Some(&[z, y, x]) if z > 0 && y > 0 && x > 0 => Some([z, y, x]),
        Some(_) => bad_input!("--size takes three positive numbers, slices first, as in --size 24,128,128"),
    };
    let sequence = match args.sequence {
        SequenceArg::Ged4 => "ged4",
        SequenceArg::T1 => "t1",
        SequenceArg::T2 => "t2",
    };
    Ok(Request {
        cases: args.cases,
        labelled: args.labelled,
        out: args.out.clone(),
        seed: args.seed,
        sequence,
        size,
    })
}
