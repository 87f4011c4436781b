//! Launching `linear`: y = residual + activation(x' W^T + bias), then LayerNorm (+ GELU) of the finished row if asked, on the tensor cores; x' = x,
//! LayerNorm(x) or x + position. The twin of [`crate::ops::linear`].

mod tiles;

use super::arena::Buffer;
use super::driver::{Arguments, Shape};
use super::launch::{Runtime, Work};
use anyhow::{Result, ensure};
pub(super) use tiles::dynamic_shared_bytes;
pub use tiles::{TILES, Tile, choose};

/// What the rows are multiplied as.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Prologue {
    /// Themselves.
    Plain,
    /// Their LayerNorm.
    Norm {
        /// Added to the variance.
        eps: f32,
    },
    /// Row r plus row r mod `rows` of another matrix (a position shared by all items of a batch).
    Sum {
        /// Rows of that matrix.
        rows: usize,
    },
}

/// What follows the product and bias; the numbers are those of kernels/linear.cu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Activation {
    None = 0,
    Relu = 1,
    Gelu = 2,
}

/// What y is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Output {
    Bf16,
    F32,
}

/// A product: x' [rows, inner], W [columns, inner], y [rows, columns].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    /// Of y.
    pub rows: usize,
    /// Of y.
    pub columns: usize,
    /// Columns of x and W.
    pub inner: usize,
    /// Whether an index list says which row of x each row is made of.
    pub gathered: bool,
    /// What the rows are multiplied as.
    pub prologue: Prologue,
    /// After the bias.
    pub activation: Activation,
    /// LayerNorm of the finished row, with this eps.
    pub norm_after: Option<f32>,
    /// GELU after that norm.
    pub gelu: bool,
    /// What y is made of.
    pub output: Output,
}

/// Numbers of a row of x, W or y at most: within a tile, of up to 256 rows, the kernels count in 32 bits.
const WIDEST: usize = (i32::MAX / 256) as usize;

/// What is added to the product.
#[derive(Clone, Copy)]
pub enum Residual<'a> {
    /// Nothing.
    None,
    /// Row r mod this number of rows of a buffer [rows, columns] bf16.
    Rows(&'a Buffer, usize),
    /// What y holds (bf16).
    Accumulate,
}

/// Factor and offset of a LayerNorm, f32.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct NormBuffers<'a> {
    pub gamma: &'a Buffer,
    pub beta: &'a Buffer,
}

/// The buffers of a product; those that its [`Linear`] does not ask for are none.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    /// [rows, inner] bf16; with an index list as many rows as that names.
    pub x: &'a Buffer,
    /// `[rows]` of i32: row r is made of row `index[r]` of x. That these rows exist is for the caller to see to.
    pub index: Option<&'a Buffer>,
    /// For [`Prologue::Norm`], of `inner`.
    pub norm: Option<NormBuffers<'a>>,
    /// For [`Prologue::Sum`], [its rows, inner] bf16.
    pub position: Option<&'a Buffer>,
    /// [columns, inner] bf16.
    pub weight: &'a Buffer,
    /// `[columns]` f32.
    pub bias: Option<&'a Buffer>,
    /// What is added.
    pub residual: Residual<'a>,
    /// For `norm_after`, of `columns`.
    pub norm_after: Option<NormBuffers<'a>>,
    /// [rows, columns].
    pub y: &'a Buffer,
}

impl<'a> Operands<'a> {
    /// y = x W^T.
    pub fn new(x: &'a Buffer, weight: &'a Buffer, y: &'a Buffer) -> Self {
        Self {
            x,
            index: None,
            norm: None,
            position: None,
            weight,
            bias: None,
            residual: Residual::None,
            norm_after: None,
            y,
        }
    }
}

