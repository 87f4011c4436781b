//! `prompt_mask` against its CPU op: the same bits.

use super::conformance::{Bench, guarded};
use anyhow::{Context, Result, ensure};
use hpc_seg::cuda::prompt_mask::PromptMask;
use hpc_seg::device::Device;
use hpc_seg::ops;

/// Bugs that [`check`] must notice.
pub const MUTATIONS: &[super::suites::Mutation] = &[
    (
        "one logit beyond the last",
        "prompt_mask.cu",
        "if (index >= (u64)",
        "if (index > (u64)",
    ),
    ("taps beyond the last pixel", "prompt_mask.cu", " && pixel < SHRINK * side", ""),
    ("taps before the first pixel", "prompt_mask.cu", "pixel >= 0 && ", ""),
    (
        "edges weigh as the middle does",
        "prompt_mask.cu",
        "? triangle / 3.5f",
        "? triangle / 4.f",
    ),
    (
        "the last row is none of the edges",
        "prompt_mask.cu",
        "at == 0 || at == side - 1",
        "at == 0",
    ),
    (
        "the left neighbour's first bytes",
        "prompt_mask.cu",
        "pixel_of(left, i + BEFORE)",
        "pixel_of(left, i)",
    ),
    (
        "the left neighbour for the right one",
        "prompt_mask.cu",
        "? words[1] : 0",
        "? words[-1] : 0",
    ),
    (
        "a row of the square too many",
        "prompt_mask.cu",
        "j < BEFORE + SHRINK) {",
        "j <= BEFORE + SHRINK) {",
    ),
    (
        "halves of four pixels swapped",
        "prompt_mask.cu",
        "four.x = pack_bf16(pixel_of(here, 0)",
        "four.x = pack_bf16(pixel_of(here, 2)",
    ),
    (
        "all on the first mask",
        "prompt_mask.cu",
        "line / side * (SHRINK * side)",
        "(size_t)0",
    ),
];

/// Every case on this device.
pub fn check(bench: &Bench) -> Result<()> {
    let table = ops::prompt_mask::cases().into_iter().filter(|case| !ops::in_network(case.name));
    table
        .into_iter()
        .map(|case| (case.items, case.size))
        .chain([(2, 12), (1, 64)])
        .try_for_each(|(items, size)| check_case(bench, items, size).with_context(|| format!("{items} masks of {size} x {size}")))
}

fn check_case(bench: &Bench, items: usize, size: usize) -> Result<()> {
    let side = size / 4;
    let bits = super::conformance::values(size as u64, items * size * size);
    let masks: Vec<u8> = bits.iter().map(|value| u8::from(*value > -0.2)).collect();
    let square = bench.output(items * size * size);
    let guard = vec![7.0; 64];
    let logits = bench.f32(&[vec![f32::NAN; items * side * side], guard.clone()].concat());
    let raw = bench.arena.filled(&masks)?;
    PromptMask { items, side }.launch(&bench.runtime, &raw, &square, &logits)?;
    let shown: Vec<&[u8]> = masks.chunks_exact(size * size).collect();
    let (values, expected) = ops::prompt_mask::prompt_mask(&Device::cpu(1)?, &shown, size)?;
    ensure!(guarded(&square)? == values.values(), "other values of the masks");
    let expected: Vec<u8> = bytemuck::cast_slice(&[expected.values(), &guard].concat()).to_vec();
    ensure!(logits.to_vec()? == expected, "other logits");
    Ok(())
}

#[cfg(feature = "emu")]
#[test]
fn prompt_masks_equal_the_cpu_op_in_every_schedule() {
    Bench::all().for_each(|bench| check(&bench).unwrap());
}
