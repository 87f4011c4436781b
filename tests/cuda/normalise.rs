//! `normalise` and `resize_u8` against the CPU op: exact.

use super::conformance::{Bench, guarded, rounded};
use crate::support::ops::stored_voxels;
use anyhow::{Result, ensure};
use hpc_seg::cuda::normalise::{Normalise, Taps, Voxel};
use hpc_seg::device::Device;
use hpc_seg::ops::in_network;
use hpc_seg::ops::normalise::{self as op, Batches, cases};
use hpc_seg::ops::resize_u8::BicubicU8Plan;
use hpc_seg::tffs::intensity::{Intensity, Window};

/// Bugs that [`check`] must notice.
pub const MUTATIONS: &[super::suites::Mutation] = &[
    ("zeros are not kept", "normalise.cu", "map[KEEP_ZEROS] != 0.0", "false"),
    ("zeros are kept under a window", "normalise.cu", " && map[KEEP_ZEROS] != 0.0", ""),
    (
        "the scaled voxel is not rounded to f32",
        "normalise.cu",
        "const double value = (float)",
        "const double value = ",
    ),
    (
        "arithmetic in f32",
        "normalise.cu",
        "(clipped - map[MIN]) / range * 255.0",
        "((float)clipped - (float)map[MIN]) / (float)range * 255.f",
    ),
    (
        "no upper bound",
        "normalise.cu",
        "raised > map[UPPER] ? map[UPPER] : raised",
        "raised",
    ),
    (
        "a constant volume divides by zero",
        "normalise.cu",
        "if (range <= 0.0) return 0.f;",
        "",
    ),
    ("steps of rows mistaken", "normalise.cu", "(i64)row * row_step", "(i64)row * width"),
    ("the row is used before it is made", "normalise.cu", "__syncthreads();", ""),
    (
        "rounded instead of truncated",
        "normalise.cu",
        "(u8)(int)mapped(line[(i64)x * column_step], map)",
        "(u8)(int)(mapped(line[(i64)x * column_step], map) + 0.5f)",
    ),
    ("sums without one half", "normalise.cu", "int sum = HALF_PIXEL;", "int sum = 0;"),
    (
        "overshoot is not clamped",
        "common.cuh",
        "min(max(sum >> PIXEL_SHIFT, 0), 255)",
        "(sum >> PIXEL_SHIFT)",
    ),
    ("one tap too few down", "resize_u8.cu", "j < number; j++", "j + 1 < number; j++"),
    ("items overlap", "resize_u8.cu", "(item * height + first)", "(item * rows + first)"),
    ("bytes in another order", "resize_u8.cu", "(e % 4 * 8)", "(24 - e % 4 * 8)"),
];

/// Every case on this device.
pub fn check(bench: &Bench) -> Result<()> {
    let scales = [(1.0, 0.0), (0.37, -12.3), (f64::from(1.7_f32), 1000.1)];
    // No volume has zeros that a window's map moves and that are kept all the same; the kernel must not count on it.
    let windows = [
        (None, false),
        (Some((40.0, 400.0)), false),
        (Some((9e9, 1.0)), false),
        (Some((15.0, 130.0)), true),
    ];
    let mut number = 0;
    for case in cases().into_iter().filter(|case| !in_network(case.name)) {
        for voxel in [Voxel::I16, Voxel::U8, Voxel::F32] {
            // A view as stored; one turned and mirrored.
            for turned in [false, true] {
                check_case(
                    bench,
                    (case.input, case.size),
                    voxel,
                    turned,
                    (scales[number % 3], windows[number / 2 % 4]),
                )?;
                number += 1;
            }
        }
    }
    // Every scale with every map, where nothing is resized, and where it is.
    for number in 0..12 {
        for case in [((5, 6), 6), ((6, 6), 6)] {
            check_case(bench, case, Voxel::F32, false, (scales[number % 3], windows[number / 3]))?;
        }
    }
    Ok(())
}

/// Slope and intercept of the header.
type Scale = (f64, f64);
/// Level and width, and whether zeros are kept.
type Windowed = (Option<(f64, f64)>, bool);

