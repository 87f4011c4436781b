//! `ops::attention` against a softmax over every key, padding tokens one by one.

use crate::support::ops::{assert_rows, assert_same, attend, noise, on_any_threads, poisoned, takes};
use hpc_seg::cpu::attention as cpu;
use hpc_seg::device::Device;
use hpc_seg::ops::attention::{Case, Columns, Layout, Windows, attention, cases};
use hpc_seg::tensor::Tensor;

struct Data {
    windows: Windows,
    /// Columns before the heads, so that offsets are met.
    q: Vec<f32>,
    kv: Vec<f32>,
    padding: (Vec<f32>, Vec<f32>),
}

const BEFORE: usize = 3;

impl Data {
    fn new(c: &Case) -> Self {
        let windows = c.windows();
        let wide = c.heads * c.width;
        // Scores of some size, so that the softmax is far from uniform and its maximum moves from tile to tile.
        let louder = |v: Vec<f32>| v.into_iter().map(|x| 3.0 * x).collect();
        Self {
            q: louder(noise(c.items * windows.query_rows * (wide + BEFORE), 1)),
            kv: louder(noise(c.items * windows.key_rows * 2 * wide, 2)),
            padding: (noise(wide, 3), noise(wide, 4)),
            windows,
        }
    }

    fn run(&self, device: &Device, c: &Case, items: std::ops::Range<usize>) -> Vec<f32> {
        let (wide, w) = (c.heads * c.width, &self.windows);
        let part = |x: &[f32], rows: usize, width: usize| {
            Tensor::from_slice(
                device,
                &[items.len(), rows, width],
                &x[items.start * rows * width..items.end * rows * width],
            )
            .unwrap()
        };
        let (q, kv) = (part(&self.q, w.query_rows, wide + BEFORE), part(&self.kv, w.key_rows, 2 * wide));
        let mut y = poisoned(device, &[items.len(), w.query_rows, wide]);
        let columns = [Columns(&q, BEFORE), Columns(&kv, 0), Columns(&kv, wide)];
        let both = [&self.padding.0[..], &self.padding.1].concat();
        let padding = Tensor::from_slice(device, &[2, wide], &both).unwrap();
        attention(columns, Some(&padding), w, items.len(), c.heads, &mut y).unwrap();
        y.values().to_vec()
    }

    /// Row r of all heads: the window is searched for, and its padding tokens stand in the sum one by one.
    fn oracle(&self, c: &Case, row: usize) -> Vec<f64> {
        let (w, e, wide) = (&self.windows, c.width, c.heads * c.width);
        let (item, query) = (row / w.query_rows, (row % w.query_rows) as u32);
        let place = w.queries.iter().position(|&q| q == query).unwrap();
        let window = (0..w.len())
            .find(|&i| (w.query_start[i]..w.query_start[i + 1]).contains(&place))
            .unwrap();
        let keys = &w.keys[w.key_start[window]..w.key_start[window + 1]];
        let mut out = Vec::new();
        for head in 0..c.heads {
            let q = &self.q[row * (wide + BEFORE) + BEFORE + head * e..][..e];
            let pair = |j: usize| match keys.get(j) {
                Some(&key) => {
                    let start = (item * w.key_rows + key as usize) * 2 * wide + head * e;
                    (&self.kv[start..][..e], &self.kv[start + wide..][..e])
                }
                None => (&self.padding.0[head * e..][..e], &self.padding.1[head * e..][..e]),
            };
            let dot = |k: &[f32]| q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() / (e as f64).sqrt();
            let scores: Vec<f64> = (0..keys.len() + w.padding[window] as usize).map(|j| dot(pair(j).0)).collect();
            out.extend(attend(&scores, |j| pair(j).1.iter().map(|&v| f64::from(v)).collect()));
        }
        out
    }
}

