//! `hpc-seg run`: pseudo-labels, then rounds of training and re-labelling, each step a command that goes on where it was stopped.

use super::write_json;
use crate::cli::Cli;
use crate::cli::run::RunArgs;
use crate::cohort::discover::{Cohort, discover};
use crate::cohort::groups::Grouping;
use crate::cohort::held_out;
use crate::cohort::runner::Exit;
use crate::cohort::signals;
use crate::ssl::agreement::mean_dice;
use crate::ssl::folds::folds;
use crate::ssl::round::{Description, Member, write_dataset, write_splits};
use crate::stop::Stop;
use crate::unet::exchange::Fold;
use crate::volume::{AxisMap, Volume};
use crate::{atomic_file, bad_input, messages, note, warning};
use anyhow::{Context, Result};
use clap::Parser;
use serde_json::json;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

pub(super) fn run(args: &RunArgs) -> Result<Exit> {
    if args.rounds == 0 || !(0.0..=1.0).contains(&args.settled) {
        bad_input!(
            "--rounds {} --settled {}: give at least one round, and a Dice from 0 to 1",
            args.rounds,
            args.settled
        );
    }
    let train_options = args.train_options.as_deref().unwrap_or_default();
    if train_options.split_whitespace().any(|word| word == "--no-validation") {
        bad_input!("--train-options --no-validation: the held-out cases are what a round re-labels; leave it out");
    }
    let stop = Stop::new();
    signals::install(&stop)?;
    let cohort = discover(&args.labelled, &args.unlabelled, 0)?;
    let work = Work {
        args,
        stop: &stop,
        description: Description::of(&args.labelled, most_label(&cohort)?),
        labelled: cohort
            .labelled
            .iter()
            .map(|case| member(&case.name, &case.image, &case.labels))
            .collect(),
    };
    let exit = work.label()?;
    if matches!(exit, Exit::Stopped) {
        return Ok(exit);
    }
    let pseudo = work.pseudo_labelled(&cohort)?;
    let folds = work.folds(&pseudo)?;
    let mut agreements = Vec::new();
    for round in 1..=args.rounds {
        work.round(round, &pseudo, &folds)?;
        let names: Vec<String> = pseudo.iter().map(|member| member.name.clone()).collect();
        let [before, after] = [round - 1, round].map(|round| work.pseudo_labels(round));
        let agreement = mean_dice(&before, &after, &names, work.description.labels.len() as u8, &stop)?;
        note!("round {round}: mean Dice with the pseudo-labels before {agreement:.4}");
        agreements.push(agreement);
        if agreement >= args.settled {
            break;
        }
    }
    work.finish(&agreements, folds.len())?;
    Ok(exit)
}

fn member(name: &str, image: &Path, label: &Path) -> Member {
    Member {
        name: name.to_owned(),
        image: image.to_owned(),
        label: label.to_owned(),
    }
}

/// The highest label of the labelled volumes.
fn most_label(cohort: &Cohort) -> Result<u16> {
    let mut most = 0;
    for case in &cohort.labelled {
        let labels = Volume::open(&case.labels)?.labels(&AxisMap::default())?;
        most = most.max(labels.into_iter().max().unwrap_or(0));
    }
    if !(1..255).contains(&most) {
        bad_input!("the labelled volumes' highest label is {most}; labels from 1 to 254 are needed");
    }
    Ok(most)
}

struct Work<'a> {
    args: &'a RunArgs,
    stop: &'a Stop,
    description: Description,
    labelled: Vec<Member>,
}

