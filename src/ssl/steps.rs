//! The steps of a run and what each needs: the arrows of Algorithm 1 of SSL-MedSAM2.

use crate::bad_input;
use crate::ssl::folds::FOLDS;
use crate::ssl::places::round_name;
use anyhow::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// A step, by its name in the journal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// `label`: the initial pseudo-labels, by TFFS. Processes share its cases.
    Label,
    /// `label/CASE`: that of one case.
    LabelCase(String),
    /// `plan`: of the networks of all rounds.
    Plan,
    /// `round_1/preprocess`. Processes share its cases.
    Preprocess(usize),
    /// `round_1/fold_0`: trains a network, which then re-labels the cases it never saw.
    Train(usize, usize),
    /// `round_1/relabel`: collects the new pseudo-labels, and compares them with those before.
    Relabel(usize),
    /// `test/round_1`: what a round's networks make of the test cases, and how good it is; of round 0, TFFS. Processes share its cases.
    Test(usize),
    /// `model`: the last round's networks as the product.
    Model,
}

/// What decides which steps there are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// Folds; 0 as long as the initial pseudo-labels are not there.
    pub folds: usize,
    /// Agreement of each finished round with the one before.
    pub agreements: Vec<f64>,
    /// Whether there are test cases.
    pub has_test: bool,
    /// Most rounds.
    pub rounds: usize,
    /// Agreement at which rounds end.
    pub settled: f64,
}

impl Known {
    /// The last round, as far as can be said: one that has settled, or the last that may be.
    pub fn last_round(&self) -> usize {
        let settled = self.agreements.iter().position(|dice| *dice >= self.settled);
        settled.map_or(self.rounds, |at| at + 1).min(self.rounds)
    }

    /// With the folds there will be, should all of so many cases be labelled.
    pub fn expecting(self, cases: usize) -> Self {
        let folds = if self.folds == 0 { FOLDS.min(cases) } else { self.folds };
        Self { folds, ..self }
    }

    /// Whether the labels have settled.
    pub fn is_settled(&self) -> bool {
        self.agreements.iter().take(self.rounds).any(|dice| *dice >= self.settled)
    }

    /// What a step does, for people.
    pub fn what(&self, step: &Step) -> String {
        match step {
            Step::Label => "pseudo-labels of all unlabelled cases, by TFFS".to_owned(),
            Step::LabelCase(case) => format!("the pseudo-label of {case}, by TFFS"),
            Step::Plan => "a plan for the networks of all rounds".to_owned(),
            Step::Preprocess(round) => format!("the cases of round {round}, cropped, normalised and resampled"),
            Step::Train(round, fold) => format!(
                "network {} of {} of round {round}, which then re-labels the cases it never saw",
                fold + 1,
                self.folds.max(1)
            ),
            Step::Relabel(round) => format!("the pseudo-labels of round {round}, compared with those before"),
            Step::Test(0) => "TFFS on the test cases".to_owned(),
            Step::Test(round) => format!("the mean of round {round}'s networks on the test cases"),
            Step::Model => "the last round's networks, as the product".to_owned(),
        }
    }

    /// All steps, each after those it needs; while the folds are not known, those of one fold stand for all.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = vec![Step::Label];
        steps.extend(self.has_test.then_some(Step::Test(0)));
        steps.push(Step::Plan);
        for round in 1..=self.last_round() {
            steps.push(Step::Preprocess(round));
            steps.extend((0..self.folds.max(1)).map(|fold| Step::Train(round, fold)));
            steps.push(Step::Relabel(round));
            steps.extend(self.has_test.then_some(Step::Test(round)));
        }
        steps.push(Step::Model);
        steps
    }

    /// What a step needs to be done before.
    pub fn needs(&self, step: &Step) -> Vec<Step> {
        let folds = |round: usize| (0..self.folds.max(1)).map(|fold| Step::Train(round, fold)).collect();
        match step {
            Step::Label | Step::LabelCase(_) | Step::Test(0) => Vec::new(),
            Step::Plan => vec![Step::Label],
            Step::Preprocess(1) => vec![Step::Plan],
            Step::Preprocess(round) => vec![Step::Plan, Step::Relabel(round - 1)],
            Step::Train(round, _) => vec![Step::Preprocess(*round)],
            Step::Relabel(round) | Step::Test(round) => folds(*round),
            Step::Model => vec![Step::Relabel(self.last_round())],
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Label => f.write_str("label"),
            Step::LabelCase(case) => write!(f, "label/{case}"),
            Step::Plan => f.write_str("plan"),
            Step::Preprocess(round) => write!(f, "{}/preprocess", round_name(*round)),
            Step::Train(round, fold) => write!(f, "{}/fold_{fold}", round_name(*round)),
            Step::Relabel(round) => write!(f, "{}/relabel", round_name(*round)),
            Step::Test(round) => write!(f, "test/{}", round_name(*round)),
            Step::Model => f.write_str("model"),
        }
    }
}

