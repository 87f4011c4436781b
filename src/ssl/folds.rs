//! Which network re-labels which case: the unlabelled cases in folds of nearly equal size, each group spread over all of them.

use crate::bad_input;
use crate::keyed_rng::keyed_rng;
use crate::ssl::work::Work;
use anyhow::Result;
use rand::seq::SliceRandom;
use std::collections::BTreeMap;

/// Most folds.
pub const FOLDS: usize = 5;

/// The folds of cases (name, group), the names in each in order. Of fewer than five cases each is a fold of its own. Who is where depends on the names in a case's own group and the seed alone,
/// but for where the group before ended.
pub fn folds(cases: &[(String, String)], seed: u64) -> Vec<Vec<String>> {
    let mut groups: BTreeMap<&String, Vec<&String>> = BTreeMap::new();
    for (name, group) in cases {
        groups.entry(group).or_default().push(name);
    }
    let count = FOLDS.min(cases.len());
    let mut folds = vec![Vec::new(); count];
    let mut next = 0;
    for (group, mut names) in groups {
        names.sort();
        names.shuffle(&mut keyed_rng(seed, &["folds of the unlabelled cases", group]));
        for name in names {
            folds[next % count].push(name.clone());
            next += 1;
        }
    }
    folds.iter_mut().for_each(|fold| fold.sort());
    folds
}

impl Work<'_> {
    /// That the cases which take part are unlabelled ones still, as with another folder of them.
    ///
    /// # Errors
    /// One that is none.
    pub(super) fn check_who_takes_part(&self) -> Result<()> {
        match self
            .folds()?
            .into_iter()
            .flatten()
            .find(|name| self.unlabelled().all(|other| other != name))
        {
            None => Ok(()),
            Some(name) => bad_input!(
                "{name} takes part in this run, but is not among the unlabelled volumes any more; put it back, or give --redo to label and train anew"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases(of: &[(&str, usize)]) -> Vec<(String, String)> {
        let named = |(group, count): &(&str, usize)| {
            let group = (*group).to_owned();
            (0..*count)
                .map(move |at| (format!("{group}_{at:02}"), group.clone()))
                .collect::<Vec<_>>()
        };
        of.iter().flat_map(named).collect()
    }

    #[test]
    fn every_case_is_in_one_fold_and_groups_are_spread() {
        let cases = cases(&[("a", 13), ("b", 6), ("c", 3)]);
        let found = folds(&cases, 7);
        let mut all: Vec<String> = found.iter().flatten().cloned().collect();
        all.sort();
        assert!(all.iter().eq(cases.iter().map(|(name, _)| name)));
        let sizes: Vec<usize> = found.iter().map(Vec::len).collect();
        assert!(sizes.iter().all(|size| (4..=5).contains(size)), "{sizes:?}");
        for (group, least, most) in [("a", 2, 3), ("b", 1, 2), ("c", 0, 1)] {
            for fold in &found {
                let count = fold.iter().filter(|name| name.starts_with(group)).count();
                assert!((least..=most).contains(&count), "{group}: {fold:?}");
            }
        }
    }

    #[test]
    fn folds_are_the_seeds_and_do_not_depend_on_the_order() {
        let mut cases = cases(&[("a", 9), ("b", 4)]);
        let found = folds(&cases, 1);
        assert!(found != folds(&cases, 2));
        cases.reverse();
        assert_eq!(found, folds(&cases, 1));
        assert_eq!(folds(&cases[..3], 1).len(), 3);
        assert!(folds(&[], 1).is_empty());
    }
}
