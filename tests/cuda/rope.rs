//! `rope` against its CPU op.

use super::conformance::{Bench, all_values, conforms, values};
use anyhow::{Context, Result, ensure};
use hpc_seg::cuda::rope::Rope;
use hpc_seg::device::Device;
use hpc_seg::ops;
use hpc_seg::tensor::Tensor;

/// Besides the op's own table: items, height, width, channels, from, turned, rows before x.
const CASES: &[[usize; 7]] = &[
    [2, 3, 5, 48, 16, 32, 0],
    [1, 1, 9, 64, 8, 16, 3],
    [3, 7, 2, 40, 24, 16, 1],
    [1, 5, 4, 24, 0, 20, 0],
    [2, 2, 3, 17, 5, 8, 2],
    [1, 17, 16, 24, 8, 16, 0],
];

/// Bugs that [`check`] must notice.
pub const MUTATIONS: &[super::suites::Mutation] = &[
    ("one pair beyond the last", "rope.cu", "if (index >= (u64)", "if (index > (u64)"),
    ("turned the other way", "rope.cu", "a * c[i] - b * s[i]", "a * c[i] + b * s[i]"),
    ("x and y exchanged", "rope.cu", "second ? row / width", "!second ? row / width"),
    ("items continue the grid", "rope.cu", "row / width % height", "row / width"),
    (
        "the second half with the first's continuation",
        "rope.cu",
        "(second ? quarter : 0)",
        "(second ? 0 : 0)",
    ),
    ("columns from 0", "rope.cu", "* channels + from + column", "* channels + column"),
];

/// Every case on this device.
pub fn check(bench: &Bench) -> Result<()> {
    let table = ops::rope::cases().into_iter().filter(|case| !ops::in_network(case.name));
    let table = table.map(|case| [case.items, case.grid.0, case.grid.1, case.channels, case.from, case.width, 0]);
    for case in table.chain(CASES.iter().copied()) {
        check_case(bench, case).with_context(|| format!("{case:?}"))?;
    }
    Ok(())
}

fn check_case(bench: &Bench, [items, height, width, channels, from, turned, before]: [usize; 7]) -> Result<()> {
    let rows = items * height * width;
    // x ends its buffer: a row too many would turn at place (0, 0), which keeps every value, so only its access can be noticed.
    let x = values(1, (before + rows) * channels);
    let turning = before * channels..(before + rows) * channels;
    let device = Device::cpu(1)?;
    let tables = ops::rope::Rope::new(&device, turned, (height, width), 10_000.0)?;
    let mut expected = Tensor::from_slice(&device, &[rows, channels], &x[turning.clone()])?;
    ops::rope::rope(&mut expected, from, &tables)?;
    let rope = Rope {
        items,
        height,
        width,
        channels,
        from,
        turned,
        at: 2 * before * channels,
    };
    let y = bench.bf16(&x);
    rope.launch(&bench.runtime, &y, &bench.f32(&tables.cos), &bench.f32(&tables.sin))?;
    let y = all_values(&y)?;
    conforms(&y[turning.clone()], expected.values())?;
    for (at, (new, old)) in y.iter().zip(&x).enumerate() {
        let may_turn = turning.contains(&at) && (from..from + turned).contains(&(at % channels));
        ensure!(may_turn || new == old, "value {at} turned, which is not of these columns");
    }
    Ok(())
}

#[cfg(feature = "emu")]
#[test]
fn rope_conforms_to_its_cpu_op_in_every_schedule() {
    Bench::all().for_each(|bench| check(&bench).unwrap());
}

#[cfg(feature = "emu")]
#[test]
fn columns_that_are_not_there_are_not_turned() {
    let bench = Bench::all().next().unwrap();
    let buffer = bench.bf16(&[0.0; 64]);
    let rope = Rope {
        items: 1,
        height: 1,
        width: 1,
        channels: 16,
        from: 4,
        turned: 16,
        at: 0,
    };
    let complaint = |rope: Rope| rope.launch(&bench.runtime, &buffer, &buffer, &buffer).unwrap_err().to_string();
    assert!(complaint(rope).contains("16 from 4"));
    let beyond = Rope { from: 0, at: 112, ..rope };
    assert!(complaint(beyond).contains("from byte 112"));
}
