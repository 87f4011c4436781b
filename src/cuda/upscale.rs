//! Launching `upscale`: transposed convolution 2x2 with stride 2, skip map, LayerNorm and GELU in one kernel, the twin of [`crate::ops::upscale`].

use super::arena::Buffer;
use super::driver::{Arguments, Shape};
use super::launch::{Runtime, Work};
use anyhow::{Result, ensure};

/// Columns of x per stage; DEPTH in kernels/upscale.cu.
const DEPTH: usize = 32;
/// Pixels of x of a block; TILE_ROWS of all specialisations.
const ROWS: usize = 64;
/// Threads of a block: two warps down, four places across.
const THREADS: u32 = 256;

/// x [items, height, width, inner] to y [items, 2 height, 2 width, columns].
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Upscale {
    pub items: usize,
    pub height: usize,
    pub width: usize,
    pub inner: usize,
    pub columns: usize,
}

/// Weights of the transposed convolution and, if one follows, of the norm.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    /// [4 columns, inner] bf16; row (dy, dx, o).
    pub weight: &'a Buffer,
    /// `[columns]` f32.
    pub bias: &'a Buffer,
    /// gamma and beta, `[columns]` f32 each, and eps.
    pub norm: Option<(&'a Buffer, &'a Buffer, f32)>,
}

/// The skip maps.
#[derive(Clone, Copy)]
pub struct Skips<'a> {
    /// [maps, 2 height, 2 width, columns] bf16.
    pub maps: &'a Buffer,
    /// The map of each item: `[items]` 32-bit integers on the device, each below the number of maps, which only the caller can know. None: item n takes map n.
    pub slices: Option<&'a Buffer>,
}

/// A specialisation of the kernel and what its constants are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Tile {
    pub name: &'static str,
    pub columns: usize,
    pub stages: usize,
}

const fn tile(name: &'static str, columns: usize, stages: usize) -> Tile {
    Tile { name, columns, stages }
}

/// All tiles; a test compares them with kernels/specialisations.csv.
pub const TILES: [Tile; 3] = [tile("upscale_64", 64, 3), tile("upscale_32", 32, 3), tile("upscale_64_any", 64, 2)];

/// The tile for these widths, whatever the number of items.
///
/// # Errors
/// More than 64 columns, which a warp does not hold.
pub fn choose(inner: usize, columns: usize) -> Result<Tile> {
    let [large, small, any] = TILES;
    ensure!(
        (1..=large.columns).contains(&columns),
        "upscale: {columns} columns; there are kernels for 1 to {}",
        large.columns
    );
    let in_vectors = inner.is_multiple_of(8) && columns.is_multiple_of(8);
    Ok(match columns {
        _ if !in_vectors => any,
        1..=32 => small,
        _ => large,
    })
}

/// Of a tile of this name.
pub(super) fn dynamic_shared_bytes(name: &str) -> Option<usize> {
    TILES.iter().find(|tile| tile.name == name).map(Tile::shared_bytes)
}

impl Tile {
    /// Bytes of shared memory.
    pub fn shared_bytes(&self) -> usize {
        2 * self.stages * (ROWS + 4 * self.columns) * DEPTH
    }
}

impl Upscale {
    /// Launches it with the tile of [`choose`]; x and y bf16.
    ///
    /// # Errors
    /// Buffers that are too small, widths without a kernel, and those of [`Runtime::launch`].
    pub fn launch(&self, runtime: &Runtime, x: &Buffer, weights: Weights<'_>, skips: Skips<'_>, y: &Buffer) -> Result<()> {
        let Self {
            items,
            height,
            width,
            inner,
            columns,
        } = *self;
        let problem = format!("items {items} height {height} width {width} inner {inner} columns {columns}");
        let rows = items * height * width;
        if rows == 0 {
            return Ok(());
        }
        let tile = choose(inner, columns)?;
        let check = |name: &str, buffer: &Buffer, sizes: &[usize]| super::check_bytes(&problem, name, buffer, sizes);
        check("x", x, &[rows, inner, 2])?;
        check("weight", weights.weight, &[4 * columns, inner, 2])?;
        check("bias", weights.bias, &[columns, 4])?;
        check("y", y, &[rows, 4 * columns, 2])?;
        match skips.slices {
            Some(slices) => {
                check("slices", slices, &[items, 4])?;
                check("one skip map", skips.maps, &[4 * height * width, columns, 2])?;
            }
            None => check("skips", skips.maps, &[rows, 4 * columns, 2])?,
        }
        if let Some((gamma, beta, _)) = weights.norm {
            check("gamma", gamma, &[columns, 4])?;
            check("beta", beta, &[columns, 4])?;
        }
        let arguments = Arguments::new()
            .pointer(x.pointer())
            .pointer(weights.weight.pointer())
            .pointer(weights.bias.pointer())
            .pointer(skips.maps.pointer())
            .optional(skips.slices.map(Buffer::pointer))
            .optional(weights.norm.map(|(gamma, ..)| gamma.pointer()))
            .optional(weights.norm.map(|(_, beta, _)| beta.pointer()))
            .pointer(y.pointer())
            .int(super::int(&problem, rows)?)
            .int(super::int(&problem, height)?)
            .int(super::int(&problem, width)?)
            .int(super::int(&problem, inner)?)
            .int(super::int(&problem, columns)?)
            .float(weights.norm.map_or(0.0, |(.., eps)| eps));
        let shape = Shape {
            blocks: [rows.div_ceil(ROWS) as u32, 1, 1],
            threads: THREADS,
            shared_bytes: tile.shared_bytes() as u32,
        };
        let (m, n, k) = (rows as f64, columns as f64, inner as f64);
        let work = Work {
            flops: 8.0 * m * n * k,
            bytes: 2.0 * (m * (k + 8.0 * n) + 4.0 * n * k),
        };
        runtime.launch(tile.name, shape, arguments, &problem, work)
    }
}

#[cfg(test)]
mod tests {
    use super::super::sources;
    use super::*;

    #[test]
    fn tiles_are_those_of_the_table_of_specialisations() {
        for tile in TILES {
            let defines = &sources::specialisation(tile.name).unwrap().defines;
            for (key, value) in [
                ("TILE_ROWS", ROWS),
                ("WARPS_DOWN", THREADS as usize / 128),
                ("GROUP", tile.columns),
                ("STAGES", tile.stages),
            ] {
                assert!(defines.contains(&&*format!("{key}={value}")), "{} {key}", tile.name);
            }
        }
    }

    #[test]
    fn the_tile_follows_from_the_widths() {
        let name = |inner, columns| choose(inner, columns).unwrap().name;
        assert_eq!(name(256, 64), "upscale_64");
        assert_eq!(name(64, 32), "upscale_32");
        assert_eq!(name(8, 40), "upscale_64");
        assert_eq!(name(12, 32), "upscale_64_any");
        assert_eq!(name(16, 7), "upscale_64_any");
        assert!(choose(8, 65).unwrap_err().to_string().contains("65 columns"));
        assert!(choose(8, 0).is_err());
    }
}
