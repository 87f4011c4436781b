//! `add_rows` against plain loops.

use super::conformance::{Bench, all_values, conforms, values};
use anyhow::{Context, Result, ensure};
use hpc_seg::cuda::add_rows::{AddRows, Where};

/// Rows, channels, rows of y, rows of an item with a flag (0: no flags), rows before x.
const CASES: &[[usize; 5]] = &[
    [1, 8, 1, 0, 0],
    [7, 24, 3, 0, 2],
    [9, 256, 1, 3, 0],
    [10, 16, 5, 2, 1],
    [6, 13, 4, 0, 3],
    [8, 7, 1, 1, 0],
    [35, 9, 1, 5, 1],
];

/// Bugs that [`check`] must notice.
pub const MUTATIONS: &[super::suites::Mutation] = &[
    (
        "one value beyond the last row",
        "add_rows.cu",
        "if (index >= (u64)",
        "if (index > (u64)",
    ),
    ("flags are of rows", "add_rows.cu", "flags[row / item_rows]", "flags[row]"),
    (
        "flagged items instead",
        "add_rows.cu",
        "flags && flags[row / item_rows]",
        "flags && !flags[row / item_rows]",
    ),
    ("always the first row", "add_rows.cu", "(size_t)(row % y_rows)", "(size_t)(0)"),
    (
        "the first half twice",
        "add_rows.cu",
        "((const float4*)((const float*)y + at))[1]",
        "low",
    ),
];

/// Every case on this device.
pub fn check(bench: &Bench) -> Result<()> {
    for &case in CASES {
        for wide in [false, true] {
            check_case(bench, case, wide).with_context(|| format!("{case:?} wide {wide}"))?;
        }
    }
    Ok(())
}

fn check_case(bench: &Bench, [rows, channels, added, item_rows, before]: [usize; 5], wide: bool) -> Result<()> {
    let x = values(1, (before + rows + 1) * channels);
    // What f32 holds and bf16 does not: a y read as bf16 would show.
    let y: Vec<f32> = values(2, added * channels)
        .iter()
        .map(|value| if wide { value * 1.001 } else { *value })
        .collect();
    let flags: Vec<i32> = (0..rows / item_rows.max(1)).map(|item| i32::from(item % 3 == 1)).collect();
    let is_flagged = |row: usize| item_rows > 0 && flags[row / item_rows] != 0;
    let mut expected = x[before * channels..][..rows * channels].to_vec();
    for row in (0..rows).filter(|row| !is_flagged(*row)) {
        for channel in 0..channels {
            expected[row * channels + channel] += y[row % added * channels + channel];
        }
    }
    let add = AddRows {
        rows,
        channels,
        added,
        wide,
        at: 2 * before * channels,
    };
    let (out, flags) = (bench.bf16(&x), super::guards::plain(bench, &flags));
    let which = if item_rows > 0 {
        Where::Unflagged(&flags, item_rows)
    } else {
        Where::All
    };
    let y = if wide { bench.f32(&y) } else { bench.bf16(&y) };
    add.launch(&bench.runtime, &out, &y, which)?;
    let out = all_values(&out)?;
    let (start, end) = (before * channels, (before + rows) * channels);
    ensure!(out[..start] == x[..start] && out[end..] == x[end..], "rows beside x changed");
    for row in (0..rows).filter(|row| is_flagged(*row)) {
        let range = (before + row) * channels..(before + row + 1) * channels;
        ensure!(out[range.clone()] == x[range], "row {row}, which is flagged, changed");
    }
    conforms(&out[start..end], &expected)
}

#[cfg(feature = "emu")]
#[test]
fn rows_are_added_as_by_plain_loops_in_every_schedule() {
    Bench::all().for_each(|bench| check(&bench).unwrap());
}