impl Work<'_> {
    fn pseudo_labels(&self, round: usize) -> PathBuf {
        self.args.out.join("pseudo_labels").join(format!("round_{round}"))
    }

    fn at(&self, round: usize, name: &str) -> PathBuf {
        self.args.out.join("rounds").join(format!("round_{round}")).join(name)
    }

    /// Runs a command of this program with options of its own and the user's.
    fn step(&self, words: &[&dyn AsRef<std::ffi::OsStr>], option: &str, more: Option<&str>) -> Result<Exit> {
        let mut line: Vec<OsString> = vec!["hpc-seg".into()];
        line.extend(words.iter().map(|word| word.as_ref().to_owned()));
        if let Some(threads) = self.args.threads {
            line.extend(["--threads".into(), threads.to_string().into()]);
        }
        let more = more.unwrap_or_default();
        line.extend(more.split_whitespace().map(OsString::from));
        if !messages::is_heard(messages::Level::Note) {
            line.push("--quiet".into());
        }
        match Cli::try_parse_from(&line) {
            Ok(cli) => super::run(&cli),
            Err(error) => bad_input!("{option} {more:?}: {}", error.to_string().trim_end()),
        }
    }

    /// The initial pseudo-labels.
    fn label(&self) -> Result<Exit> {
        let (args, seed, out) = (self.args, self.args.seed.to_string(), self.pseudo_labels(0));
        let mut words: Vec<&dyn AsRef<std::ffi::OsStr>> =
            vec![&"pseudo-label", &"--labelled", &args.labelled, &"--unlabelled", &args.unlabelled];
        words.extend([
            &"--weights" as &dyn AsRef<std::ffi::OsStr>,
            &args.weights,
            &"--out",
            &out,
            &"--seed",
            &seed,
        ]);
        if let Some(groups) = &args.groups {
            words.extend([&"--groups" as &dyn AsRef<std::ffi::OsStr>, groups]);
        }
        if let Some(pattern) = &args.group_regex {
            words.extend([&"--group-regex" as &dyn AsRef<std::ffi::OsStr>, pattern]);
        }
        self.step(&words, "--label-options", args.label_options.as_deref())
    }

    /// The unlabelled cases that have a pseudo-label.
    fn pseudo_labelled(&self, cohort: &Cohort) -> Result<Vec<Member>> {
        let folder = self.pseudo_labels(0);
        let all = cohort.unlabelled.iter();
        let all = all.map(|case| member(&case.name, &case.image, &folder.join(format!("{}.nii.gz", case.name))));
        let (with, without): (Vec<Member>, Vec<Member>) = all.partition(|case| case.label.is_file());
        for case in &without {
            warning!("{}: has no pseudo-label and takes no part in the rounds", case.name);
        }
        if with.len() < 2 {
            bad_input!(
                "{} unlabelled cases have pseudo-labels; two are needed, so that each is re-labelled by a network that never saw it",
                with.len()
            );
        }
        Ok(with)
    }

    fn folds(&self, pseudo: &[Member]) -> Result<Vec<Vec<String>>> {
        let grouping = match (&self.args.groups, &self.args.group_regex) {
            (Some(file), _) => Grouping::from_file(file)?,
            (None, Some(pattern)) => Grouping::from_pattern(pattern)?,
            (None, None) => Grouping::One,
        };
        let named = |member: &Member| (member.name.clone(), grouping.group_of(&member.name).unwrap_or_default());
        Ok(folds(&pseudo.iter().map(named).collect::<Vec<_>>(), self.args.seed))
    }

    /// Trains the folds on the pseudo-labels of the round before, and collects what they say of the cases they never saw.
    fn round(&self, round: usize, pseudo: &[Member], folds: &[Vec<String>]) -> Result<()> {
        let before = self.pseudo_labels(round - 1);
        let relabelled = |case: &Member| member(&case.name, &case.image, &before.join(format!("{}.nii.gz", case.name)));
        let pseudo: Vec<Member> = pseudo.iter().map(relabelled).collect();
        let [dataset, preprocessed, model] = ["dataset", "preprocessed", "model"].map(|name| self.at(round, name));
        write_dataset(
            &dataset,
            &self.description,
            &self.labelled.iter().chain(&pseudo).collect::<Vec<_>>(),
        )?;
        write_splits(&preprocessed, &self.labelled, folds)?;
        // One plan for all rounds, so that their networks compare.
        let plans = self.args.out.join("plans");
        let file = plans.join("nnUNetPlans.json");
        if !file.is_file() {
            self.step(
                &[&"plan", &dataset, &"--out", &plans],
                "--plan-options",
                self.args.plan_options.as_deref(),
            )?;
        }
        note!("round {round}: preprocessing");
        let exit = self.step(&[&"preprocess", &dataset, &"--plans", &file, &"--out", &preprocessed], "", None)?;
        if !matches!(exit, Exit::Done) {
            self.stop.check()?;
            bad_input!(
                "{}: not every case could be preprocessed; mend or remove those named above",
                preprocessed.display()
            );
        }
        let numbers: Vec<String> = (0..folds.len()).map(|fold| fold.to_string()).collect();
        let (numbers, seed) = (numbers.join(","), self.args.seed.wrapping_add(round as u64).to_string());
        note!("round {round}: training folds {numbers}");
        self.step(
            &[&"train", &preprocessed, &"--out", &model, &"--fold", &numbers, &"--seed", &seed],
            "--train-options",
            self.args.train_options.as_deref(),
        )?;
        let out = self.pseudo_labels(round);
        fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
        for (fold, names) in folds.iter().enumerate() {
            let from = held_out::folder(&model, Fold::Number(fold));
            names.iter().try_for_each(|name| copy(&from, &out, &format!("{name}.nii.gz")))?;
        }
        Ok(())
    }

    /// The last round's networks as the product, and the summary.
    fn finish(&self, agreements: &[f64], folds: usize) -> Result<()> {
        let (from, to) = (self.at(agreements.len(), "model"), self.args.out.join("model"));
        for file in ["plans.json", "dataset.json"] {
            copy(&from, &to, file)?;
        }
        for fold in 0..folds {
            let name = format!("fold_{fold}");
            copy(&from.join(&name), &to.join(&name), crate::unet::trainer::fold::FINAL)?;
        }
        let rounds: Vec<_> = (1..)
            .zip(agreements)
            .map(|(round, dice): (usize, _)| json!({"round": round, "mean_dice_with_round_before": dice}))
            .collect();
        let is_settled = agreements.last().is_some_and(|dice| *dice >= self.args.settled);
        let summary = json!({"rounds": rounds, "settled": is_settled, "folds": folds, "model": to});
        write_json(&self.args.out.join("summary.json"), &summary)?;
        if self.args.json {
            return messages::data_json(&summary);
        }
        let lines = (1..)
            .zip(agreements)
            .map(|(round, dice): (usize, _)| format!("{round:>5}  {dice:.4}\n"));
        let state = if is_settled {
            "settled"
        } else {
            "not settled yet: more --rounds may change them"
        };
        messages::data(&format!(
            "round  mean Dice with the pseudo-labels before\n{}the pseudo-labels are {state}; the model is in {}\n",
            lines.collect::<String>(),
            to.display()
        ))
    }
}

/// Copies a file, whole or not at all.
fn copy(from: &Path, to: &Path, name: &str) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    let path = from.join(name);
    let bytes = fs::read(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
    atomic_file::write_bytes(&to.join(name), &bytes)
}
