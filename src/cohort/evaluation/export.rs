//! The forms an evaluation is given in: a text table, CSV, JSON, and nnU-Net's `summary.json`.

use super::{Case, Evaluation, Score};
use crate::metrics::bootstrap::DRAWS;
use crate::metrics::overlap::Overlap;
use anyhow::Result;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// nnU-Net's counts and ratios, its keys in order.
const SUMMARY_KEYS: [&str; 8] = ["Dice", "FN", "FP", "IoU", "TN", "TP", "n_pred", "n_ref"];

impl Evaluation {
    /// A line per group, class and measure.
    pub fn table(&self) -> String {
        let rows = self.rows();
        let width = |of: &dyn Fn(usize) -> usize, least: usize| (0..rows.len()).map(of).max().unwrap_or(0).max(least);
        let group = width(&|i| rows[i].group.chars().count(), 5);
        let measure = width(&|i| rows[i].measure.len(), 7);
        let mut text = format!(
            "{:group$}  class  {:measure$}  cases  missed       mean        std     median  95 % interval of the mean\n",
            "group", "measure"
        );
        for row in &rows {
            let mean = row.mean;
            let interval = mean
                .interval
                .map_or("-".to_owned(), |[low, high]| format!("{} to {}", number(low), number(high)));
            // Writing into a String cannot fail.
            let _ = writeln!(
                text,
                "{:group$}  {:5}  {:measure$}  {:5}  {:6}  {:>9}  {:>9}  {:>9}  {interval}",
                row.group,
                row.class,
                row.measure,
                mean.cases,
                mean.missed,
                number(mean.mean),
                number(mean.std),
                number(mean.median)
            );
        }
        text
    }

    /// A line per case and class, with all measures: empty where there is no value, `inf` where a class was missed.
    ///
    /// # Errors
    /// None that a table in memory gives.
    pub fn csv(&self) -> Result<Vec<u8>> {
        let mut table = csv::Writer::from_writer(Vec::new());
        let fixed = ["case", "group", "class", "tp", "fp", "fn"].map(str::to_owned);
        table.write_record(fixed.into_iter().chain(self.measures.iter().map(|measure| measure.name())))?;
        for case in &self.cases {
            for (class, score) in &case.scores {
                let counts = [score.overlap.tp, score.overlap.fp, score.overlap.fn_].map(|count| count.to_string());
                let values = score
                    .values
                    .iter()
                    .map(|value| if value.is_nan() { String::new() } else { value.to_string() });
                let names = [case.name.clone(), case.group.clone(), class.to_string()];
                table.write_record(names.into_iter().chain(counts).chain(values))?;
            }
        }
        Ok(table.into_inner()?)
    }

    /// Everything, with the settings and whose rules were followed. A value that is not there or infinite is null; the counts tell which.
    pub fn json(&self) -> Value {
        let request = &self.request;
        let rules = self
            .measures
            .iter()
            .filter_map(|measure| Some((measure.name(), Value::from(measure.rules()?))));
        let mut groups = BTreeMap::<String, BTreeMap<u16, Map<String, Value>>>::new();
        for row in self.rows() {
            let mean = row.mean;
            let value = json!({"cases": mean.cases, "missed": mean.missed, "mean": mean.mean, "std": mean.std, "median": mean.median, "interval_95": mean.interval});
            groups
                .entry(row.group)
                .or_default()
                .entry(row.class)
                .or_default()
                .insert(row.measure, value);
        }
        let scores = |case: &Case| -> Map<String, Value> {
            let classes = case.scores.iter();
            classes.map(|(class, score)| (class.to_string(), self.score_json(score))).collect()
        };
        let case = |case: &Case| json!({"case": case.name, "group": case.group, "prediction": case.prediction, "reference": case.reference, "classes": scores(case)});
        json!({
            "preset": request.preset.name(),
            "rules": rules.collect::<Map<_, _>>(),
            "empty": "neither map holds the class: null, but for volumes of 0 ml; one holds it alone: Dice, IoU and NSD 0, distances null and counted as missed",
            "bootstrap": {"seed": request.seed, "draws": DRAWS},
            "groups": groups,
            "cases": self.cases.iter().map(case).collect::<Vec<_>>(),
            "failed": self.failed.iter().map(|(case, error)| json!({"case": case, "error": error})).collect::<Vec<_>>(),
        })
    }

