//! Launching `attention`: softmax(q k^T / sqrt(E)) v per head over whole items or windows of a map, the twin of [`crate::ops::attention`].

use super::arena::Buffer;
use super::driver::{Arguments, DevicePointer, Limits, Shape};
use super::launch::{Runtime, Work};
use anyhow::{Context, Result, bail, ensure};

/// Keys from which on few queries have their keys split over the warps of a block.
const SPLIT_KEYS: usize = 256;

/// Rows of an item up to which the kernel's row arithmetic is exact.
const MOST_ROWS: usize = 1 << 21;

/// Columns of a buffer of bf16 that hold all heads, one after the other: row r begins at element `offset + r * stride`.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct Columns<'a> {
    pub buffer: &'a Buffer,
    pub offset: usize,
    pub stride: usize,
}

/// Which queries see which keys, for each item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// All see all.
    Whole {
        /// Rows of q per item.
        queries: usize,
        /// Rows of k and v per item.
        keys: usize,
    },
    /// Windows of a map of keys, as [`crate::ops::attention::Windows::partition`] makes them.
    Partition {
        /// Of the map; its windows at the right and bottom border may be smaller, and have padding tokens.
        side: usize,
        /// Side of a window.
        window: usize,
        /// Whether queries come from a map of half the side.
        pools: bool,
    },
}

/// A rectangle of a map of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Rectangle {
    pub side: usize,
    pub top: usize,
    pub left: usize,
    pub height: usize,
    pub width: usize,
}

/// Queries and the keys they see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Window {
    pub queries: Rectangle,
    pub keys: Rectangle,
    /// How many padding tokens there are besides the keys.
    pub copies: usize,
}

impl Rectangle {
    /// Number of rows.
    pub fn count(self) -> usize {
        self.height * self.width
    }

    /// The rows, line by line.
    pub fn rows(self) -> impl Iterator<Item = usize> {
        (self.top..self.top + self.height).flat_map(move |y| (self.left..self.left + self.width).map(move |x| y * self.side + x))
    }
}

impl Layout {
    /// Rows of q, and of k and v, per item.
    pub fn rows(self) -> [usize; 2] {
        match self {
            Layout::Whole { queries, keys } => [queries, keys],
            Layout::Partition { side, pools, .. } => [(side / step(pools)).pow(2), side * side],
        }
    }

    /// Number of windows of an item.
    pub fn windows(self) -> usize {
        match self {
            Layout::Whole { .. } => 1,
            Layout::Partition { side, window, .. } => side.div_ceil(window).pow(2),
        }
    }

    /// Window number `index`, as kernels/attention.cu computes it.
    pub fn window(self, index: usize) -> Window {
        let line = |width| Rectangle {
            side: width,
            top: 0,
            left: 0,
            height: 1,
            width,
        };
        match self {
            Layout::Whole { queries, keys } => Window {
                queries: line(queries),
                keys: line(keys),
                copies: 0,
            },
            Layout::Partition { side, window, pools } => {
                let (across, step) = (side.div_ceil(window), step(pools));
                let (top, left) = (index / across * window, index % across * window);
                let (bottom, right) = ((top + window).min(side), (left + window).min(side));
                let of = |step: usize| Rectangle {
                    side: side / step,
                    top: top / step,
                    left: left / step,
                    height: bottom / step - top / step,
                    width: right / step - left / step,
                };
                let keys = of(1);
                Window {
                    queries: of(step),
                    keys,
                    copies: window * window - keys.count(),
                }
            }
        }
    }

    /// Queries and keys of the largest window (the first), padding counted as one key.
    fn largest(self) -> [usize; 2] {
        let first = self.window(0);
        [first.queries.count(), first.keys.count() + usize::from(first.copies > 0)]
    }

    /// Whether windows have padding tokens (the last one, if any).
    fn has_padding(self) -> bool {
        self.window(self.windows() - 1).copies > 0
    }
}

fn step(pools: bool) -> usize {
    if pools { 2 } else { 1 }
}

/// A specialisation of the kernel and what its constants are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Tile {
    pub name: &'static str,
    /// Widest head.
    pub width: usize,
    /// Keys per step.
    pub keys: usize,
    pub warps: usize,
    /// Warps of a unit, which takes 16 queries per warp.
    pub team: usize,
    /// Whether all warps of a block share one unit's keys.
    pub split: bool,
    /// Elements per access.
    pub vector: usize,
}

