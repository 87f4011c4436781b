//! Scores of many cases together: means with their uncertainty, a table, CSV, and nnU-Net's `summary.json`.

use super::scores::{Scores, percentile};
use crate::keyed_rng::keyed_rng;
use anyhow::Result;
use rand::RngExt;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Resamples of a confidence interval.
const RESAMPLES: usize = 2000;
const SEED: u64 = 0;

/// The scores of one class in one case.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The case.
    pub case: String,
    /// Its group.
    pub group: String,
    /// The class.
    pub class: u16,
    /// How well it agrees.
    pub scores: Scores,
}

/// A mean over cases.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mean {
    /// The group, or `all`.
    pub group: String,
    /// The class.
    pub class: u16,
    /// The score.
    pub score: &'static str,
    /// Cases that have it, and that do not.
    pub cases: usize,
    /// See [`Mean::cases`].
    pub without: usize,
    /// Over those that have it.
    pub mean: f64,
    /// Standard deviation over cases (population).
    pub std: f64,
    /// 95 % confidence interval of the mean, from resampling the cases with replacement.
    pub interval: [f64; 2],
}

/// Means of every score, class and group (and of all groups together, if there are several); scores that no case has are left out.
pub fn means(rows: &[Row]) -> Vec<Mean> {
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names.dedup();
        names
    };
    let mut groups = sorted(rows.iter().map(|row| row.group.clone()).collect());
    if groups.len() > 1 {
        groups.insert(0, String::new());
    }
    let mut classes: Vec<u16> = rows.iter().map(|row| row.class).collect();
    classes.sort_unstable();
    classes.dedup();
    let mut means = Vec::new();
    for group in &groups {
        for &class in &classes {
            let chosen: Vec<&Row> = rows
                .iter()
                .filter(|row| (group.is_empty() || row.group == *group) && row.class == class)
                .collect();
            for (at, score) in Scores::NAMES.into_iter().enumerate() {
                let values: Vec<f64> = chosen.iter().filter_map(|row| row.scores.values()[at]).collect();
                let name = if group.is_empty() { "all" } else { group };
                if !values.is_empty() {
                    means.push(mean(name, class, score, &values, chosen.len() - values.len()));
                }
            }
        }
    }
    means
}

fn mean(group: &str, class: u16, score: &'static str, values: &[f64], without: usize) -> Mean {
    let n = values.len() as f64;
    let average = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / n;
    let mean = average(&mut values.iter().copied());
    let mut rng = keyed_rng(SEED, &["bootstrap", group, &class.to_string(), score]);
    let resampled: Vec<f64> = (0..RESAMPLES)
        .map(|_| average(&mut (0..values.len()).map(|_| values[rng.random_range(0..values.len())])))
        .collect();
    let at = |share| percentile(resampled.clone(), share).unwrap_or(f64::NAN);
    Mean {
        group: group.to_owned(),
        class,
        score,
        cases: values.len(),
        without,
        mean,
        std: average(&mut values.iter().map(|v| (v - mean).powi(2))).sqrt(),
        interval: [at(0.025), at(0.975)],
    }
}

/// The means as aligned lines.
pub fn table(means: &[Mean], name: impl Fn(u16) -> String) -> String {
    let mut text = format!(
        "{:<12} {:<14} {:<13} {:>10} {:>10} {:>23} {:>6} {:>8}\n",
        "group", "class", "score", "mean", "std", "95 % interval", "cases", "without"
    );
    for m in means {
        let [low, high] = m.interval;
        text += &format!(
            "{:<12} {:<14} {:<13} {:>10.4} {:>10.4} {:>23} {:>6} {:>8}\n",
            m.group,
            name(m.class),
            m.score,
            m.mean,
            m.std,
            format!("{low:.4} to {high:.4}"),
            m.cases,
            m.without
        );
    }
    text
}

