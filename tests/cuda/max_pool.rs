//! `max_pool` against its CPU op: exact.

use super::conformance::{Bench, guarded, values};
use anyhow::{Result, ensure};
use hpc_seg::cuda::max_pool::MaxPool;
use hpc_seg::device::Device;
use hpc_seg::ops;
use hpc_seg::tensor::Tensor;

/// Besides the op's own table: items, height, width, channels, from, taken.
const CASES: &[[usize; 6]] = &[
    [1, 2, 2, 1, 0, 1],
    [2, 4, 6, 24, 8, 16],
    [1, 6, 10, 13, 3, 7],
    [3, 2, 4, 16, 0, 16],
    [1, 14, 14, 48, 16, 24],
    [1, 2, 34, 9, 8, 1],
];

/// Bugs that [`check`] must notice.
pub const MUTATIONS: &[super::suites::Mutation] = &[
    (
        "one value beyond the last",
        "max_pool.cu",
        "if (index >= (u64)",
        "if (index > (u64)",
    ),
    ("three of four", "max_pool.cu", "fmaxf(c[e], d[e])", "c[e]"),
    (
        "rows one pixel longer",
        "max_pool.cu",
        "pixel % out_width",
        "pixel % (out_width + 1)",
    ),
];

/// Every case on this device.
pub fn check(bench: &Bench) -> Result<()> {
    let table = ops::max_pool::cases().into_iter().filter(|case| !ops::in_network(case.name));
    let table = table.map(|case| [case.items, case.size.0, case.size.1, case.channels, case.from, case.n]);
    for [items, height, width, channels, from, taken] in table.chain(CASES.iter().copied()) {
        let x = values(1, items * height * width * channels);
        let expected = ops::max_pool::max_pool(
            &Tensor::from_slice(&Device::cpu(1)?, &[items, height, width, channels], &x)?,
            from,
            taken,
        )?;
        let y = bench.output(expected.values().len());
        let pool = MaxPool {
            items,
            height,
            width,
            channels,
            from,
            taken,
        };
        pool.launch(&bench.runtime, &bench.bf16(&x), &y)?;
        ensure!(guarded(&y)? == expected.values(), "{pool:?}: other values");
    }
    Ok(())
}

#[cfg(feature = "emu")]
#[test]
fn max_pool_equals_its_cpu_op_in_every_schedule() {
    Bench::all().for_each(|bench| check(&bench).unwrap());
}

#[cfg(feature = "emu")]
#[test]
fn an_odd_map_is_refused() {
    let bench = Bench::all().next().unwrap();
    let pool = MaxPool {
        items: 1,
        height: 3,
        width: 2,
        channels: 1,
        from: 0,
        taken: 1,
    };
    let buffer = bench.bf16(&[0.0; 6]);
    assert!(
        pool.launch(&bench.runtime, &buffer, &buffer)
            .unwrap_err()
            .to_string()
            .contains("height 3 width 2")
    );
}
