//! `ops::memory_mask` against f64; the resize has a test of its own.

use crate::support::ops::{assert_close, assert_same, noise, on_any_threads, poison, takes, tensor};
use hpc_seg::device::Device;
use hpc_seg::ops::memory_mask::{Affine, cases, memory_mask};
use hpc_seg::ops::resize::ResizePlan;
use hpc_seg::tensor::Tensor;

#[test]
fn memory_mask_equals_its_formula() {
    for case in cases().into_iter().filter(|case| takes(case.name)) {
        let (pixels, n) = (case.input.0 * case.input.1, case.output.0 * case.output.1);
        let plan = ResizePlan::bilinear(case.input, case.output).unwrap();
        let x: Vec<f32> = noise(case.items * pixels, 1).into_iter().map(|v| 9.0 * v).collect();
        let mut resized = vec![f32::NAN; case.items * n];
        for (mask, out) in x.chunks_exact(pixels).zip(resized.chunks_exact_mut(n)) {
            plan.resize(mask, &mut vec![0.0; plan.scratch_len(1)], out).unwrap();
        }
        for prompted in [false, true] {
            let got = on_any_threads(case.name, |device| {
                let x = Tensor::from_slice_f32(device, &[case.items, case.input.0, case.input.1], &x).unwrap();
                poison(device, case.items * n);
                let affine = Affine {
                    prompted,
                    scale: 20.0,
                    bias: -10.0,
                };
                let y = memory_mask(&x, &(0..case.items).collect::<Vec<_>>(), &plan, affine).unwrap();
                assert_eq!(y.shape(), [case.items, case.output.0, case.output.1, 1]);
                y.values().to_vec()
            });
            let f = |v: f64| {
                if prompted {
                    f64::from(u8::from(v > 0.0))
                } else {
                    1.0 / (1.0 + (-v).exp())
                }
            };
            let want: Vec<f64> = resized.iter().map(|&v| f(f64::from(v)) * 20.0 - 10.0).collect();
            assert_close(&format!("{case:?}, prompted {prompted}"), &got, &want);
        }
    }
}

const PLAIN: Affine = Affine {
    prompted: false,
    scale: 20.0,
    bias: -10.0,
};

#[test]
fn the_chosen_masks_are_taken_in_their_order() {
    let (plan, n) = (ResizePlan::bilinear((5, 7), (13, 11)).unwrap(), 13 * 11);
    let chosen = [5, 0, 3, 3];
    let run = |device: &Device, chosen: &[usize]| {
        let x = tensor(device, &[2, 3, 5, 7], 1);
        poison(device, chosen.len() * n);
        let y = memory_mask(&x, chosen, &plan, PLAIN).unwrap();
        assert_eq!(y.shape(), [chosen.len(), 13, 11, 1]);
        y.values().to_vec()
    };
    let all = on_any_threads("all", |device| run(device, &[0, 1, 2, 3, 4, 5]));
    let want: Vec<f32> = chosen.iter().flat_map(|&mask| all[mask * n..][..n].to_vec()).collect();
    assert_same("chosen", &on_any_threads("chosen", |device| run(device, &chosen)), &want);
}

#[test]
#[should_panic(expected = "memory_mask: planes")]
fn a_mask_of_another_size_is_refused() {
    let plan = ResizePlan::bilinear((4, 4), (8, 8)).unwrap();
    let _ = memory_mask(&tensor(&Device::cpu(1).unwrap(), &[2, 3, 5], 1), &[0, 1], &plan, PLAIN);
}

#[test]
#[should_panic(expected = "memory_mask: planes")]
fn a_mask_that_is_not_there_is_refused() {
    let plan = ResizePlan::bilinear((4, 4), (8, 8)).unwrap();
    let _ = memory_mask(&tensor(&Device::cpu(1).unwrap(), &[2, 4, 4], 1), &[0, 2], &plan, PLAIN);
}