/// A line per case and class.
///
/// # Errors
/// None that a table in memory gives.
pub fn csv(rows: &[Row]) -> Result<Vec<u8>> {
    let mut table = csv::Writer::from_writer(Vec::new());
    let fixed = ["case", "group", "class", "tp", "fp", "fn", "tn", "prediction_ml", "reference_ml"];
    table.write_record(fixed.into_iter().chain(Scores::NAMES))?;
    for row in rows {
        let s = &row.scores;
        let counts = [s.true_positive, s.false_positive, s.false_negative, s.true_negative].map(|n| n.to_string());
        let volumes = [s.prediction_ml, s.reference_ml].map(|ml| ml.to_string());
        let scores = s.values().map(|value| value.map_or(String::new(), |value| value.to_string()));
        let head = [row.case.clone(), row.group.clone(), row.class.to_string()];
        table.write_record(head.iter().chain(&counts).chain(&volumes).chain(&scores))?;
    }
    Ok(table.into_inner()?)
}

/// nnU-Net's `summary.json`: keys sorted, indented by four, a score that is no number written as a bare `NaN` as Python does. `files` gives a case's prediction and reference.
pub fn nnunet_json(rows: &[Row], files: impl Fn(&str) -> [String; 2]) -> String {
    const NAMES: [&str; 8] = ["Dice", "FN", "FP", "IoU", "TN", "TP", "n_pred", "n_ref"];
    let values = |s: &Scores| {
        let [tp, fp, fneg, tn] = [s.true_positive, s.false_positive, s.false_negative, s.true_negative];
        let whole = |n: usize| Some(n as f64);
        [
            s.dice,
            whole(fneg),
            whole(fp),
            s.iou,
            whole(tn),
            whole(tp),
            whole(tp + fp),
            whole(tp + fneg),
        ]
    };
    let mut cases: Vec<&str> = rows.iter().map(|row| &*row.case).collect();
    cases.dedup();
    let mut classes: Vec<u16> = rows.iter().map(|row| row.class).collect();
    classes.sort_unstable();
    classes.dedup();
    let per_case: Vec<Value> = cases
        .iter()
        .map(|case| {
            let own = rows.iter().filter(|row| row.case == *case);
            let metrics: Map<String, Value> = own
                .map(|row| {
                    let whole = |at: usize, v: f64| if [0, 3].contains(&at) { number(Some(v)) } else { json!(v as u64) };
                    let entry = |(at, v): (usize, Option<f64>)| (NAMES[at].to_owned(), v.map_or_else(|| number(None), |v| whole(at, v)));
                    let metrics: Map<String, Value> = values(&row.scores).into_iter().enumerate().map(entry).collect();
                    (row.class.to_string(), Value::Object(metrics))
                })
                .collect();
            let [prediction, reference] = files(case);
            json!({"metrics": metrics, "prediction_file": prediction, "reference_file": reference})
        })
        .collect();
    let mean_of = |class: u16| -> [Option<f64>; 8] {
        let own: Vec<[Option<f64>; 8]> = rows
            .iter()
            .filter(|row| row.class == class)
            .map(|row| values(&row.scores))
            .collect();
        std::array::from_fn(|at| average(own.iter().filter_map(|values| values[at])))
    };
    let means: Vec<(u16, [Option<f64>; 8])> = classes.iter().map(|&class| (class, mean_of(class))).collect();
    let foreground: [Option<f64>; 8] = std::array::from_fn(|at| {
        // A plain mean: one class without makes it none.
        let all: Option<Vec<f64>> = means.iter().map(|(_, values)| values[at]).collect();
        average(all?.into_iter())
    });
    let object = |values: [Option<f64>; 8]| -> Value {
        NAMES
            .into_iter()
            .zip(values)
            .map(|(name, v)| (name.to_owned(), number(v)))
            .collect()
    };
    let mean: Map<String, Value> = means
        .into_iter()
        .map(|(class, values)| (class.to_string(), object(values)))
        .collect();
    let all = json!({"foreground_mean": object(foreground), "mean": mean, "metric_per_case": per_case});
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    // Writing a value into memory cannot fail.
    let _ = all.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter));
    String::from_utf8_lossy(&out).replace("\"\\u0000NaN\"", "NaN")
}

/// Stands for NaN until the text is made; no file's name is that.
const NAN: &str = "\u{0}NaN";

fn number(value: Option<f64>) -> Value {
    value.map_or_else(|| json!(NAN), |value| json!(value))
}

fn average(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}
