//! `conv` and `conv_direct` against their CPU op.

use super::conformance::{Bench, conforms, guarded, rounded, values};
use anyhow::{Context, Result, ensure};
use hpc_seg::cuda::conv::{After, Conv, DIRECT, TILES};
use hpc_seg::device::Device;
use hpc_seg::ops;
use hpc_seg::ops::conv as op;
use hpc_seg::ops::linear::Epilogue;
use hpc_seg::ops::norm::Norm;
use hpc_seg::tensor::Tensor;

/// What follows the product.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    Nothing,
    Rows(usize),
    Norm,
}

/// Besides the op's own table: items, size, channels, columns, [side, stride, padding], with bias, and what follows: every kernel at sizes that fill no tile.
type Case = (usize, (usize, usize), usize, usize, [usize; 3], bool, Then);
const CASES: &[Case] = &[
    (2, (45, 50), 1, 96, [7, 4, 3], true, Then::Rows(156)),
    (1, (9, 13), 1, 40, [7, 4, 3], true, Then::Norm),
    (1, (6, 5), 1, 104, [7, 4, 3], false, Then::Nothing),
    (2, (13, 11), 16, 64, [3, 2, 1], true, Then::Norm),
    (1, (5, 9), 8, 24, [3, 2, 1], false, Then::Norm),
    (1, (9, 8), 8, 72, [3, 1, 1], true, Then::Rows(7)),
    (1, (1, 1), 8, 8, [1, 1, 0], true, Then::Nothing),
    (1, (9, 10), 64, 256, [3, 2, 1], true, Then::Norm),
    (2, (7, 13), 8, 136, [3, 1, 1], true, Then::Norm),
    (1, (5, 7), 5, 65, [3, 2, 1], true, Then::Norm),
    (1, (9, 8), 3, 33, [3, 1, 1], true, Then::Norm),
    (2, (5, 8), 2, 67, [2, 1, 0], false, Then::Rows(3)),
    (2, (13, 18), 1, 4, [3, 2, 1], true, Then::Norm),
    (1, (9, 21), 1, 4, [3, 2, 1], true, Then::Nothing),
    (1, (12, 17), 4, 16, [3, 2, 1], true, Then::Norm),
    (1, (1, 1), 4, 16, [3, 2, 1], false, Then::Norm),
    (2, (9, 7), 1, 4, [2, 2, 0], true, Then::Norm),
    (1, (10, 14), 4, 16, [2, 2, 0], true, Then::Norm),
    (2, (9, 13), 1, 1, [4, 4, 0], true, Then::Nothing),
    (1, (8, 36), 1, 1, [4, 4, 0], true, Then::Nothing),
];

