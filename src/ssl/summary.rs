//! What came of a run: how far its rounds agree, how good each is on the test cases, and what each took; for programs (`OUT/summary.json`) and as a table like the paper's Table 2.

use crate::clock;
use crate::cohort::journal::History;
use crate::ssl::places::Places;
use crate::ssl::round::write_if_changed;
use crate::ssl::settings::Settings;
use crate::ssl::status::known;
use crate::ssl::steps::Step;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// A measure over the test cases of a group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// Its mean; none of no case.
    pub mean: Option<f64>,
    /// Standard deviation over the cases.
    pub std: Option<f64>,
    /// Cases with a finite value.
    pub cases: usize,
    /// Cases whose class was missed altogether; in no mean of distances.
    pub missed: usize,
}

/// By group, class and measure.
pub type Scores = BTreeMap<String, BTreeMap<String, BTreeMap<String, Mean>>>;

/// A stage: TFFS, or a round.
#[derive(Clone, Debug, Serialize)]
pub struct Stage {
    /// 0 is TFFS.
    pub round: usize,
    /// Its name for people.
    pub name: String,
    /// Mean Dice of its pseudo-labels with those of the stage before.
    pub mean_dice_with_round_before: Option<f64>,
    /// How good it is on the test cases.
    pub test: Option<Scores>,
    /// Seconds of its steps, one after the other, all attempts of networks included; of cases that processes share, summed over them. The test is not included.
    pub seconds: f64,
    /// Seconds of its test.
    pub test_seconds: Option<f64>,
    /// The most memory of a process that did one of its steps.
    pub peak_memory_bytes: Option<u64>,
}

/// A run.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Its folder.
    #[serde(skip)]
    pub out: PathBuf,
    /// Its stages.
    pub rounds: Vec<Stage>,
    /// Whether the labels have settled.
    pub settled: bool,
    /// Networks of the model.
    pub folds: usize,
    /// The product.
    pub model: PathBuf,
    /// The report.
    pub report: PathBuf,
    /// Names of the classes, background first.
    pub classes: Vec<String>,
}

impl Summary {
    /// Of the run in `out`, as far as it is.
    ///
    /// # Errors
    /// A folder that no run was begun in, files that cannot be read.
    pub fn of(out: &Path) -> Result<Self> {
        let (places, settings) = (Places::new(out), Settings::of(out)?);
        let known = known(out, &settings)?;
        let history = History::of(out)?;
        let entries = history.latest();
        let stage = |round: usize| {
            let mut stage = Stage {
                round,
                name: if round == 0 { "TFFS".to_owned() } else { format!("round {round}") },
                mean_dice_with_round_before: round.checked_sub(1).and_then(|at| known.agreements.get(at)).copied(),
                test: scores(&places.test_scores(round)),
                seconds: 0.0,
                test_seconds: None,
                peak_memory_bytes: None,
            };
            let folds = (0..known.folds).map(|fold| Step::Train(round, fold));
            let steps: Vec<Step> = match round {
                0 => vec![Step::Label],
                1 => folds.chain([Step::Plan, Step::Preprocess(1), Step::Relabel(1)]).collect(),
                _ => folds.chain([Step::Preprocess(round), Step::Relabel(round)]).collect(),
            };
            for cost in steps.iter().filter_map(|step| entries.get(&step.to_string())?.cost) {
                stage.seconds += cost.seconds;
                stage.peak_memory_bytes = stage.peak_memory_bytes.max(cost.peak_memory_bytes);
            }
            let test = entries.get(&Step::Test(round).to_string()).and_then(|entry| entry.cost);
            stage.test_seconds = test.map(|cost| cost.seconds);
            stage
        };
        let rounds = known.agreements.len().min(known.last_round());
        Ok(Self {
            out: out.to_owned(),
            rounds: (0..=rounds).map(stage).collect(),
            settled: known.is_settled(),
            folds: known.folds,
            model: places.model(),
            report: places.report(),
            classes: class_names(&places),
        })
    }

