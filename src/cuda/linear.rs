//! Launching `linear`: y = residual + activation(x W^T + bias) on the tensor cores, the twin of [`crate::ops::linear`].

use super::arena::Buffer;
use super::driver::{Arguments, Shape};
use super::launch::{Runtime, Work};
use anyhow::{Result, ensure};

/// Columns of x per stage; DEPTH in kernels/linear.cu.
const DEPTH: usize = 32;

/// What follows the product and bias; the numbers are those of kernels/linear.cu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Activation {
    None = 0,
    Relu = 1,
    Gelu = 2,
}

/// A product: x [rows, inner], W [columns, inner], y [rows, columns].
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Linear {
    pub rows: usize,
    pub columns: usize,
    pub inner: usize,
    pub activation: Activation,
}

/// What is added to the product.
#[derive(Clone, Copy)]
pub enum Residual<'a> {
    /// Nothing.
    None,
    /// Row r mod this number of rows of a buffer [rows, columns] bf16.
    Rows(&'a Buffer, usize),
    /// What y holds.
    Accumulate,
}

/// A specialisation of the kernel and what its constants are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Tile {
    pub name: &'static str,
    pub rows: usize,
    pub columns: usize,
    pub threads: u32,
    pub stages: usize,
}

/// All tiles; a test compares them with kernels/specialisations.csv.
pub const TILES: [Tile; 4] = [
    Tile {
        name: "linear_128x128",
        rows: 128,
        columns: 128,
        threads: 256,
        stages: 4,
    },
    Tile {
        name: "linear_64x64",
        rows: 64,
        columns: 64,
        threads: 128,
        stages: 4,
    },
    Tile {
        name: "linear_16x64",
        rows: 16,
        columns: 64,
        threads: 128,
        stages: 4,
    },
    Tile {
        name: "linear_64x64_any",
        rows: 64,
        columns: 64,
        threads: 128,
        stages: 2,
    },
];

/// The tile for a product on a device of so many multiprocessors: the largest that still gives each of them a block. The sum over `inner` has one order
/// whatever the tile, so that this choice never shows in results.
pub fn choose(rows: usize, columns: usize, inner: usize, multiprocessors: u32) -> Tile {
    let [large, medium, flat, any] = TILES;
    if !inner.is_multiple_of(8) {
        return any;
    }
    if rows <= flat.rows {
        return flat;
    }
    let blocks = rows.div_ceil(large.rows).saturating_mul(columns.div_ceil(large.columns));
    if blocks >= multiprocessors as usize { large } else { medium }
}

impl Tile {
    /// Bytes of shared memory.
    pub fn shared_bytes(&self) -> usize {
        2 * self.stages * (self.rows + self.columns) * DEPTH
    }
}

impl Linear {
    /// Launches it with the tile of [`choose`]; x, W, y bf16, bias of `columns` f32.
    ///
    /// # Errors
    /// Buffers that are too small, sizes beyond the kernel's, and those of [`Runtime::launch`].
    pub fn launch(
        &self,
        runtime: &Runtime,
        x: &Buffer,
        weight: &Buffer,
        bias: Option<&Buffer>,
        residual: Residual<'_>,
        y: &Buffer,
    ) -> Result<()> {
        let tile = choose(self.rows, self.columns, self.inner, runtime.driver().limits().multiprocessors);
        self.launch_tile(tile, runtime, x, weight, bias, residual, y)
    }

    /// Launches it with this tile.
    ///
    /// # Errors
    /// As [`Linear::launch`].
    pub fn launch_tile(
        &self,
        tile: Tile,
        runtime: &Runtime,
        x: &Buffer,
        weight: &Buffer,
        bias: Option<&Buffer>,
        residual: Residual<'_>,
        y: &Buffer,
    ) -> Result<()> {
        let (rows, columns, inner) = (self.rows, self.columns, self.inner);
        let problem = format!("rows {rows} columns {columns} inner {inner}");
        if rows == 0 || columns == 0 {
            return Ok(());
        }
        ensure!(
            tile.name.ends_with("any") || inner % 8 == 0,
            "linear ({problem}): {} takes inner lengths that are multiples of 8",
            tile.name
        );
        super::check_bytes(&problem, "x", x, &[rows, inner, 2])?;
        super::check_bytes(&problem, "weight", weight, &[columns, inner, 2])?;
        super::check_bytes(&problem, "y", y, &[rows, columns, 2])?;
        if let Some(bias) = bias {
            super::check_bytes(&problem, "bias", bias, &[columns, 4])?;
        }
        let (added, added_rows) = match residual {
            Residual::None => (None, 1),
            Residual::Rows(buffer, rows) => {
                ensure!(rows > 0, "linear ({problem}): a residual without rows");
                super::check_bytes(&problem, "residual", buffer, &[rows, columns, 2])?;
                (Some(buffer.pointer()), rows)
            }
            Residual::Accumulate => (Some(y.pointer()), rows),
        };
        let arguments = Arguments::new()
            .pointer(x.pointer())
            .pointer(weight.pointer())
            .optional(bias.map(Buffer::pointer))
            .optional(added)
            .pointer(y.pointer())
            .int(super::int(&problem, rows)?)
            .int(super::int(&problem, columns)?)
            .int(super::int(&problem, inner)?)
            .int(super::int(&problem, added_rows)?)
            .int(self.activation as i32);
        let blocks = [rows.div_ceil(tile.rows) as u32, columns.div_ceil(tile.columns) as u32, 1];
        let shape = Shape {
            blocks,
            threads: tile.threads,
            shared_bytes: tile.shared_bytes() as u32,
        };
        let (m, n, k) = (rows as f64, columns as f64, inner as f64);
        let work = Work {
            flops: 2.0 * m * n * k,
            bytes: 2.0 * (m * k + n * k + m * n),
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
            let value = |key: &str| -> usize {
                let found = defines.iter().find_map(|define| define.strip_prefix(key)?.strip_prefix('='));
                found.unwrap().parse().unwrap()
            };
            assert_eq!(
                (tile.rows, tile.columns, tile.stages),
                (value("TILE_ROWS"), value("TILE_COLUMNS"), value("STAGES")),
                "{}",
                tile.name
            );
            assert_eq!(
                tile.threads as usize,
                32 * value("WARPS_DOWN") * value("WARPS_ACROSS"),
                "{}",
                tile.name
            );
        }
    }

    #[test]
    fn the_tile_follows_from_the_problem() {
        let name = |rows, columns, inner| choose(rows, columns, inner, 108).name;
        assert_eq!(name(1, 256, 256), "linear_16x64");
        assert_eq!(name(16, 256, 256), "linear_16x64");
        assert_eq!(name(17, 256, 256), "linear_64x64");
        assert_eq!(
            name(4096, 256, 256),
            "linear_64x64",
            "64 large tiles would leave multiprocessors idle"
        );
        assert_eq!(name(54 * 128, 256, 256), "linear_128x128");
        assert_eq!(name(54 * 128, 256, 252), "linear_64x64_any");
        assert_eq!(choose(4096, 256, 256, 14).name, "linear_128x128", "a small device is full sooner");
    }
}
