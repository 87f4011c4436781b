//! The specialisations of `linear`, and which of them does a problem.

use super::Linear;
use crate::cuda::driver::{Limits, SHARED_BYTES_OF_SM_80};
use anyhow::{Context, Result};

/// A specialisation of the kernel and what its constants are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Of the entry point.
    pub name: &'static str,
    /// Rows of y per block.
    pub rows: usize,
    /// Columns of y per tile.
    pub columns: usize,
    /// Warps one below the other.
    pub warps_down: usize,
    /// Warps side by side.
    pub warps_across: usize,
    /// Columns of W per stage.
    pub depth: usize,
    /// Stages in flight.
    pub stages: usize,
    /// Blocks that a multiprocessor has room for.
    pub blocks: usize,
    /// Whether a block keeps its rows of x' in shared memory.
    pub resident: bool,
    /// Whether it takes inner lengths that are no multiples of 8.
    pub any: bool,
    /// Tiles of columns that one block makes; more than one only if its rows are resident. One in [`TILES`].
    pub per_block: usize,
}

const fn tile(name: &'static str, rows: usize, columns: usize, warps: [usize; 2], ring: [usize; 2], blocks: usize) -> Tile {
    Tile {
        name,
        rows,
        columns,
        warps_down: warps[0],
        warps_across: warps[1],
        depth: ring[0],
        stages: ring[1],
        blocks,
        resident: false,
        any: false,
        per_block: 1,
    }
}

const fn resident(tile: Tile) -> Tile {
    Tile { resident: true, ..tile }
}

const fn any(tile: Tile) -> Tile {
    Tile { any: true, ..tile }
}

/// All tiles; a test compares them with kernels/specialisations.csv.
pub const TILES: [Tile; 10] = [
    tile("linear_128x128", 128, 128, [2, 2], [32, 4], 2),
    tile("linear_64x64", 64, 64, [2, 2], [64, 3], 2),
    tile("linear_16x64", 16, 64, [1, 4], [64, 4], 2),
    any(tile("linear_64x64_any", 64, 64, [2, 2], [32, 2], 2)),
    tile("linear_64x256", 64, 256, [2, 4], [32, 3], 2),
    tile("linear_16x256", 16, 256, [1, 8], [64, 3], 1),
    resident(tile("linear_resident_64x128", 64, 128, [1, 4], [32, 3], 2)),
    resident(tile("linear_resident_16x64", 16, 64, [1, 4], [32, 4], 2)),
    resident(tile("linear_resident_16x256", 16, 256, [1, 8], [32, 4], 1)),
    any(resident(tile("linear_resident_16x256_any", 16, 256, [1, 8], [32, 2], 1))),
];

/// Columns that a tile spans when it normalises finished rows: the lanes of a warp, eight each.
const SPAN: usize = 256;

/// The most shared memory that this specialisation is launched with on an A100.
pub fn dynamic_shared_bytes(name: &str) -> Option<usize> {
    let found = TILES.iter().find(|tile| tile.name == name)?;
    let inner = (0..=2048)
        .rev()
        .find(|inner| found.shared_bytes(*inner) <= SHARED_BYTES_OF_SM_80 as usize);
    Some(found.shared_bytes(inner.unwrap_or(0)))
}

impl Tile {
    /// Threads of a block.
    pub fn threads(&self) -> usize {
        32 * self.warps_down * self.warps_across
    }

    /// Bytes of shared memory for rows of this length.
    pub fn shared_bytes(&self, inner: usize) -> usize {
        let slab = 4 * 16 * self.warps_down * (self.columns + 8);
        let ring = 2 * self.stages * self.depth * self.columns;
        if self.resident {
            2 * self.rows * inner.next_multiple_of(self.depth) + ring + slab
        } else {
            slab.max(ring + 2 * self.stages * self.depth * self.rows)
        }
    }

    /// Whether this tile can do the problem, on a device with that much shared memory per block.
    pub fn takes(&self, problem: &Linear, shared_bytes: usize) -> bool {
        (self.any || problem.inner.is_multiple_of(8))
            && self.resident >= problem.resident()
            && (self.resident || self.per_block == 1)
            && (problem.norm_after.is_none() || (self.columns == SPAN && problem.columns <= SPAN))
            && self.shared_bytes(problem.inner) <= shared_bytes
    }

