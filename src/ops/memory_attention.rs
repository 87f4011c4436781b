//! `memory_attention`: cross-attention of a slice's queries to memory tokens, softmax(q K^T / sqrt(D)) M with K = RoPE(W (M + position) + b), by axial absorption.
//!
//! Half of the pairs of a key at p = (x, y) turn by x alone, half by y alone, so q . R(p)(W k + b) = (X`[x]` + Y`[y]`) . k + constants, with X`[x]` = Wx^T R(x)^-1 q and
//! Y`[y]` likewise: no projected key is made or kept, all layers read the same M-wide tokens, and the value projection is left to the following `linear`
//! (W_v W_o folded). Shapes: q [lanes * P, D], turned by its own position; tokens [P, slots, M] per set; pointer keys (with position) and values [n, M]; y [lanes * P, M].
//! A set of tokens shared by lanes can be attended to once and continued (`partial`): running maximum, sum and weighted tokens per query. Source: SAM 2's memory
//! attention; algebra in the project's notes on exact savings.

use super::Cost;
use super::rope::Rope;
use crate::cpu::memory_attention as cpu;
pub use crate::cpu::memory_attention::{Memory, Slices};
use crate::tensor::Tensor;

/// A layer's key projection, folded with temporal positions, and the tokens' spatial position.
pub struct KeyTables(cpu::Tables);

impl KeyTables {
    /// `weight` [D, M] and `bias` `[D]` of the key projection, `times` [T, M] the temporal positions, `position` [P, M] the spatial ones.
    pub fn new(weight: &[f32], bias: &[f32], times: &[f32], position: &[f32], rope: &Rope) -> Self {
        let d = bias.len();
        let m = weight.len() / d;
        let half = d / 2;
        assert_eq!(
            (rope.width, weight.len() % d, times.len() % m),
            (d, 0, 0),
            "memory_attention: widths of keys, tokens and rotation"
        );
        assert_eq!(
            position.len(),
            rope.grid.0 * rope.grid.1 * m,
            "memory_attention: positions of a {:?} grid",
            rope.grid
        );
        let mut halves = Vec::with_capacity(2);
        for from in [0, half] {
            let mut rows = Vec::with_capacity((m + times.len() / m) * half);
            for c in 0..m {
                rows.extend((from..from + half).map(|e| weight[e * m + c]));
            }
            for time in times.chunks_exact(m) {
                rows.extend((from..from + half).map(|e| {
                    let sum: f64 = (0..m).map(|c| f64::from(weight[e * m + c]) * f64::from(time[c])).sum();
                    (sum + f64::from(bias[e])) as f32
                }));
            }
            halves.push(rows);
        }
        let mut rows_pointer: Vec<f32> = (0..m).flat_map(|c| (0..d).map(move |e| weight[e * m + c])).collect();
        rows_pointer.extend_from_slice(bias);
        let rows_y = halves.pop().unwrap_or_default();
        let rows_x = halves.pop().unwrap_or_default();
        Self(cpu::Tables {
            width: rope.grid.1,
            height: rope.grid.0,
            d,
            m,
            times: times.len() / m,
            rows_x,
            rows_y,
            rows_pointer,
            position: position.to_vec(),
            cos: rope.cos.clone(),
            sin: rope.sin.clone(),
        })
    }

    /// Tokens per slice, P.
    pub fn positions(&self) -> usize {
        self.0.width * self.0.height
    }

    /// Width of a token, M.
    pub fn token_width(&self) -> usize {
        self.0.m
    }

    /// Floats of one lane's unfinished attention.
    pub fn state_len(&self) -> usize {
        cpu::state_len(self.positions(), self.0.m)
    }

