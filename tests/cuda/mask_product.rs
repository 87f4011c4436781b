//! `mask_product` against its CPU op.

use super::conformance::{Bench, values};
use anyhow::{Context, Result, ensure};
use hpc_seg::cuda::arena::Buffer;
use hpc_seg::cuda::mask_product::{Absent, MaskProduct};
use hpc_seg::device::Device;
use hpc_seg::ops;
use hpc_seg::ops::mask_product as op;
use hpc_seg::tensor::Tensor;

/// Besides the op's own table: items, pixels, masks, channels; blocks that are not full, more tokens than fit into shared memory at a time.
const CASES: &[[usize; 4]] = &[
    [1, 1, 1, 32],
    [3, 255, 3, 32],
    [2, 257, 4, 32],
    [1, 300, 37, 32],
    [1, 7, 2, 1030],
    [2, 258, 3, 8],
];

const FILLING: f32 = -1024.0;
const GUARD: f32 = 12345.0;
const GUARDS: usize = 64;

/// Bugs that [`check`] must notice.
pub const MUTATIONS: &[super::suites::Mutation] = &[
    (
        "pixels beyond the last are stored",
        "mask_product.cu",
        "if (pixel < pixels) out",
        "out",
    ),
    (
        "pixels beyond the last are read",
        "mask_product.cu",
        "if (from < pixels) load_f32",
        "load_f32",
    ),
    (
        "tokens are used before they are there",
        "mask_product.cu",
        "to_f32(tokens[(size_t)begin * channels + part + i]);\n            __syncthreads();",
        "to_f32(tokens[(size_t)begin * channels + part + i]);",
    ),
    (
        "tokens in use are replaced",
        "mask_product.cu",
        "__syncthreads();  // the values before",
        "// the values before",
    ),
    (
        "pixel of the neighbour",
        "mask_product.cu",
        "if (lane % 4 == i) sum",
        "if (lane % 4 == 3 - i) sum",
    ),
    (
        "tokens of the first item",
        "mask_product.cu",
        "tokens += (size_t)item * masks * channels;",
        "",
    ),
    (
        "absent items are computed",
        "mask_product.cu",
        "absent && absent[item]",
        "absent && absent[0]",
    ),
];

/// Every case on this device.
pub fn check(bench: &Bench) -> Result<()> {
    let table = op::cases().into_iter().filter(|case| !ops::in_network(case.name));
    let table = table.map(|case| [case.items, case.size.0 * case.size.1, case.masks, case.channels]);
    let mut cases = table.chain(CASES.iter().copied());
    cases.try_for_each(|case| check_case(bench, case).with_context(|| format!("{case:?}")))
}

/// An output of this many f32, poisoned, with guards after it.
fn output(bench: &Bench, len: usize) -> Buffer {
    bench.f32(&[vec![f32::NAN; len], vec![GUARD; GUARDS]].concat())
}

fn guarded(buffer: &Buffer) -> Result<Vec<f32>> {
    let mut values: Vec<f32> = bytemuck::pod_collect_to_vec(&buffer.to_vec()?);
    let guards = values.split_off(values.len() - GUARDS);
    ensure!(
        guards.iter().all(|guard| *guard == GUARD),
        "values after the output were overwritten"
    );
    Ok(values)
}

fn check_case(bench: &Bench, [items, pixels, masks, channels]: [usize; 4]) -> Result<()> {
    let device = Device::cpu(1)?;
    let (x, tokens) = (values(1, items * pixels * channels), values(2, items * masks * channels));
    let expected = op::mask_product(
        &Tensor::from_slice(&device, &[items, 1, pixels, channels], &x)?,
        &Tensor::from_slice(&device, &[items, masks, channels], &tokens)?,
        &vec![true; items],
        FILLING,
    )?;
    let run = |items: usize, x: &[f32], tokens: &[f32], flags: Option<&[i32]>| -> Result<Vec<f32>> {
        let y = output(bench, items * masks * pixels);
        let product = MaskProduct {
            items,
            pixels,
            masks,
            channels,
        };
        let flags = flags.map(|flags| bench.arena.filled(bytemuck::cast_slice(flags))).transpose()?;
        let absent = flags.as_ref().map(|flags| Absent { flags, filling: FILLING });
        product.launch(&bench.runtime, &bench.bf16(x), &bench.bf16(tokens), absent, &y)?;
        guarded(&y)
    };
    let y = run(items, &x, &tokens, None)?;
    // Both sum the same exact products in f32, only in another order.
    for (at, (value, wanted)) in y.iter().zip(expected.values()).enumerate() {
        let allowed = 1e-6 * (channels as f32) * 4.0;
        ensure!((value - wanted).abs() <= allowed, "value {at}: {value} for {wanted}");
    }
    let (last, last_token, last_y) = (
        (items - 1) * pixels * channels,
        (items - 1) * masks * channels,
        (items - 1) * masks * pixels,
    );
    ensure!(
        run(1, &x[last..], &tokens[last_token..], None)? == y[last_y..],
        "an item depends on how many others there are"
    );
    // The last item is absent, then all others are.
    let is_last = |item: usize| i32::from(item + 1 == items);
    let flags: Vec<i32> = (0..items).map(is_last).collect();
    let (present, absent) = (&y[..last_y], vec![FILLING; masks * pixels]);
    ensure!(
        run(items, &x, &tokens, Some(&flags))? == [present, &absent].concat(),
        "the last item is not filled, or another is"
    );
    let flags: Vec<i32> = (0..items).map(|item| 7 - 7 * is_last(item)).collect();
    ensure!(
        run(items, &x, &tokens, Some(&flags))? == [&vec![FILLING; last_y], &y[last_y..]].concat(),
        "absent items are not filled, or the last is"
    );
    Ok(())
}

#[cfg(feature = "emu")]
#[test]
fn mask_product_equals_its_cpu_op_in_every_schedule() {
    Bench::all().for_each(|bench| check(&bench).unwrap());
}
