//! `linear`: y = residual + scale * activation(x' W^T + b), with x' = x, LayerNorm(x) or x + position, and LayerNorm (+ GELU) of the finished row if asked.
//!
//! Shapes: x [M, K], W [N, K] as PyTorch's `nn.Linear`, b, scale `[N]`, y [M, N]; all f32, rows contiguous. A 1x1 convolution of channels-last maps is this op.

use super::Cost;
use super::norm::Norm;
use crate::cpu::gemm;
pub use crate::cpu::gemm::Activation;
use crate::tensor::Tensor;

/// Packed weights of a linear layer.
pub struct Linear(gemm::Weights);

impl Linear {
    /// Packs `weight` [n, k] with `bias` `[n]` or none.
    pub fn new(weight: &[f32], n: usize, k: usize, bias: Option<&[f32]>) -> Self {
        Self(gemm::Weights::new(weight, n, k, bias, None))
    }

    /// The same with a factor per output column (layer scale), applied after bias and activation.
    pub fn scaled(weight: &[f32], n: usize, k: usize, bias: Option<&[f32]>, scale: &[f32]) -> Self {
        Self(gemm::Weights::new(weight, n, k, bias, Some(scale)))
    }

    /// Output width N.
    pub fn n(&self) -> usize {
        self.0.n()
    }

    /// Input width K.
    pub fn k(&self) -> usize {
        self.0.k()
    }

    pub(super) fn packed(&self) -> &gemm::Weights {
        &self.0
    }
}

/// What the rows are multiplied as.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub enum Input<'a> {
    Plain(&'a Tensor),
    /// LayerNorm of each row first.
    Norm(&'a Tensor, &'a Norm),
    /// x`[r]` + y[r mod rows of y] first (a position shared by all items of a batch).
    Sum(&'a Tensor, &'a Tensor),
}

impl Input<'_> {
    fn rows(&self) -> (&Tensor, gemm::Rows<'_>) {
        match self {
            Self::Plain(x) => (
                x,
                gemm::Rows::Plain {
                    x: x.values(),
                    stride: x.width(),
                },
            ),
            Self::Norm(x, norm) => (
                x,
                gemm::Rows::Norm {
                    x: x.values(),
                    gamma: &norm.gamma,
                    beta: &norm.beta,
                    eps: norm.eps,
                },
            ),
            Self::Sum(x, y) => (
                x,
                gemm::Rows::Sum {
                    x: x.values(),
                    y: y.values(),
                },
            ),
        }
    }
}

/// What follows the product and bias.
#[derive(Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// Applied first.
    pub activation: Activation,
    /// Added then: row r mod its number of rows.
    pub residual: Option<&'a Tensor>,
    /// Instead: added to what the output holds.
    pub accumulate: bool,
    /// LayerNorm of the finished row.
    pub norm: Option<&'a Norm>,
    /// GELU after it.
    pub gelu: bool,
}

impl Epilogue<'_> {
    /// Nothing but the bias.
    pub const NONE: Self = Epilogue {
        activation: Activation::None,
        residual: None,
        accumulate: false,
        norm: None,
        gelu: false,
    };

    /// Adds to the output's old content.
    pub const ACCUMULATE: Self = Epilogue {
        accumulate: true,
        ..Self::NONE
    };

    /// An activation.
    pub const fn activation(activation: Activation) -> Self {
        Epilogue { activation, ..Self::NONE }
    }

    pub(super) fn cpu(&self) -> gemm::Epilogue<'_> {
        gemm::Epilogue {
            activation: self.activation,
            residual: self.residual.map(Tensor::values),
            accumulate: self.accumulate,
            norm: self.norm.map(|n| (&n.gamma[..], &n.beta[..], n.eps)),
            gelu_after_norm: self.gelu,
        }
    }
}

/// y = epilogue(input W^T + b); `y` has as many rows as the input and N columns.
pub fn linear(input: Input<'_>, weights: &Linear, epilogue: Epilogue<'_>, y: &mut Tensor) {
    let (x, rows) = input.rows();
    assert_eq!(
        x.width(),
        weights.k(),
        "linear: rows of {:?} against weights of inner length {}",
        x,
        weights.k()
    );
    assert_eq!(
        (y.rows(), y.width()),
        (x.rows(), weights.n()),
        "linear: output {y:?} for input {x:?}"
    );
    if let Some(residual) = epilogue.residual {
        assert!(
            residual.width() == weights.n() && residual.rows() > 0,
            "linear: residual {residual:?} for output {y:?}"
        );
    }
    if let Input::Sum(_, position) = input {
        assert!(
            position.width() == weights.k() && position.rows() > 0,
            "linear: {x:?} plus {position:?}"
        );
    }
    gemm::gemm(x.rows(), rows, &weights.0, epilogue.cpu(), y.values_mut());
}

/// A new tensor of the input's leading shape: see [`linear`].
pub fn linear_new(input: Input<'_>, weights: &Linear, epilogue: Epilogue<'_>) -> Tensor {
    let (x, _) = input.rows();
    let mut shape = x.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = weights.n();
    }
    let mut y = Tensor::empty(x.device(), &shape);
    linear(input, weights, epilogue, &mut y);
    y
}

/// Cost for M rows.
pub fn cost(m: usize, n: usize, k: usize) -> Cost {
    let (m, n, k) = (m as f64, n as f64, k as f64);
    Cost {
        flops: 2.0 * m * n * k,
        bytes: 4.0 * (m * k + n * k + m * n),
    }
}

/// M rows of K to N.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Case {
    pub name: &'static str,
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// The op's table: awkward sizes, then the network's (see [`super::in_network`]).
pub fn cases() -> Vec<Case> {
    [
        ("one", 1, 1, 1),
        ("primes", 53, 37, 17),
        ("tile - 1", 11, 31, 15),
        ("tile + 1", 13, 33, 17),
        ("block - 1", 47, 63, 31),
        ("block + 1", 49, 65, 33),
        ("few rows", 3, 515, 129),
        ("hiera.stage1.qkv", 16384, 288, 96),
        ("hiera.stage1.expand", 16384, 384, 96),
        ("hiera.stage1.contract", 16384, 96, 384),
        ("hiera.stage3.expand", 1024, 1536, 384),
        ("hiera.stage4.contract", 256, 768, 3072),
        ("memory_attention.expand", 5120, 2048, 256),
        ("decoder.tokens", 40, 256, 256),
    ]
    .map(|(name, m, n, k)| Case { name, m, n, k })
    .to_vec()
}