/// Bugs that [`check`] must notice.
pub const MUTATIONS: &[super::suites::Mutation] = &[
    (
        "the padding wraps to the row before",
        "conv.cu",
        "line < map.height && column >= 0 &&",
        "line < map.height &&",
    ),
    (
        "windows overlap one column less",
        "conv.cu",
        "row % out_width * stride - padding",
        "row % out_width * stride",
    ),
    ("the first image for all", "conv.cu", "{item * height,", "{0,"),
    (
        "weights beyond a row's last are loaded",
        "tile.cuh",
        "inside = has_row && from < width",
        "inside = has_row",
    ),
    (
        "a group of copies not waited for",
        "conv.cu",
        "cp_async_wait<STAGES - 2>",
        "cp_async_wait<STAGES - 1>",
    ),
    (
        "no barrier between stages",
        "conv.cu",
        "__syncthreads();  // this step's",
        "// this step's",
    ),
    (
        "no barrier between warps of a row",
        "conv.cu",
        "__syncthreads();  // all parts",
        "// all parts",
    ),
    (
        "one place for both statistics",
        "conv.cu",
        "across_warps(scale, parts[1]",
        "across_warps(scale, parts[0]",
    ),
    (
        "residual rows do not repeat",
        "conv.cu",
        "(size_t)(row % residual_rows) * columns",
        "(size_t)row * columns",
    ),
    (
        "values in pairs the wrong way round",
        "conv.cu",
        "if (e % 2) words",
        "if (e % 2 == 0) words",
    ),
    (
        "rows beyond the last are stored",
        "rows.cuh",
        "if (there && column < columns) row[column]",
        "if (column < columns) row[column]",
    ),
    (
        "columns beyond the last are stored",
        "rows.cuh",
        "if (there && column < columns) *(uint4*)",
        "if (there) *(uint4*)",
    ),
    (
        "the padding counts in the variance",
        "rows.cuh",
        "threadIdx.x % 4 * 2 + e < columns) total",
        "threadIdx.x % 4 * 2 + e < columns + 8) total",
    ),
    (
        "sum over half a quad",
        "rows.cuh",
        "return v + __shfl_xor_sync(WHOLE_WARP, v, 2);",
        "return v;",
    ),
    (
        "words stay with their lanes",
        "rows.cuh",
        "const bool upper = lane & bit;",
        "const bool upper = false;",
    ),
    (
        "lower edge of the window",
        "conv_direct.cu",
        "line < 0 || line >= height",
        "line < 0",
    ),
    (
        "left edge of the window",
        "conv_direct.cu",
        "if (column >= 0 && column < width)",
        "if (column < width)",
    ),
    (
        "weights are used before they are there",
        "conv_direct.cu",
        "    __syncthreads();\n",
        "",
    ),
    (
        "the second pixel is always there",
        "conv_direct.cu",
        "min(PIXELS, out_width - out_column)",
        "PIXELS",
    ),
    ("both pixels see one window", "conv_direct.cu", "v[p * STRIDE + dx]", "v[dx]"),
    ("every pair is aligned", "conv_direct.cu", "pixel % 2 == 0", "true"),
];

fn geometry((items, (height, width), channels, columns, [side, stride, padding], ..): Case) -> Conv {
    Conv {
        items,
        height,
        width,
        channels,
        columns,
        side,
        stride,
        padding,
    }
}

/// Every case on this device.
pub fn check(bench: &Bench) -> Result<()> {
    let table = op::cases().into_iter().filter(|case| !ops::in_network(case.name)).map(|case| {
        let geometry = [case.kernel, case.stride, case.padding];
        (case.items, case.size, case.channels, case.n, geometry, true, Then::Nothing)
    });
    let mut cases = table.chain(CASES.iter().copied());
    cases.try_for_each(|case| check_case(bench, case).with_context(|| format!("{case:?}")))
}

/// Weights [columns, channels, side, side], and the same as the kernels take them.
fn weights(conv: &Conv) -> (Vec<f32>, Vec<f32>) {
    let (taps, row) = (conv.side * conv.side, conv.weight_row());
    let scale = 1.0 / ((taps * conv.channels) as f32).sqrt();
    let weight: Vec<f32> = values(3, conv.columns * conv.channels * taps)
        .iter()
        .map(|value| rounded(value * scale))
        .collect();
    let mut packed = vec![0.0; conv.columns * row];
    for (index, value) in weight.iter().enumerate() {
        let (column, channel, tap) = (index / taps / conv.channels, index / taps % conv.channels, index % taps);
        packed[column * row + tap * conv.channels + channel] = *value;
    }
    (weight, packed)
}

fn check_case(bench: &Bench, case: Case) -> Result<()> {
    let (conv, (.., with_bias, then)) = (geometry(case), case);
    let device = Device::cpu(1)?;
    let x = values(1, conv.items * conv.height * conv.width * conv.channels);
    let (weight, packed) = weights(&conv);
    let bias = with_bias.then(|| values(4, conv.columns));
    let residual_rows = if let Then::Rows(rows) = then { rows } else { 1 };
    let residual = values(5, residual_rows * conv.columns);
    let norm = Norm::new(&device, values(6, conv.columns), values(7, conv.columns), 1e-6)?;
    let residual_tensor = Tensor::from_slice(&device, &[residual_rows, conv.columns], &residual)?;
    let epilogue = Epilogue {
        residual: matches!(then, Then::Rows(_)).then_some(&residual_tensor),
        norm: (then == Then::Norm).then_some(&norm),
        gelu: then == Then::Norm,
        ..Epilogue::NONE
    };
    let op_weights = op::Conv::new(
        &device,
        &weight,
        [conv.columns, conv.channels],
        [conv.side, conv.stride, conv.padding],
        bias.as_deref(),
    )?;
    let x_tensor = Tensor::from_slice(&device, &[conv.items, conv.height, conv.width, conv.channels], &x)?;
    let expected = op::conv(&x_tensor, &op_weights, epilogue)?;

    let y = bench.output(expected.values().len());
    let (gamma, beta, residual) = (bench.f32(&norm.gamma), bench.f32(&norm.beta), bench.f32(&residual));
    let after = match then {
        Then::Nothing => After::Nothing,
        Then::Rows(rows) => After::Rows(&residual, rows),
        Then::Norm => After::NormGelu {
            gamma: &gamma,
            beta: &beta,
            eps: norm.eps,
        },
    };
    let bias = bias.map(|bias| bench.f32(&bias));
    conv.launch(&bench.runtime, &bench.bf16(&x), &bench.bf16(&packed), bias.as_ref(), after, &y)?;
    conforms(&guarded(&y)?, expected.values())
}

