//! `ops::memory_attention` against what it stands for: every key projected, turned by RoPE, a full softmax, projected values, output projection.

use crate::support::ops::{assert_close, assert_same, attend, noise, on_any_threads, poisoned, takes};
use hpc_seg::cpu::memory_attention as cpu;
use hpc_seg::device::Device;
use hpc_seg::ops::memory_attention::{Case, KeyTables, Memory, Pointers, Slices, State, cases, memory_attention, partial};
use hpc_seg::ops::rope::Rope;
use hpc_seg::tensor::Tensor;

const THETA: f64 = 10000.0;

struct Data {
    /// Turned queries [lanes * P, D].
    q: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    times: Vec<f32>,
    position: Vec<f32>,
    conditioning: Vec<f32>,
    recent: Vec<Vec<f32>>,
    pointer_keys: Vec<f32>,
    pointer_values: Vec<f32>,
    conditioning_times: Vec<usize>,
    recent_times: Vec<usize>,
    /// The value projection [D, M] that the op leaves to the following `linear`.
    value: Vec<f32>,
}

/// Slots of the lanes' own slices: one more than used, so that gaps are met.
fn recent_slots(c: &Case) -> usize {
    c.recent + 1
}

impl Data {
    fn new(c: &Case) -> Self {
        let p = c.grid.0 * c.grid.1;
        let louder = |v: Vec<f32>| v.into_iter().map(|x| 2.0 * x).collect();
        Self {
            q: louder(noise(c.lanes * p * c.d, 1)),
            weight: noise(c.d * c.m, 2).into_iter().map(|w| w * (6.0 / c.m as f32).sqrt()).collect(),
            bias: noise(c.d, 3),
            times: noise(c.times * c.m, 4),
            position: noise(p * c.m, 5),
            conditioning: noise(p * c.slots * c.m, 6),
            recent: (0..c.lanes)
                .map(|lane| noise(p * recent_slots(c) * c.m, 70 + lane as u64))
                .collect(),
            pointer_keys: noise(c.pointers * c.m, 8),
            pointer_values: noise(c.pointers * c.m, 9),
            conditioning_times: (0..c.conditioning).map(|_| c.times - 1).collect(),
            recent_times: (0..c.recent).map(|i| i % c.times).collect(),
            value: noise(c.d * c.m, 10),
        }
    }

    fn tables(&self, device: &Device, c: &Case) -> KeyTables {
        KeyTables::new(
            device,
            &self.weight,
            &self.bias,
            &self.times,
            &self.position,
            &Rope::new(device, c.d, c.grid, THETA).unwrap(),
        )
        .unwrap()
    }

    /// Rings of the conditioning slices, of which the last is used and the others are NaN, and of the lanes' own slices, in descending order.
    fn rings(&self, device: &Device, c: &Case) -> [Tensor; 2] {
        let p = c.grid.0 * c.grid.1;
        let mut conditioning = vec![f32::NAN; self.conditioning.len()];
        conditioning.extend_from_slice(&self.conditioning);
        let recent: Vec<f32> = self.recent.iter().rev().flatten().copied().collect();
        [
            Tensor::from_slice(device, &[2, p, c.slots, c.m], &conditioning).unwrap(),
            Tensor::from_slice(device, &[c.lanes, p, recent_slots(c), c.m], &recent).unwrap(),
        ]
    }

    fn memories<'a>(&'a self, c: &Case, [conditioning, recent]: &'a [Tensor; 2]) -> Vec<Memory<'a>> {
        let lane = |lane: usize| Memory {
            conditioning: Slices {
                tokens: Some((conditioning, 1)),
                times: &self.conditioning_times,
            },
            recent: Slices {
                tokens: Some((recent, c.lanes - 1 - lane)),
                times: &self.recent_times,
            },
            pointer_keys: &self.pointer_keys,
            pointer_values: &self.pointer_values,
            start: None,
        };
        (0..c.lanes).map(lane).collect()
    }

    fn queries(&self, device: &Device, c: &Case) -> Tensor {
        Tensor::from_slice(device, &[c.lanes * c.grid.0 * c.grid.1, c.d], &self.q).unwrap()
    }

    fn run(&self, device: &Device, c: &Case) -> Vec<f32> {
        let q = self.queries(device, c);
        let mut y = poisoned(device, &[q.rows(), c.m]);
        let rings = self.rings(device, c);
        let memories = self.memories(c, &rings);
        let pointers = Pointers::of(device, &memories).unwrap();
        memory_attention(&q, &self.tables(device, c), &memories, &pointers, &mut y).unwrap();
        y.values().to_vec()
    }

