//! `fill_holes` against `ops::components::fill_holes_2d`: exact.

use super::conformance::{Bench, values};
use anyhow::{Result, ensure};
use hpc_seg::cuda::fill_holes::FillHoles;
use hpc_seg::ops::components::{Runs, fill_holes_2d};

/// Bugs that [`check`] must notice.
pub const MUTATIONS: &[super::suites::Mutation] = &[
    ("zero is no background", "fill_holes.cu", "column] <= 0.f", "column] < 0.f"),
    (
        "one diagonal is no neighbour",
        "fill_holes.cu",
        "if (x + 1 < across) join(",
        "if (false) join(",
    ),
    (
        "cells join whatever their pixels",
        "fill_holes.cu",
        "(pixels[a] & side) && (pixels[b] & facing)",
        "pixels[a] && pixels[b]",
    ),
    (
        "a hole of just the area stays",
        "fill_holes.cu",
        "& ~COUNT) > area",
        "& ~COUNT) >= area",
    ),
    (
        "a count stops below the area",
        "fill_holes.cu",
        "& ~COUNT) <= area",
        "& ~COUNT) + 4 < area",
    ),
    ("pixels below the last row", "fill_holes.cu", "row < height && ", ""),
    (
        "all blocks on one mask",
        "fill_holes.cu",
        "(size_t)blockIdx.x * height",
        "(size_t)0 * height",
    ),
    (
        "a root is read while others join it",
        "union_find.cuh",
        "const u32 above = load_relaxed(parent + x);",
        "const u32 above = parent[x];",
    ),
    (
        "a link lost to another is not made again",
        "union_find.cuh",
        "if (old == second) return;",
        "return;",
    ),
    (
        "roots are looked for before all have joined",
        "fill_holes.cu",
        "__syncthreads();\n    for (int cell = threadIdx.x; cell < cells; cell += THREADS) {\n        const u32 root",
        "for (int cell = threadIdx.x; cell < cells; cell += THREADS) {\n        const u32 root",
    ),
];

/// A mask of logits; those of the pixels where `background` says so are 0 or less.
fn mask(seed: u64, height: usize, width: usize, background: impl Fn(usize, usize, f32) -> bool) -> Vec<f32> {
    let noise = values(seed, height * width);
    let logit = |(at, noise): (usize, &f32)| {
        let size = noise.abs() + 0.01;
        match background(at / width, at % width, *noise) {
            true if at % 5 == 0 => 0.0,
            true => -size,
            false => size,
        }
    };
    noise.iter().enumerate().map(logit).collect()
}

/// Masks that are hard in one way or another.
fn masks(height: usize, width: usize) -> Vec<Vec<f32>> {
    let of = |seed, background: &dyn Fn(usize, usize, f32) -> bool| mask(seed, height, width, background);
    let mut with_nan = of(5, &|_, _, noise| noise > 0.0);
    with_nan[height * width / 2] = f32::NAN;
    vec![
        of(1, &|_, _, noise| noise > 1.3),
        of(2, &|_, _, noise| noise > 0.6),
        of(3, &|_, _, noise| noise > -0.3),
        of(4, &|y, x, _| (y + x) % 2 == 0),
        of(4, &|y, x, _| y % 2 == 0 && x % 2 == 0),
        of(4, &|y, x, _| (x % 4 == 0) || (y + 1 == height && x % 8 != 3)),
        of(4, &|y, x, _| {
            y % 4 == 0 || (y % 4 == 2 && x > 2) || (y % 2 == 1 && x == width - 1 - y / 2 % 2 * (width - 1))
        }),
        of(4, &|_, _, _| true),
        of(4, &|_, _, _| false),
        with_nan,
    ]
}

/// Every case on this device.
pub fn check(bench: &Bench) -> Result<()> {
    let cases = [
        (1, 1, 1),
        (1, 37, 8),
        (41, 1, 8),
        (2, 2, 3),
        (31, 33, 8),
        (32, 32, 3),
        (33, 30, 1),
        (17, 64, 100_000),
        (130, 127, 8),
    ];
    cases
        .into_iter()
        .try_for_each(|(height, width, area)| check_case(bench, height, width, area))
}

fn check_case(bench: &Bench, height: usize, width: usize, area: usize) -> Result<()> {
    let mut masks = masks(height, width);
    if height * width > 4096 {
        masks.drain(3..7);
    }
    let guard = vec![-1.0; 64];
    let logits = bench.f32(&[masks.concat(), guard.clone()].concat());
    let holes = FillHoles {
        items: masks.len(),
        height,
        width,
        area,
        fill: 0.1,
    };
    holes.launch(&bench.runtime, &logits)?;
    for mask in &mut masks {
        fill_holes_2d(mask, height, width, area, 0.1, &mut Runs::default())?;
    }
    let expected: Vec<u8> = bytemuck::cast_slice(&[masks.concat(), guard].concat()).to_vec();
    ensure!(logits.to_vec()? == expected, "{holes:?}: other values");
    Ok(())
}

#[cfg(feature = "emu")]
#[test]
fn fill_holes_equals_the_cpu_in_every_schedule() {
    Bench::all().for_each(|bench| check(&bench).unwrap());
}

#[cfg(feature = "emu")]
#[test]
fn an_area_of_zero_fills_nothing_and_too_large_masks_are_refused() {
    let bench = Bench::all().next().unwrap();
    let logits = bench.f32(&[-1.0; 6]);
    let mut holes = FillHoles {
        items: 1,
        height: 2,
        width: 3,
        area: 0,
        fill: 0.1,
    };
    holes.launch(&bench.runtime, &logits).unwrap();
    assert_eq!(logits.to_vec().unwrap(), bytemuck::cast_slice::<f32, u8>(&[-1.0; 6]));
    holes.height = 3;
    let message = holes.launch(&bench.runtime, &logits).unwrap_err().to_string();
    assert!(message.contains("logits of [1, 3, 3, 4]"), "{message}");
}

#[cfg(feature = "emu")]
#[test]
fn masks_beyond_shared_memory_are_filled_all_the_same() {
    use hpc_seg::cuda::emulator::Schedule;
    use hpc_seg::tensor::Tensor;
    let (height, width) = (258, 257);
    let mut x = vec![1.0; 2 * height * width];
    for hole in [1000, 40_000, height * width + 700] {
        x[hole] = -1.0;
    }
    let device = crate::support::emulated::device(Schedule::ALL[0]);
    let logits = Tensor::from_slice_f32(&device, &[2, height, width], &x).unwrap();
    let filled = hpc_seg::ops::components::holes_filled(&logits, &[1], 1, 0.25).unwrap();
    let mut expected = vec![1.0; height * width];
    expected[700] = 0.25;
    assert!(filled.to_vec().unwrap() == expected);
}
