//! `norm` against its CPU op.

use super::conformance::{Bench, all_values, conforms, guarded, values};
use anyhow::{Context, Result};
use hpc_seg::cuda::norm::Norm;
use hpc_seg::device::Device;
use hpc_seg::ops;
use hpc_seg::tensor::Tensor;

/// Besides the op's own table: rows, channels, with GELU; one, primes, a kernel's limit less one, at it and one more, tails that no vector divides.
const CASES: &[(usize, usize, bool)] = &[
    (1, 8, false),
    (5, 1, false),
    (3, 7, true),
    (4, 96, false),
    (7, 144, true),
    (5, 248, false),
    (5, 255, false),
    (3, 256, true),
    (3, 257, false),
    (2, 264, false),
    (9, 768, false),
    (2, 776, true),
    (1, 1152, false),
    (2, 1280, false),
    (2, 1279, true),
];

/// Bugs that [`check`] must notice.
pub const MUTATIONS: &[super::suites::Mutation] = &[
    ("rows beyond the last are read", "norm.cu", "if (row >= rows) return;", ""),
    (
        "variance about zero",
        "norm.cu",
        "(v[i][e] - mean) * (v[i][e] - mean)",
        "v[i][e] * v[i][e]",
    ),
    (
        "the padding counts in the variance",
        "norm.cu",
        "if ((i * LANES + lane) * WIDTH < channels) {",
        "{",
    ),
    (
        "one access too many per row",
        "norm.cu",
        "if (at < channels) {",
        "if (at <= channels) {",
    ),
    ("mean over rows", "norm.cu", "warp_sum(sum) / channels", "warp_sum(sum) / rows"),
    (
        "sum over half a warp",
        "common.cuh",
        "int offset = LANES / 2",
        "int offset = LANES / 4",
    ),
    (
        "shuffle of half a warp",
        "common.cuh",
        "__shfl_xor_sync(WHOLE_WARP, v",
        "__shfl_xor_sync(0x0000ffffu, v",
    ),
];

/// Every case on this device.
pub fn check(bench: &Bench) -> Result<()> {
    let table = ops::norm::cases()
        .into_iter()
        .filter(|case| !ops::in_network(case.name))
        .map(|case| (case.m, case.c, false));
    let mut cases = table.chain(CASES.iter().copied());
    cases.try_for_each(|(rows, channels, gelu)| check_case(bench, rows, channels, gelu))
}

fn check_case(bench: &Bench, rows: usize, channels: usize, gelu: bool) -> Result<()> {
    let shift = 3.0; // a mean that the one-pass formula would lose digits to
    let x: Vec<f32> = values(1, rows * channels)
        .iter()
        .map(|value| super::conformance::rounded(value + shift))
        .collect();
    let (gamma, beta) = (values(2, channels), values(3, channels));
    let device = Device::cpu(1)?;
    let mut expected = Tensor::from_slice(&device, &[rows, channels], &x)?;
    let norm = ops::norm::Norm::new(&device, gamma.clone(), beta.clone(), 1e-6)?;
    ops::norm::norm(&mut expected, &norm, gelu)?;
    let y = bench.output(rows * channels);
    let (gamma, beta, x) = (bench.f32(&gamma), bench.f32(&beta), bench.bf16(&x));
    let norm = Norm {
        rows,
        channels,
        eps: 1e-6,
        gelu,
    };
    let about = || format!("rows {rows} channels {channels} gelu {gelu}");
    norm.launch(&bench.runtime, &x, &gamma, &beta, &y).with_context(about)?;
    let y = guarded(&y)?;
    conforms(&y, expected.values()).with_context(about)?;
    norm.launch(&bench.runtime, &x, &gamma, &beta, &x)?;
    anyhow::ensure!(all_values(&x)? == y, "{}: in place it gives another result", about());
    Ok(())
}

#[cfg(feature = "emu")]
#[test]
fn norm_conforms_to_its_cpu_op_in_every_schedule() {
    Bench::all().for_each(|bench| check(&bench).unwrap());
}
