//! `ops::norm` against plain loops.

use crate::support::ops::{assert_rows, gelu, layer_norm, noise, on_any_threads, takes, wide};
use hpc_seg::ops::norm::{Norm, cases, norm};
use hpc_seg::tensor::Tensor;

#[test]
fn norm_equals_plain_loops() {
    for case in cases().into_iter().filter(|case| takes(case.name)) {
        // A mean of 3, so that variance by E[x^2] - E[x]^2 would show.
        let x: Vec<f32> = noise(case.m * case.c, 1).into_iter().map(|v| v + 3.0).collect();
        let (gamma, beta, eps) = (noise(case.c, 2), noise(case.c, 3), 1e-5);
        for with_gelu in [false, true] {
            let name = format!("{case:?}, GELU {with_gelu}");
            let got = on_any_threads(&name, |device| {
                let mut y = Tensor::from_slice(device, &[case.m, case.c], &x).unwrap();
                let weights = Norm::new(device, gamma.clone(), beta.clone(), eps).unwrap();
                norm(&mut y, &weights, with_gelu).unwrap();
                y.values().to_vec()
            });
            assert_rows(&name, &got, case.c, 8.0 * case.c as f64, |row| {
                let out = layer_norm(&wide(&x[row * case.c..][..case.c]), &gamma, &beta, eps);
                if with_gelu { out.into_iter().map(gelu).collect() } else { out }
            });
        }
    }
}