    /// Tiles of columns that one block makes: one, or, where it has prepared rows to make the most of, as many as leave `multiprocessors` their blocks.
    fn columns_per_block(&self, problem: &Linear, multiprocessors: usize) -> usize {
        if !self.resident {
            return 1;
        }
        let tiles = problem.columns.div_ceil(self.columns);
        let wanted = (self.blocks * multiprocessors)
            .div_ceil(problem.rows.div_ceil(self.rows))
            .clamp(1, tiles);
        tiles.div_ceil(wanted)
    }
}

/// The tile for a problem on a device of these limits: the largest that still gives each multiprocessor a block, else the smallest. The sums of a row have
/// one order whatever the tile, so that this choice never shows in results.
///
/// # Errors
/// Problems without a tile: a LayerNorm after more than 256 columns, or rows to be normalised, added to or gathered that are too long for shared memory.
pub fn choose(problem: &Linear, limits: Limits) -> Result<Tile> {
    let [large, medium, flat, any, span, flat_span, held, flat_held, held_span, held_any] = TILES;
    let candidates: &[Tile] = match (problem.resident(), problem.norm_after.is_some()) {
        (false, false) => &[large, medium, flat, any],
        (false, true) => &[span, flat_span, held_any],
        (true, false) => &[held, flat_held, held_any],
        (true, true) => &[held_span, held_any],
    };
    let takes = |any: bool| -> Vec<Tile> {
        let of_kind = candidates.iter().filter(|tile| tile.any == any);
        of_kind
            .filter(|tile| tile.takes(problem, limits.shared_bytes as usize))
            .copied()
            .collect()
    };
    let mut possible = takes(false);
    if possible.is_empty() {
        possible = takes(true);
    }
    let full = |tile: &&Tile| {
        let blocks = problem
            .rows
            .div_ceil(tile.rows)
            .saturating_mul(problem.columns.div_ceil(tile.columns));
        tile.rows < problem.rows.saturating_mul(2) && blocks >= limits.multiprocessors as usize
    };
    let found = possible.iter().find(full).or(possible.last());
    let shared_out = found.map(|tile| Tile {
        per_block: tile.columns_per_block(problem, limits.multiprocessors as usize),
        ..*tile
    });
    shared_out.with_context(|| {
        format!(
            "linear ({}): no kernel; a LayerNorm after the product takes up to {SPAN} columns, and rows of {} must fit into {} bytes of shared memory, \
             16 at a time, to be normalised, added to or gathered: launch norm by itself",
            problem.about(),
            problem.inner,
            limits.shared_bytes
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::Prologue;
    use super::*;
    use crate::cuda::sources;

    const A100: Limits = Limits {
        threads: 1024,
        shared_bytes: SHARED_BYTES_OF_SM_80,
        multiprocessors: 108,
    };
    const SLICE: Limits = Limits {
        multiprocessors: 14,
        ..A100
    };

    #[test]
    fn tiles_are_those_of_the_table_of_specialisations() {
        for tile in TILES {
            let defines = &sources::specialisation(tile.name).unwrap().defines;
            let value = |key: &str| -> usize {
                let found = defines.iter().find_map(|define| define.strip_prefix(key)?.strip_prefix('='));
                found.unwrap().parse().unwrap()
            };
            let keys = "TILE_ROWS TILE_COLUMNS WARPS_DOWN WARPS_ACROSS TILE_DEPTH STAGES BLOCKS RESIDENT VECTOR";
            let constants: Vec<usize> = keys.split(' ').map(value).collect();
            let vector = if tile.any { 1 } else { 8 };
            let expected = [
                tile.rows,
                tile.columns,
                tile.warps_down,
                tile.warps_across,
                tile.depth,
                tile.stages,
                tile.blocks,
                usize::from(tile.resident),
                vector,
            ];
            assert_eq!(constants, expected, "{}", tile.name);
        }
        let known = sources::specialisations().iter().filter(|known| known.file == "linear.cu");
        assert_eq!(known.count(), TILES.len());
    }

    #[test]
    fn the_tile_of_a_plain_product_follows_from_its_sizes() {
        let name = |rows, columns, inner, limits| choose(&Linear::plain(rows, columns, inner), limits).unwrap().name;
        assert_eq!(name(1, 256, 256, A100), "linear_16x64");
        assert_eq!(name(72, 256, 256, A100), "linear_16x64", "8 tokens of 9 lanes");
        assert_eq!(
            name(4096, 256, 256, A100),
            "linear_64x64",
            "64 large tiles would leave multiprocessors idle"
        );
        assert_eq!(name(54 * 128, 256, 256, A100), "linear_128x128");
        assert_eq!(name(54 * 128, 256, 252, A100), "linear_64x64_any");
        assert_eq!(name(4096, 256, 256, SLICE), "linear_128x128", "a small device is full sooner");
    }

    #[test]
    fn the_tile_of_a_fused_product_follows_from_its_parts() {
        let name = |problem: Linear| choose(&problem, SLICE).unwrap().name;
        let plain = Linear::plain(1024, 1536, 384);
        let norm = Prologue::Norm { eps: 1e-6 };
        assert_eq!(name(Linear { prologue: norm, ..plain }), "linear_resident_64x128");
        let tokens = Linear {
            prologue: Prologue::Sum { rows: 8 },
            ..Linear::plain(8, 256, 256)
        };
        assert_eq!(name(tokens), "linear_resident_16x64");
        let gathered = Linear {
            gathered: true,
            ..Linear::plain(5, 256, 256)
        };
        assert_eq!(name(gathered), "linear_resident_16x64");
        let long = Linear {
            prologue: norm,
            inner: 1536,
            ..plain
        };
        assert_eq!(name(long), "linear_resident_16x64", "64 rows of 1536 do not fit");
        let after = Linear {
            norm_after: Some(1e-6),
            ..Linear::plain(1024, 256, 2048)
        };
        assert_eq!(name(after), "linear_64x256");
        assert_eq!(name(Linear { rows: 40, ..after }), "linear_16x256");
        assert_eq!(name(Linear { inner: 2047, ..after }), "linear_resident_16x256_any");
        assert_eq!(
            name(Linear {
                prologue: norm,
                inner: 768,
                ..after
            }),
            "linear_resident_16x256"
        );
    }

    #[test]
    fn problems_beyond_the_tiles_are_refused_with_the_remedy() {
        let complaint = |problem: Linear| choose(&problem, A100).unwrap_err().to_string();
        let wide = Linear {
            norm_after: Some(1e-6),
            ..Linear::plain(4, 264, 64)
        };
        let message = complaint(wide);
        assert!(
            message.contains("rows 4 columns 264 inner 64 norm after") && message.contains("launch norm by itself"),
            "{message}"
        );
        let long = Linear {
            gathered: true,
            ..Linear::plain(4, 64, 8192)
        };
        assert!(complaint(long).contains("166912 bytes"));
    }

    #[test]
    fn a_block_makes_as_many_columns_of_prepared_rows_as_leaves_every_multiprocessor_busy() {
        let [.., held, _, _, _] = TILES;
        let problem = |rows| Linear {
            prologue: Prologue::Norm { eps: 1e-6 },
            ..Linear::plain(rows, 1536, 384)
        };
        assert_eq!(
            held.columns_per_block(&problem(64 * 28), 14),
            12,
            "28 blocks, two for each: one group of all 12 tiles"
        );
        assert_eq!(held.columns_per_block(&problem(64 * 14), 14), 6);
        assert_eq!(held.columns_per_block(&problem(64), 14), 1);
        assert_eq!(TILES[0].columns_per_block(&Linear::plain(128 * 1000, 1536, 384), 14), 1);
    }

    #[test]
    fn the_main_tiles_fit_twice_into_a_multiprocessor_of_sm_80() {
        for (tile, inner) in [(TILES[0], 0), (TILES[4], 0), (TILES[6], 384)] {
            assert!(
                tile.blocks == 2 && 2 * (tile.shared_bytes(inner) + 1024) <= 164 << 10,
                "{}",
                tile.name
            );
        }
    }
}
