//! Means over the cases of a group.

use super::Evaluation;
use crate::metrics::bootstrap::interval_of_mean;
use crate::metrics::surface::percentile;
use std::collections::BTreeSet;

/// A measure of a class over the cases of a group.
#[derive(Clone, Debug)]
pub struct Row {
    /// The group; `all` for all cases.
    pub group: String,
    /// The label.
    pub class: u16,
    /// The measure's name.
    pub measure: String,
    /// What it came to.
    pub mean: Mean,
}

/// A mean and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mean {
    /// Cases with a finite value.
    pub cases: usize,
    /// Cases in which one map alone holds the class, so that a distance is infinite; not in the mean.
    pub missed: usize,
    /// The mean; NaN of no case.
    pub mean: f64,
    /// Standard deviation over the cases (of the population); NaN of no case.
    pub std: f64,
    /// The median; NaN of no case.
    pub median: f64,
    /// 95 % bootstrap interval of the mean, from two cases on.
    pub interval: Option<[f64; 2]>,
}

impl Evaluation {
    /// Every group (after `all`, if there are several), class and measure.
    pub fn rows(&self) -> Vec<Row> {
        let groups: BTreeSet<&str> = self.cases.iter().map(|case| case.group.as_str()).collect();
        let parts: Vec<Option<&str>> = match groups.len() {
            0 | 1 => groups.into_iter().map(Some).collect(),
            _ => [None].into_iter().chain(groups.into_iter().map(Some)).collect(),
        };
        let mut rows = Vec::new();
        for part in parts {
            for class in self.classes() {
                for (index, measure) in self.measures.iter().enumerate() {
                    let (group, measure) = (part.unwrap_or("all").to_owned(), measure.name());
                    let cases = self.cases.iter().filter(|case| part.is_none_or(|part| part == case.group));
                    let values: Vec<f64> = cases.map(|case| case.scores[&class].values[index]).collect();
                    let mean = mean(&values, self.request.seed, &[&group, &class.to_string(), &measure]);
                    rows.push(Row {
                        group,
                        class,
                        measure,
                        mean,
                    });
                }
            }
        }
        rows
    }

    /// The labels that were compared, ascending.
    pub fn classes(&self) -> impl Iterator<Item = u16> {
        self.cases.first().into_iter().flat_map(|case| case.scores.keys().copied())
    }
}

fn mean(values: &[f64], seed: u64, key: &[&str]) -> Mean {
    let finite: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    let mut ascending = finite.clone();
    ascending.sort_unstable_by(f64::total_cmp);
    let mean = finite.iter().sum::<f64>() / finite.len() as f64;
    let variance = finite.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / finite.len() as f64;
    Mean {
        cases: finite.len(),
        missed: values.iter().filter(|value| value.is_infinite()).count(),
        mean,
        std: variance.sqrt(),
        median: percentile(&ascending, 50.0),
        interval: interval_of_mean(&finite, seed, key),
    }
}