#[test]
fn attention_equals_a_softmax_over_every_key_and_padding_token() {
    for case in cases().into_iter().filter(|case| takes(case.name)) {
        let data = Data::new(&case);
        let name = format!("{case:?}");
        let got = on_any_threads(&name, |device| data.run(device, &case, 0..case.items));
        let keys = data.windows.keys.len() / data.windows.len();
        let wide = case.heads * case.width;
        assert_rows(&name, &got, wide, (2 * keys * wide) as f64, |row| data.oracle(&case, row));
    }
}

#[test]
fn an_item_attends_alike_alone_and_in_a_batch() {
    let device = Device::cpu(2).unwrap();
    for case in cases().into_iter().filter(|case| case.items > 1 && takes(case.name)) {
        let data = Data::new(&case);
        let all = data.run(&device, &case, 0..case.items);
        let alone: Vec<f32> = (0..case.items).flat_map(|i| data.run(&device, &case, i..i + 1)).collect();
        assert_same(case.name, &alone, &all);
    }
}

#[test]
fn windows_share_out_the_map_and_count_their_padding() {
    for case in cases() {
        let Layout::Partition { side, window, pools } = case.layout else {
            continue;
        };
        let w = case.windows();
        let sorted = |rows: &[u32]| {
            let mut rows = rows.to_vec();
            rows.sort_unstable();
            rows
        };
        let half = if pools { side / 2 } else { side };
        assert_eq!(sorted(&w.keys), (0..(side * side) as u32).collect::<Vec<_>>(), "{case:?}");
        assert_eq!(sorted(&w.queries), (0..(half * half) as u32).collect::<Vec<_>>(), "{case:?}");
        for i in 0..w.len() {
            assert_eq!(
                w.key_start[i + 1] - w.key_start[i] + w.padding[i] as usize,
                window * window,
                "{case:?}, window {i}"
            );
        }
    }
}

#[test]
fn attention_writes_nothing_beside_its_output() {
    const GUARD: usize = 64;
    for c in cases().into_iter().filter(|case| !hpc_seg::ops::in_network(case.name)) {
        let (data, wide) = (Data::new(&c), c.heads * c.width);
        let len = c.items * data.windows.query_rows * wide;
        let mut buffer = vec![-7.5; len + 2 * GUARD];
        buffer[GUARD..GUARD + len].fill(f32::NAN);
        let problem = cpu::Attention {
            q: cpu::Heads {
                x: &data.q[BEFORE..],
                stride: wide + BEFORE,
            },
            k: cpu::Heads {
                x: &data.kv,
                stride: 2 * wide,
            },
            v: cpu::Heads {
                x: &data.kv[wide..],
                stride: 2 * wide,
            },
            padding: Some((&data.padding.0, &data.padding.1)),
            windows: &data.windows,
            items: c.items,
            heads: c.heads,
            width: c.width,
        };
        problem.run(&mut buffer[GUARD..GUARD + len]);
        assert!(buffer[..GUARD].iter().chain(&buffer[GUARD + len..]).all(|&v| v == -7.5), "{c:?}");
        assert_same(
            c.name,
            &buffer[GUARD..GUARD + len],
            &data.run(&Device::cpu(1).unwrap(), &c, 0..c.items),
        );
    }
}

#[test]
fn scores_far_apart_neither_overflow_nor_vanish() {
    let device = Device::cpu(1).unwrap();
    let q = Tensor::from_slice(&device, &[1, 1], &[200.0]).unwrap();
    let keys: Vec<f32> = (0..130).map(|j| if j == 129 { 100.0 } else { -100.0 + j as f32 }).collect();
    let k = Tensor::from_slice(&device, &[130, 1], &keys).unwrap();
    let v = Tensor::from_slice(&device, &[130, 1], &(0..130).map(|j| j as f32).collect::<Vec<_>>()).unwrap();
    let mut y = poisoned(&device, &[1, 1]);
    attention(
        [Columns(&q, 0), Columns(&k, 0), Columns(&v, 0)],
        None,
        &Windows::whole(1, 130),
        1,
        1,
        &mut y,
    )
    .unwrap();
    assert_eq!(y.values(), [129.0]);
}