impl FromStr for Step {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |text: &str, prefix: &str| text.strip_prefix(prefix)?.parse::<usize>().ok().filter(|number| *number < 1000);
        let round = |text: &str| number(text, "round_").filter(|round| *round > 0);
        let parsed = match text.split_once('/') {
            None => match text {
                "label" => Some(Step::Label),
                "plan" => Some(Step::Plan),
                "model" => Some(Step::Model),
                _ => None,
            },
            Some(("label", case)) if !case.is_empty() => Some(Step::LabelCase(case.to_owned())),
            Some(("test", name)) => number(name, "round_").map(Step::Test),
            Some((at, "preprocess")) => round(at).map(Step::Preprocess),
            Some((at, "relabel")) => round(at).map(Step::Relabel),
            Some((at, name)) => round(at).zip(number(name, "fold_")).map(|(round, fold)| Step::Train(round, fold)),
        };
        match parsed {
            Some(step) => Ok(step),
            None => bad_input!(
                "{text:?} is no step; there are label, label/CASE, plan, round_1/preprocess, round_1/fold_0, round_1/relabel, test/round_0 and model (see hpc-seg status)"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn known() -> Known {
        Known {
            folds: 5,
            agreements: vec![0.9],
            has_test: true,
            rounds: 3,
            settled: 0.95,
        }
    }

    #[test]
    fn names_lead_back_to_their_steps() {
        let mut steps = known().steps();
        steps.push(Step::LabelCase("a/b".into()));
        for step in steps {
            assert_eq!(step.to_string().parse::<Step>().unwrap(), step);
        }
        for wrong in [
            "",
            "train",
            "round_0/fold_1",
            "round_1/fold_x",
            "label/",
            "round_1",
            "test/1",
            "round_9999/relabel",
        ] {
            assert!(wrong.parse::<Step>().unwrap_err().to_string().contains("is no step"), "{wrong}");
        }
    }

    #[test]
    fn every_step_comes_after_what_it_needs() {
        let known = known();
        let mut before = BTreeSet::new();
        for step in known.steps() {
            for needed in known.needs(&step) {
                assert!(before.contains(&needed), "{step} needs {needed}");
            }
            before.insert(step);
        }
        assert_eq!(before.len(), 1 + 1 + 1 + 3 * (1 + 5 + 1 + 1) + 1);
    }

    #[test]
    fn nothing_is_ready_too_early_while_the_folds_are_not_known() {
        let known = Known { folds: 0, ..known() };
        let ready: Vec<Step> = known.steps().into_iter().filter(|step| known.needs(step).is_empty()).collect();
        assert_eq!(ready, [Step::Label, Step::Test(0)]);
    }

    #[test]
    fn rounds_end_when_the_labels_have_settled() {
        let mut known = known();
        assert_eq!((known.last_round(), known.is_settled()), (3, false));
        known.agreements.push(0.96);
        assert_eq!((known.last_round(), known.is_settled()), (2, true));
        assert!(!known.steps().contains(&Step::Preprocess(3)));
        assert_eq!(known.needs(&Step::Model), [Step::Relabel(2)]);
    }
}
