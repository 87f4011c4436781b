//! `ops::ensemble` against f64.

use crate::support::ops::{noise, takes};
use hpc_seg::ops::ensemble::{MAX_RUNS, ONE, cases, ensemble};
use hpc_seg::ops::resize::ResizePlan;

const GUARD: usize = 40;

#[test]
fn a_run_adds_its_rounded_probabilities_and_votes() {
    for case in cases().into_iter().filter(|case| takes(case.name)) {
        let plan = ResizePlan::bilinear(case.input, case.output).unwrap();
        let n = case.output.0 * case.output.1;
        let x: Vec<f32> = noise(case.input.0 * case.input.1, 1).into_iter().map(|v| 12.0 * v).collect();
        let mut logits = vec![f32::NAN; n];
        plan.resize(&x, &mut vec![f32::NAN; plan.scratch_len(1)], &mut logits).unwrap();
        let (mut sum, mut votes) = (vec![1000u32; n + 2 * GUARD], vec![7u16; n + 2 * GUARD]);
        ensemble(&x, &plan, &mut sum[GUARD..GUARD + n], &mut votes[GUARD..GUARD + n]).unwrap();
        for i in 0..n + 2 * GUARD {
            let Some(&logit) = i.checked_sub(GUARD).and_then(|i| logits.get(i)) else {
                assert_eq!((sum[i], votes[i]), (1000, 7), "{case:?}: the guard at {i} changed");
                continue;
            };
            let want = f64::from(ONE) / (1.0 + (-f64::from(logit)).exp());
            // The sigmoid is good to a few units in the last place of f32, which is the sum's unit.
            assert!(
                (f64::from(sum[i] - 1000) - want).abs() <= 4.0,
                "{case:?}: {} for a logit of {logit}, wanted {want}",
                sum[i] - 1000
            );
            assert_eq!(votes[i], 7 + u16::from(logit > 0.0), "{case:?}");
        }
    }
}

#[test]
fn the_order_of_runs_does_not_show() {
    let plan = ResizePlan::bilinear((8, 8), (13, 11)).unwrap();
    let runs: Vec<Vec<f32>> = (0..6).map(|seed| noise(64, seed)).collect();
    let total = |order: &[usize]| {
        let (mut sum, mut votes) = (vec![0u32; 143], vec![0u16; 143]);
        order
            .iter()
            .for_each(|&run| ensemble(&runs[run], &plan, &mut sum, &mut votes).unwrap());
        (sum, votes)
    };
    assert_eq!(total(&[0, 1, 2, 3, 4, 5]), total(&[3, 5, 1, 0, 4, 2]));
}

#[test]
fn as_many_runs_as_promised_do_not_overflow() {
    let plan = ResizePlan::bilinear((1, 1), (1, 1)).unwrap();
    let (mut sum, mut votes) = ([0u32], [0u16]);
    (0..MAX_RUNS).for_each(|_| ensemble(&[100.0], &plan, &mut sum, &mut votes).unwrap());
    assert_eq!((sum[0], usize::from(votes[0])), (255 << 24, MAX_RUNS));
}

#[test]
fn sums_of_another_size_are_refused() {
    let plan = ResizePlan::bilinear((2, 2), (3, 3)).unwrap();
    assert!(ensemble(&[0.0; 4], &plan, &mut [0; 8], &mut [0; 9]).is_err());
    assert!(ensemble(&[0.0; 4], &plan, &mut [0; 9], &mut [0; 10]).is_err());
    assert!(ensemble(&[0.0; 5], &plan, &mut [0; 9], &mut [0; 9]).is_err());
}
