//! `ops::mask_product` against plain loops.

use crate::support::ops::{assert_rows, assert_same, noise, on_any_threads, poison, takes, tensor};
use hpc_seg::device::Device;
use hpc_seg::ops::mask_product::{cases, mask_product};
use hpc_seg::tensor::Tensor;

#[test]
fn mask_product_equals_plain_loops() {
    for case in cases().into_iter().filter(|case| takes(case.name)) {
        let (pixels, c) = (case.size.0 * case.size.1, case.channels);
        let (x, tokens) = (noise(case.items * pixels * c, 1), noise(case.items * case.masks * c, 2));
        let got = on_any_threads(case.name, |device| {
            let x = Tensor::from_slice(device, &[case.items, case.size.0, case.size.1, c], &x).unwrap();
            let tokens = Tensor::from_slice(device, &[case.items, case.masks, c], &tokens).unwrap();
            poison(device, case.items * case.masks * pixels);
            mask_product(&x, &tokens, &vec![true; case.items], f32::NAN)
                .unwrap()
                .values()
                .to_vec()
        });
        assert_rows(&format!("{case:?}"), &got, 1, c as f64, |i| {
            let (mask, pixel) = (i / pixels, i / pixels / case.masks * pixels + i % pixels);
            vec![(0..c).map(|j| f64::from(tokens[mask * c + j]) * f64::from(x[pixel * c + j])).sum()]
        });
    }
}

#[test]
fn the_masks_of_absent_items_are_the_constant_and_the_others_do_not_change() {
    const ABSENT: f32 = -1024.0;
    for case in cases().into_iter().filter(|case| takes(case.name)) {
        let len = case.masks * case.size.0 * case.size.1;
        let run = |device: &Device, present: &[bool]| {
            let x = tensor(device, &[case.items, case.size.0, case.size.1, case.channels], 1);
            let tokens = tensor(device, &[case.items, case.masks, case.channels], 2);
            poison(device, case.items * len);
            mask_product(&x, &tokens, present, ABSENT).unwrap().values().to_vec()
        };
        let all = on_any_threads(case.name, |device| run(device, &vec![true; case.items]));
        for absent in 0..case.items {
            // One item absent; then all but that one.
            for others in [true, false] {
                let present: Vec<bool> = (0..case.items).map(|item| (item != absent) == others).collect();
                let mut want = all.clone();
                for (want, _) in want.chunks_exact_mut(len).zip(&present).filter(|(_, present)| !**present) {
                    want.fill(ABSENT);
                }
                let name = format!("{case:?}, present {present:?}");
                assert_same(&name, &on_any_threads(&name, |device| run(device, &present)), &want);
            }
        }
    }
}

#[test]
#[should_panic(expected = "mask_product")]
fn flags_of_other_items_are_refused() {
    let device = Device::cpu(1).unwrap();
    let (x, tokens) = (tensor(&device, &[2, 3, 3, 4], 1), tensor(&device, &[2, 1, 4], 2));
    let _ = mask_product(&x, &tokens, &[true], 0.0);
}
