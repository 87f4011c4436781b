//! `ops::rows` against plain loops, exactly.

use crate::support::ops::{assert_same, noise, on_any_threads, poison};
use hpc_seg::device::Device;
use hpc_seg::ops::rows::{Put, add, add_unless, gather, move_slot, put, put_slots, round_bf16};
use hpc_seg::tensor::{Parameter, Tensor};

/// Items, rows of an item, columns: ones, primes, about a vector, many.
const SIZES: [[usize; 3]; 6] = [[1, 1, 1], [3, 1, 7], [5, 7, 13], [2, 31, 15], [4, 3, 17], [7, 64, 33]];

fn tensor(device: &Device, shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_slice(device, shape, values).unwrap()
}

#[test]
fn gather_takes_items_in_their_order_and_as_often_as_asked() {
    for [items, rows, c] in SIZES {
        let x = noise(items * rows * c, 1);
        let indices = [
            vec![],
            vec![items - 1],
            (0..items).rev().collect(),
            (0..2 * items + 1).map(|i| i * 5 % items).collect::<Vec<_>>(),
        ];
        for index in indices {
            let name = format!("items {index:?} of {items} x {rows} x {c}");
            let got = on_any_threads(&name, |device| {
                let x = tensor(device, &[items * rows, c], &x);
                poison(device, index.len() * rows * c);
                let y = gather(&x, rows, &index).unwrap();
                assert_eq!(y.shape(), [index.len() * rows, c], "{name}");
                y.values().to_vec()
            });
            let mut want = Vec::new();
            for &item in &index {
                for row in 0..rows {
                    want.extend((0..c).map(|column| x[(item * rows + row) * c + column]));
                }
            }
            assert_same(&name, &got, &want);
        }
    }
}

#[test]
#[should_panic(expected = "gather: items")]
fn an_item_that_is_not_there_is_refused() {
    let device = Device::cpu(1).unwrap();
    let _ = gather(&tensor(&device, &[6, 2], &noise(12, 1)), 3, &[0, 2]);
}

#[test]
#[should_panic(expected = "gather: items")]
fn items_of_a_part_of_a_row_too_many_are_refused() {
    let device = Device::cpu(1).unwrap();
    let _ = gather(&tensor(&device, &[7, 2], &noise(14, 1)), 3, &[0]);
}

#[test]
fn put_copies_over_its_rows_and_no_others() {
    for [items, rows, c] in SIZES {
        let (m, old, x) = (items * rows, noise(items * rows * c, 1), noise(rows * c, 2));
        for first in [0, (m - rows) / 2, m - rows] {
            let name = format!("{rows} rows of {c} from row {first} of {m}");
            let got = on_any_threads(&name, |device| {
                let mut y = tensor(device, &[m, c], &old);
                put(&mut y, first, &tensor(device, &[rows, c], &x)).unwrap();
                y.values().to_vec()
            });
            let mut want = old.clone();
            for i in 0..rows * c {
                want[first * c + i] = x[i];
            }
            assert_same(&name, &got, &want);
        }
    }
}

#[test]
#[should_panic(expected = "put: ")]
fn rows_beyond_the_last_are_refused() {
    let device = Device::cpu(1).unwrap();
    let x = tensor(&device, &[2, 3], &noise(6, 1));
    let _ = put(&mut tensor(&device, &[4, 3], &noise(12, 2)), 3, &x);
}

#[test]
fn add_repeats_the_rows_it_adds() {
    for [items, rows, c] in SIZES {
        let (old, x) = (noise(items * rows * c, 1), noise(rows * c, 2));
        let name = format!("{rows} rows of {c} to {items} items");
        let got = on_any_threads(&name, |device| {
            let mut y = tensor(device, &[items, rows, c], &old);
            add(&mut y, &tensor(device, &[rows, c], &x)).unwrap();
            y.values().to_vec()
        });
        let mut want = old.clone();
        for row in 0..items * rows {
            for column in 0..c {
                want[row * c + column] += x[row % rows * c + column];
            }
        }
        assert_same(&name, &got, &want);
    }
}

#[test]
#[should_panic(expected = "add: ")]
fn rows_that_do_not_fit_a_whole_number_of_times_are_refused() {
    let device = Device::cpu(1).unwrap();
    let x = tensor(&device, &[2, 3], &noise(6, 1));
    let _ = add(&mut tensor(&device, &[5, 3], &noise(15, 2)), &x);
}

#[test]
fn add_unless_adds_to_every_row_of_the_items_without_a_flag() {
    for [items, rows, c] in SIZES {
        let (old, vector) = (noise(items * rows * c, 1), noise(c, 2));
        let flags = [
            vec![true; items],
            vec![false; items],
            (0..items).map(|i| i % 3 == 1).collect::<Vec<_>>(),
        ];
        for flags in flags {
            let name = format!("flags {flags:?}, {rows} rows of {c}");
            let got = on_any_threads(&name, |device| {
                let mut y = tensor(device, &[items * rows, c], &old);
                add_unless(&mut y, &flags, &Parameter::new(device, vector.clone()).unwrap()).unwrap();
                y.values().to_vec()
            });
            let mut want = old.clone();
            for row in 0..items * rows {
                for column in 0..c {
                    if !flags[row / rows] {
                        want[row * c + column] += vector[column];
                    }
                }
            }
            assert_same(&name, &got, &want);
        }
    }
}

