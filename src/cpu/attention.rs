//! Tiled softmax attention that never stores a score matrix.
//!
//! One task is (item, window, head, block of queries). The queries of a block stand in the lanes of two vectors, so scores, running maximum, sum and output are all
//! `[row][queries]` panels and the softmax needs no horizontal step; keys pass by in tiles of `KEY_TILE`. Flops 4 Q L E per head; bytes 4 E (2 Q + 2 L) per window
//! and head plus a copy of the key tile per block of queries.

use super::gemm::{product, with_height};
use super::math;
use super::scratch::{self, Shared};
use super::simd::{self, Kernel, Simd};
use rayon::prelude::*;

/// Keys per tile: their scores fit the first-level cache.
const KEY_TILE: usize = 64;

/// Rows of width E per head inside a wider matrix: row r of head h is x[r * stride + h * E ..][.. E].
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct Heads<'a> {
    pub x: &'a [f32],
    pub stride: usize,
}

/// Which rows attend to which, for one item of a batch: window w's queries `queries[query_start[w] .. query_start[w + 1]]`, and keys likewise.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Windows {
    pub queries: Vec<u32>,
    pub query_start: Vec<usize>,
    pub keys: Vec<u32>,
    pub key_start: Vec<usize>,
    /// How many copies of the padding key and value each window has.
    pub padding: Vec<u32>,
    /// Rows from one item to the next.
    pub query_rows: usize,
    pub key_rows: usize,
    /// How they came about.
    pub layout: Layout,
}

/// Which queries see which keys, for each item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// All see all.
    #[default]
    Whole,
    /// Windows of side `window` of a side x side map of keys; with `pools`, queries come from a map of half the side.
    #[allow(missing_docs)]
    Partition { side: usize, window: usize, pools: bool },
}

impl Windows {
    /// One window: every query sees every key.
    pub fn whole(queries: usize, keys: usize) -> Self {
        Self {
            queries: (0..queries as u32).collect(),
            query_start: vec![0, queries],
            keys: (0..keys as u32).collect(),
            key_start: vec![0, keys],
            padding: vec![0],
            query_rows: queries,
            key_rows: keys,
            layout: Layout::Whole,
        }
    }

    /// Windows of side `window` over a side x side map. Padding (zeros after the norm) beyond the map takes part as keys equal to the bias; when the block pools, queries are
    /// rows of the half-size map (windows and map are even, so no cell mixes padding and map).
    pub fn partition(side: usize, window: usize, pools: bool) -> Self {
        let mut out = Self {
            query_start: vec![0],
            key_start: vec![0],
            layout: Layout::Partition { side, window, pools },
            ..Self::default()
        };
        let step = if pools { 2 } else { 1 };
        out.key_rows = side * side;
        out.query_rows = out.key_rows / (step * step);
        for top in (0..side).step_by(window) {
            for left in (0..side).step_by(window) {
                let (bottom, right) = ((top + window).min(side), (left + window).min(side));
                for y in top..bottom {
                    out.keys.extend((left..right).map(|x| (y * side + x) as u32));
                }
                for y in top / step..bottom / step {
                    out.queries
                        .extend((left / step..right / step).map(|x| (y * (side / step) + x) as u32));
                }
                out.padding.push((window * window - (bottom - top) * (right - left)) as u32);
                out.key_start.push(out.keys.len());
                out.query_start.push(out.queries.len());
            }
        }
        out
    }

    /// Number of windows.
    pub fn len(&self) -> usize {
        self.padding.len()
    }

    /// Whether there is no window.
    pub fn is_empty(&self) -> bool {
        self.padding.is_empty()
    }
}

/// A batch of attentions of equal windows.
pub struct Attention<'a> {
    /// Queries, keys and values of all items.
    pub q: Heads<'a>,
    /// Keys.
    pub k: Heads<'a>,
    /// Values.
    pub v: Heads<'a>,
    /// Key and value [heads * E] of a padding token.
    pub padding: Option<(&'a [f32], &'a [f32])>,
    /// Which rows see which.
    pub windows: &'a Windows,
    /// Items in the batch.
    pub items: usize,
    /// Heads.
    pub heads: usize,
    /// Width of a head, E.
    pub width: usize,
}

impl Attention<'_> {
    /// out row r, head h: softmax(q k^T / sqrt(E)) v; `out` rows are heads * E wide.
    pub fn run(&self, out: &mut [f32]) {
        let block = 2 * simd::level().lanes();
        let mut tasks = Vec::new();
        for w in 0..self.windows.len() {
            let queries = self.windows.query_start[w + 1] - self.windows.query_start[w];
            tasks.extend((0..queries).step_by(block).map(|first| (w, first)));
        }
        let per_item = tasks.len() * self.heads;
        let out = Shared(out.as_mut_ptr());
        (0..self.items * per_item).into_par_iter().with_min_len(2).for_each(|index| {
            let (item, rest) = (index / per_item, index % per_item);
            let (window, first) = tasks[rest / self.heads];
            let head = rest % self.heads;
            scratch::with(scratch_len(self.width, block), |buffer| {
                simd::run(Block {
                    problem: self,
                    out,
                    item,
                    window,
                    first,
                    head,
                    buffer,
                });
            });
        });
    }
}

