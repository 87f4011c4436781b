//! `normalise` and `resize_u8` against what the CPU does with a slice: exact.

use super::conformance::{Bench, guarded, rounded, values};
use anyhow::{Result, ensure};
use hpc_seg::cuda::normalise::{Map, Normalise, Taps, Voxel};
use hpc_seg::ops::resize_u8::BicubicU8Plan;
use hpc_seg::tffs::intensity::{Intensity, Window};
use hpc_seg::tffs::prepare::SlicePlan;

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

/// Height, width, size: whole, both axes, one axis, up, down, one pixel, more columns than threads, in vectors and not.
const CASES: [[usize; 3]; 10] = [
    [7, 7, 7],
    [16, 16, 16],
    [1, 1, 5],
    [7, 5, 1],
    [13, 17, 32],
    [16, 9, 16],
    [9, 16, 16],
    [40, 139, 24],
    [11, 5, 131],
    [21, 23, 13],
];

/// Stored voxels of a type, as bytes and as the numbers they are.
fn stored(voxel: Voxel, seed: u64, len: usize) -> (Vec<u8>, Vec<f64>) {
    let noise = values(seed, len);
    let spiky = |at: usize, value: f32| if at % 7 == 3 { 0.0 } else { value };
    let numbers = noise.iter().enumerate().map(|(at, value)| spiky(at, *value));
    match voxel {
        Voxel::I16 => {
            let stored: Vec<i16> = numbers.map(|value| (value * 700.0 + 300.0 * value.signum()) as i16).collect();
            (
                bytemuck::cast_slice(&stored).to_vec(),
                stored.iter().map(|value| f64::from(*value)).collect(),
            )
        }
        Voxel::U8 => {
            let stored: Vec<u8> = numbers.map(|value| (value.abs() * 80.0) as u8).collect();
            (stored.clone(), stored.iter().map(|value| f64::from(*value)).collect())
        }
        Voxel::F32 => {
            let stored: Vec<f32> = numbers.map(|value| value * 100.123_f32).collect();
            (
                bytemuck::cast_slice(&stored).to_vec(),
                stored.iter().map(|value| f64::from(*value)).collect(),
            )
        }
    }
}

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
    for case in CASES {
        for voxel in [Voxel::I16, Voxel::U8, Voxel::F32] {
            // A view as stored; one turned and mirrored.
            for turned in [false, true] {
                check_case(bench, case, voxel, turned, (scales[number % 3], windows[number / 2 % 4]))?;
                number += 1;
            }
        }
    }
    // Every scale with every map, where nothing is resized, and where it is.
    for number in 0..12 {
        for case in [[5, 6, 6], [6, 6, 6]] {
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
    [height, width, size]: [usize; 3],
    voxel: Voxel,
    turned: bool,
    (scale, window): (Scale, Windowed),
) -> Result<()> {
    const SLICES: usize = 2;
    let ((slope, intercept), (window, keep_zeros)) = (scale, window);
    let (bytes, numbers) = stored(voxel, (height * width) as u64, SLICES * height * width + 3);
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
    let mut intensity = Intensity::measure([SLICES, height, width], window, &mut { read })?;
    intensity.keep_zeros |= keep_zeros;
    let mut expected = vec![0.0; SLICES * size * size];
    let (mut slice, mut scratch) = (vec![0.0; height * width], Vec::new());
    let plan = SlicePlan::new((height, width), size)?;
    for (z, out) in expected.chunks_exact_mut(size * size).enumerate() {
        read(z, &mut slice)?;
        intensity.apply(&mut slice);
        plan.prepare(&slice, &mut scratch, out)?;
    }
    let expected: Vec<f32> = expected.into_iter().map(rounded).collect();
    let map = Map {
        slope,
        intercept,
        lower: intensity.lower,
        upper: intensity.upper,
        min: intensity.min,
        max: intensity.max,
        keep_zeros: intensity.keep_zeros,
    };
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
