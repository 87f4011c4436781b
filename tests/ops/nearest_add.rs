//! `ops::nearest_add` against plain loops, exactly.

use crate::support::ops::{assert_same, noise, on_any_threads, takes};
use hpc_seg::ops::nearest_add::{cases, nearest_add};
use hpc_seg::tensor::Tensor;

#[test]
fn nearest_add_equals_plain_loops() {
    for case in cases().into_iter().filter(|case| takes(case.name)) {
        let ((h, w), c) = (case.size, case.channels);
        let (x, old) = (noise(case.items * h * w * c, 1), noise(case.items * 4 * h * w * c, 2));
        let got = on_any_threads(case.name, |device| {
            let mut y = Tensor::from_slice(device, &[case.items, 2 * h, 2 * w, c], &old).unwrap();
            let x = Tensor::from_slice(device, &[case.items, h, w, c], &x).unwrap();
            nearest_add(&mut y, &x).unwrap();
            y.values().to_vec()
        });
        let mut want = old.clone();
        for item in 0..case.items {
            for y in 0..2 * h {
                for column in 0..2 * w {
                    for i in 0..c {
                        want[((item * 2 * h + y) * 2 * w + column) * c + i] += x[((item * h + y / 2) * w + column / 2) * c + i];
                    }
                }
            }
        }
        assert_same(&format!("{case:?}"), &got, &want);
    }
}
