//! Where a run stands, told from its files alone: from any machine that sees them, while others work.

use crate::clock;
use crate::cohort::journal::{Entry, Event, History};
use crate::cohort::presence::{is_busy, is_claimed};
use crate::ssl::agreement::Agreement;
use crate::ssl::places::{Places, read_made};
use crate::ssl::settings::Settings;
use crate::ssl::steps::{Known, Step};
use crate::ssl::work::Work;
use crate::unet::dataset::Dataset;
use crate::unet::memory;
use crate::unet::plan::Plans;
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Where a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its result is there.
    Done,
    /// A process works on it.
    Running,
    /// It was begun, but nobody works on it: its process was stopped or killed. The same command goes on.
    Interrupted,
    /// It failed. The same command tries it again.
    Failed,
    /// Its turn has not come.
    Waiting,
}

/// A step.
#[derive(Clone, Debug, Serialize)]
pub struct StepStatus {
    /// Its name.
    pub step: String,
    /// Where it stands.
    pub state: State,
    /// Since when, in UTC.
    pub since: Option<String>,
    /// Host and number of the process that did or does it.
    pub process: Option<String>,
    /// What it took.
    pub seconds: Option<f64>,
    /// The most memory of its process meanwhile.
    pub peak_memory_bytes: Option<u64>,
    /// How far it is: cases, or epochs.
    pub progress: Option<String>,
    /// What went wrong.
    pub error: Option<String>,
}

/// A run.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Its folder.
    pub out: PathBuf,
    /// Its steps, in their order; rounds that may not come to pass included.
    pub steps: Vec<StepStatus>,
    /// Steps that are done.
    pub done: usize,
    /// Seconds that one process would take for the rest, by what steps of each kind took; none until there is one of each.
    pub seconds_left: Option<f64>,
    /// Bytes of a training step, once the networks are planned.
    pub training_step_bytes: Option<usize>,
}

impl Status {
    /// Of a run that was begun in `out`.
    ///
    /// # Errors
    /// A folder that no run was begun in, files that cannot be read.
    pub fn of(out: &Path) -> Result<Self> {
        let settings = Settings::of(out)?;
        Self::look(out, &known(out, &settings)?, None)
    }

    /// Of a run that may not have begun.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn planned(work: &Work<'_>) -> Result<Self> {
        let cases = work.unlabelled().count();
        let known = known(work.places.out(), &work.settings)?.expecting(cases);
        Self::look(work.places.out(), &known, Some(cases))
    }

    fn look(out: &Path, known: &Known, cases: Option<usize>) -> Result<Self> {
        let (places, history) = (Places::new(out), History::of(out)?);
        let entries = history.latest();
        let plans = Plans::read(&places.plans()).ok();
        let look = |step: Step| step_status(&places, entries.get(&step.to_string()), &step, cases);
        let steps: Vec<StepStatus> = known.steps().into_iter().map(look).collect();
        let dataset = Dataset::open(&places.of_round(1, "dataset")).ok();
        let bytes = plans
            .zip(dataset)
            .map(|(plans, dataset)| memory::of_plan(&plans.configuration, dataset.classes()).total());
        Ok(Self {
            out: out.to_owned(),
            done: steps.iter().filter(|step| step.state == State::Done).count(),
            seconds_left: seconds_left(&steps),
            training_step_bytes: bytes,
            steps,
        })
    }

    /// For people.
    pub fn table(&self) -> String {
        let width = self.steps.iter().map(|step| step.step.len()).max().unwrap_or(4).max(4);
        let mut text = format!("{:width$}  {:11}  {:>10}  {:>9}  what\n", "step", "state", "time", "memory");
        for step in &self.steps {
            let state = serde_json::to_value(step.state).unwrap_or_default();
            let time = step.seconds.map_or(String::new(), clock::spoken);
            let memory = step.peak_memory_bytes.map_or(String::new(), |bytes| format!("{} MiB", bytes >> 20));
            let what = [&step.progress, &step.error]
                .into_iter()
                .flatten()
                .cloned()
                .collect::<Vec<_>>()
                .join("; ");
            let place = match (step.state, &step.process, &step.since) {
                (State::Running | State::Interrupted, Some(process), Some(since)) => format!("{process} since {since}"),
                _ => String::new(),
            };
            let what = [place, what]
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join("; ");
            let line = format!(
                "{:width$}  {:11}  {time:>10}  {memory:>9}  {what}",
                step.step,
                state.as_str().unwrap_or_default()
            );
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{}", line.trim_end());
        }
        let left = match self.seconds_left {
            _ if self.done == self.steps.len() => String::new(),
            Some(seconds) => format!("; about {} left for one process", clock::spoken(seconds)),
            None => "; the time left is not known yet".to_owned(),
        };
        let _ = writeln!(text, "{} of {} steps done{left}", self.done, self.steps.len());
        if let Some(bytes) = self.training_step_bytes {
            let _ = writeln!(text, "a training step takes {:.2} GiB", bytes as f64 / f64::from(1 << 30));
        }
        text
    }
}

