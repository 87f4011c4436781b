//! `upscale` against its CPU op.

use super::conformance::{Bench, conforms, guarded, rounded, values};
use anyhow::{Context, Result, ensure};
use hpc_seg::cuda::upscale::{Skips, Upscale, Weights};
use hpc_seg::device::Device;
use hpc_seg::ops;
use hpc_seg::ops::norm::Norm;
use hpc_seg::ops::upscale as op;
use hpc_seg::tensor::Tensor;

/// Besides the op's own table: items, size, inner, columns, with norm; the network's widths on small maps, tiles that are not full, tails.
type Case = (usize, (usize, usize), usize, usize, bool);
const CASES: &[Case] = &[
    (2, (5, 7), 256, 64, true),
    (3, (6, 5), 64, 32, false),
    (1, (8, 8), 40, 24, true),
    (1, (3, 3), 8, 8, true),
    (1, (9, 9), 16, 40, false),
    (2, (1, 33), 33, 63, true),
    (1, (2, 2), 8, 64, false),
    (1, (5, 1), 3, 64, true),
];

/// Bugs that [`check`] must notice.
pub const MUTATIONS: &[super::suites::Mutation] = &[
    ("no barrier", "upscale.cu", "__syncthreads();  // this", "// this"),
    (
        "one group of copies not waited for",
        "upscale.cu",
        "cp_async_wait<STAGES - 2>",
        "cp_async_wait<STAGES - 1>",
    ),
    (
        "places mirrored",
        "upscale.cu",
        "2 * line + place / 2) * 2 * width + 2 * column + place % 2",
        "2 * line + place % 2) * 2 * width + 2 * column + place / 2",
    ),
    (
        "the first map for all items",
        "upscale.cu",
        "there && slices ? slices[item] : item",
        "there && slices ? slices[0] : item",
    ),
    ("slices of items that are not there", "upscale.cu", "there && slices ?", "slices ?"),
    (
        "weights of the neighbouring place",
        "upscale.cu",
        "STAGES * PLACES + place)",
        "STAGES * PLACES + place / 2)",
    ),
    (
        "rows beyond the last are stored",
        "upscale.cu",
        "row < rows, 0, columns",
        "true, 0, columns",
    ),
    (
        "mean over the whole group",
        "upscale.cu",
        "row_sum(sum[i], half) / columns",
        "row_sum(sum[i], half) / GROUP",
    ),
    ("no bias", "upscale.cu", "begin_with(sum, bias,", "begin_with(sum, nullptr,"),
    (
        "no activation without a norm",
        "upscale.cu",
        "= gelu(sum[i][j][e])",
        "= sum[i][j][e]",
    ),
];

/// Every case on this device.
pub fn check(bench: &Bench) -> Result<()> {
    let table = op::cases().into_iter().filter(|case| !ops::in_network(case.name));
    let table = table.map(|case| (case.items, case.size, case.c, case.o, case.norm));
    let mut cases = table.chain(CASES.iter().copied());
    cases.try_for_each(|case| check_case(bench, case).with_context(|| format!("{case:?}")))
}

fn check_case(bench: &Bench, (items, (height, width), inner, columns, with_norm): Case) -> Result<()> {
    let device = Device::cpu(1)?;
    let map = 4 * height * width * columns;
    let x = values(1, items * height * width * inner);
    // More maps than items; item n takes map 2 n mod their number, which is odd.
    let maps = 2 * items + 1;
    let skips = values(2, maps * map);
    let slices: Vec<i32> = (0..items).map(|item| ((2 * item + 2) % maps) as i32).collect();
    let scale = 1.0 / (inner as f32).sqrt();
    let weight: Vec<f32> = values(3, inner * columns * 4).iter().map(|value| rounded(value * scale)).collect();
    let bias = values(4, columns);
    let (gamma, beta) = (values(5, columns), values(6, columns));
    let norm = with_norm
        .then(|| Norm::new(&device, gamma.clone(), beta.clone(), 1e-6))
        .transpose()?;
    let chosen = slices.iter().flat_map(|slice| &skips[*slice as usize * map..][..map]);
    let gathered: Vec<f32> = chosen.copied().collect();
    let expected = op::upscale(
        &Tensor::from_slice(&device, &[items, height, width, inner], &x)?,
        &op::Upscale::new(&device, &weight, inner, columns, &bias, norm)?,
        &Tensor::from_slice(&device, &[items * 4 * height * width, columns], &gathered)?,
    )?;

    let rows: Vec<f32> = (0..4 * columns * inner)
        .map(|i| weight[(i % inner * columns + i / inner % columns) * 4 + i / inner / columns])
        .collect();
    let (rows, bias, gamma, beta) = (bench.bf16(&rows), bench.f32(&bias), bench.f32(&gamma), bench.f32(&beta));
    let weights = Weights {
        weight: &rows,
        bias: &bias,
        norm: with_norm.then_some((&gamma, &beta, 1e-6)),
    };
    let run = |items: usize, x: &[f32], maps: &[f32], slices: Option<&[i32]>| -> Result<Vec<f32>> {
        let y = bench.output(items * map);
        let upscale = Upscale {
            items,
            height,
            width,
            inner,
            columns,
        };
        let slices = slices.map(|slices| bench.arena.filled(bytemuck::cast_slice(slices))).transpose()?;
        let skips = Skips {
            maps: &bench.bf16(maps),
            slices: slices.as_ref(),
        };
        upscale.launch(&bench.runtime, &bench.bf16(x), weights, skips, &y)?;
        guarded(&y)
    };
    let y = run(items, &x, &skips, Some(&slices))?;
    conforms(&y, expected.values())?;
    ensure!(run(items, &x, &gathered, None)? == y, "gathered skip maps give another result");
    let (last, last_map) = ((items - 1) * height * width * inner, (items - 1) * map);
    ensure!(
        run(1, &x[last..], &gathered[last_map..], None)? == y[last_map..],
        "an item depends on how many others there are"
    );
    Ok(())
}

#[cfg(feature = "emu")]
#[test]
fn upscale_conforms_to_its_cpu_op_in_every_schedule() {
    Bench::all().for_each(|bench| check(&bench).unwrap());
}
