//! `depthwise` against its CPU op.

use super::conformance::{Bench, conforms, guarded, rounded, values};
use anyhow::{Context, Result, ensure};
use hpc_seg::cuda::depthwise::{Depthwise, Weights};
use hpc_seg::device::Device;
use hpc_seg::ops;
use hpc_seg::ops::depthwise as op;
use hpc_seg::ops::norm::Norm;
use hpc_seg::tensor::Tensor;

/// Besides the op's own table: items, height, width, channels; maps that fill no tile, and the network's channels.
const CASES: &[[usize; 4]] = &[
    [1, 5, 9, 256],
    [2, 4, 8, 64],
    [2, 7, 17, 8],
    [1, 3, 2, 248],
    [1, 9, 3, 7],
    [1, 2, 3, 247],
];

/// Bugs that [`check`] must notice.
pub const MUTATIONS: &[super::suites::Mutation] = &[
    (
        "the tile is used before it is there",
        "depthwise.cu",
        "__syncthreads();  // the tile is there",
        "",
    ),
    (
        "sums over a tile in use",
        "depthwise.cu",
        "if (SHARED) __syncthreads();  // the tile has been read",
        "// the tile has been read",
    ),
    ("copies not waited for", "depthwise.cu", "cp_async_wait<0>()", "cp_async_wait<1>()"),
    (
        "the map wraps at its right edge",
        "depthwise.cu",
        "from_column >= 0 && from_column < width",
        "from_column >= 0",
    ),
    (
        "pixels beyond the map are stored",
        "depthwise.cu",
        "if (at_line < height && at_column < width)",
        "if (at_line < height)",
    ),
    ("six taps of seven", "depthwise.cu", "dx < SIDE; dx++", "dx < SIDE - 1; dx++"),
    (
        "taps of the neighbouring line",
        "depthwise.cu",
        "(line - deep) * SIDE + dx",
        "line % SIDE * SIDE + dx",
    ),
    (
        "variance about zero",
        "depthwise.cu",
        "(sums[c + e] - mean) * (sums[c + e] - mean)",
        "sums[c + e] * sums[c + e]",
    ),
];

/// Every case on this device.
pub fn check(bench: &Bench) -> Result<()> {
    let table = op::cases().into_iter().filter(|case| !ops::in_network(case.name));
    let table = table.map(|case| [case.items, case.size.0, case.size.1, case.channels]);
    let mut cases = table.chain(CASES.iter().copied());
    cases.try_for_each(|case| check_case(bench, case).with_context(|| format!("{case:?}")))
}

fn check_case(bench: &Bench, [items, height, width, channels]: [usize; 4]) -> Result<()> {
    let x = values(1, items * height * width * channels);
    let weight: Vec<f32> = values(2, channels * 49).iter().map(|value| rounded(value / 7.0)).collect();
    // A mean that the one-pass formula for the variance would lose digits to.
    let bias: Vec<f32> = values(3, channels).iter().map(|value| value + 3.0).collect();
    let device = Device::cpu(1)?;
    let norm = Norm::new(&device, values(4, channels), values(5, channels), 1e-6)?;
    let taps: Vec<f32> = (0..49 * channels).map(|i| weight[i % channels * 49 + i / channels]).collect();
    let (gamma, beta) = (bench.f32(&norm.gamma), bench.f32(&norm.beta));
    let expected = op::depthwise(
        &Tensor::from_slice(&device, &[items, height, width, channels], &x)?,
        &op::Depthwise::new(&device, &weight, bias.clone(), norm)?,
    )?;
    let (taps, bias) = (bench.bf16(&taps), bench.f32(&bias));
    let weights = Weights {
        taps: &taps,
        bias: &bias,
        gamma: &gamma,
        beta: &beta,
    };
    let run = |items: usize, x: &[f32]| -> Result<Vec<f32>> {
        let y = bench.output(items * height * width * channels);
        let depthwise = Depthwise {
            items,
            height,
            width,
            channels,
            eps: 1e-6,
        };
        depthwise.launch(&bench.runtime, &bench.bf16(x), weights, &y)?;
        guarded(&y)
    };
    let y = run(items, &x)?;
    conforms(&y, expected.values())?;
    let last = (items - 1) * height * width * channels;
    ensure!(
        items == 1 || run(1, &x[last..])? == y[last..],
        "an item depends on how many others there are"
    );
    Ok(())
}

#[cfg(feature = "emu")]
#[test]
fn depthwise_conforms_to_its_cpu_op_in_every_schedule() {
    Bench::all().for_each(|bench| check(&bench).unwrap());
}

#[cfg(feature = "emu")]
#[test]
fn a_depthwise_convolution_in_place_is_refused() {
    let bench = Bench::all().next().unwrap();
    let (x, weights) = (bench.bf16(&[0.0; 8]), bench.f32(&[0.0; 8 * 49]));
    let depthwise = Depthwise {
        items: 1,
        height: 1,
        width: 1,
        channels: 8,
        eps: 1e-6,
    };
    let weights = Weights {
        taps: &weights,
        bias: &weights,
        gamma: &weights,
        beta: &weights,
    };
    let refused = depthwise.launch(&bench.runtime, &x, weights, &x).unwrap_err();
    assert!(refused.to_string().contains("two buffers"), "{refused}");
}
