//! `hpc-seg demo`: a phantom cohort through `hpc-seg run`, and a picture.

use super::run as whole_method;
use crate::cli::{Cli, Command, DemoArgs};
use crate::cohort::demo::Demo;
use crate::cohort::runner::Exit;
use crate::cohort::signals;
use crate::ssl::places::Places;
use crate::stop::Stop;
use crate::{bad_input, messages};
use anyhow::{Result, anyhow};
use clap::Parser;
use std::path::Path;

/// Some 90 s on two cores.
const LABEL_OPTIONS: &str = "--insertions 3";
/// A network that learns something in a minute.
const PLAN_OPTIONS: &str = "--spacing 8,4,4 --patch 20,64,64 --batch 2 --features 8";

pub(super) fn run(args: &DemoArgs) -> Result<Exit> {
    if !(1..=86_400).contains(&args.fold_seconds) {
        bad_input!("--fold-seconds {}: 1 to 86400 are possible", args.fold_seconds);
    }
    let stop = Stop::new();
    signals::install(&stop)?;
    let demo = Demo::prepare(&args.out, &stop)?;
    let words = run_command(args, &demo);
    let exit = match Cli::try_parse_from(&words)?.command {
        Command::Run(args) => whole_method::run(&args)?,
        _ => return Err(anyhow!("the demo's own command is not run")),
    };
    if exit != Exit::Done {
        return Ok(exit);
    }
    demo.draw(&Places::new(&demo.result).test_masks(1))?;
    if !args.json {
        let quoted = |word: &String| if word.contains(' ') { format!("'{word}'") } else { word.clone() };
        let line: Vec<String> = words.iter().map(quoted).collect();
        messages::data(&format!(
            "picture {} (a test case; dashed: the truth)\n\nwhat was run\n{}\n",
            demo.picture.display(),
            line.join(" ")
        ))?;
    }
    Ok(exit)
}

/// The command, word by word: the user may give it too.
fn run_command(args: &DemoArgs, demo: &Demo) -> Vec<String> {
    let text = |path: &Path| path.display().to_string();
    let train = format!("--iterations 20 --time-budget {}s --no-mirroring", args.fold_seconds);
    let options = [
        ("--labelled", text(&demo.phantoms)),
        ("--unlabelled", text(&demo.phantoms)),
        ("--test", text(&demo.test)),
        ("--groups", text(&demo.groups)),
        ("--weights", text(&demo.weights)),
        ("--out", text(&demo.result)),
        ("--rounds", "1".to_owned()),
        ("--label-options", LABEL_OPTIONS.to_owned()),
        ("--plan-options", PLAN_OPTIONS.to_owned()),
        ("--train-options", train),
    ];
    let mut words = vec!["hpc-seg".to_owned(), "run".to_owned()];
    options
        .into_iter()
        .for_each(|(option, value)| words.extend([option.to_owned(), value]));
    words.extend(
        args.threads
            .iter()
            .flat_map(|threads| ["--threads".to_owned(), threads.to_string()]),
    );
    words.extend(args.json.then(|| "--json".to_owned()));
    words
}
