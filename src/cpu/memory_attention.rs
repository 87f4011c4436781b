//! Memory attention by axial absorption: keys are never projected, every layer reads the same raw tokens.
//!
//! One task is (lane, block of queries). The queries stand in the lanes of two vectors; per block the tables X`[x]` and Y`[y]` are formed (what q . R(p) W k becomes for the
//! half of the channels that turns by x or by y), then positions pass by in raster order and X`[x]` + Y`[y]` meets the tokens of all slices at that position.
//! Flops per query and token 4 M, per query 4 (M + T) D side for the tables; bytes 4 M per token and block of queries (tokens stream from the third-level cache, the
//! tables stay in the second). Tried: X + Y formed inside the score tile (no gain: the tile is bound by multiply-adds, and the position term wants a pass of its own).

use super::attention::{Tile, even_tile, softmax_finish, softmax_start, softmax_update, tile_scores};
use super::gemm::{product, with_height};
use super::scratch::{self, Shared};
use super::simd::{self, Kernel, Simd, prefetch};
use rayon::prelude::*;

/// Keys whose scores are held at once.
const KEY_TILE: usize = 128;

/// What one layer's key projection and the grid fix, for D-wide queries and M-wide tokens on a `width` x `height` grid.
pub struct Tables {
    /// Grid width.
    pub width: usize,
    /// Grid height.
    pub height: usize,
    /// Width of a query, D.
    pub d: usize,
    /// Width of a token, M.
    pub m: usize,
    /// Number of temporal indices, T.
    pub times: usize,
    /// [M + T, D / 2]: the x half of W^T, then W times each temporal position plus the bias.
    pub rows_x: Vec<f32>,
    /// The y half.
    pub rows_y: Vec<f32>,
    /// [M + 1, D]: W^T, then the bias.
    pub rows_pointer: Vec<f32>,
    /// [height * width, M]: spatial position of a token.
    pub position: Vec<f32>,
    /// [max(width, height), D / 4]: cosine and sine of each frequency at a coordinate.
    pub cos: Vec<f32>,
    /// The sines.
    pub sin: Vec<f32>,
}

/// Tokens of several slices, position by position: [positions, slots, M], of which the first `times.len()` slots are used.
#[derive(Clone, Copy)]
pub struct Slices<'a> {
    /// The tokens, unprojected, without any position.
    pub tokens: &'a [f32],
    /// Slices there is room for.
    pub slots: usize,
    /// Temporal index of each used slice.
    pub times: &'a [usize],
}

/// What one lane attends to.
#[derive(Clone, Copy)]
pub struct Memory<'a> {
    /// Conditioning slices, shared by the lanes of a support.
    pub conditioning: Slices<'a>,
    /// The lane's own recent slices.
    pub recent: Slices<'a>,
    /// Keys of the object pointer tokens [n, M], positions included.
    pub pointer_keys: &'a [f32],
    /// Their values [n, M].
    pub pointer_values: &'a [f32],
    /// A state to go on from, instead of an empty one: [`state_len`] floats.
    pub start: Option<&'a [f32]>,
}

impl Slices<'_> {
    /// No slice.
    pub const NONE: Self = Slices {
        tokens: &[],
        slots: 0,
        times: &[],
    };
}