    /// Writes `OUT/summary.json`.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn write(&self) -> Result<()> {
        write_if_changed(&Places::new(&self.out).summary(), &serde_json::to_value(self)?)
    }

    /// A class's name, by its label as text.
    pub fn class_name(&self, label: &str) -> String {
        let name = label.parse::<usize>().ok().and_then(|label| self.classes.get(label));
        name.cloned().unwrap_or_else(|| label.to_owned())
    }

    /// Rows of the table of test scores: stage, group, class, Dice, HD, HD95 and cases.
    pub fn score_rows(&self) -> Vec<[String; 7]> {
        let mut rows = Vec::new();
        for stage in &self.rounds {
            for (group, classes) in stage.test.iter().flatten() {
                for (class, measures) in classes {
                    let measure = |name: &str| measures.get(name).cloned().unwrap_or_default();
                    let (dice, hd) = (measure("dice"), measure("hd_mm"));
                    let missed = if hd.missed > 0 {
                        format!(", {} missed", hd.missed)
                    } else {
                        String::new()
                    };
                    rows.push([
                        stage.name.clone(),
                        group.clone(),
                        self.class_name(class),
                        with_spread(&dice, 4),
                        with_spread(&hd, 1),
                        with_spread(&measure("hd95_mm"), 1),
                        format!("{}{missed}", dice.cases),
                    ]);
                }
            }
        }
        rows
    }

    /// Rows of the table of stages: stage, agreement with the one before, time, time of the test, memory.
    pub fn stage_rows(&self) -> Vec<[String; 5]> {
        let row = |stage: &Stage| {
            [
                stage.name.clone(),
                stage
                    .mean_dice_with_round_before
                    .map_or("-".to_owned(), |dice| format!("{dice:.4}")),
                clock::spoken(stage.seconds),
                stage.test_seconds.map_or("-".to_owned(), clock::spoken),
                stage
                    .peak_memory_bytes
                    .map_or("-".to_owned(), |bytes| format!("{} MiB", bytes >> 20)),
            ]
        };
        self.rounds.iter().map(row).collect()
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let scores = self.score_rows();
        if !scores.is_empty() {
            text += &table(&SCORE_HEADS, &scores);
            text.push('\n');
        }
        text += &table(&STAGE_HEADS, &self.stage_rows());
        let state = if self.settled {
            "the pseudo-labels have settled"
        } else {
            "the pseudo-labels have not settled yet: more --rounds may change them"
        };
        // Writing into a String cannot fail.
        let _ = writeln!(
            text,
            "\n{state}\nmodel   {}\nreport  {}",
            self.model.display(),
            self.report.display()
        );
        text
    }
}

/// Heads of [`Summary::score_rows`].
pub const SCORE_HEADS: [&str; 7] = ["test", "group", "class", "Dice", "HD mm", "HD95 mm", "cases"];
/// Heads of [`Summary::stage_rows`].
pub const STAGE_HEADS: [&str; 5] = ["stage", "Dice with the one before", "time", "test", "peak memory"];

fn with_spread(mean: &Mean, digits: usize) -> String {
    match (mean.mean, mean.std) {
        (Some(mean), Some(std)) => format!("{mean:.digits$} ({std:.digits$})"),
        _ => "-".to_owned(),
    }
}

/// Columns as wide as their widest cell; numbers to the right.
fn table<const N: usize>(heads: &[&str; N], rows: &[[String; N]]) -> String {
    let width = |at: usize| rows.iter().map(|row| row[at].len()).chain([heads[at].len()]).max().unwrap_or(0);
    let line = |cells: [&str; N]| {
        let cells = cells.iter().enumerate().map(|(at, cell)| match at {
            0..3 if N == SCORE_HEADS.len() => format!("{cell:0$}", width(at)),
            0 => format!("{cell:0$}", width(at)),
            _ => format!("{cell:>0$}", width(at)),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let rows = rows.iter().map(|row| line(row.each_ref().map(String::as_str)));
    line(*heads) + &rows.collect::<String>()
}

fn scores(path: &Path) -> Option<Scores> {
    let json: Value = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
    serde_json::from_value(json.get("groups")?.clone()).ok()
}

fn class_names(places: &Places) -> Vec<String> {
    let text = fs::read_to_string(places.of_round(1, "dataset").join("dataset.json")).unwrap_or_default();
    let json: Value = serde_json::from_str(&text).unwrap_or_default();
    let labels = json.get("labels").and_then(Value::as_object);
    let mut names: Vec<(u64, String)> = labels
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((value.as_u64()?, name.clone())))
        .collect();
    names.sort();
    names.into_iter().map(|(_, name)| name).collect()
}
