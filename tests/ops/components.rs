//! `ops::components` over planes of a tensor; components themselves have tests beside them.

use crate::support::ops::{assert_same, noise, on_any_threads, poison};
use hpc_seg::ops::components::{Runs, fill_holes_2d, holes_filled};
use hpc_seg::tensor::Tensor;

#[test]
fn holes_of_the_chosen_planes_are_filled_and_the_logits_stay() {
    for (planes, h, w) in [(1, 1, 1), (6, 5, 7), (3, 31, 33), (4, 64, 17)] {
        // Three in four are inside, so that there are holes small and large.
        let x: Vec<f32> = noise(planes * h * w, 1).into_iter().map(|v| v + 0.5).collect();
        for chosen in [
            vec![],
            vec![planes - 1, 0],
            (0..2 * planes).map(|i| i * 5 % planes).collect::<Vec<_>>(),
        ] {
            for area in [0, 8] {
                let name = format!("planes {chosen:?} of {planes} x {h} x {w}, holes up to {area}");
                let got = on_any_threads(&name, |device| {
                    let logits = Tensor::from_slice_f32(device, &[planes, h, w], &x).unwrap();
                    poison(device, chosen.len() * h * w);
                    let filled = holes_filled(&logits, &chosen, area, 0.1).unwrap();
                    assert_eq!(filled.shape(), [chosen.len(), h, w], "{name}");
                    assert_same(&name, logits.values(), &x);
                    filled.values().to_vec()
                });
                let (mut want, mut changed) = (Vec::new(), 0);
                for &plane in &chosen {
                    let mut one = x[plane * h * w..][..h * w].to_vec();
                    changed += fill_holes_2d(&mut one, h, w, area, 0.1, &mut Runs::default()).unwrap();
                    want.extend(one);
                }
                assert!(
                    changed > 0 || area == 0 || chosen.is_empty() || h * w < 9,
                    "{name}: no hole was filled"
                );
                assert_same(&name, &got, &want);
            }
        }
    }
}

#[test]
fn leading_axes_count_as_planes() {
    let device = hpc_seg::device::Device::cpu(1).unwrap();
    let mut x = vec![1.0; 2 * 3 * 9];
    x[4 * 9 + 4] = -1.0; // plane [1, 1]
    let logits = Tensor::from_slice_f32(&device, &[2, 3, 3, 3], &x).unwrap();
    let filled = holes_filled(&logits, &[4, 3], 1, 0.25).unwrap();
    x[4 * 9 + 4] = 0.25;
    assert_same("filled", filled.values(), &[&x[4 * 9..5 * 9], &x[3 * 9..4 * 9]].concat());
}
