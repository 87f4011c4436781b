//! `ops::memory_mask` against f64; the resize has a test of its own.

use crate::support::ops::{assert_close, noise, on_any_threads, poison, takes};
use hpc_seg::device::Device;
use hpc_seg::ops::memory_mask::{cases, memory_mask};
use hpc_seg::ops::resize::ResizePlan;

#[test]
fn memory_mask_equals_its_formula() {
    for case in cases().into_iter().filter(|case| takes(case.name)) {
        let (pixels, n) = (case.input.0 * case.input.1, case.output.0 * case.output.1);
        let plan = ResizePlan::bilinear(case.input, case.output).unwrap();
        let x: Vec<f32> = noise(case.items * pixels, 1).into_iter().map(|v| 9.0 * v).collect();
        let masks: Vec<&[f32]> = x.chunks_exact(pixels).collect();
        let mut resized = vec![f32::NAN; case.items * n];
        for (mask, out) in masks.iter().zip(resized.chunks_exact_mut(n)) {
            plan.resize(mask, &mut vec![0.0; plan.scratch_len(1)], out).unwrap();
        }
        for prompted in [false, true] {
            let got = on_any_threads(case.name, |device| {
                poison(device, case.items * n);
                let y = memory_mask(device, &masks, &plan, prompted, 20.0, -10.0).unwrap();
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

#[test]
fn a_mask_of_another_size_is_refused() {
    let plan = ResizePlan::bilinear((4, 4), (8, 8)).unwrap();
    assert!(memory_mask(&Device::cpu(1).unwrap(), &[&[0.0; 16], &[0.0; 15]], &plan, false, 1.0, 0.0).is_err());
}
