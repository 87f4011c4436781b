//! `ops::rope` against complex numbers in f64.

use crate::support::ops::{assert_rows, assert_same, noise, on_any_threads, takes};
use hpc_seg::ops::rope::{Rope, cases, rope};
use hpc_seg::tensor::Tensor;

const THETA: f64 = 10000.0;

#[test]
fn rope_turns_pairs_by_x_then_by_y_and_leaves_other_columns() {
    for case in cases().into_iter().filter(|case| takes(case.name)) {
        let ((h, w), d) = (case.grid, case.width);
        let x = noise(case.items * h * w * case.channels, 1);
        let got = on_any_threads(case.name, |device| {
            let mut y = Tensor::from_slice(device, &[case.items, h, w, case.channels], &x).unwrap();
            rope(&mut y, case.from, &Rope::new(device, d, case.grid, THETA).unwrap()).unwrap();
            y.values().to_vec()
        });
        assert_rows(&format!("{case:?}"), &got, case.channels, 20.0 * d as f64, |row| {
            let mut out: Vec<f64> = x[row * case.channels..][..case.channels].iter().map(|&v| f64::from(v)).collect();
            let place = [(row % w) as f64, (row / w % h) as f64];
            for pair in 0..d / 2 {
                let angle = place[pair / (d / 4)] * THETA.powf(-4.0 * (pair % (d / 4)) as f64 / d as f64);
                let at = case.from + 2 * pair;
                let (a, b) = (out[at], out[at + 1]);
                (out[at], out[at + 1]) = (a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos());
            }
            out
        });
        let outside = |values: &[f32]| -> Vec<f32> {
            let turned = case.from..case.from + d;
            values
                .iter()
                .enumerate()
                .filter(|(i, _)| !turned.contains(&(i % case.channels)))
                .map(|(_, v)| *v)
                .collect()
        };
        assert_same(&format!("{case:?}, other columns"), &outside(&got), &outside(&x));
    }
}
