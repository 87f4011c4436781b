//! `ops::average_pool` against plain loops, and its gradient as the transposed sum.

use crate::support::ops::{assert_close, noise, on_any_threads, poison, wide};
use hpc_seg::ops::average_pool::{Case, average_pool, average_pool_backward, cases};
use hpc_seg::tensor::Tensor;

/// For every value of x: its index, and that of the value of y it is part of.
fn pairs(case: &Case) -> Vec<(usize, usize)> {
    let [d, h, w] = case.size;
    let [sd, sh, sw] = case.stride;
    let mut pairs = Vec::new();
    for item in 0..case.items {
        for (z, y, x) in (0..d * sd).flat_map(|z| (0..h * sh).flat_map(move |y| (0..w * sw).map(move |x| (z, y, x)))) {
            for channel in 0..case.channels {
                let from = (((item * d * sd + z) * h * sh + y) * w * sw + x) * case.channels + channel;
                let to = (((item * d + z / sd) * h + y / sh) * w + x / sw) * case.channels + channel;
                pairs.push((from, to));
            }
        }
    }
    pairs
}

#[test]
fn cells_are_averaged_and_gradients_shared_out() {
    for case in cases() {
        let pairs = pairs(&case);
        let share = 1.0 / case.stride.iter().product::<usize>() as f64;
        let outputs = case.items * case.channels * case.size.iter().product::<usize>();
        let (x, d_y) = (noise(pairs.len(), 1), noise(outputs, 2));
        let [d, h, w] = case.size;
        let [sd, sh, sw] = case.stride;
        let got = on_any_threads(case.name, |device| {
            let x = Tensor::from_slice(device, &[case.items, d * sd, h * sh, w * sw, case.channels], &x).unwrap();
            let d_y = Tensor::from_slice(device, &[case.items, d, h, w, case.channels], &d_y).unwrap();
            poison(device, outputs);
            let y = average_pool(&x, case.stride).unwrap();
            poison(device, pairs.len());
            let d_x = average_pool_backward(&d_y, case.stride).unwrap();
            [y.values(), d_x.values()].concat()
        });
        let (x, d_y) = (wide(&x), wide(&d_y));
        let (mut y, mut d_x) = (vec![0.0; outputs], vec![0.0; x.len()]);
        for (from, to) in pairs {
            y[to] += share * x[from];
            d_x[from] = share * d_y[to];
        }
        assert_close(case.name, &got[..outputs], &y);
        assert_close(case.name, &got[outputs..], &d_x);
    }
}