#[cfg(feature = "emu")]
#[test]
fn conv_conforms_to_its_cpu_op_in_every_schedule() {
    Bench::all().for_each(|bench| check(&bench).unwrap());
}

#[test]
fn every_kernel_for_convolutions_is_chosen_by_a_case() {
    let chosen: Vec<&str> = CASES
        .iter()
        .map(|case| {
            let conv = geometry(*case);
            conv.choose(case.6 == Then::Norm, matches!(case.6, Then::Rows(_))).unwrap().name()
        })
        .collect();
    let all = TILES.iter().map(|tile| tile.name).chain(DIRECT.iter().map(|(name, _)| *name));
    all.for_each(|name| assert!(chosen.contains(&name), "{name}"));
}

/// Also what makes results independent of lanes per step.
pub fn check_items(bench: &Bench) -> Result<()> {
    for case in CASES.iter().filter(|case| case.0 > 1 && !matches!(case.6, Then::Rows(_))) {
        let one = Conv {
            items: 1,
            ..geometry(*case)
        };
        let x = values(1, 3 * one.height * one.width * one.channels);
        let weight = bench.bf16(&weights(&one).1);
        let (gamma, beta) = (bench.f32(&values(6, one.columns)), bench.f32(&values(7, one.columns)));
        let run = |items: usize, x: &[f32]| -> Result<Vec<f32>> {
            let conv = Conv { items, ..one };
            let (height, width) = conv.out_size();
            let y = bench.output(items * height * width * conv.columns);
            let after = match case.6 {
                Then::Norm => After::NormGelu {
                    gamma: &gamma,
                    beta: &beta,
                    eps: 1e-6,
                },
                _ => After::Nothing,
            };
            conv.launch(&bench.runtime, &bench.bf16(x), &weight, None, after, &y)?;
            guarded(&y)
        };
        let (all, last) = (run(3, &x)?, run(1, &x[x.len() / 3 * 2..])?);
        ensure!(
            all[all.len() / 3 * 2..] == last,
            "{case:?}: an item depends on how many others there are"
        );
    }
    Ok(())
}

#[cfg(feature = "emu")]
#[test]
fn an_item_of_conv_does_not_depend_on_the_others() {
    check_items(&Bench::all().next().unwrap()).unwrap();
}

#[cfg(feature = "emu")]
#[test]
fn a_window_larger_than_the_padded_map_is_refused() {
    let bench = Bench::all().next().unwrap();
    let conv = geometry((1, (2, 5), 1, 1, [4, 4, 0], false, Then::Nothing));
    let buffer = bench.bf16(&[0.0; 64]);
    let refused = conv
        .launch(&bench.runtime, &buffer, &buffer, None, After::Nothing, &buffer)
        .unwrap_err();
    assert!(refused.to_string().contains("does not fit"), "{refused}");
    let refused = geometry((1, (9, 9), 1, 1, [4, 4, 0], false, Then::Nothing))
        .launch(&bench.runtime, &buffer, &buffer, None, After::Nothing, &buffer)
        .unwrap_err();
    assert!(refused.to_string().contains("x of [1, 9, 9, 1, 2]"), "{refused}");
}
