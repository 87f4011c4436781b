//! `memory_mask` against its CPU op: the same bits, rounded to bf16.

use super::conformance::{Bench, guarded, rounded, values};
use anyhow::{Context, Result, ensure};
use hpc_seg::cpu::simd::{Level, level};
use hpc_seg::cuda::memory_mask::MemoryMask;
use hpc_seg::device::Device;
use hpc_seg::ops;
use hpc_seg::ops::memory_mask::Affine;
use hpc_seg::ops::resize::ResizePlan;
use hpc_seg::tensor::Tensor;

/// Besides the op's own table: items, input, output.
type Case = (usize, (usize, usize), (usize, usize));
const CASES: &[Case] = &[
    (2, (5, 5), (16, 16)),
    (3, (8, 8), (32, 24)),
    (1, (9, 7), (5, 8)),
    (2, (6, 6), (6, 6)),
    (1, (33, 31), (32, 32)),
];

/// Bugs that [`check`] must notice.
pub const MUTATIONS: &[super::suites::Mutation] = &[
    (
        "one mask pixel beyond the last",
        "memory_mask.cu",
        "if (index >= (u64)",
        "if (index > (u64)",
    ),
    ("prompted by the item before", "memory_mask.cu", "prompted[item]", "prompted[0]"),
    ("offsets are of planes", "memory_mask.cu", "(size_t)offsets[item]", "(size_t)0"),
    ("zero is inside", "memory_mask.cu", "logit > 0.f ?", "logit >= 0.f ?"),
    ("no bias", "memory_mask.cu", "scale), bias)", "scale), 0.f)"),
    ("corners aligned", "bilinear.cuh", "i + 0.5f, -0.5f", "i + 0.f, 0.f"),
    (
        "the right neighbour of the last",
        "bilinear.cuh",
        "min(left + 1, input - 1)",
        "left + 1",
    ),
];

/// Every case on this device.
pub fn check(bench: &Bench) -> Result<()> {
    let table = ops::memory_mask::cases().into_iter().filter(|case| !ops::in_network(case.name));
    let table = table.map(|case| (case.items, case.input, case.output));
    for case in table.chain(CASES.iter().copied()) {
        check_case(bench, case, false).with_context(|| format!("{case:?}"))?;
        check_case(bench, case, true).with_context(|| format!("{case:?} with offsets and prompts"))?;
    }
    Ok(())
}

/// With `chosen`, planes stand in reverse order with a gap between them, and every second item is prompted.
fn check_case(bench: &Bench, (items, input, output): Case, chosen: bool) -> Result<()> {
    let (scale, bias) = (20.0, -10.0);
    let (pixels, out_pixels) = (input.0 * input.1, output.0 * output.1);
    let stride = if chosen { pixels + 3 } else { pixels };
    let mut x: Vec<f32> = values(1, items * stride).iter().map(|value| 7.0 * value).collect();
    x.iter_mut().step_by(5).for_each(|value| *value = 0.0); // exactly on the edge
    let start = |item: usize| if chosen { (items - 1 - item) * stride + 3 } else { item * stride };
    let prompted = |item: usize| chosen && item.is_multiple_of(2);
    let plan = ResizePlan::bilinear(input, output)?;
    let device = Device::cpu(1)?;
    let y = bench.output(items * out_pixels);
    let [offsets, prompts] = [
        (0..items).map(|item| start(item) as i32).collect::<Vec<_>>(),
        (0..items).map(|item| i32::from(prompted(item))).collect(),
    ]
    .map(|list| super::guards::plain(bench, &list));
    let mask = MemoryMask {
        items,
        input,
        output,
        scale,
        bias,
    };
    mask.launch(
        &bench.runtime,
        &bench.f32(&x),
        chosen.then_some(&offsets),
        chosen.then_some(&prompts),
        &y,
    )?;
    let y = guarded(&y)?;
    for item in 0..items {
        let plane = Tensor::from_slice(&device, &[1, input.0, input.1], &x[start(item)..][..pixels])?;
        let affine = Affine {
            prompted: prompted(item),
            scale,
            bias,
        };
        let expected = ops::memory_mask::memory_mask(&plane, &[0], &plan, affine)?;
        for (at, (new, op)) in y[item * out_pixels..].iter().zip(expected.values()).enumerate() {
            // The portable level has no fused multiply-add: there a value may round to the neighbour.
            let allowed = if level() == Level::Portable { op.abs() / 128.0 + 1e-5 } else { 0.0 };
            ensure!(
                (new - rounded(*op)).abs() <= allowed,
                "item {item} value {at}: {new} for {op}, rounded {}",
                rounded(*op)
            );
        }
    }
    Ok(())
}

#[cfg(feature = "emu")]
#[test]
fn memory_masks_equal_the_cpu_op_in_every_schedule() {
    Bench::all().for_each(|bench| check(&bench).unwrap());
}