    /// The conditioning slices first, as a state; then the rest.
    fn run_in_two(&self, device: &Device, c: &Case) -> Vec<f32> {
        let (q, tables, rings) = (self.queries(device, c), self.tables(device, c), self.rings(device, c));
        let memories = self.memories(c, &rings);
        let first: Vec<Memory<'_>> = memories
            .iter()
            .map(|m| Memory {
                recent: Slices::NONE,
                pointer_keys: &[],
                pointer_values: &[],
                ..*m
            })
            .collect();
        let states = partial(&q, &tables, &first).unwrap();
        let state = |lane| Some(State { of: &states, lane });
        let rest: Vec<Memory<'_>> = memories.iter().enumerate().map(|(lane, m)| m.after(state(lane))).collect();
        let mut y = poisoned(device, &[q.rows(), c.m]);
        let pointers = Pointers::of(device, &rest).unwrap();
        memory_attention(&q, &tables, &rest, &pointers, &mut y).unwrap();
        y.values().to_vec()
    }
}

/// W x + b in f64, W [rows of `out`, M].
fn project(weight: &[f32], bias: Option<&[f32]>, x: &[f64]) -> Vec<f64> {
    weight
        .chunks_exact(x.len())
        .enumerate()
        .map(|(e, row)| row.iter().zip(x).map(|(w, v)| f64::from(*w) * v).sum::<f64>() + bias.map_or(0.0, |b| f64::from(b[e])))
        .collect()
}

/// Pair i of D / 2 turns by x theta^(-4 i / D) in the first half of the pairs, by y in the second.
fn turn(row: &mut [f64], at: usize, grid_width: usize) {
    let (d, x, y) = (row.len(), (at % grid_width) as f64, (at / grid_width) as f64);
    for pair in 0..d / 2 {
        let (coordinate, i) = if pair < d / 4 { (x, pair) } else { (y, pair - d / 4) };
        let angle = coordinate * THETA.powf(-4.0 * i as f64 / d as f64);
        let (a, b) = (row[2 * pair], row[2 * pair + 1]);
        row[2 * pair] = a * angle.cos() - b * angle.sin();
        row[2 * pair + 1] = a * angle.sin() + b * angle.cos();
    }
}

/// All keys of a lane with their tokens: projected, positions added before, turned.
fn keys(data: &Data, c: &Case, lane: usize) -> Vec<(Vec<f64>, Vec<f64>)> {
    let wide = |v: &[f32]| v.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let p = c.grid.0 * c.grid.1;
    let mut out = Vec::new();
    for (tokens, slots, times) in [
        (&data.conditioning, c.slots, &data.conditioning_times),
        (&data.recent[lane], recent_slots(c), &data.recent_times),
    ] {
        for (slot, &time) in times.iter().enumerate() {
            for at in 0..p {
                let token = wide(&tokens[(at * slots + slot) * c.m..][..c.m]);
                let placed: Vec<f64> = (0..c.m)
                    .map(|i| token[i] + f64::from(data.position[at * c.m + i]) + f64::from(data.times[time * c.m + i]))
                    .collect();
                let mut key = project(&data.weight, Some(&data.bias), &placed);
                turn(&mut key, at, c.grid.1);
                out.push((key, token));
            }
        }
    }
    for (key, value) in data.pointer_keys.chunks_exact(c.m).zip(data.pointer_values.chunks_exact(c.m)) {
        out.push((project(&data.weight, Some(&data.bias), &wide(key)), wide(value)));
    }
    out
}

/// The attention's projected output at some rows, and the op's rows projected: (want, got).
fn both_projected(data: &Data, c: &Case, rows: &[usize], got: &[f32]) -> (Vec<f64>, Vec<f32>) {
    let p = c.grid.0 * c.grid.1;
    let (mut want, mut ours, mut last) = (Vec::new(), Vec::new(), None);
    let mut all = Vec::new();
    for &row in rows {
        if last != Some(row / p) {
            last = Some(row / p);
            // Keys and projected values of this lane.
            all = keys(data, c, row / p)
                .into_iter()
                .map(|(key, token)| (key, project(&data.value, None, &token)))
                .collect();
        }
        let q: Vec<f64> = data.q[row * c.d..][..c.d].iter().map(|&v| f64::from(v)).collect();
        let score = |key: &[f64]| q.iter().zip(key).map(|(a, b)| a * b).sum::<f64>() / (c.d as f64).sqrt();
        let scores: Vec<f64> = all.iter().map(|(key, _)| score(key)).collect();
        want.extend(attend(&scores, |j| all[j].1.clone()));
        let tokens: Vec<f64> = got[row * c.m..][..c.m].iter().map(|&v| f64::from(v)).collect();
        ours.extend(project(&data.value, None, &tokens).into_iter().map(|v| v as f32));
    }
    (want, ours)
}