impl Linear {
    /// A product of these sizes and nothing else: bf16 in and out.
    pub fn plain(rows: usize, columns: usize, inner: usize) -> Self {
        Self {
            rows,
            columns,
            inner,
            gathered: false,
            prologue: Prologue::Plain,
            activation: Activation::None,
            norm_after: None,
            gelu: false,
            output: Output::Bf16,
        }
    }

    /// Launches it with the tile of [`choose`].
    ///
    /// # Errors
    /// Buffers that are missing, not asked for or too small, problems without a tile, and those of [`Runtime::launch`].
    pub fn launch(&self, runtime: &Runtime, operands: &Operands<'_>) -> Result<()> {
        self.launch_tile(choose(self, runtime.driver().limits())?, runtime, operands)
    }

    /// Launches it with this tile.
    ///
    /// # Errors
    /// As [`Linear::launch`]; a tile that cannot do it.
    pub fn launch_tile(&self, tile: Tile, runtime: &Runtime, operands: &Operands<'_>) -> Result<()> {
        let problem = self.about();
        if self.rows == 0 || self.columns == 0 {
            return Ok(());
        }
        let limits = runtime.driver().limits();
        ensure!(
            tile.takes(self, limits.shared_bytes as usize),
            "linear ({problem}): not a problem for {}; take the tile that `choose` names",
            tile.name
        );
        self.check(&problem, operands)?;
        let groups = self.columns.div_ceil(tile.columns).div_ceil(tile.per_block.max(1));
        let blocks = self.rows.div_ceil(tile.rows).saturating_mul(groups);
        let shape = Shape {
            blocks: [super::int(&problem, blocks)?.cast_unsigned(), 1, 1],
            threads: tile.threads() as u32,
            shared_bytes: tile.shared_bytes(self.inner) as u32,
        };
        let arguments = self.arguments(&problem, operands, tile.per_block.max(1))?;
        runtime.launch(tile.name, shape, arguments, &problem, self.work(operands))
    }

    /// Whether the block's rows of x' are made in shared memory.
    fn resident(&self) -> bool {
        self.gathered || self.prologue != Prologue::Plain
    }

    fn about(&self) -> String {
        let mut about = format!("rows {} columns {} inner {}", self.rows, self.columns, self.inner);
        for (is_so, words) in [
            (self.gathered, " gathered"),
            (matches!(self.prologue, Prologue::Norm { .. }), " norm first"),
            (matches!(self.prologue, Prologue::Sum { .. }), " sum first"),
            (self.norm_after.is_some(), " norm after"),
        ] {
            about += if is_so { words } else { "" };
        }
        about
    }