const fn tile(name: &'static str, [width, keys, warps, team]: [usize; 4], split: bool, vector: usize) -> Tile {
    Tile {
        name,
        width,
        keys,
        warps,
        team,
        split,
        vector,
    }
}

/// All tiles; a test compares them with kernels/specialisations.csv.
pub const TILES: [Tile; 10] = [
    tile("attention_256", [256, 32, 8, 8], false, 8),
    tile("attention_256_small", [256, 16, 8, 8], false, 8),
    tile("attention_96", [96, 32, 4, 4], false, 8),
    tile("attention_96_few", [96, 16, 4, 1], false, 8),
    tile("attention_32_few", [32, 16, 4, 1], false, 8),
    tile("attention_16_few", [16, 16, 4, 1], false, 8),
    tile("attention_16_split", [16, 32, 8, 1], true, 8),
    tile("attention_16_any", [16, 16, 4, 1], false, 1),
    tile("attention_96_any", [96, 16, 4, 1], false, 1),
    tile("attention_256_any", [256, 16, 2, 1], false, 1),
];

/// The tile for heads of this width and windows of at most so many queries and keys; `aligned` if rows and heads begin at multiples of 16 bytes; `shared_bytes` is what
/// the device gives a block. It does not see how many items there are: tiles sum in different orders.
///
/// # Errors
/// Heads wider than 256.
pub fn choose(width: usize, queries: usize, keys: usize, aligned: bool, shared_bytes: u32) -> Result<Tile> {
    let [t256, t256_small, t96, t96_few, t32_few, t16_few, t16_split, any16, any96, any256] = TILES;
    Ok(match (width, aligned) {
        (0, _) | (257.., _) => bail!("attention: heads of width {width}; there are kernels for 1 to 256"),
        (..=16, false) => any16,
        (..=96, false) => any96,
        (_, false) => any256,
        (..=16, true) if queries <= 16 && keys >= SPLIT_KEYS => t16_split,
        (..=16, true) => t16_few,
        (..=32, true) => t32_few,
        (..=96, true) if queries <= 16 || keys <= 16 => t96_few,
        (..=96, true) => t96,
        (_, true) if t256.shared_bytes() <= shared_bytes as usize => t256,
        (_, true) => t256_small,
    })
}

/// Of a tile of this name.
pub(super) fn dynamic_shared_bytes(name: &str) -> Option<usize> {
    TILES.iter().find(|tile| tile.name == name).map(Tile::shared_bytes)
}

impl Tile {
    /// Bytes of shared memory: per team two stages of keys and values, and its queries where they are wide; merging takes 16 partial results per warp.
    pub fn shared_bytes(&self) -> usize {
        let shared_queries = self.width > 128 || (self.width > 64 && self.team > 1);
        let queries = if shared_queries { 16 * self.team * self.width } else { 0 };
        let tiles = 2 * (4 * self.keys * self.width + queries) * self.warps / self.team;
        let partial = if self.split { 4 * self.warps * 16 * (self.width + 2) } else { 0 };
        tiles.max(partial)
    }
}

/// A batch of attentions of `heads` heads of width `width`.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Attention {
    pub items: usize,
    pub layout: Layout,
    pub heads: usize,
    pub width: usize,
}

/// Key and value of padding tokens: vectors [heads * width] of bf16, each from an element of a buffer on.
pub type Padding<'a> = [(&'a Buffer, usize); 2];