/// What is known of a run's steps from its files.
///
/// # Errors
/// A journal that cannot be read.
pub fn known(out: &Path, settings: &Settings) -> Result<Known> {
    let (places, history) = (Places::new(out), History::of(out)?);
    let entries = history.latest();
    let is_done = |step: Step| entries.get(&step.to_string()).is_some_and(|entry| entry.event == Event::Done);
    let folds = fs::read_to_string(places.folds()).ok();
    let folds = folds.and_then(|text| serde_json::from_str::<Vec<Vec<String>>>(&text).ok());
    let agreement = |round: usize| {
        let text = fs::read_to_string(places.agreement(round)).ok()?;
        Some(serde_json::from_str::<Agreement>(&text).ok()?.mean_dice)
    };
    let rounds = (1..=settings.rounds).take_while(|round| is_done(Step::Relabel(*round)));
    Ok(Known {
        folds: folds.map_or(0, |folds| folds.len()),
        agreements: rounds.map_while(agreement).collect(),
        has_test: settings.test.is_some(),
        rounds: settings.rounds,
        settled: settings.settled,
    })
}

fn step_status(places: &Places, entry: Option<&Entry>, step: &Step, cases: Option<usize>) -> StepStatus {
    let shared = places.shared(step);
    let is_claimed = is_claimed(places.out(), &step.to_string()) || shared.as_deref().is_some_and(is_busy);
    let state = match entry.map(|entry| entry.event) {
        _ if is_claimed => State::Running,
        Some(Event::Done) if !is_lost(places, step) => State::Done,
        Some(Event::Failed) => State::Failed,
        Some(Event::Started | Event::Stopped) => State::Interrupted,
        Some(Event::Done | Event::Skipped | Event::Shared) | None => State::Waiting,
    };
    let progress = match (step, &shared) {
        (Step::Train(round, fold), _) => epochs(&places.checkpoint(*round, *fold)).filter(|_| state != State::Done),
        (_, Some(folder)) => cases_done(folder, cases.filter(|_| *step == Step::Label)),
        _ => None,
    };
    let cost = entry.and_then(|entry| entry.cost).filter(|_| state == State::Done);
    StepStatus {
        step: step.to_string(),
        state,
        since: entry.map(|entry| entry.time.clone()),
        process: entry.map(|entry| entry.process.clone()),
        seconds: cost.map(|cost| cost.seconds),
        peak_memory_bytes: cost.and_then(|cost| cost.peak_memory_bytes),
        progress,
        error: entry.filter(|_| state == State::Failed).map(|entry| entry.error.clone()),
    }
}

/// Whether the result of a step that was done is gone since.
pub fn is_lost(places: &Places, step: &Step) -> bool {
    match step {
        Step::Train(round, fold) => !places.checkpoint(*round, *fold).is_file(),
        Step::Plan => !places.plans().is_file(),
        Step::Label => !places.folds().is_file(),
        Step::Preprocess(_) => places.shared(step).is_some_and(|folder| !folder.is_dir()),
        Step::Relabel(round) => !places.agreement(*round).is_file(),
        Step::Test(round) => !places.test_scores(*round).is_file(),
        Step::Model => {
            let folds = read_made::<Vec<Vec<String>>>(&places.folds()).map_or(0, |folds| folds.len());
            (0..folds).any(|fold| !places.product(fold).is_file())
        }
        Step::LabelCase(_) => false,
    }
}

fn epochs(checkpoint: &Path) -> Option<String> {
    let table = fs::read_to_string(checkpoint.with_file_name("progress.csv")).ok()?;
    Some(format!("{} epochs", table.lines().count().saturating_sub(1)))
}

fn cases_done(folder: &Path, of: Option<usize>) -> Option<String> {
    let history = History::of(folder).ok();
    let entries = history.as_ref().map(History::latest).filter(|entries| !entries.is_empty());
    let count = |event: Event| {
        entries
            .iter()
            .flat_map(|entries| entries.values())
            .filter(|entry| entry.event == event)
            .count()
    };
    let (done, failed) = (count(Event::Done), count(Event::Failed));
    let of = of.map_or(String::new(), |all| format!(" of {all}"));
    match (done, failed) {
        (0, 0) if of.is_empty() => None,
        (_, 0) => Some(format!("{done}{of} cases")),
        _ => Some(format!("{done}{of} cases, {failed} failed")),
    }
}

/// By the mean of the steps of each kind that are done.
fn seconds_left(steps: &[StepStatus]) -> Option<f64> {
    let kind = |step: &StepStatus| -> String {
        match step.step.as_str() {
            "test/round_0" => "TFFS of the test cases".to_owned(), // unlike the networks' tests
            name => name.chars().filter(|letter| !letter.is_ascii_digit()).collect(),
        }
    };
    let mut seen = BTreeMap::<String, (f64, f64)>::new();
    for (kind, seconds) in steps.iter().filter_map(|step| Some((kind(step), step.seconds?))) {
        let sum = seen.entry(kind).or_default();
        *sum = (sum.0 + seconds, sum.1 + 1.0);
    }
    let is_quick = |kind: &str| ["model", "plan"].contains(&kind) || kind.ends_with("relabel");
    let left = steps.iter().filter(|step| step.state != State::Done).map(|step| {
        let kind = kind(step);
        let mean = seen.get(&kind).map(|(sum, count)| sum / count);
        mean.or_else(|| is_quick(&kind).then_some(0.0))
    });
    left.sum::<Option<f64>>().map(|seconds| seconds + 0.0) // a sum of nothing is -0
}