fn scratch_len(width: usize, block: usize) -> usize {
    2 * width * block + 2 * KEY_TILE * (width + 16) + KEY_TILE * block + 2 * block
}

struct Block<'a> {
    problem: &'a Attention<'a>,
    out: Shared<f32>,
    item: usize,
    window: usize,
    first: usize,
    head: usize,
    buffer: &'a mut [f32],
}

impl Kernel for Block<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let p = self.problem;
        let e = p.width;
        let block = 2 * S::LANES;
        let queries = &p.windows.queries[p.windows.query_start[self.window] + self.first..p.windows.query_start[self.window + 1]];
        let queries = &queries[..queries.len().min(block)];
        let keys = &p.windows.keys[p.windows.key_start[self.window]..p.windows.key_start[self.window + 1]];
        let copies = p.windows.padding[self.window];
        let total = keys.len() + usize::from(copies > 0);
        let (q, rest) = self.buffer.split_at_mut(e * block);
        let (state, rest) = rest.split_at_mut((e + 2) * block);
        let (key_tile, rest) = rest.split_at_mut(KEY_TILE * (e + 16));
        let (value_tile, scores) = rest.split_at_mut(KEY_TILE * (e + 16));
        // SAFETY: at the level of S; each piece of the buffer holds what its function reads and writes; output rows belong to this task alone.
        unsafe {
            let scale = std::f32::consts::LOG2_E / (e as f32).sqrt();
            q.fill(0.0);
            for (lane, &row) in queries.iter().enumerate() {
                let x = &p.q.x[(self.item * p.windows.query_rows + row as usize) * p.q.stride + self.head * e..][..e];
                for i in 0..e {
                    q[i * block + lane] = x[i] * scale;
                }
            }
            softmax_start::<S>(state, e);
            let mut first = 0;
            while first < total {
                let count = KEY_TILE.min(total - first);
                for j in 0..count {
                    let (k, v) = match keys.get(first + j) {
                        Some(&row) => {
                            let row = self.item * p.windows.key_rows + row as usize;
                            (
                                &p.k.x[row * p.k.stride + self.head * e..][..e],
                                &p.v.x[row * p.v.stride + self.head * e..][..e],
                            )
                        }
                        None => match p.padding {
                            Some((k, v)) => (&k[self.head * e..][..e], &v[self.head * e..][..e]),
                            None => continue,
                        },
                    };
                    key_tile[j * (e + 16)..][..e].copy_from_slice(k);
                    value_tile[j * (e + 16)..][..e].copy_from_slice(v);
                }
                tile_scores::<S>(key_tile.as_ptr(), e + 16, count, q.as_ptr(), e, scores.as_mut_ptr());
                if copies > 0 && first + count == total {
                    // n equal keys weigh n e^s = e^(s + ln n).
                    let extra = S::splat((copies as f32).log2());
                    let last = scores.as_mut_ptr().add((count - 1) * block);
                    S::store(last, S::add(S::load(last), extra));
                    S::store(last.add(S::LANES), S::add(S::load(last.add(S::LANES)), extra));
                }
                let tile = Tile {
                    scores: scores.as_mut_ptr(),
                    count,
                    values: value_tile.as_ptr(),
                    stride: e + 16,
                };
                softmax_update::<S>(&[tile], e, state.as_mut_ptr());
                first += count;
            }
            softmax_finish::<S>(state.as_mut_ptr(), e);
            for (lane, &row) in queries.iter().enumerate() {
                let start = (self.item * p.windows.query_rows + row as usize) * p.heads * e + self.head * e;
                let out = std::slice::from_raw_parts_mut(self.out.at(start), e);
                for i in 0..e {
                    out[i] = state[i * block + lane];
                }
            }
        }
    }
}

/// Sizes of equal tiles no higher than the register tile that cover `n` rows.
#[inline(always)]
pub fn even_tile<S: Simd>(n: usize) -> usize {
    n.div_ceil(n.div_ceil(S::ROWS).max(1)).max(1)
}

