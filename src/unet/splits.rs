//! Which cases are trained on and which are held out: nnU-Net's five folds (`splits_final.json`).

use super::numpy_random::RandomState;
use serde::{Deserialize, Serialize};

/// Folds of a cross-validation.
pub const FOLDS: usize = 5;
const SEED: u32 = 12345;

/// One fold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// Cases that are trained on.
    pub train: Vec<String>,
    /// Cases that are held out.
    pub val: Vec<String>,
}

/// The five folds of these cases: scikit-learn's `KFold(5, shuffle=True, random_state=12345)` over the sorted names. Of fewer than five cases each is a fold of its own.
pub fn five_folds(cases: &[String]) -> Vec<Split> {
    let mut names = cases.to_vec();
    names.sort();
    let n = names.len();
    let folds = FOLDS.min(n);
    let mut order: Vec<usize> = (0..n).collect();
    RandomState::new(SEED).shuffle(&mut order);
    let mut start = 0;
    let fold = |fold: usize| {
        let size = n / folds + usize::from(fold < n % folds);
        let held_out = &order[start..start + size];
        start += size;
        let pick = |is_held_out: bool| {
            let picked = (0..n).filter(|at| held_out.contains(at) == is_held_out);
            picked.map(|at| names[at].clone()).collect()
        };
        Split {
            train: pick(false),
            val: pick(true),
        }
    };
    (0..folds).map(fold).collect()
}

/// The cases of a fold: one of `splits`, or beyond them a random 80 to 20, as nnU-Net does.
pub fn fold(splits: &[Split], cases: &[String], number: usize) -> Split {
    if let Some(split) = splits.get(number) {
        return split.clone();
    }
    let mut names = cases.to_vec();
    names.sort();
    let seed = SEED.wrapping_add(number as u32);
    let chosen = RandomState::new(seed).choice(names.len(), (names.len() as f64 * 0.8) as usize);
    let is_chosen = |at: usize| chosen.contains(&(at as u32));
    let (train, val): (Vec<_>, Vec<_>) = names.into_iter().enumerate().partition(|(at, _)| is_chosen(*at));
    let bare = |cases: Vec<(usize, String)>| cases.into_iter().map(|(_, name)| name).collect();
    Split {
        train: bare(train),
        val: bare(val),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|at| format!("{at:03}")).collect()
    }

    #[test]
    fn folds_are_nnu_nets() {
        let held_out = |n: usize| {
            let folds = five_folds(&names(n));
            let numbers = |names: &[String]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<usize>>();
            folds.iter().map(|fold| numbers(&fold.val)).collect::<Vec<_>>()
        };
        assert_eq!(held_out(10), [[0, 7], [3, 9], [4, 6], [1, 8], [2, 5]]);
        assert_eq!(
            held_out(20),
            [[3, 8, 13, 16], [0, 10, 12, 15], [6, 7, 11, 17], [9, 14, 18, 19], [1, 2, 4, 5]]
        );
        let of_23: [&[usize]; 5] = [
            &[3, 8, 10, 17, 19],
            &[0, 7, 12, 15, 16],
            &[6, 11, 14, 18, 20],
            &[9, 13, 21, 22],
            &[1, 2, 4, 5],
        ];
        assert_eq!(held_out(23), of_23);
        assert_eq!(held_out(3).len(), 3);
        for fold in five_folds(&names(13)) {
            assert_eq!(fold.train.len() + fold.val.len(), 13);
        }
    }

    #[test]
    fn a_fold_beyond_them_is_a_random_fifth() {
        let cases = names(10);
        let split = fold(&five_folds(&cases), &cases, 7);
        let mut chosen = RandomState::new(12352).choice(10, 8);
        chosen.sort_unstable();
        assert_eq!(split.train, chosen.iter().map(|at| format!("{at:03}")).collect::<Vec<_>>());
        assert_eq!(split.val, ["003", "005"]);
    }
}
