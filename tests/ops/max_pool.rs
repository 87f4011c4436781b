//! `ops::max_pool` against plain loops, exactly.

use crate::support::ops::{assert_same, noise, on_any_threads, poison, takes};
use hpc_seg::ops::max_pool::{cases, max_pool};
use hpc_seg::tensor::Tensor;

#[test]
fn max_pool_equals_plain_loops() {
    for case in cases().into_iter().filter(|case| takes(case.name)) {
        let (h, w) = case.size;
        // Below zero, so that a maximum begun at zero shows.
        let x: Vec<f32> = noise(case.items * h * w * case.channels, 1).into_iter().map(|v| v - 2.0).collect();
        let got = on_any_threads(case.name, |device| {
            let x = Tensor::from_slice(device, &[case.items, h, w, case.channels], &x).unwrap();
            poison(device, case.items * h * w / 4 * case.n);
            max_pool(&x, case.from, case.n).unwrap().values().to_vec()
        });
        let mut want = Vec::new();
        for row in 0..case.items * h / 2 {
            for ox in 0..w / 2 {
                for column in case.from..case.from + case.n {
                    let at = |dy: usize, dx: usize| x[((2 * row + dy) * w + 2 * ox + dx) * case.channels + column];
                    want.push(at(0, 0).max(at(0, 1)).max(at(1, 0)).max(at(1, 1)));
                }
            }
        }
        assert_same(&format!("{case:?}"), &got, &want);
    }
}