#[test]
fn memory_attention_equals_projected_and_turned_keys_in_a_full_softmax() {
    for case in cases().into_iter().filter(|case| takes(case.name)) {
        let data = Data::new(&case);
        let got = on_any_threads(case.name, |device| data.run(device, &case));
        assert!(got.iter().all(|v| v.is_finite()), "{case:?}: a value was not written");
        let rows = got.len() / case.m;
        let stride = if rows * rows * case.d < 1 << 18 { 1 } else { 997 };
        let sample: Vec<usize> = (0..rows)
            .step_by(stride)
            .take(if case.lanes * case.conditioning > 20 { 2 } else { usize::MAX })
            .collect();
        let (want, ours) = both_projected(&data, &case, &sample, &got);
        assert_close(&format!("{case:?}"), &ours, &want);
    }
}

#[test]
fn attention_in_two_steps_equals_the_whole() {
    let device = Device::cpu(2).unwrap();
    for case in cases().into_iter().filter(|case| case.conditioning > 0 && takes(case.name)) {
        let data = Data::new(&case);
        let (whole, two) = (data.run(&device, &case), data.run_in_two(&device, &case));
        let wide: Vec<f64> = whole.iter().map(|&v| f64::from(v)).collect();
        assert_close(&format!("{case:?} in two steps"), &two, &wide);
    }
}

#[test]
fn a_lane_attends_alike_alone_and_among_others() {
    let device = Device::cpu(2).unwrap();
    for case in cases().into_iter().filter(|case| case.lanes > 1 && takes(case.name)) {
        let (data, p) = (Data::new(&case), case.grid.0 * case.grid.1);
        let all = data.run(&device, &case);
        for lane in 0..case.lanes {
            let one = Case { lanes: 1, ..case };
            let part = Data {
                q: data.q[lane * p * case.d..][..p * case.d].to_vec(),
                recent: vec![data.recent[lane].clone()],
                ..Data::new(&one)
            };
            assert_same(
                &format!("{} lane {lane}", case.name),
                &part.run(&device, &one),
                &all[lane * p * case.m..][..p * case.m],
            );
        }
    }
}

#[test]
fn rows_and_states_stay_between_their_guards() {
    const GUARD: usize = 64;
    let device = Device::cpu(2).unwrap();
    for c in cases().into_iter().filter(|case| !hpc_seg::ops::in_network(case.name)) {
        let (data, rope) = (Data::new(&c), Rope::new(&device, c.d, c.grid, THETA).unwrap());
        let height = c.m + c.times;
        let p = c.grid.0 * c.grid.1;
        // Any tables will do: only where results go is looked at.
        let tables = cpu::Tables {
            width: c.grid.1,
            height: c.grid.0,
            d: c.d,
            m: c.m,
            times: c.times,
            rows_x: noise(height * c.d / 2, 1),
            rows_y: noise(height * c.d / 2, 2),
            rows_pointer: noise((c.m + 1) * c.d, 3),
            position: data.position.clone(),
            cos: rope.cos.to_vec(),
            sin: rope.sin.to_vec(),
        };
        let lane = |lane: usize| cpu::Memory {
            conditioning: cpu::Slices {
                tokens: &data.conditioning,
                slots: c.slots,
                times: &data.conditioning_times,
            },
            recent: cpu::Slices {
                tokens: &data.recent[lane],
                slots: recent_slots(&c),
                times: &data.recent_times,
            },
            pointer_keys: &data.pointer_keys,
            pointer_values: &data.pointer_values,
            start: None,
        };
        let memories: Vec<cpu::Memory<'_>> = (0..c.lanes).map(lane).collect();
        for states in [false, true] {
            let len = if states {
                c.lanes * cpu::state_len(p, c.m)
            } else {
                c.lanes * p * c.m
            };
            let mut buffer = vec![-7.5; len + 2 * GUARD];
            let inner = &mut buffer[GUARD..GUARD + len];
            inner.fill(f32::NAN);
            let output = if states {
                cpu::Output::States(inner)
            } else {
                cpu::Output::Rows(inner)
            };
            device.install(|| cpu::memory_attention(&data.q, &tables, &memories, output));
            assert!(buffer[..GUARD].iter().chain(&buffer[GUARD + len..]).all(|&v| v == -7.5), "{c:?}");
            assert!(buffer[GUARD..GUARD + len].iter().all(|v| v.is_finite()), "{c:?}");
        }
    }
}