    /// Refuses buffers that are missing, not asked for, or too small.
    fn check(&self, problem: &str, operands: &Operands<'_>) -> Result<()> {
        let (rows, columns, inner) = (self.rows, self.columns, self.inner);
        ensure!(
            columns.max(inner) <= WIDEST,
            "linear ({problem}): the kernels take at most {WIDEST} numbers in a row"
        );
        for (name, given, asked) in [
            ("index", operands.index.is_some(), self.gathered),
            ("norm", operands.norm.is_some(), matches!(self.prologue, Prologue::Norm { .. })),
            (
                "position",
                operands.position.is_some(),
                matches!(self.prologue, Prologue::Sum { .. }),
            ),
            ("norm_after", operands.norm_after.is_some(), self.norm_after.is_some()),
        ] {
            let what = if given {
                "given, but not asked for"
            } else {
                "asked for, but not given"
            };
            ensure!(
                given == asked,
                "linear ({problem}): {name} is {what}; problem and operands must agree"
            );
        }
        ensure!(
            !self.gelu || self.norm_after.is_some(),
            "linear ({problem}): GELU after a norm that is not there; ask for it as the activation"
        );
        let element = match self.output {
            Output::Bf16 => 2,
            Output::F32 => 4,
        };
        let check = |name: &str, buffer: &Buffer, sizes: &[usize]| super::check_bytes(problem, name, buffer, sizes);
        let norm = |name: &str, norm: Option<NormBuffers<'_>>, width: usize| {
            norm.map_or(Ok(()), |norm| {
                check(name, norm.gamma, &[width, 4]).and_then(|()| check(name, norm.beta, &[width, 4]))
            })
        };
        check("weight", operands.weight, &[columns, inner, 2])?;
        check("y", operands.y, &[rows, columns, element])?;
        norm("norm", operands.norm, inner)?;
        norm("norm after", operands.norm_after, columns)?;
        match operands.index {
            Some(index) => check("index", index, &[rows, 4])?,
            None => check("x", operands.x, &[rows, inner, 2])?,
        }
        if let Some(bias) = operands.bias {
            check("bias", bias, &[columns, 4])?;
        }
        if let (Prologue::Sum { rows }, Some(position)) = (self.prologue, operands.position) {
            ensure!(rows > 0, "linear ({problem}): a position without rows");
            check("position", position, &[rows, inner, 2])?;
        }
        match operands.residual {
            Residual::None => Ok(()),
            Residual::Rows(buffer, rows) => {
                ensure!(rows > 0, "linear ({problem}): a residual without rows");
                check("residual", buffer, &[rows, columns, 2])
            }
            Residual::Accumulate => {
                ensure!(
                    self.output == Output::Bf16,
                    "linear ({problem}): f32 is not accumulated; give the old values as residual rows"
                );
                Ok(())
            }
        }
    }

    /// In the order of the kernel's parameters.
    fn arguments(&self, problem: &str, operands: &Operands<'_>, per_block: usize) -> Result<Arguments> {
        let gamma = |norm: Option<NormBuffers<'_>>| norm.map(|norm| norm.gamma.pointer());
        let beta = |norm: Option<NormBuffers<'_>>| norm.map(|norm| norm.beta.pointer());
        let (residual, residual_rows) = match operands.residual {
            Residual::None => (None, 1),
            Residual::Rows(buffer, rows) => (Some(buffer.pointer()), rows),
            Residual::Accumulate => (Some(operands.y.pointer()), self.rows),
        };
        let (position_rows, eps) = match self.prologue {
            Prologue::Plain => (1, 0.0),
            Prologue::Norm { eps } => (1, eps),
            Prologue::Sum { rows } => (rows, 0.0),
        };
        let size = |size| super::int(problem, size);
        Ok(Arguments::new()
            .pointer(operands.x.pointer())
            .optional(operands.index.map(Buffer::pointer))
            .optional(gamma(operands.norm))
            .optional(beta(operands.norm))
            .optional(operands.position.map(Buffer::pointer))
            .pointer(operands.weight.pointer())
            .optional(operands.bias.map(Buffer::pointer))
            .optional(residual)
            .optional(gamma(operands.norm_after))
            .optional(beta(operands.norm_after))
            .pointer(operands.y.pointer())
            .int(size(self.rows)?)
            .int(size(self.columns)?)
            .int(size(self.inner)?)
            .int(size(position_rows)?)
            .int(size(residual_rows)?)
            .int(self.activation as i32)
            .int(i32::from(self.gelu))
            .int(i32::from(self.output == Output::F32))
            .int(size(per_block)?)
            .float(eps)
            .float(self.norm_after.unwrap_or(0.0)))
    }

    fn work(&self, operands: &Operands<'_>) -> Work {
        let (m, n, k) = (self.rows as f64, self.columns as f64, self.inner as f64);
        let added = match operands.residual {
            Residual::None => 0.0,
            Residual::Rows(_, rows) => rows as f64,
            Residual::Accumulate => m,
        };
        let position = if let Prologue::Sum { rows } = self.prologue {
            rows as f64
        } else {
            0.0
        };
        let written = if self.output == Output::F32 { 4.0 } else { 2.0 };
        Work {
            flops: 2.0 * m * n * k,
            bytes: 2.0 * (m * k + n * k + added * n + position * k) + written * m * n,
        }
    }
}
