//! Launching `conv` and `conv_direct`: small square convolutions, the twins of [`crate::ops::conv`].

use super::arena::Buffer;
use super::driver::{Arguments, Shape};
use super::launch::{Runtime, Work};
use anyhow::{Result, bail, ensure};

/// Values of a patch per stage; DEPTH in kernels/conv.cu.
const DEPTH: usize = 32;
/// Threads of a block of kernels/conv_direct.cu.
const DIRECT_THREADS: usize = 128;
/// Neighbouring pixels of a thread; PIXELS in kernels/conv_direct.cu.
const DIRECT_PIXELS: usize = 2;

/// A convolution of x [items, height, width, channels] to y [items, height', width', columns], zeros outside.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Conv {
    pub items: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub columns: usize,
    pub side: usize,
    pub stride: usize,
    pub padding: usize,
}

/// What follows the product and bias.
#[derive(Clone, Copy)]
pub enum After<'a> {
    /// Nothing.
    Nothing,
    /// Row r mod this number of rows of a buffer [rows, columns] f32 is added, such as a position embedding.
    Rows(&'a Buffer, usize),
    /// LayerNorm over the columns, `gamma` and `beta` `[columns]` f32, then GELU.
    NormGelu {
        /// Factor.
        gamma: &'a Buffer,
        /// Shift.
        beta: &'a Buffer,
        /// Added to the variance.
        eps: f32,
    },
}

/// A specialisation of kernels/conv.cu and what its constants are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Tile {
    pub name: &'static str,
    pub rows: usize,
    pub columns: usize,
    pub threads: u32,
    pub stages: usize,
}

const fn tile(name: &'static str, rows: usize, columns: usize, threads: u32, stages: usize) -> Tile {
    Tile {
        name,
        rows,
        columns,
        threads,
        stages,
    }
}

/// All tiles; a test compares them with kernels/specialisations.csv.
pub const TILES: [Tile; 5] = [
    tile("conv_128x96_patch", 128, 96, 256, 2),
    tile("conv_64x64", 64, 64, 128, 3),
    tile("conv_64x256", 64, 256, 256, 3),
    tile("conv_64x64_any", 64, 64, 128, 2),
    tile("conv_64x256_any", 64, 256, 256, 2),
];

/// Specialisations of kernels/conv_direct.cu: name, then side, stride, channels and columns.
pub const DIRECT: [(&str, [usize; 4]); 5] = [
    ("conv_direct_3x1x4", [3, 2, 1, 4]),
    ("conv_direct_3x4x16", [3, 2, 4, 16]),
    ("conv_direct_2x1x4", [2, 2, 1, 4]),
    ("conv_direct_2x4x16", [2, 2, 4, 16]),
    ("conv_direct_4x1x1", [4, 4, 1, 1]),
];

/// The kernel of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// On the tensor cores.
    Product(Tile),
    /// On the ordinary units, all columns of a pixel in one thread; this entry.
    Direct(&'static str),
}

impl Kernel {
    /// Its entry point.
    pub fn name(self) -> &'static str {
        match self {
            Self::Product(tile) => tile.name,
            Self::Direct(name) => name,
        }
    }
}

/// Of a tile of this name.
pub(super) fn dynamic_shared_bytes(name: &str) -> Option<usize> {
    TILES.iter().find(|tile| tile.name == name).map(Tile::shared_bytes)
}

impl Tile {
    /// Bytes of dynamic shared memory.
    pub fn shared_bytes(&self) -> usize {
        2 * self.stages * (self.rows + self.columns) * DEPTH
    }
}

impl Conv {
    /// Values of a row of the weights [columns, row]: (dy, dx, c) and then zeros up to a multiple of 8.
    pub fn weight_row(&self) -> usize {
        (self.side * self.side * self.channels).next_multiple_of(8)
    }

    /// Height and width of y.
    pub fn out_size(&self) -> (usize, usize) {
        let out = |length: usize| {
            (length + 2 * self.padding)
                .checked_sub(self.side)
                .map_or(0, |rest| rest / self.stride + 1)
        };
        (out(self.height), out(self.width))
    }

    /// The kernel for it; `norm` and `rows` say what follows. It does not depend on the number of items, nor on the map's size.
    ///
    /// # Errors
    /// A norm over more than 256 columns, which a block does not hold.
    pub fn choose(&self, norm: bool, rows: bool) -> Result<Kernel> {
        let sizes = [self.side, self.stride, self.channels, self.columns];
        if let Some((name, _)) = DIRECT.iter().find(|(_, known)| *known == sizes && !rows) {
            return Ok(Kernel::Direct(name));
        }
        ensure!(
            !norm || self.columns <= 256,
            "conv: a norm over {} columns; there are kernels for up to 256",
            self.columns
        );
        let [patch, narrow, wide, any_narrow, any_wide] = TILES;
        let is_wide = norm && self.columns > 64;
        let in_vectors = self.columns.is_multiple_of(8);
        if self.side == 7 && self.channels == 1 && in_vectors && (!norm || self.columns <= patch.columns) {
            return Ok(Kernel::Product(patch));
        }
        Ok(Kernel::Product(match (in_vectors && self.channels.is_multiple_of(8), is_wide) {
            (true, false) => narrow,
            (true, true) => wide,
            (false, false) => any_narrow,
            (false, true) => any_wide,
        }))
    }