#[test]
#[should_panic(expected = "add_unless: ")]
fn flags_of_other_items_are_refused() {
    let device = Device::cpu(1).unwrap();
    let vector = Parameter::new(&device, noise(3, 1)).unwrap();
    let _ = add_unless(&mut tensor(&device, &[5, 3], &noise(15, 2)), &[false, true], &vector);
}

/// Rings, positions, slots, columns.
const RINGS: [[usize; 4]; 5] = [[1, 1, 1, 1], [2, 3, 1, 5], [3, 1, 4, 7], [2, 13, 5, 17], [4, 9, 7, 64]];

#[test]
fn put_slots_writes_the_slots_it_is_told_and_no_others() {
    for [rings, p, slots, c] in RINGS {
        let items = rings + 1;
        let (old, x) = (noise(rings * p * slots * c, 1), noise(items * p * c, 2));
        let every: Vec<Put> = (0..rings)
            .map(|ring| Put {
                from: items - 1 - ring,
                ring,
                slot: (2 * ring + 1) % slots,
            })
            .collect();
        // None; one ring's last slot; one for every ring; of two into one slot the later.
        let twice = [0, items - 1].map(|from| Put { from, ring: 0, slot: 0 });
        let last = Put {
            from: 0,
            ring: rings - 1,
            slot: slots - 1,
        };
        for puts in [vec![], vec![last], every, twice.to_vec()] {
            let name = format!("{puts:?} to {rings} x {p} x {slots} x {c}");
            let got = on_any_threads(&name, |device| {
                let mut y = tensor(device, &[rings, p, slots, c], &old);
                put_slots(&mut y, &tensor(device, &[items * p, c], &x), &puts).unwrap();
                y.values().to_vec()
            });
            let mut want = old.clone();
            for put in &puts {
                for at in 0..p {
                    for column in 0..c {
                        want[((put.ring * p + at) * slots + put.slot) * c + column] = x[(put.from * p + at) * c + column];
                    }
                }
            }
            assert_same(&name, &got, &want);
        }
    }
}

#[test]
fn move_slot_copies_within_its_ring_alone() {
    for [rings, p, slots, c] in RINGS {
        let old = noise(rings * p * slots * c, 1);
        for (ring, from, to) in [(0, 0, slots - 1), (rings - 1, slots - 1, 0), (rings / 2, slots / 2, slots / 2)] {
            let name = format!("slot {from} to {to} of ring {ring} of {rings} x {p} x {slots} x {c}");
            let got = on_any_threads(&name, |device| {
                let mut y = tensor(device, &[rings, p, slots, c], &old);
                move_slot(&mut y, ring, from, to).unwrap();
                y.values().to_vec()
            });
            let mut want = old.clone();
            for at in 0..p {
                for column in 0..c {
                    let row = (ring * p + at) * slots;
                    want[(row + to) * c + column] = old[(row + from) * c + column];
                }
            }
            assert_same(&name, &got, &want);
        }
    }
}

#[test]
fn slots_rings_and_items_that_are_not_there_are_refused() {
    let refused = |work: &(dyn Fn(&mut Tensor, &Tensor) + std::panic::RefUnwindSafe)| {
        std::panic::catch_unwind(|| {
            let device = Device::cpu(1).unwrap();
            let (mut y, x) = (
                tensor(&device, &[2, 3, 4, 5], &noise(120, 1)),
                tensor(&device, &[6, 5], &noise(30, 2)),
            );
            work(&mut y, &x);
        })
        .is_err()
    };
    for (from, ring, slot, fits) in [(1, 1, 3, true), (2, 0, 0, false), (0, 2, 0, false), (0, 0, 4, false)] {
        let puts = [Put { from, ring, slot }];
        assert_eq!(refused(&|y, x| put_slots(y, x, &puts).unwrap()), !fits, "{puts:?}");
    }
    for (ring, from, to, fits) in [(1, 3, 0, true), (2, 0, 0, false), (0, 4, 0, false), (0, 0, 4, false)] {
        assert_eq!(
            refused(&|y, _| move_slot(y, ring, from, to).unwrap()),
            !fits,
            "{from} to {to} of ring {ring}"
        );
    }
}

#[test]
fn values_are_rounded_to_the_nearest_of_eight_bits_and_halfway_to_the_even_one() {
    let ulp = 2f32.powi(-7);
    let cases = [
        (1.0, 1.0),
        (1.0 + 0.5 * ulp, 1.0),
        (1.0 + 0.501 * ulp, 1.0 + ulp),
        (1.0 + 1.5 * ulp, 1.0 + 2.0 * ulp),
        (-1.0 - 1.49 * ulp, -1.0 - ulp),
        (0.0, 0.0),
        (-0.0, -0.0),
    ];
    // More than one task's worth.
    let n = 10_007;
    let column = |f: fn(&(f32, f32)) -> f32| (0..n).map(|i| f(&cases[i % cases.len()])).collect::<Vec<_>>();
    let got = on_any_threads("bf16", |device| {
        let mut y = tensor(device, &[n], &column(|case| case.0));
        round_bf16(&mut y);
        y.values().to_vec()
    });
    assert_same("bf16", &got, &column(|case| case.1));
}
