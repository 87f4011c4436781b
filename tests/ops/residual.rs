//! `ops::residual` against plain loops, its gradient with several users.

use crate::support::ops::{assert_close, noise, on_any_threads, poison, wide};
use hpc_seg::ops::conv3d::Channels;
use hpc_seg::ops::residual::{cases, residual, residual_backward};
use hpc_seg::tensor::Tensor;

#[test]
fn sums_are_activated_and_gradients_of_all_users_pass() {
    for case in cases() {
        let ([d, h, w], c, all) = (case.size, case.channels, case.channels + case.before);
        let voxels = case.items * d * h * w;
        let [a, b, alone, behind] = [(c, 1), (c, 2), (c, 3), (all, 4)].map(|(width, seed)| noise(voxels * width, seed));
        let got = on_any_threads(case.name, |device| {
            let tensor = |width: usize, values: &[f32]| Tensor::from_slice(device, &[case.items, d, h, w, width], values).unwrap();
            let (mut y, b) = (tensor(c, &a), tensor(c, &b));
            let (alone, behind) = (tensor(c, &alone), tensor(all, &behind));
            residual(&mut y, &b);
            let behind = Channels {
                tensor: &behind,
                first: case.before,
                count: c,
            };
            poison(device, voxels * c);
            let d = residual_backward(&y, &[Channels::all(&alone), behind]).unwrap();
            [y.values(), d.values()].concat()
        });
        let (a, b, alone, behind) = (wide(&a), wide(&b), wide(&alone), wide(&behind));
        let sum: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        let y: Vec<f64> = sum.iter().map(|v| if *v > 0.0 { *v } else { 0.01 * v }).collect();
        let slope = |at: usize| if sum[at] > 0.0 { 1.0 } else { 0.01 };
        let d: Vec<f64> = (0..y.len())
            .map(|at| slope(at) * (alone[at] + behind[at / c * all + case.before + at % c]))
            .collect();
        assert_close(case.name, &got[..y.len()], &y);
        assert_close(case.name, &got[y.len()..], &d);
    }
}
