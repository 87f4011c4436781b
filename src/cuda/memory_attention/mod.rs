//! Launching `memory_attention`: cross-attention to memory tokens by axial absorption, the twin of [`crate::ops::memory_attention`].
//!
//! Three kernels: tables of every query (X and Y of the op's formula), attention in splits of the grid, and the merge of splits. Tokens 64 wide with queries 256 or
//! 64 wide go to the tensor cores; other widths are served in f32, slowly. Splits follow from the grid, a lane's own number of tokens and the shared memory that the
//! device gives a block, so that a lane's result does not depend on the lanes beside it.

mod lanes;
mod tables;

pub use lanes::{Memory, Part, Slices};
pub use tables::KeyTables;

use super::arena::{Arena, Buffer};
use super::driver::{Arguments, DevicePointer, Shape};
use super::launch::{Runtime, Work};
use anyhow::{Result, ensure};

/// Queries of a block of kernels/memory_attention.cu, one per thread; 32 WARPS in kernels/specialisations.csv.
const QUERIES: usize = 256;
/// Tokens of a tile; TOKENS in kernels/specialisations.csv.
const TILE: usize = 64;
/// Rows of a block, and coordinates, of kernels/memory_attention_tables.cu.
const TABLE_ROWS: usize = 64;
const COORDINATES: usize = 8;
/// Rows of a block of the other two; WARPS in kernels/specialisations.csv.
const WARPS: usize = 4;
/// Threads of a block of kernels/memory_attention_tables_any.cu.
const ANY_THREADS: usize = 256;
/// Widest token of kernels/memory_attention_any.cu.
const WIDEST: usize = 128;
/// Tokens per position of the grid from which its rows are divided into two parts.
const TWO_PARTS: usize = 64;

/// A specialisation of kernels/memory_attention.cu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strips {
    /// Of the entry point.
    pub name: &'static str,
    /// Columns of the grid of one split; STRIP in kernels/specialisations.csv.
    pub columns: usize,
}

/// For blocks with 163 KiB of shared memory, and with the 99 KiB of cards for graphics.
pub const STRIPS: [Strips; 2] = [
    Strips {
        name: "memory_attention_64",
        columns: 4,
    },
    Strips {
        name: "memory_attention_64_small",
        columns: 2,
    },
];

impl Strips {
    /// Bytes of shared memory of a block: each thread's tables of its columns, and two tiles of keys and values.
    pub fn shared_bytes(&self) -> usize {
        self.columns * 8 * QUERIES * 16 + 4 * TILE * 64 * 2
    }
}

/// The kernels for some widths of queries and tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// f16 operands on the tensor cores.
    Tensor {
        /// The kernel for the tables.
        tables: &'static str,
        /// The kernel for the attention.
        strips: Strips,
    },
    /// Any width, in f32.
    Any,
}

/// The path for D-wide queries and M-wide tokens on a device that gives a block this much shared memory.
pub fn choose(d: usize, m: usize, shared_bytes: u32) -> Path {
    let [large, small] = STRIPS;
    let strips = if large.shared_bytes() <= shared_bytes as usize {
        large
    } else {
        small
    };
    let tensor = |tables| Path::Tensor { tables, strips };
    match (d, m) {
        (256, 64) => tensor("memory_attention_tables_256"),
        (64, 64) => tensor("memory_attention_tables_64"),
        _ => Path::Any,
    }
}

/// Parts into which the rows of the grid are divided for a lane of so many tokens.
pub fn parts(path: Path, tokens: usize, (height, width): (usize, usize)) -> usize {
    match path {
        Path::Tensor { .. } if height > 1 && tokens >= TWO_PARTS * height * width => 2,
        _ => 1,
    }
}

/// Of a kernel of this name; the splits are the tensor path's.
pub(super) fn dynamic_shared_bytes(name: &str) -> Option<usize> {
    match name {
        "memory_attention_tables_256" => Some(80 * 256),
        "memory_attention_tables_64" => Some(80 * 64),
        _ => STRIPS.iter().find(|strips| strips.name == name).map(Strips::shared_bytes),
    }
}

