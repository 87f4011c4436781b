//! `ensemble` against its CPU op: the same integers.

use super::conformance::{Bench, values};
use super::guards::{content, guarded, plain};
use anyhow::{Context, Result, ensure};
use hpc_seg::cpu::simd::{Level, level};
use hpc_seg::cuda::ensemble::Ensemble;
use hpc_seg::ops;
use hpc_seg::ops::resize::ResizePlan;

/// Besides the op's own table: input, output.
type Size = (usize, usize);
const CASES: &[(Size, Size)] = &[
    ((5, 5), (16, 20)),
    ((8, 8), (31, 33)),
    ((9, 7), (3, 4)),
    ((16, 16), (16, 16)),
    ((7, 7), (20, 13)),
];
const SLICES: usize = 4;
/// Slices of the planes that are added at once: one slice three times, one never.
const PAIRS: [usize; 5] = [2, 0, 2, 3, 2];

/// Bugs that [`check`] must notice.
pub const MUTATIONS: &[super::suites::Mutation] = &[
    (
        "one row beyond the last",
        "ensemble.cu",
        "if (index >= height",
        "if (index > height",
    ),
    (
        "only a group's first plane",
        "ensemble.cu",
        "pair < group[2]; pair++",
        "pair < group[1] + 1; pair++",
    ),
    ("sums are overwritten", "ensemble.cu", "sum[at] += total[0]", "sum[at] = total[0]"),
    ("votes for zero", "ensemble.cu", "logit > 0.f", "logit >= 0.f"),
    ("cut, not rounded", "ensemble.cu", "16777216.f), 0.5f)", "16777216.f), 0.f)"),
    (
        "votes of two pixels exchanged",
        "ensemble.cu",
        "above[2] | above[3] << 16",
        "above[3] | above[2] << 16",
    ),
    (
        "every group adds to its number's slice",
        "ensemble.cu",
        "(size_t)group[0] * height",
        "(size_t)blockIdx.y * height",
    ),
];

/// Every case on this device.
pub fn check(bench: &Bench) -> Result<()> {
    let table = ops::ensemble::cases().into_iter().filter(|case| !ops::in_network(case.name));
    for (input, output) in table.map(|case| (case.input, case.output)).chain(CASES.iter().copied()) {
        check_case(bench, input, output).with_context(|| format!("{input:?} to {output:?}"))?;
    }
    Ok(())
}

fn check_case(bench: &Bench, input: (usize, usize), output: (usize, usize)) -> Result<()> {
    let (pixels, out_pixels) = (input.0 * input.1, output.0 * output.1);
    let mut x: Vec<f32> = values(1, PAIRS.len() * (pixels + 1)).iter().map(|value| 6.0 * value).collect();
    x.iter_mut().step_by(4).for_each(|value| *value = 0.0); // exactly on the edge
    let pairs: Vec<(usize, usize)> = PAIRS
        .iter()
        .enumerate()
        .map(|(plane, slice)| (plane * (pixels + 1) + 1, *slice))
        .collect();
    let (mut sums, mut votes) = (vec![1000_u32; SLICES * out_pixels], vec![7_u16; SLICES * out_pixels]);
    let (device_sums, device_votes) = (guarded(bench, &sums), guarded(bench, &votes));
    let ensemble = Ensemble {
        slices: SLICES,
        input,
        output,
    };
    let groups = ensemble.groups(&pairs, x.len())?;
    let list = plain(bench, &groups.list);
    ensemble.launch(&bench.runtime, &bench.f32(&x), &groups, &list, &device_sums, &device_votes)?;
    let plan = ResizePlan::bilinear(input, output)?;
    for (offset, slice) in pairs {
        let range = slice * out_pixels..(slice + 1) * out_pixels;
        ops::ensemble::ensemble(&x[offset..][..pixels], &plan, &mut sums[range.clone()], &mut votes[range])?;
    }
    // The kernel does the CPU's operations: no difference, unless this CPU has no fused multiply-add; then a few units per plane.
    let allowed = if level() == Level::Portable { 4 * PAIRS.len() as u32 } else { 0 };
    for (at, (new, op)) in content::<u32>(&device_sums)?.iter().zip(&sums).enumerate() {
        ensure!(new.abs_diff(*op) <= allowed, "sum {at}: {new} for {op}");
    }
    ensure!(content::<u16>(&device_votes)? == votes, "other votes");
    Ok(())
}

#[cfg(feature = "emu")]
#[test]
fn sums_and_votes_equal_the_cpu_ops_in_every_schedule() {
    Bench::all().for_each(|bench| check(&bench).unwrap());
}
