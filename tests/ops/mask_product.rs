//! `ops::mask_product` against plain loops.

use crate::support::ops::{assert_rows, noise, on_any_threads, poison, takes};
use hpc_seg::ops::mask_product::{cases, mask_product};
use hpc_seg::tensor::Tensor;

#[test]
fn mask_product_equals_plain_loops() {
    for case in cases().into_iter().filter(|case| takes(case.name)) {
        let (pixels, c) = (case.size.0 * case.size.1, case.channels);
        let (x, tokens) = (noise(case.items * pixels * c, 1), noise(case.items * case.masks * c, 2));
        let got = on_any_threads(case.name, |device| {
            let x = Tensor::from_slice(device, &[case.items, case.size.0, case.size.1, c], &x);
            let tokens = Tensor::from_slice(device, &[case.items, case.masks, c], &tokens);
            poison(device, case.items * case.masks * pixels);
            mask_product(&x, &tokens).values().to_vec()
        });
        assert_rows(&format!("{case:?}"), &got, 1, c as f64, |i| {
            let (mask, pixel) = (i / pixels, i / pixels / case.masks * pixels + i % pixels);
            vec![(0..c).map(|j| f64::from(tokens[mask * c + j]) * f64::from(x[pixel * c + j])).sum()]
        });
    }
}