/// Where results go: finished rows, or states to go on from.
pub enum Output<'a> {
    /// [lanes * positions, M], divided by the sum of weights.
    Rows(&'a mut [f32]),
    /// [`state_len`] floats per lane.
    States(&'a mut [f32]),
}

/// Floats of one lane's unfinished softmax: outputs, maximum and sum per query, in blocks of queries.
pub fn state_len(positions: usize, m: usize) -> usize {
    let block = 2 * simd::level().lanes();
    positions.div_ceil(block) * block * (m + 2)
}

/// softmax(q k^T / sqrt(D)) tokens for each lane; `q` [lanes * positions, D] is already turned by its own position.
pub fn memory_attention(q: &[f32], tables: &Tables, lanes: &[Memory<'_>], output: Output<'_>) {
    let block = 2 * simd::level().lanes();
    let positions = tables.width * tables.height;
    let blocks = positions.div_ceil(block);
    let (out, finished) = match output {
        Output::Rows(rows) => (Shared(rows.as_mut_ptr()), true),
        Output::States(states) => (Shared(states.as_mut_ptr()), false),
    };
    let sizes = Sizes::new(tables, block);
    (0..lanes.len() * blocks).into_par_iter().for_each(|index| {
        let (lane, part) = (index / blocks, index % blocks);
        scratch::with(sizes.total(), |buffer| {
            simd::run(Block {
                q,
                tables,
                memory: &lanes[lane],
                lane,
                part,
                blocks,
                out,
                finished,
                buffer,
                sizes,
            });
        });
    });
}

/// Lengths of the pieces of a task's buffer.
#[derive(Clone, Copy)]
struct Sizes {
    q: usize,
    table_x: usize,
    table_y: usize,
    pointer: usize,
    turned: usize,
    sum: usize,
    scores: usize,
    gathered: usize,
    state: usize,
}

impl Sizes {
    fn new(t: &Tables, block: usize) -> Self {
        Self {
            q: t.d * block,
            table_x: t.width * (t.m + t.times) * block,
            table_y: t.height * (t.m + t.times) * block,
            pointer: (t.m + 1) * block,
            turned: t.d / 2 * block,
            sum: t.m * block,
            scores: KEY_TILE * block,
            gathered: KEY_TILE * t.m,
            state: (t.m + 2) * block,
        }
    }

    fn total(&self) -> usize {
        self.q + self.table_x + self.table_y + self.pointer + self.turned + self.sum + 2 * self.scores + 2 * self.gathered + self.state
    }
}

struct Block<'a> {
    q: &'a [f32],
    tables: &'a Tables,
    memory: &'a Memory<'a>,
    lane: usize,
    part: usize,
    blocks: usize,
    out: Shared<f32>,
    finished: bool,
    buffer: &'a mut [f32],
    sizes: Sizes,
}

/// The pieces of a task's buffer.
struct Pieces<'a> {
    q: &'a mut [f32],
    table_x: &'a mut [f32],
    table_y: &'a mut [f32],
    pointer: &'a mut [f32],
    turned: &'a mut [f32],
    sum: &'a mut [f32],
    scores: [&'a mut [f32]; 2],
    gathered: [&'a mut [f32]; 2],
    state: &'a mut [f32],
}

impl<'a> Pieces<'a> {
    #[inline(always)]
    fn new(buffer: &'a mut [f32], s: &Sizes) -> Self {
        let (q, rest) = buffer.split_at_mut(s.q);
        let (table_x, rest) = rest.split_at_mut(s.table_x);
        let (table_y, rest) = rest.split_at_mut(s.table_y);
        let (pointer, rest) = rest.split_at_mut(s.pointer);
        let (turned, rest) = rest.split_at_mut(s.turned);
        let (sum, rest) = rest.split_at_mut(s.sum);
        let (first, rest) = rest.split_at_mut(s.scores);
        let (second, rest) = rest.split_at_mut(s.scores);
        let (third, rest) = rest.split_at_mut(s.gathered);
        let (fourth, rest) = rest.split_at_mut(s.gathered);
        Self {
            q,
            table_x,
            table_y,
            pointer,
            turned,
            sum,
            scores: [first, second],
            gathered: [third, fourth],
            state: &mut rest[..s.state],
        }
    }
}

impl Kernel for Block<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let t = self.tables;
        let block = 2 * S::LANES;
        let positions = t.width * t.height;
        let queries = block.min(positions - self.part * block);
        let state_len = (t.m + 2) * block;
        let mut piece = Pieces::new(self.buffer, &self.sizes);
        // SAFETY: at the level of S; pieces have the sizes their functions need; this block's part of the output belongs to this task alone.
        unsafe {
            let scale = std::f32::consts::LOG2_E / (t.d as f32).sqrt();
            piece.q.fill(0.0);
            for lane in 0..queries {
                let row = &self.q[(self.lane * positions + self.part * block + lane) * t.d..][..t.d];
                for c in 0..t.d {
                    piece.q[c * block + lane] = row[c] * scale;
                }
            }
            match self.memory.start {
                Some(start) => piece.state.copy_from_slice(&start[self.part * state_len..][..state_len]),
                None => softmax_start::<S>(piece.state, t.m),
            }
            if !(self.memory.conditioning.times.is_empty() && self.memory.recent.times.is_empty()) {
                fill_table::<S>(t, &t.rows_x, t.width, &piece.q[..self.sizes.q / 2], piece.turned, piece.table_x);
                fill_table::<S>(t, &t.rows_y, t.height, &piece.q[self.sizes.q / 2..], piece.turned, piece.table_y);
                attend_slices::<S>(t, self.memory, &mut piece);
            }
            attend_pointers::<S>(t, self.memory, &mut piece);
            if !self.finished {
                let out = self.out.at((self.lane * self.blocks + self.part) * state_len);
                std::ptr::copy_nonoverlapping(piece.state.as_ptr(), out, state_len);
                return;
            }
            softmax_finish::<S>(piece.state.as_mut_ptr(), t.m);
            for lane in 0..queries {
                let row = self.lane * positions + self.part * block + lane;
                let out = std::slice::from_raw_parts_mut(self.out.at(row * t.m), t.m);
                for c in 0..t.m {
                    out[c] = piece.state[c * block + lane];
                }
            }
        }
    }
}