/// Where results go.
#[derive(Clone, Copy)]
pub enum Output<'a> {
    /// Finished rows, [lanes * P, M] bf16.
    Rows(Part<'a>),
    /// States to go on from, [lanes, [`KeyTables::state_bytes`]].
    States(Part<'a>),
}

/// Buffers that live as long as one call.
struct Scratch {
    tables: Buffer,
    biases: Option<Buffer>,
    partial: Buffer,
    lanes: Buffer,
    times: Buffer,
}

/// Bytes that [`memory_attention`] asks of the arena for so many lanes whose tokens (slices times P, and pointers) are at most `tokens`, with `slices` temporal indices each.
pub fn scratch_bytes(tables: &KeyTables, lanes: usize, tokens: usize, slices: usize) -> usize {
    let sizes = Sizes::new(tables, lanes, parts(tables.path, tokens, (tables.height, tables.width)));
    [sizes.tables, sizes.biases, sizes.partial, lanes * lanes::BYTES, 4 * lanes * slices]
        .iter()
        .map(|bytes| bytes.max(&1).next_multiple_of(256))
        .sum()
}

/// Bytes of the large buffers.
struct Sizes {
    tables: usize,
    biases: usize,
    partial: usize,
    columns: usize,
}

impl Sizes {
    fn new(tables: &KeyTables, lanes: usize, parts: usize) -> Self {
        let coordinates = lanes * tables.positions() * (tables.width + tables.height);
        let state = lanes * tables.state_bytes();
        match tables.path {
            Path::Tensor { strips, .. } => {
                let columns = tables.width.div_ceil(strips.columns);
                Self {
                    tables: coordinates * tables.m * 2,
                    biases: coordinates * 4,
                    partial: columns * parts * state,
                    columns,
                }
            }
            Path::Any => Self {
                tables: coordinates * (tables.m + 1) * 4,
                biases: 0,
                partial: state,
                columns: 1,
            },
        }
    }
}

/// y = the attention of every lane, or its state; `q` [lanes * P, D] bf16, turned by its own position. Scratch memory, see [`scratch_bytes`], is asked of the arena.
///
/// # Errors
/// Buffers that are too small or not aligned, sizes beyond the kernels', a full arena, and those of [`Runtime::launch`].
pub fn memory_attention(
    tables: &KeyTables,
    runtime: &Runtime,
    arena: &Arena,
    q: Part<'_>,
    lanes: &[Memory<'_>],
    output: Output<'_>,
) -> Result<()> {
    if lanes.is_empty() {
        return Ok(());
    }
    let call = Call::new(tables, runtime, lanes)?;
    let rows = lanes.len() * tables.positions();
    let q = q.pointer(&call.problem, "q", &[rows, tables.d, 2])?;
    let (y, state) = match output {
        Output::Rows(part) => (Some(part.pointer(&call.problem, "y", &[rows, tables.m, 2])?), None),
        Output::States(part) => (
            None,
            Some(part.pointer(&call.problem, "states", &[lanes.len(), tables.state_bytes()])?),
        ),
    };
    let scratch = call.scratch(arena)?;
    call.tables(&scratch, q)?;
    match tables.path {
        Path::Tensor { strips, .. } => call.attend(strips, &scratch)?,
        Path::Any => call.attend_any(&scratch)?,
    }
    call.merge(&scratch, y, state)
}

/// One call's sizes.
struct Call<'a> {
    keys: &'a KeyTables,
    runtime: &'a Runtime,
    lanes: &'a [Memory<'a>],
    problem: String,
    rows: usize,
    /// The most parts of a lane.
    parts: usize,
    sizes: Sizes,
}