    /// Launches it with the kernel of [`Conv::choose`]: x, weight [columns, [`Conv::weight_row`]], y bf16, bias of `columns` f32.
    ///
    /// # Errors
    /// Buffers that are too small, windows larger than the padded map, sizes beyond the kernels', and those of [`Runtime::launch`].
    pub fn launch(
        &self,
        runtime: &Runtime,
        x: &Buffer,
        weight: &Buffer,
        bias: Option<&Buffer>,
        after: After<'_>,
        y: &Buffer,
    ) -> Result<()> {
        let kernel = self.choose(matches!(after, After::NormGelu { .. }), matches!(after, After::Rows(..)))?;
        self.launch_kernel(kernel, runtime, x, weight, bias, after, y)
    }

    /// Launches it with this kernel, which must be one for it.
    ///
    /// # Errors
    /// As [`Conv::launch`].
    pub fn launch_kernel(
        &self,
        kernel: Kernel,
        runtime: &Runtime,
        x: &Buffer,
        weight: &Buffer,
        bias: Option<&Buffer>,
        after: After<'_>,
        y: &Buffer,
    ) -> Result<()> {
        let (problem, (height, width)) = (self.to_string(), self.out_size());
        ensure!(
            self.side > 0 && self.stride > 0,
            "conv ({problem}): a window or a stride of nothing"
        );
        if self.items * self.columns == 0 {
            return Ok(());
        }
        ensure!(
            height > 0 && width > 0 && self.channels > 0,
            "conv ({problem}): the window does not fit into the padded map"
        );
        let check = |name: &str, buffer: &Buffer, sizes: &[usize]| super::check_bytes(&problem, name, buffer, sizes);
        check("x", x, &[self.items, self.height, self.width, self.channels, 2])?;
        check("weight", weight, &[self.columns, self.weight_row(), 2])?;
        check("y", y, &[self.items, height, width, self.columns, 2])?;
        if let Some(bias) = bias {
            check("bias", bias, &[self.columns, 4])?;
        }
        match after {
            After::Nothing => {}
            After::Rows(buffer, rows) => {
                ensure!(rows > 0, "conv ({problem}): a residual without rows");
                check("residual", buffer, &[rows, self.columns, 4])?;
            }
            After::NormGelu { gamma, beta, .. } => {
                check("gamma", gamma, &[self.columns, 4])?;
                check("beta", beta, &[self.columns, 4])?;
            }
        }
        let pointers = Arguments::new()
            .pointer(x.pointer())
            .pointer(weight.pointer())
            .optional(bias.map(Buffer::pointer));
        let (shape, arguments) = match kernel {
            Kernel::Product(tile) => self.product(&problem, tile, pointers, after, y)?,
            Kernel::Direct(name) => self.direct(&problem, name, pointers, after, y)?,
        };
        runtime.launch(kernel.name(), shape, arguments, &problem, self.work())
    }

    fn product(&self, problem: &str, tile: Tile, pointers: Arguments, after: After<'_>, y: &Buffer) -> Result<(Shape, Arguments)> {
        let (height, width) = self.out_size();
        let rows = self.items * height * width;
        let (residual, residual_rows) = match after {
            After::Rows(buffer, rows) => (Some(buffer.pointer()), rows),
            _ => (None, 1),
        };
        let (norm, eps) = norm_of(after);
        ensure!(
            norm.is_none() || self.columns <= tile.columns,
            "conv ({problem}): {} takes a norm over up to {} columns",
            tile.name,
            tile.columns
        );
        let mut arguments = pointers
            .optional(residual)
            .optional(norm.map(|(gamma, _)| gamma.pointer()))
            .optional(norm.map(|(_, beta)| beta.pointer()))
            .pointer(y.pointer());
        let sizes = [
            rows,
            self.height,
            self.width,
            self.channels,
            height,
            width,
            self.columns,
            self.side,
            self.stride,
            self.padding,
            self.weight_row(),
            residual_rows,
        ];
        super::int(problem, self.items * self.height)?; // lines of x are counted in an int, too
        for size in sizes {
            arguments = arguments.int(super::int(problem, size)?);
        }
        let shape = Shape {
            blocks: [rows.div_ceil(tile.rows) as u32, self.columns.div_ceil(tile.columns) as u32, 1],
            threads: tile.threads,
            shared_bytes: tile.shared_bytes() as u32,
        };
        Ok((shape, arguments.float(eps)))
    }

