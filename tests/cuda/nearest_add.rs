//! `nearest_add` against its CPU op.

use super::conformance::{Bench, conforms, values};
use super::guards;
use anyhow::{Context, Result};
use half::bf16;
use hpc_seg::cuda::nearest_add::NearestAdd;
use hpc_seg::device::Device;
use hpc_seg::ops;
use hpc_seg::tensor::Tensor;

/// Besides the op's own table: items, height, width, channels of the lower map.
const CASES: &[[usize; 4]] = &[[1, 1, 1, 8], [2, 3, 5, 24], [3, 2, 7, 16], [1, 5, 2, 13]];

/// Bugs that [`check`] must notice.
pub const MUTATIONS: &[super::suites::Mutation] = &[
    (
        "one value beyond the last is added",
        "nearest_add.cu",
        "if (index >= (u64)",
        "if (index > (u64)",
    ),
    ("three of four pixels", "nearest_add.cu", "k < 4", "k < 3"),
    (
        "lower rows one pixel longer",
        "nearest_add.cu",
        "pixel % width",
        "pixel % (width + 1)",
    ),
    (
        "upper rows overlap",
        "nearest_add.cu",
        "(size_t)2 * row * line",
        "(size_t)row * line",
    ),
];

/// Every case on this device.
pub fn check(bench: &Bench) -> Result<()> {
    let table = ops::nearest_add::cases().into_iter().filter(|case| !ops::in_network(case.name));
    let table = table.map(|case| [case.items, case.size.0, case.size.1, case.channels]);
    for case in table.chain(CASES.iter().copied()) {
        check_case(bench, case).with_context(|| format!("{case:?}"))?;
    }
    Ok(())
}

fn check_case(bench: &Bench, [items, height, width, channels]: [usize; 4]) -> Result<()> {
    let shape = [items, height, width, channels];
    let (x, y) = (values(1, shape.iter().product()), values(2, 4 * shape.iter().product::<usize>()));
    let device = Device::cpu(1)?;
    let mut expected = Tensor::from_slice(&device, &[items, 2 * height, 2 * width, channels], &y)?;
    ops::nearest_add::nearest_add(&mut expected, &Tensor::from_slice(&device, &shape, &x)?)?;
    let add = NearestAdd {
        items,
        height,
        width,
        channels,
    };
    let bits: Vec<u16> = y.iter().map(|value| bf16::from_f32(*value).to_bits()).collect();
    let y = guards::guarded(bench, &bits);
    add.launch(&bench.runtime, &bench.bf16(&x), &y)?;
    let y: Vec<f32> = guards::content(&y)?
        .into_iter()
        .map(|bits| bf16::from_bits(bits).to_f32())
        .collect();
    conforms(&y, expected.values())
}

#[cfg(feature = "emu")]
#[test]
fn nearest_add_conforms_to_its_cpu_op_in_every_schedule() {
    Bench::all().for_each(|bench| check(&bench).unwrap());
}
