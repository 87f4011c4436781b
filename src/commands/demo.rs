//! `hpc-seg demo`: phantoms, their pseudo-labels by the demo network, mean Dice and a picture.

use super::pseudo_label;
use crate::cli::{Cli, Command, DemoArgs};
use crate::cohort::demo::{Demo, Score};
use crate::cohort::runner::Exit;
use crate::cohort::signals;
use crate::messages;
use crate::stop::Stop;
use anyhow::{Result, anyhow};
use clap::Parser;
use serde::Serialize;
use std::path::{Path, PathBuf};

pub(super) fn run(args: &DemoArgs) -> Result<Exit> {
    let stop = Stop::new();
    signals::install(&stop)?;
    let demo = Demo::prepare(&args.out, &stop)?;
    let words = label_command(&demo, args.threads);
    let exit = match Cli::try_parse_from(&words)?.command {
        Command::PseudoLabel(args) => pseudo_label::run(&args)?,
        _ => return Err(anyhow!("the demo's own command is not pseudo-label")),
    };
    if exit != Exit::Done {
        return Ok(exit);
    }
    show(args, &demo, &demo.evaluate()?, &words[1..])?;
    Ok(exit)
}

/// The command that labels the phantoms, word by word: the user may give it too.
fn label_command(demo: &Demo, threads: Option<usize>) -> Vec<String> {
    let text = |path: &Path| path.display().to_string();
    let phantoms = text(&demo.phantoms);
    let mut words = vec!["hpc-seg".to_owned(), "pseudo-label".to_owned()];
    let options = [
        ("--labelled", phantoms.clone()),
        ("--unlabelled", phantoms),
        ("--weights", text(&demo.weights)),
        ("--out", text(&demo.labels)),
    ];
    for (option, value) in options {
        words.extend([option.to_owned(), value]);
    }
    words.extend(threads.iter().flat_map(|threads| ["--threads".to_owned(), threads.to_string()]));
    words
}

#[derive(Serialize)]
struct Shown<'a> {
    scores: &'a [Score],
    mean_dice: f64,
    picture: &'a PathBuf,
    labels: &'a PathBuf,
}

fn show(args: &DemoArgs, demo: &Demo, scores: &[Score], words: &[String]) -> Result<()> {
    let known: Vec<f64> = scores.iter().filter_map(|score| score.dice).collect();
    let mean_dice = known.iter().sum::<f64>() / known.len().max(1) as f64;
    if args.json {
        return messages::data_json(&Shown {
            scores,
            mean_dice,
            picture: &demo.picture,
            labels: &demo.labels,
        });
    }
    let mut text = String::from("case         liver Dice\n");
    for score in scores {
        text += &match score.dice {
            Some(dice) => format!("{}  {dice:.3}\n", score.case),
            None => format!("{}  empty\n", score.case),
        };
    }
    text += &format!("mean         {mean_dice:.3}\n\n");
    text += &format!("picture (dashed: the truth)  {}\n", demo.picture.display());
    text += &format!("masks, maps and records      {}\n", demo.labels.display());
    text += &format!("what was run                 hpc-seg {}\n", words.join(" "));
    messages::data(&text)
}