impl<'a> Call<'a> {
    fn new(keys: &'a KeyTables, runtime: &'a Runtime, lanes: &'a [Memory<'a>]) -> Result<Self> {
        let problem = format!(
            "memory_attention: lanes {} grid {} x {} d {} m {}",
            lanes.len(),
            keys.height,
            keys.width,
            keys.d,
            keys.m
        );
        let mut most = 1;
        for memory in lanes {
            memory.check(keys, &problem)?;
            most = most.max(parts(keys.path, memory.tokens(keys.positions()), (keys.height, keys.width)));
        }
        ensure!(keys.path != Path::Any || keys.m <= WIDEST, "{problem}: tokens may be {WIDEST} wide");
        Ok(Self {
            keys,
            runtime,
            lanes,
            rows: lanes.len() * keys.positions(),
            parts: most,
            sizes: Sizes::new(keys, lanes.len(), most),
            problem,
        })
    }

    fn scratch(&self, arena: &Arena) -> Result<Scratch> {
        let (lanes, times) = lanes::table(self.keys, self.lanes, &self.problem)?;
        Ok(Scratch {
            tables: arena.buffer(self.sizes.tables)?,
            biases: (self.sizes.biases > 0).then(|| arena.buffer(self.sizes.biases)).transpose()?,
            partial: arena.buffer(self.sizes.partial)?,
            lanes: arena.filled(&lanes)?,
            times: arena.filled(&times)?,
        })
    }

    fn int(&self, size: usize) -> Result<i32> {
        super::int(&self.problem, size)
    }

    fn tables(&self, scratch: &Scratch, q: DevicePointer) -> Result<()> {
        let keys = self.keys;
        let coordinates = keys.width + keys.height;
        let scale = std::f32::consts::LOG2_E / (keys.d as f32).sqrt();
        let grid = Arguments::new()
            .pointer(q)
            .pointer(keys.weight.pointer())
            .pointer(keys.turns.pointer())
            .pointer(scratch.tables.pointer());
        let grid = match &scratch.biases {
            Some(biases) => grid.pointer(biases.pointer()),
            None => grid,
        };
        let grid = grid
            .int(self.int(self.rows)?)
            .int(self.int(keys.width)?)
            .int(self.int(keys.height)?);
        let values = (self.rows * coordinates * (keys.m + 1)) as f64;
        let work = Work {
            flops: values * keys.d as f64,
            bytes: (self.sizes.tables + self.sizes.biases + self.rows * keys.d * 2) as f64,
        };
        match keys.path {
            Path::Tensor { tables: name, .. } => {
                let chunks = keys.width.max(keys.height).div_ceil(COORDINATES);
                let shape = Shape {
                    blocks: [self.rows.div_ceil(TABLE_ROWS) as u32, 2, chunks as u32],
                    threads: 128,
                    shared_bytes: dynamic_shared_bytes(name).unwrap_or(0) as u32,
                };
                self.runtime.launch(name, shape, grid.float(scale), &self.problem, work)
            }
            Path::Any => {
                let threads = self.rows * coordinates * (keys.m + 1);
                let shape = Shape {
                    blocks: [self.int(threads.div_ceil(ANY_THREADS))?.unsigned_abs(), 1, 1],
                    threads: ANY_THREADS as u32,
                    shared_bytes: 0,
                };
                let arguments = grid.int(self.int(keys.d / 2)?).int(self.int(keys.m)?).float(scale);
                self.runtime
                    .launch("memory_attention_tables_any", shape, arguments, &self.problem, work)
            }
        }
    }

    /// Of the attention alone.
    fn work(&self) -> Work {
        let (positions, m) = (self.keys.positions(), self.keys.m as f64);
        let tokens: usize = self.lanes.iter().map(|memory| memory.tokens(positions)).sum();
        Work {
            flops: 4.0 * m * positions as f64 * tokens as f64,
            bytes: (self.sizes.tables + self.sizes.partial) as f64 + 2.0 * m * tokens as f64,
        }
    }

    fn attend(&self, strips: Strips, scratch: &Scratch) -> Result<()> {
        let keys = self.keys;
        let arguments = Arguments::new()
            .pointer(scratch.tables.pointer())
            .optional(scratch.biases.as_ref().map(Buffer::pointer))
            .pointer(keys.places.pointer())
            .pointer(scratch.lanes.pointer())
            .pointer(scratch.times.pointer())
            .pointer(scratch.partial.pointer())
            .int(self.int(self.lanes.len())?)
            .int(self.int(keys.width)?)
            .int(self.int(keys.height)?);
        let groups = self.lanes.len() * keys.positions().div_ceil(QUERIES);
        let shape = Shape {
            blocks: [(self.sizes.columns * self.parts) as u32, self.int(groups)?.unsigned_abs(), 1],
            threads: QUERIES as u32,
            shared_bytes: strips.shared_bytes() as u32,
        };
        self.runtime.launch(strips.name, shape, arguments, &self.problem, self.work())
    }

    fn attend_any(&self, scratch: &Scratch) -> Result<()> {
        let keys = self.keys;
        let arguments = Arguments::new()
            .pointer(scratch.tables.pointer())
            .pointer(keys.places.pointer())
            .pointer(scratch.lanes.pointer())
            .pointer(scratch.times.pointer())
            .pointer(scratch.partial.pointer())
            .int(self.int(self.rows)?)
            .int(self.int(keys.width)?)
            .int(self.int(keys.height)?)
            .int(self.int(keys.m)?);
        self.runtime
            .launch("memory_attention_any", self.rows_shape(), arguments, &self.problem, self.work())
    }

    /// One warp per row.
    fn rows_shape(&self) -> Shape {
        Shape {
            blocks: [self.rows.div_ceil(WARPS) as u32, 1, 1],
            threads: 32 * WARPS as u32,
            shared_bytes: 0,
        }
    }

    fn merge(&self, scratch: &Scratch, y: Option<DevicePointer>, state: Option<DevicePointer>) -> Result<()> {
        let keys = self.keys;
        let arguments = Arguments::new()
            .pointer(scratch.partial.pointer())
            .pointer(scratch.lanes.pointer())
            .optional(y)
            .optional(state)
            .int(self.int(self.rows)?)
            .int(self.int(keys.positions())?)
            .int(self.int(self.sizes.columns)?)
            .int(self.int(keys.m)?);
        let work = Work {
            flops: self.sizes.partial as f64 / 2.0,
            bytes: (self.sizes.partial + self.rows * keys.m * 2) as f64,
        };
        self.runtime
            .launch("memory_attention_merge", self.rows_shape(), arguments, &self.problem, work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::sources;

    const A100: u32 = 163 << 10;
    const RTX: u32 = 99 << 10;

    #[test]
    fn the_networks_widths_go_to_the_tensor_cores() {
        let kernels = |d, m, shared_bytes| match choose(d, m, shared_bytes) {
            Path::Tensor { tables, strips } => [tables, strips.name],
            Path::Any => ["any"; 2],
        };
        assert_eq!(kernels(256, 64, A100), ["memory_attention_tables_256", "memory_attention_64"]);
        assert_eq!(kernels(64, 64, RTX), ["memory_attention_tables_64", "memory_attention_64_small"]);
        assert_eq!(kernels(64, 16, A100), ["any"; 2]);
    }

    #[test]
    fn the_rows_of_the_grid_are_divided_by_the_number_of_tokens_alone() {
        let tensor = choose(256, 64, A100);
        assert_eq!(parts(tensor, 65535, (32, 32)), 1);
        assert_eq!(parts(tensor, 65536, (32, 32)), 2);
        assert_eq!(parts(tensor, 65536, (1, 32)), 1, "one row cannot be divided");
        assert_eq!(parts(Path::Any, 65536, (32, 32)), 1);
    }

    #[test]
    fn strips_are_those_of_the_table_of_specialisations_and_fit_into_shared_memory() {
        for (strips, shared_bytes) in STRIPS.iter().zip([A100, RTX]) {
            let defines = &sources::specialisation(strips.name).unwrap().defines;
            for (key, value) in [("STRIP", strips.columns), ("WARPS", QUERIES / 32), ("TOKENS", TILE)] {
                assert!(defines.contains(&format!("{key}={value}").as_str()), "{}: {key}", strips.name);
            }
            assert!(strips.shared_bytes() <= shared_bytes as usize);
        }
    }
}