fn check_case(
    bench: &Bench,
    ((height, width), size): ((usize, usize), usize),
    voxel: Voxel,
    turned: bool,
    (scale, window): (Scale, Windowed),
) -> Result<()> {
    const SLICES: usize = 2;
    let ((slope, intercept), (window, keep_zeros)) = (scale, window);
    let (bytes, numbers) = stored_voxels(voxel, (height * width) as u64, SLICES * height * width + 3);
    let (h, w) = (height as isize, width as isize);
    let (start, slice_step, row_step, column_step) = match turned {
        false => (3, h * w, w, 1),
        true => (3 + height * width - height, h * w, 1, -h), // rows lie along x, columns along y, backwards
    };
    let normalise = Normalise {
        voxel,
        slices: SLICES,
        height,
        width,
        size,
        start,
        slice_step,
        row_step,
        column_step,
    };
    let place = |slice: usize, row: usize, column: usize| {
        start as isize + slice as isize * slice_step + row as isize * row_step + column as isize * column_step
    };
    let read = |slice: usize, out: &mut [f32]| {
        for (at, value) in out.iter_mut().enumerate() {
            *value = (numbers[place(slice, at / width, at % width) as usize] * slope + intercept) as f32;
        }
        Ok(())
    };
    let window = window.map(|(level, width)| Window { level, width });
    let mut intensity = Intensity::measure([SLICES, height, width], window, &read)?;
    intensity.keep_zeros |= keep_zeros;
    let map = intensity.map(scale);
    let (cpu, width_of) = (Device::cpu(1)?, voxel.bytes());
    let op = op::Normalise::new(&cpu, voxel, map, (height, width), size)?;
    let slices = (0..SLICES).map(|slice| {
        let voxels = (0..height * width).map(|at| place(slice, at / width, at % width) as usize * width_of);
        op.prepare(voxels.flat_map(|at| bytes[at..][..width_of].to_vec()).collect())
    });
    let slices = slices.collect::<Result<Vec<_>>>()?;
    let expected = Batches::new(&cpu, op.clone())?.bring(&slices)?;
    let expected: Vec<f32> = expected.values().iter().copied().map(rounded).collect();
    let taps = Taps::upload(&bench.arena, &BicubicU8Plan::new((height, width), (size, size))?.tables())?;
    let (raw, map) = (bench.arena.filled(&bytes)?, bench.arena.filled(&map.to_bytes())?);
    let (scratch, y) = (bench.arena.buffer(normalise.scratch_bytes())?, bench.output(SLICES * size * size));
    normalise.launch(&bench.runtime, &raw, &map, &taps, &scratch, &y)?;
    let wrong = guarded(&y)?.into_iter().zip(&expected).position(|(own, cpu)| own != *cpu);
    ensure!(wrong.is_none(), "{normalise:?}, slope {slope}, {window:?}: value {wrong:?} differs");
    Ok(())
}

#[cfg(feature = "emu")]
#[test]
fn normalise_equals_the_cpu_bit_for_bit_in_every_schedule() {
    Bench::all().for_each(|bench| check(&bench).unwrap());
}

#[cfg(feature = "emu")]
#[test]
fn batches_are_the_same_on_the_device_however_they_are_cut() {
    use hpc_seg::cuda::emulator::Schedule;
    let (cpu, emulated) = (Device::cpu(1).unwrap(), crate::support::emulated::device(Schedule::ALL[1]));
    for case in cases().into_iter().filter(|case| !in_network(case.name)) {
        let (bytes, numbers) = stored_voxels(case.voxel, 3, case.items * case.input.0 * case.input.1);
        let dims = [1, 1, numbers.len()];
        let read = &|_, out: &mut [f32]| {
            out.iter_mut().zip(&numbers).for_each(|(out, number)| *out = *number as f32);
            Ok(())
        };
        let map = Intensity::measure(dims, None, read).unwrap().map((1.0, 0.0));
        let brought = |device: &Device, each: usize| -> Vec<f32> {
            let op = op::Normalise::new(device, case.voxel, map, case.input, case.size).unwrap();
            let batches = Batches::new(device, op.clone()).unwrap();
            let slices: Vec<_> = bytes.chunks_exact(bytes.len() / case.items).collect();
            let bring = |slices: &[&[u8]]| {
                let prepared: Vec<_> = slices.iter().map(|slice| op.prepare(slice.to_vec()).unwrap()).collect();
                batches.bring(&prepared).unwrap().to_vec().unwrap()
            };
            slices.chunks(each).flat_map(bring).map(rounded).collect()
        };
        let want = brought(&cpu, 1);
        for each in 1..=case.items {
            assert_eq!(brought(&emulated, each), want, "{case:?}, {each} at once");
        }
        assert_eq!(emulated.memory().live, 0, "{case:?}");
    }
}

#[cfg(feature = "emu")]
#[test]
fn views_beyond_the_voxels_and_taps_of_other_planes_are_refused() {
    let bench = Bench::all().next().unwrap();
    let good = Normalise {
        voxel: Voxel::I16,
        slices: 1,
        height: 3,
        width: 4,
        size: 4,
        start: 0,
        slice_step: 12,
        row_step: 4,
        column_step: 1,
    };
    let buffer = bench.arena.buffer(64).unwrap();
    let taps = |input| Taps::upload(&bench.arena, &BicubicU8Plan::new(input, (4, 4)).unwrap().tables()).unwrap();
    let complaint = |normalise: Normalise, raw: usize, taps: &Taps| {
        let raw = bench.arena.buffer(raw).unwrap();
        let result = normalise.launch(&bench.runtime, &raw, &buffer, taps, &buffer, &buffer);
        result.unwrap_err().to_string()
    };
    assert!(complaint(good, 23, &taps((3, 4))).contains("voxels 0 to 11 of 11"));
    assert!(complaint(Normalise { row_step: -4, ..good }, 99, &taps((3, 4))).contains("voxels -8 to 3"));
    assert!(complaint(good, 24, &taps((4, 4))).contains("taps of y"));
    assert!(complaint(good, 24, &taps((3, 5))).contains("taps of x"));
}