    fn direct(&self, problem: &str, name: &str, pointers: Arguments, after: After<'_>, y: &Buffer) -> Result<(Shape, Arguments)> {
        let (height, width) = self.out_size();
        if matches!(after, After::Rows(..)) {
            bail!("conv ({problem}): {name} adds no rows");
        }
        let (norm, eps) = norm_of(after);
        let mut arguments = pointers
            .optional(norm.map(|(gamma, _)| gamma.pointer()))
            .optional(norm.map(|(_, beta)| beta.pointer()))
            .pointer(y.pointer());
        let sizes = [self.items, self.height, self.width, height, width, self.padding, self.weight_row()];
        super::int(problem, self.items * height)?; // rows of y are counted in an int, too
        for size in sizes {
            arguments = arguments.int(super::int(problem, size)?);
        }
        let threads = self.items * height * width.div_ceil(DIRECT_PIXELS);
        let shape = Shape {
            blocks: [u32::try_from(threads.div_ceil(DIRECT_THREADS))?, 1, 1],
            threads: DIRECT_THREADS as u32,
            shared_bytes: 0,
        };
        Ok((shape, arguments.float(eps)))
    }

    fn work(&self) -> Work {
        let (height, width) = self.out_size();
        let (read, made) = (
            (self.items * self.height * self.width * self.channels) as f64,
            (self.items * height * width * self.columns) as f64,
        );
        let inner = (self.side * self.side * self.channels) as f64;
        Work {
            flops: 2.0 * made * inner,
            bytes: 2.0 * (read + made + self.columns as f64 * inner),
        }
    }
}

fn norm_of<'a>(after: After<'a>) -> (Option<(&'a Buffer, &'a Buffer)>, f32) {
    match after {
        After::NormGelu { gamma, beta, eps } => (Some((gamma, beta)), eps),
        _ => (None, 0.0),
    }
}

impl std::fmt::Display for Conv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            items,
            height,
            width,
            channels,
            columns,
            side,
            stride,
            padding,
        } = *self;
        write!(
            f,
            "items {items} height {height} width {width} channels {channels} columns {columns} side {side} stride {stride} padding {padding}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::sources;
    use super::*;

    fn define(name: &str, key: &str) -> usize {
        let defines = &sources::specialisation(name).unwrap().defines;
        let found = defines.iter().find_map(|define| define.strip_prefix(key)?.strip_prefix('='));
        found.unwrap().parse().unwrap()
    }

    #[test]
    fn constants_are_those_of_the_table_of_specialisations() {
        for tile in TILES {
            let value = |key| define(tile.name, key);
            assert_eq!(
                [tile.rows, tile.columns, tile.stages, tile.threads as usize],
                [
                    value("TILE_ROWS"),
                    value("TILE_COLUMNS"),
                    value("STAGES"),
                    32 * value("WARPS_DOWN") * value("WARPS_ACROSS")
                ],
                "{}",
                tile.name
            );
        }
        for (name, sizes) in DIRECT {
            assert_eq!(
                sizes,
                ["SIDE", "STRIDE", "CHANNELS", "COLUMNS"].map(|key| define(name, key)),
                "{name}"
            );
        }
    }

    #[test]
    fn the_kernel_follows_from_the_problem() {
        let conv = |side, stride, channels, columns| Conv {
            items: 3,
            height: 64,
            width: 64,
            channels,
            columns,
            side,
            stride,
            padding: side / 2,
        };
        let name = |[side, stride, channels, columns]: [usize; 4], norm, rows| {
            conv(side, stride, channels, columns).choose(norm, rows).unwrap().name()
        };
        assert_eq!(name([7, 4, 1, 96], false, true), "conv_128x96_patch");
        assert_eq!(name([7, 4, 1, 97], false, true), "conv_64x64_any");
        assert_eq!(name([3, 2, 1, 4], true, false), "conv_direct_3x1x4");
        assert_eq!(name([3, 2, 1, 4], false, true), "conv_64x64_any", "the direct form adds no rows");
        assert_eq!(name([3, 2, 4, 16], true, false), "conv_direct_3x4x16");
        assert_eq!(name([3, 2, 16, 64], true, false), "conv_64x64");
        assert_eq!(name([3, 2, 64, 256], true, false), "conv_64x256");
        assert_eq!(name([3, 2, 64, 256], false, false), "conv_64x64");
        assert_eq!(name([3, 2, 5, 7], false, false), "conv_64x64_any");
        assert_eq!(name([3, 1, 5, 65], true, false), "conv_64x256_any");
        assert_eq!(name([4, 4, 1, 1], false, false), "conv_direct_4x1x1");
        let refused = conv(3, 1, 8, 264).choose(true, false).unwrap_err().to_string();
        assert!(refused.contains("264 columns"), "{refused}");
    }

    #[test]
    fn rows_of_weights_are_padded_to_16_bytes() {
        let conv = Conv {
            items: 1,
            height: 512,
            width: 511,
            channels: 1,
            columns: 96,
            side: 7,
            stride: 4,
            padding: 3,
        };
        assert_eq!((conv.weight_row(), conv.out_size()), (56, (128, 128)));
    }
}
