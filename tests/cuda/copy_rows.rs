//! `copy_rows` against plain loops: exact.

use super::conformance::Bench;
use super::guards::{content, guarded, plain};
use anyhow::{Context, Result, ensure};
use hpc_seg::cuda::copy_rows::{Gather, Put, Ring};

/// Sources, items, bytes of an item.
const GATHERS: &[[usize; 3]] = &[[1, 1, 16], [3, 7, 48], [5, 2, 4112], [4, 9, 6], [2, 1, 2], [3, 0, 16]];
/// Items, rings, places, slots, bytes of a piece.
const RINGS: &[[usize; 5]] = &[[1, 1, 1, 1, 16], [3, 2, 5, 7, 128], [4, 3, 67, 2, 32], [2, 2, 3, 3, 10]];

/// Bugs that [`check`] must notice.
pub const MUTATIONS: &[super::suites::Mutation] = &[
    (
        "one unit beyond the last",
        "copy_rows.cu",
        "if (index >= (u64)",
        "if (index > (u64)",
    ),
    (
        "places of the source as far apart as the ring's",
        "copy_rows.cu",
        "piece * from_stride",
        "piece * to_stride",
    ),
    ("the list is taken in its order", "copy_rows.cu", "list[2 * entry + 1]", "list[1]"),
    (
        "items in their order",
        "copy_rows.cu",
        "(size_t)list[entry] * from_item",
        "(size_t)entry * from_item",
    ),
    ("only the first unit", "copy_rows.cu", "to_stride + unit]", "to_stride]"),
];

fn bytes(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 31 + i / 251 + seed * 17) % 253) as u8).collect()
}

/// Every case on this device.
pub fn check(bench: &Bench) -> Result<()> {
    for &case in GATHERS {
        check_gather(bench, case).with_context(|| format!("gather {case:?}"))?;
    }
    for &case in RINGS {
        check_put(bench, case).with_context(|| format!("put {case:?}"))?;
        check_over(bench, case).with_context(|| format!("over {case:?}"))?;
    }
    Ok(())
}

fn check_gather(bench: &Bench, [sources, items, item_bytes]: [usize; 3]) -> Result<()> {
    let x = bytes(1, sources * item_bytes);
    let index: Vec<i32> = (0..items).map(|i| ((i * 5 + 2) % sources) as i32).collect();
    let y = guarded(bench, &vec![0xee_u8; items * item_bytes]);
    let gather = Gather {
        items,
        item_bytes,
        sources,
    };
    gather.launch(&bench.runtime, &plain(bench, &x), &plain(bench, &index), &y)?;
    let expected: Vec<u8> = index
        .iter()
        .flat_map(|&i| x[i as usize * item_bytes..][..item_bytes].to_vec())
        .collect();
    ensure!(content::<u8>(&y)? == expected, "other bytes");
    Ok(())
}

fn check_put(bench: &Bench, [items, rings, places, slots, piece_bytes]: [usize; 5]) -> Result<()> {
    let ring = Ring {
        places,
        slots,
        piece_bytes,
    };
    let (tokens, mut expected) = (bytes(2, items * places * piece_bytes), bytes(3, rings * ring.bytes()));
    // Lanes in another order than items, each with a slot of its own; one item twice if there are more rings than items.
    let puts: Vec<Put> = (0..rings)
        .map(|lane| Put {
            source: (lane + 1) % items,
            ring: (rings - 1 - lane) * ring.bytes(),
            slot: (2 * lane + 1) % slots,
        })
        .collect();
    let y = guarded(bench, &expected);
    let list = ring.list(&puts, items, expected.len())?;
    ring.put(&bench.runtime, &plain(bench, &tokens), &plain(bench, &list), puts.len(), &y)?;
    for put in &puts {
        for place in 0..places {
            let token = &tokens[(put.source * places + place) * piece_bytes..][..piece_bytes];
            expected[put.ring + (place * slots + put.slot) * piece_bytes..][..piece_bytes].copy_from_slice(token);
        }
    }
    ensure!(content::<u8>(&y)? == expected, "other bytes");
    Ok(())
}

fn check_over(bench: &Bench, [_, rings, places, slots, piece_bytes]: [usize; 5]) -> Result<()> {
    let ring = Ring {
        places,
        slots,
        piece_bytes,
    };
    if slots < 2 {
        return Ok(());
    }
    let mut expected = bytes(4, rings * ring.bytes());
    let copies: Vec<(usize, usize, usize)> = (0..rings)
        .map(|lane| (lane * ring.bytes(), lane % 2, slots - 1 - lane % 2))
        .collect();
    let copies: Vec<_> = copies.into_iter().filter(|(_, from, to)| from != to).collect();
    let y = guarded(bench, &expected);
    let list = plain(bench, &ring.over_list(&copies, expected.len())?);
    ring.over(&bench.runtime, &y, &list, copies.len())?;
    for &(start, from, to) in &copies {
        for place in 0..places {
            let at = |slot: usize| start + (place * slots + slot) * piece_bytes;
            expected.copy_within(at(from)..at(from) + piece_bytes, at(to));
        }
    }
    ensure!(content::<u8>(&y)? == expected, "other bytes");
    Ok(())
}

#[cfg(feature = "emu")]
#[test]
fn copies_equal_plain_loops_in_every_schedule() {
    Bench::all().for_each(|bench| check(&bench).unwrap());
}