    fn check(&self, q: &Tensor, lanes: &[Memory<'_>]) {
        assert_eq!(
            (q.rows(), q.width()),
            (lanes.len() * self.positions(), self.0.d),
            "memory_attention: queries {q:?} for {} lanes",
            lanes.len()
        );
        for memory in lanes {
            for set in [&memory.conditioning, &memory.recent] {
                assert!(
                    set.times.len() <= set.slots && set.times.iter().all(|&t| t < self.0.times),
                    "memory_attention: times {:?}",
                    set.times
                );
                assert!(
                    set.times.is_empty() || set.tokens.len() == self.positions() * set.slots * self.0.m,
                    "memory_attention: tokens"
                );
            }
            let (keys, values) = (memory.pointer_keys.len(), memory.pointer_values.len());
            assert!(keys == values && keys % self.0.m == 0, "memory_attention: pointers");
            assert!(
                memory.start.is_none_or(|s| s.len() == self.state_len()),
                "memory_attention: start state"
            );
        }
    }
}

/// y = the attention of every lane.
pub fn memory_attention(q: &Tensor, tables: &KeyTables, lanes: &[Memory<'_>], y: &mut Tensor) {
    tables.check(q, lanes);
    assert_eq!((y.rows(), y.width()), (q.rows(), tables.0.m), "memory_attention: output {y:?}");
    cpu::memory_attention(q.values(), &tables.0, lanes, cpu::Output::Rows(y.values_mut()));
}

/// The unfinished attention of every lane, [lanes, state_len], to be given as `start` later.
pub fn partial(q: &Tensor, tables: &KeyTables, lanes: &[Memory<'_>]) -> Tensor {
    tables.check(q, lanes);
    let mut states = Tensor::empty(q.device(), &[lanes.len(), tables.state_len()]);
    cpu::memory_attention(q.values(), &tables.0, lanes, cpu::Output::States(states.values_mut()));
    states
}

/// Cost of one lane of P queries of width D on `slices` slices and `pointers` pointer tokens of width M, T temporal positions, on a side x side grid.
pub fn cost(side: usize, d: usize, m: usize, times: usize, slices: usize, pointers: usize) -> Cost {
    let p = (side * side) as f64;
    let (d, m, times, slices, pointers) = (d as f64, m as f64, times as f64, slices as f64, pointers as f64);
    let tables = p * (2.0 * side as f64 * (m + times) * d + 2.0 * (m + 1.0) * d);
    Cost {
        flops: 4.0 * p * p * slices * m + 4.0 * p * pointers * m + tables,
        bytes: 4.0 * (p * slices * m + p * (d + m) + 2.0 * pointers * m),
    }
}

/// Lanes of a [height, width] grid: D-wide queries, `conditioning` slices in `slots` and `recent` ones of M-wide tokens, pointer tokens.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Case {
    pub name: &'static str,
    pub lanes: usize,
    pub grid: (usize, usize),
    pub d: usize,
    pub m: usize,
    pub times: usize,
    pub conditioning: usize,
    pub slots: usize,
    pub recent: usize,
    pub pointers: usize,
}

/// The op's table: awkward sizes, then the network's (see [`super::in_network`]).
pub fn cases() -> Vec<Case> {
    [
        ("one", 1, (1, 1), [4, 1, 1], [1, 1, 0, 0]),
        ("pointers alone", 1, (2, 3), [8, 3, 2], [0, 0, 0, 5]),
        ("primes", 2, (5, 7), [12, 5, 3], [2, 3, 1, 7]),
        ("block - 1", 1, (1, 31), [8, 4, 2], [3, 3, 2, 1]),
        ("block + 1", 1, (33, 1), [8, 4, 2], [3, 5, 2, 1]),
        ("key tile - 1", 1, (2, 3), [8, 11, 2], [127, 127, 1, 127]),
        ("key tile + 1", 1, (2, 3), [8, 13, 2], [129, 130, 1, 129]),
        ("no conditioning", 3, (4, 4), [16, 8, 7], [0, 2, 6, 4]),
        ("tracking.13 slices", 1, (32, 32), [256, 64, 7], [13, 13, 6, 64]),
        ("tracking.40 slices", 1, (32, 32), [256, 64, 7], [40, 40, 6, 64]),
        ("tracking.5 lanes, 13 slices", 5, (32, 32), [256, 64, 7], [13, 13, 6, 64]),
    ]
    .map(|(name, lanes, grid, [d, m, times], [conditioning, slots, recent, pointers])| Case {
        name,
        lanes,
        grid,
        d,
        m,
        times,
        conditioning,
        slots,
        recent,
        pointers,
    })
    .to_vec()
}