impl Attention {
    /// The tile of [`choose`] for these columns on a device of these limits.
    ///
    /// # Errors
    /// Shapes without a kernel.
    pub fn tile(&self, limits: Limits, columns: [Columns<'_>; 3], padding: Option<Padding<'_>>) -> Result<Tile> {
        let [queries, keys] = self.checked()?.largest();
        choose(self.width, queries, keys, self.is_aligned(columns, padding), limits.shared_bytes)
    }

    /// Whether all rows and heads begin at multiples of 16 bytes.
    fn is_aligned(&self, columns: [Columns<'_>; 3], padding: Option<Padding<'_>>) -> bool {
        let mut places = columns.iter().flat_map(|part| [part.offset, part.stride]);
        let padding_aligned = padding.is_none_or(|parts| parts.iter().all(|part| part.1 % 8 == 0));
        self.width.is_multiple_of(8) && places.all(|place| place % 8 == 0) && padding_aligned
    }

    /// Launches it with the tile of [`choose`]: q, k, v in columns of bf16, y [items * rows of q, heads * width] bf16. `padding` must be there if windows have padding.
    ///
    /// # Errors
    /// Buffers that are too small, shapes without a kernel, and those of [`Runtime::launch`].
    pub fn launch(&self, runtime: &Runtime, columns: [Columns<'_>; 3], padding: Option<Padding<'_>>, y: &Buffer) -> Result<()> {
        self.launch_tile(
            self.tile(runtime.driver().limits(), columns, padding)?,
            runtime,
            columns,
            padding,
            y,
        )
    }

    /// Launches it with this tile.
    ///
    /// # Errors
    /// As [`Attention::launch`].
    pub fn launch_tile(
        &self,
        tile: Tile,
        runtime: &Runtime,
        columns: [Columns<'_>; 3],
        padding: Option<Padding<'_>>,
        y: &Buffer,
    ) -> Result<()> {
        let problem = self.problem();
        let layout = self.checked()?;
        let [query_rows, key_rows] = layout.rows();
        if self.items * self.heads * query_rows == 0 {
            return Ok(());
        }
        self.check(&problem, tile, columns, padding, y)?;
        let (side, window, pool) = match layout {
            Layout::Whole { .. } => (0, 0, 1),
            Layout::Partition { side, window, pools } => (side, window, step(pools)),
        };
        let query_tiles = layout.largest()[0].div_ceil(16 * tile.team);
        let units = self.items * layout.windows() * self.heads * query_tiles;
        let teams = if tile.split { 1 } else { tile.warps / tile.team };
        let start = |part: Columns<'_>| element(part.buffer, part.offset);
        let [q, k, v] = columns;
        let [padding_k, padding_v] = [0, 1].map(|i| padding.map(|parts| element(parts[i].0, parts[i].1)));
        let mut arguments = Arguments::new()
            .pointer(start(q))
            .pointer(start(k))
            .pointer(start(v))
            .optional(padding_k)
            .optional(padding_v)
            .pointer(y.pointer());
        let sizes = [q.stride, k.stride, v.stride, self.heads, self.width, query_rows, key_rows];
        for size in sizes.into_iter().chain([side, window, pool, query_tiles, units]) {
            arguments = arguments.int(super::int(&problem, size)?);
        }
        let arguments = arguments.float(std::f32::consts::LOG2_E / (self.width as f32).sqrt());
        let shape = Shape {
            blocks: [units.div_ceil(teams) as u32, 1, 1],
            threads: 32 * tile.warps as u32,
            shared_bytes: tile.shared_bytes() as u32,
        };
        runtime.launch(tile.name, shape, arguments, &problem, self.work())
    }

    fn problem(&self) -> String {
        let Self { items, heads, width, .. } = self;
        let layout = match self.layout {
            Layout::Whole { queries, keys } => format!("{queries} queries {keys} keys"),
            Layout::Partition { side, window, pools } => {
                format!("map {side} windows {window}{}", if pools { " pooled" } else { "" })
            }
        };
        format!("items {items} {layout} heads {heads} width {width}")
    }

    /// The layout, if windows and rows are as many as the kernel takes.
    fn checked(&self) -> Result<Layout> {
        if let Layout::Partition { side, window, pools } = self.layout {
            ensure!(
                side > 0 && window > 0,
                "attention ({}): map and windows have a side",
                self.problem()
            );
            ensure!(
                step(pools) == 1 || (side % 2 == 0 && window % 2 == 0),
                "attention ({}): pooled maps and windows are even",
                self.problem()
            );
            ensure!(
                side <= MOST_ROWS && window <= MOST_ROWS,
                "attention ({}): beyond any map",
                self.problem()
            );
        }
        let [queries, keys] = self.layout.rows();
        ensure!(
            keys > 0 && keys < MOST_ROWS && queries < MOST_ROWS,
            "attention ({}): an item has 1 to {MOST_ROWS} keys, and as many queries at most",
            self.problem()
        );
        Ok(self.layout)
    }

    fn check(&self, problem: &str, tile: Tile, columns: [Columns<'_>; 3], padding: Option<Padding<'_>>, y: &Buffer) -> Result<()> {
        let wide = self.heads * self.width;
        let [query_rows, key_rows] = self.layout.rows();
        ensure!(
            self.width <= tile.width && (tile.vector == 1 || self.is_aligned(columns, padding)),
            "attention ({problem}): {} takes heads of up to {}, {} elements at a time",
            tile.name,
            tile.width,
            tile.vector
        );
        for (name, part, rows) in [
            ("q", columns[0], query_rows),
            ("k", columns[1], key_rows),
            ("v", columns[2], key_rows),
        ] {
            ensure!(
                part.stride >= wide,
                "attention ({problem}): {name} rows of {} have no {wide} columns",
                part.stride
            );
            let before = (self.items * rows - 1)
                .checked_mul(part.stride)
                .context("attention: sizes beyond any buffer")?;
            super::check_bytes(problem, name, part.buffer, &[before + part.offset + wide, 2])?;
        }
        ensure!(
            padding.is_some() || !self.layout.has_padding(),
            "attention ({problem}): padded windows without a padding key"
        );
        for (name, part) in ["padding key", "padding value"].into_iter().zip(padding.into_iter().flatten()) {
            super::check_bytes(problem, name, part.0, &[part.1 + wide, 2])?;
        }
        super::check_bytes(problem, "y", y, &[self.items, query_rows, wide, 2])
    }

    /// What is asked for: the copies of the padding key are one key, and its weights' second part (see the kernel) is not counted.
    fn work(&self) -> Work {
        let pairs: usize = (0..self.layout.windows())
            .map(|index| self.layout.window(index))
            .map(|window| window.queries.count() * (window.keys.count() + usize::from(window.copies > 0)))
            .sum();
        let [queries, keys] = self.layout.rows();
        let each = (self.items * self.heads * self.width) as f64;
        Work {
            flops: 4.0 * pairs as f64 * each,
            bytes: 4.0 * (queries + keys) as f64 * each,
        }
    }
}

/// The address of an element of a buffer of bf16.
fn element(buffer: &Buffer, index: usize) -> DevicePointer {
    buffer.pointer().offset(2 * index)
}

#[cfg(test)]
mod tests {
    use super::super::sources;
    use super::*;

    #[test]
    fn tiles_are_those_of_the_table_of_specialisations() {
        for tile in TILES {
            let defines = &sources::specialisation(tile.name).unwrap().defines;
            let value = |key: &str| -> usize {
                let found = defines.iter().find_map(|define| define.strip_prefix(key)?.strip_prefix('='));
                found.unwrap().parse().unwrap()
            };
            let expected = ["WIDTH", "KEYS", "WARPS", "TEAM", "SPLIT", "VECTOR"].map(value);
            let own = [tile.width, tile.keys, tile.warps, tile.team, usize::from(tile.split), tile.vector];
            assert_eq!(own, expected, "{}", tile.name);
        }
    }

    #[test]
    fn the_tile_follows_from_the_windows_and_the_width() {
        let (a100, rtx) = (163 << 10, 99 << 10);
        let name = |width, queries, keys| choose(width, queries, keys, true, a100).unwrap().name;
        assert_eq!(name(256, 1024, 1024), "attention_256");
        assert_eq!(choose(256, 1024, 1024, true, rtx).unwrap().name, "attention_256_small");
        assert_eq!(name(96, 1024, 1024), "attention_96");
        assert_eq!(name(96, 49, 49), "attention_96", "windows of 7");
        assert_eq!(name(96, 16, 64), "attention_96_few", "windows of 8, pooled");
        assert_eq!(name(96, 16, 16), "attention_96_few", "windows of 4");
        assert_eq!(name(64, 1024, 1024), "attention_96");
        assert_eq!(name(32, 8, 8), "attention_32_few");
        assert_eq!(name(16, 1024, 8), "attention_16_few");
        assert_eq!(name(16, 8, 1024), "attention_16_split");
        assert_eq!(name(16, 17, 1024), "attention_16_few");
        let any = |width| choose(width, 8, 1024, false, a100).unwrap().name;
        assert_eq!(
            [any(4), any(17), any(200)],
            ["attention_16_any", "attention_96_any", "attention_256_any"]
        );
        for width in [0, 257] {
            let complaint = choose(width, 8, 8, true, a100).unwrap_err().to_string();
            assert!(complaint.contains("there are kernels for 1 to 256"), "{complaint}");
        }
    }

    #[test]
    fn two_blocks_of_the_windowed_kernels_fit_into_a_multiprocessor_of_an_a100() {
        for tile in &TILES[2..] {
            assert!(2 * tile.shared_bytes() <= 164 << 10, "{}: {}", tile.name, tile.shared_bytes());
        }
        assert_eq!([0, 1].map(|i| TILES[i].shared_bytes() >> 10), [128, 96], "one block of eight warps");
    }
}