/// table[coordinate][M + T][queries] = rows . R(coordinate)^-1 q, for the half of the channels in `q`.
#[inline(always)]
unsafe fn fill_table<S: Simd>(t: &Tables, rows: &[f32], side: usize, q: &[f32], turned: &mut [f32], table: &mut [f32]) {
    let block = 2 * S::LANES;
    let (half, quarter) = (t.d / 2, t.d / 4);
    let height = t.m + t.times;
    for coordinate in 0..side {
        // SAFETY: at the level of S; all offsets lie inside the slices by their sizes.
        unsafe {
            for i in 0..quarter {
                let cos = S::splat(t.cos[coordinate * quarter + i]);
                let sin = S::splat(t.sin[coordinate * quarter + i]);
                for v in 0..2 {
                    let at = 2 * i * block + v * S::LANES;
                    let (a, b) = (S::load(q.as_ptr().add(at)), S::load(q.as_ptr().add(at + block)));
                    S::store(turned.as_mut_ptr().add(at), S::fma(a, cos, S::mul(b, sin)));
                    S::store(turned.as_mut_ptr().add(at + block), S::sub(S::mul(b, cos), S::mul(a, sin)));
                }
            }
            tile_scores::<S>(
                rows.as_ptr(),
                half,
                height,
                turned.as_ptr(),
                half,
                table.as_mut_ptr().add(coordinate * height * block),
            );
        }
    }
}

/// Passes over all positions, a few at a time, scoring conditioning and recent slices there and taking them into the state.
#[inline(always)]
unsafe fn attend_slices<S: Simd>(t: &Tables, memory: &Memory<'_>, piece: &mut Pieces<'_>) {
    let block = 2 * S::LANES;
    let sets = [&memory.conditioning, &memory.recent];
    let widest = memory.conditioning.times.len().max(memory.recent.times.len());
    let chunk = (KEY_TILE / widest).clamp(1, t.width);
    let table_row = (t.m + t.times) * block;
    for y in 0..t.height {
        let mut x = 0;
        while x < t.width {
            let count = chunk.min(t.width - x);
            // More slices than a tile holds: take them in parts.
            let mut slot = 0;
            while slot < widest {
                let slots = |set: &Slices<'_>| (slot.min(set.times.len()), (slot + KEY_TILE).min(set.times.len()));
                for i in 0..count {
                    // SAFETY: at the level of S; tables hold a row per coordinate, scores KEY_TILE rows.
                    unsafe {
                        let (tx, ty) = (
                            piece.table_x.as_ptr().add((x + i) * table_row),
                            piece.table_y.as_ptr().add(y * table_row),
                        );
                        let position = &t.position[(y * t.width + x + i) * t.m..][..t.m];
                        let base = sum_tables::<S>(tx, ty, position, piece.sum.as_mut_ptr());
                        for (set, scores) in sets.iter().zip(piece.scores.iter_mut()) {
                            let (from, to) = slots(set);
                            // A set without slices may have no tokens at all: its pointer goes nowhere and is not read.
                            let tokens = set.tokens.as_ptr().wrapping_add(((y * t.width + x + i) * set.slots + from) * t.m);
                            let (px, py) = (tx.add(t.m * block), ty.add(t.m * block));
                            let out = scores.as_mut_ptr().add(i * (to - from) * block);
                            prefetch(tokens.wrapping_add(set.slots * t.m), (to - from) * t.m);
                            score_position::<S>(tokens, t.m, &set.times[from..to], base, px, py, piece.sum.as_ptr(), out);
                        }
                    }
                }
                let mut tiles = [Tile::NONE; 2];
                for (((set, scores), gathered), tile) in sets
                    .iter()
                    .zip(piece.scores.iter_mut())
                    .zip(piece.gathered.iter_mut())
                    .zip(&mut tiles)
                {
                    let (from, to) = slots(set);
                    let used = to - from;
                    if used == 0 {
                        continue;
                    }
                    let mut values = &set.tokens[((y * t.width + x) * set.slots + from) * t.m..];
                    if used != set.slots && count > 1 {
                        for i in 0..count {
                            let source = &values[i * set.slots * t.m..][..used * t.m];
                            gathered[i * used * t.m..][..used * t.m].copy_from_slice(source);
                        }
                        values = gathered;
                    }
                    *tile = Tile {
                        scores: scores.as_mut_ptr(),
                        count: count * used,
                        values: values.as_ptr(),
                        stride: t.m,
                    };
                }
                // SAFETY: at the level of S; a tile's values are count * used rows of M.
                unsafe { softmax_update::<S>(&tiles, t.m, piece.state.as_mut_ptr()) };
                slot += KEY_TILE;
            }
            x += count;
        }
    }
}