/// scores`[key][queries]` = keys (rows at `stride`) times the queries' panel `[e][queries]`.
///
/// # Safety
/// As the pointers say; at the level of `S` (so for every function below).
#[inline(always)]
pub unsafe fn tile_scores<S: Simd>(keys: *const f32, stride: usize, count: usize, q: *const f32, e: usize, scores: *mut f32) {
    let height = even_tile::<S>(count);
    let mut i = 0;
    while i < count {
        let rows = height.min(count - i);
        // SAFETY: by contract.
        unsafe {
            with_height!(rows, R => {
                let acc = product::<S, R>(keys.add(i * stride), stride, 1, q, e, [[S::splat(0.0); 2]; R]);
                for r in 0..R {
                    S::store(scores.add((i + r) * 2 * S::LANES), acc[r][0]);
                    S::store(scores.add((i + r) * 2 * S::LANES + S::LANES), acc[r][1]);
                }
            });
        }
        i += rows;
    }
}

/// An empty softmax state: outputs `[e]`, then the running maximum and sum, each a row of queries.
///
/// # Safety
/// At the level of `S`.
#[inline(always)]
pub unsafe fn softmax_start<S: Simd>(state: &mut [f32], e: usize) {
    let block = 2 * S::LANES;
    state[..e * block].fill(0.0);
    state[e * block..][..block].fill(f32::MIN);
    state[(e + 1) * block..][..block].fill(0.0);
}

/// Keys to be taken into a softmax state: base-2 scores `[count][queries]` and values, rows at `stride`.
#[derive(Clone, Copy)]
pub struct Tile {
    /// Scores, which become weights.
    pub scores: *mut f32,
    /// Keys; none is allowed.
    pub count: usize,
    /// First value.
    pub values: *const f32,
    /// From one value to the next.
    pub stride: usize,
}

impl Tile {
    /// No key.
    pub const NONE: Self = Self {
        scores: std::ptr::null_mut(),
        count: 0,
        values: std::ptr::null(),
        stride: 0,
    };
}

/// Takes tiles into the state, all at once: outputs are loaded, rescaled and stored once however many tiles there are.
///
/// # Safety
/// At the level of `S`; pointers hold what is named.
#[inline(always)]
pub unsafe fn softmax_update<S: Simd>(tiles: &[Tile], e: usize, state: *mut f32) {
    let block = 2 * S::LANES;
    // SAFETY: by contract.
    unsafe {
        let alpha = softmax_weights::<S>(tiles, state.add(e * block));
        let height = even_tile::<S>(e);
        let mut c = 0;
        while c < e {
            let rows = height.min(e - c);
            with_height!(rows, R => {
                let out = state.add(c * block);
                let mut acc = [[S::splat(0.0); 2]; R];
                for r in 0..R {
                    acc[r][0] = S::mul(S::load(out.add(r * block)), alpha[0]);
                    acc[r][1] = S::mul(S::load(out.add(r * block + S::LANES)), alpha[1]);
                }
                for tile in tiles {
                    acc = product::<S, R>(tile.values.wrapping_add(c), 1, tile.stride, tile.scores, tile.count, acc);
                }
                for r in 0..R {
                    S::store(out.add(r * block), acc[r][0]);
                    S::store(out.add(r * block + S::LANES), acc[r][1]);
                }
            });
            c += rows;
        }
    }
}

/// Turns scores into weights 2^(s - max), updating maximum and sum (`running`: two rows); returns the factor for what was summed before.
#[inline(always)]
unsafe fn softmax_weights<S: Simd>(tiles: &[Tile], running: *mut f32) -> [S::V; 2] {
    let block = 2 * S::LANES;
    // SAFETY: by contract of the callers.
    unsafe {
        let mut alpha = [S::splat(1.0); 2];
        for v in 0..2 {
            let at = v * S::LANES;
            let old = S::load(running.add(at));
            let mut top = old;
            for tile in tiles {
                for j in 0..tile.count {
                    top = S::max(top, S::load(tile.scores.add(j * block + at)));
                }
            }
            alpha[v] = math::exp2::<S>(S::sub(old, top));
            let mut total = S::mul(S::load(running.add(block + at)), alpha[v]);
            for tile in tiles {
                for j in 0..tile.count {
                    let p = tile.scores.add(j * block + at);
                    let w = math::exp2::<S>(S::sub(S::load(p), top));
                    S::store(p, w);
                    total = S::add(total, w);
                }
            }
            S::store(running.add(at), top);
            S::store(running.add(block + at), total);
        }
        alpha
    }
}

/// Divides the outputs by the sum.
///
/// # Safety
/// At the level of `S`.
#[inline(always)]
pub unsafe fn softmax_finish<S: Simd>(state: *mut f32, e: usize) {
    let block = 2 * S::LANES;
    // SAFETY: by contract.
    unsafe {
        for v in 0..2 {
            let at = v * S::LANES;
            let factor = S::div(S::splat(1.0), S::load(state.add((e + 1) * block + at)));
            for c in 0..e {
                let p = state.add(c * block + at);
                S::store(p, S::mul(S::load(p), factor));
            }
        }
    }
}