    fn score_json(&self, score: &Score) -> Value {
        let Overlap { tp, fp, fn_, tn } = score.overlap;
        let counts = [("tp", tp), ("fp", fp), ("fn", fn_), ("tn", tn)].map(|(name, count)| (name.to_owned(), json!(count)));
        let values = self.measures.iter().zip(&score.values);
        let values = values.map(|(measure, value)| (measure.name(), json!(value)));
        counts.into_iter().chain(values).collect::<Map<_, _>>().into()
    }

    /// nnU-Net's `summary.json`: keys sorted, four spaces, NaN bare as Python writes it (strict JSON readers refuse that). `mean` leaves cases
    /// without a value out, `foreground_mean` is the plain mean of the classes' means.
    pub fn summary_json(&self) -> String {
        let classes: Vec<u16> = self.classes().collect();
        let of_class = |class: u16| -> [f64; 8] {
            let all: Vec<[f64; 8]> = self.cases.iter().map(|case| summary_values(&case.scores[&class].overlap)).collect();
            std::array::from_fn(|key| {
                let known: Vec<f64> = all.iter().map(|values| values[key]).filter(|value| !value.is_nan()).collect();
                known.iter().sum::<f64>() / known.len() as f64
            })
        };
        let means: Vec<[f64; 8]> = classes.iter().map(|&class| of_class(class)).collect();
        let foreground = std::array::from_fn(|key| means.iter().map(|values| values[key]).sum::<f64>() / means.len() as f64);
        let mut sorted: Vec<usize> = (0..classes.len()).collect();
        sorted.sort_by_key(|&index| classes[index].to_string()); // as text: 10 before 2
        let labelled = |indent: usize, body: &dyn Fn(usize) -> String| {
            let lines = sorted.iter().map(|&index| (classes[index].to_string(), body(index)));
            object(indent, lines)
        };
        let case = |case: &Case| {
            let metrics = labelled(16, &|index| {
                let values = summary_values(&case.scores[&classes[index]].overlap);
                let text = |key: usize| {
                    if matches!(key, 0 | 3) {
                        float(values[key])
                    } else {
                        format!("{}", values[key])
                    }
                };
                object(
                    20,
                    SUMMARY_KEYS.iter().enumerate().map(|(key, name)| ((*name).to_owned(), text(key))),
                )
            });
            let file = |path: &std::path::Path| json!(path.to_string_lossy()).to_string();
            let lines = [
                ("metrics", metrics),
                ("prediction_file", file(&case.prediction)),
                ("reference_file", file(&case.reference)),
            ];
            format!(
                "        {}",
                object(12, lines.into_iter().map(|(name, text)| (name.to_owned(), text)))
            )
        };
        let floats = |indent: usize, values: &[f64; 8]| {
            object(
                indent,
                SUMMARY_KEYS
                    .iter()
                    .zip(values)
                    .map(|(name, value)| ((*name).to_owned(), float(*value))),
            )
        };
        let cases: Vec<String> = self.cases.iter().map(case).collect();
        let lines = [
            ("foreground_mean", floats(8, &foreground)),
            ("mean", labelled(8, &|index| floats(12, &means[index]))),
            ("metric_per_case", format!("[\n{}\n    ]", cases.join(",\n"))),
        ];
        object(4, lines.into_iter().map(|(name, text)| (name.to_owned(), text)))
    }
}

/// In the order of [`SUMMARY_KEYS`].
fn summary_values(overlap: &Overlap) -> [f64; 8] {
    let Overlap { tp, fp, fn_, tn } = *overlap;
    let [tp, fp, fn_, tn] = [tp, fp, fn_, tn].map(|count| count as f64);
    [overlap.dice(), fn_, fp, overlap.iou(), tn, tp, tp + fp, tp + fn_]
}

/// A JSON object whose members stand `indent` spaces in.
fn object(indent: usize, members: impl Iterator<Item = (String, String)>) -> String {
    let lines: Vec<String> = members.map(|(name, text)| format!("{:indent$}\"{name}\": {text}", "")).collect();
    format!("{{\n{}\n{:2$}}}", lines.join(",\n"), "", indent - 4)
}

/// As Python's json writes a float.
fn float(value: f64) -> String {
    format!("{value:?}")
}

/// For the table: four digits after the point of small numbers, two of large ones.
fn number(value: f64) -> String {
    match value.abs() {
        size if size.is_nan() => "-".to_owned(),
        size if size < 10.0 => format!("{value:.4}"),
        _ => format!("{value:.2}"),
    }
}
