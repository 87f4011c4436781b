//! `ops::prompt_mask` against f64; the resize has a test of its own.

use crate::support::ops::{assert_close, assert_same, noise, on_any_threads, takes};
use hpc_seg::device::Device;
use hpc_seg::ops::prompt_mask::{cases, prompt_mask};

fn masks(items: usize, size: usize) -> Vec<Vec<u8>> {
    let mask = |item: usize| noise(size * size, item as u64).into_iter().map(|v| u8::from(v > 0.1)).collect();
    (0..items).map(mask).collect()
}

#[test]
fn prompt_mask_equals_its_formula() {
    for case in cases().into_iter().filter(|case| takes(case.name)) {
        let (masks, size, side) = (masks(case.items, case.size), case.size, case.size / 4);
        let shown: Vec<&[u8]> = masks.iter().map(Vec::as_slice).collect();
        let got = on_any_threads(case.name, |device| {
            let (square, logits) = prompt_mask(device, &shown, size).unwrap();
            assert_eq!(
                (square.shape(), logits.shape()),
                (&[case.items, size, size, 1][..], &[case.items, side, side][..])
            );
            let values: Vec<f32> = masks.concat().into_iter().map(f32::from).collect();
            assert_same(case.name, square.values(), &values);
            logits.values().to_vec()
        });
        // Eight taps around each four pixels, less those beyond the edges.
        let taps = |at: usize| {
            let all = (0..8).map(move |tap| (4 * at as i64 - 2 + tap, 4.0 - (tap as f64 - 3.5).abs()));
            let there: Vec<(usize, f64)> = all
                .filter(|(pixel, _)| (0..size as i64).contains(pixel))
                .map(|(pixel, weight)| (pixel as usize, weight))
                .collect();
            let total: f64 = there.iter().map(|(_, weight)| weight).sum();
            there.into_iter().map(move |(pixel, weight)| (pixel, weight / total))
        };
        let want = masks.iter().flat_map(|mask| {
            (0..side * side).map(move |at| {
                let rows = taps(at / side).map(|(y, down)| {
                    let row = taps(at % side).map(|(x, across)| across * (20.0 * f64::from(mask[y * size + x]) - 10.0));
                    down * row.sum::<f64>()
                });
                rows.sum::<f64>()
            })
        });
        assert_close(&format!("{case:?}"), &got, &want.collect::<Vec<_>>());
    }
}

#[test]
fn masks_of_other_sizes_are_refused() {
    let device = Device::cpu(1).unwrap();
    for (pixels, size, expected) in [
        (63, 8, "masks of [63] pixels, not 8 x 8"),
        (36, 6, "a side of 6 pixels is no multiple"),
        (16, 4, "a side of 4 pixels"),
    ] {
        let error = prompt_mask(&device, &[&vec![0; pixels]], size).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(prompt_mask(&device, &[], 8).unwrap().1.shape(), [0, 2, 2]);
}