/// sum[c] = X[c] + Y[c]; returns sum . position.
#[inline(always)]
unsafe fn sum_tables<S: Simd>(tx: *const f32, ty: *const f32, position: &[f32], sum: *mut f32) -> [S::V; 2] {
    let block = 2 * S::LANES;
    // SAFETY: at the level of S; tables and sum hold M rows of a block of queries.
    unsafe {
        let mut base = [S::splat(0.0); 2];
        for (c, &value) in position.iter().enumerate() {
            let value = S::splat(value);
            for v in 0..2 {
                let at = c * block + v * S::LANES;
                let total = S::add(S::load(tx.add(at)), S::load(ty.add(at)));
                S::store(sum.add(at), total);
                base[v] = S::fma(total, value, base[v]);
            }
        }
        base
    }
}

/// scores[slice][queries] of the slices' tokens at one position.
#[inline(always)]
unsafe fn score_position<S: Simd>(
    tokens: *const f32,
    m: usize,
    times: &[usize],
    base: [S::V; 2],
    px: *const f32,
    py: *const f32,
    sum: *const f32,
    scores: *mut f32,
) {
    let block = 2 * S::LANES;
    let height = even_tile::<S>(times.len());
    let mut i = 0;
    while i < times.len() {
        let rows = height.min(times.len() - i);
        // SAFETY: at the level of S; pointers hold what the caller sized.
        unsafe {
            with_height!(rows, R => {
                let mut acc = [base; R];
                for r in 0..R {
                    let at = times[i + r] * block;
                    for v in 0..2 {
                        let time = S::add(S::load(px.add(at + v * S::LANES)), S::load(py.add(at + v * S::LANES)));
                        acc[r][v] = S::add(acc[r][v], time);
                    }
                }
                let acc = product::<S, R>(tokens.add(i * m), m, 1, sum, m, acc);
                for r in 0..R {
                    S::store(scores.add((i + r) * block), acc[r][0]);
                    S::store(scores.add((i + r) * block + S::LANES), acc[r][1]);
                }
            });
        }
        i += rows;
    }
}

/// Object pointers: unrotated keys.
#[inline(always)]
unsafe fn attend_pointers<S: Simd>(t: &Tables, memory: &Memory<'_>, piece: &mut Pieces<'_>) {
    let block = 2 * S::LANES;
    let count = memory.pointer_keys.len() / t.m;
    if count == 0 {
        return;
    }
    // SAFETY: at the level of S; `pointer` holds M + 1 rows, scores KEY_TILE.
    unsafe {
        tile_scores::<S>(
            t.rows_pointer.as_ptr(),
            t.d,
            t.m + 1,
            piece.q.as_ptr(),
            t.d,
            piece.pointer.as_mut_ptr(),
        );
        let bias = piece.pointer.as_ptr().add(t.m * block);
        let scores = piece.scores[0].as_mut_ptr();
        let mut first = 0;
        while first < count {
            let rows = KEY_TILE.min(count - first);
            tile_scores::<S>(
                memory.pointer_keys[first * t.m..].as_ptr(),
                t.m,
                rows,
                piece.pointer.as_ptr(),
                t.m,
                scores,
            );
            for r in 0..rows {
                for v in 0..2 {
                    let p = scores.add(r * block + v * S::LANES);
                    S::store(p, S::add(S::load(p), S::load(bias.add(v * S::LANES))));
                }
            }
            let tile = Tile {
                scores,
                count: rows,
                values: memory.pointer_values[first * t.m..].as_ptr(),
                stride: t.m,
            };
            softmax_update::<S>(&[tile], t.m, piece.state.as_mut_ptr());
            first += rows;
        }
    }
}
