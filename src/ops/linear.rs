//! `linear`: y = residual + scale * activation(x' W^T + b), with x' = x, LayerNorm(x) or x + position, and LayerNorm (+ GELU) of the finished row if asked.
//!
//! Shapes: x [M, K], W [N, K] as PyTorch's `nn.Linear`, b, scale `[N]`, y [M, N]; all f32, rows contiguous. A 1x1 convolution of channels-last maps is this op.

use super::Cost;
use super::norm::Norm;
use crate::cpu::gemm;
pub use crate::cpu::gemm::Activation;
use crate::cuda::linear as kernel;
use crate::device::Device;
use crate::tensor::{Dtype, Tensor};
use anyhow::Result;

/// Weights of a linear layer: packed for the CPU, or on a CUDA device.
pub struct Linear {
    n: usize,
    k: usize,
    weights: Weights,
}

enum Weights {
    Cpu(gemm::Weights),
    Cuda(CudaWeights),
}

/// W [n, k] as bf16, b `[n]` as f32.
pub(super) struct CudaWeights {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
}

impl Linear {
    /// From `weight` [n, k] with `bias` `[n]` or none.
    ///
    /// # Errors
    /// When the device's budget has no room for them.
    pub fn new(device: &Device, weight: &[f32], n: usize, k: usize, bias: Option<&[f32]>) -> Result<Self> {
        Self::with(device, weight, n, k, bias, None)
    }

    /// The same with a factor per output column (layer scale), applied after bias and activation.
    ///
    /// # Errors
    /// As [`Linear::new`].
    pub fn scaled(device: &Device, weight: &[f32], n: usize, k: usize, bias: Option<&[f32]>, scale: &[f32]) -> Result<Self> {
        Self::with(device, weight, n, k, bias, Some(scale))
    }

    fn with(device: &Device, weight: &[f32], n: usize, k: usize, bias: Option<&[f32]>, scale: Option<&[f32]>) -> Result<Self> {
        let weights = match device.cuda() {
            None => Weights::Cpu(gemm::Weights::new(weight, n, k, bias, scale)),
            Some(_) => Weights::Cuda(CudaWeights::new(device, weight, n, k, bias, scale)?),
        };
        Ok(Self { n, k, weights })
    }

    /// Output width N.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Input width K.
    pub fn k(&self) -> usize {
        self.k
    }

    pub(super) fn packed(&self) -> &gemm::Weights {
        match &self.weights {
            Weights::Cpu(packed) => packed,
            Weights::Cuda(_) => panic!("weights of a CUDA device"),
        }
    }

    pub(super) fn cuda(&self) -> &CudaWeights {
        match &self.weights {
            Weights::Cuda(weights) => weights,
            Weights::Cpu(_) => panic!("weights of the CPU"),
        }
    }
}

impl CudaWeights {
    /// The scale is multiplied into both: on the device it can only follow a product without activation.
    fn new(device: &Device, weight: &[f32], n: usize, k: usize, bias: Option<&[f32]>, scale: Option<&[f32]>) -> Result<Self> {
        let scaled = |values: &[f32], width: usize| -> Vec<f32> {
            let factors = scale.into_iter().flatten().flat_map(|factor| std::iter::repeat_n(*factor, width));
            values.iter().zip(factors).map(|(value, factor)| value * factor).collect()
        };
        let (weight, bias) = match scale {
            None => (weight.to_vec(), bias.map(<[f32]>::to_vec)),
            Some(_) => (scaled(weight, k), bias.map(|bias| scaled(bias, 1))),
        };
        Ok(Self {
            weight: Tensor::from_slice(device, &[n, k], &weight)?,
            bias: bias.map(|bias| Tensor::from_slice_f32(device, &[n], &bias)).transpose()?,
        })
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
    fn tensor(&self) -> &Tensor {
        match self {
            Self::Plain(x) | Self::Norm(x, _) | Self::Sum(x, _) => x,
        }
    }

    fn rows(&self) -> gemm::Rows<'_> {
        match self {
            Self::Plain(x) => gemm::Rows::Plain {
                x: x.values(),
                stride: x.width(),
            },
            Self::Norm(x, norm) => gemm::Rows::Norm {
                x: x.values(),
                gamma: &norm.gamma,
                beta: &norm.beta,
                eps: norm.eps,
            },
            Self::Sum(x, y) => gemm::Rows::Sum {
                x: x.values(),
                y: y.values(),
            },
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
///
/// # Errors
/// Those of a CUDA device.
pub fn linear(input: Input<'_>, weights: &Linear, epilogue: Epilogue<'_>, y: &mut Tensor) -> Result<()> {
    let x = input.tensor();
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
    match &weights.weights {
        Weights::Cpu(packed) => gemm::gemm(x.rows(), input.rows(), packed, epilogue.cpu(), y.values_mut()),
        Weights::Cuda(on_device) => return launch(input, weights, on_device, epilogue, y),
    }
    Ok(())
}

fn launch(input: Input<'_>, weights: &Linear, on_device: &CudaWeights, epilogue: Epilogue<'_>, y: &Tensor) -> Result<()> {
    let x = input.tensor();
    let Some(cuda) = x.device().cuda() else {
        panic!("linear: {x:?} is not on the weights' device")
    };
    let (prologue, norm, position) = match input {
        Input::Plain(_) => (kernel::Prologue::Plain, None, None),
        Input::Norm(_, norm) => (kernel::Prologue::Norm { eps: norm.eps }, Some(norm), None),
        Input::Sum(_, position) => (kernel::Prologue::Sum { rows: position.rows() }, None, Some(position)),
    };
    let problem = kernel::Linear {
        prologue,
        activation: match epilogue.activation {
            Activation::None => kernel::Activation::None,
            Activation::Relu => kernel::Activation::Relu,
            Activation::Gelu => kernel::Activation::Gelu,
        },
        norm_after: epilogue.norm.map(|norm| norm.eps),
        gelu: epilogue.gelu,
        output: match y.dtype() {
            Dtype::Bf16 => kernel::Output::Bf16,
            Dtype::F32 => kernel::Output::F32,
        },
        ..kernel::Linear::plain(x.rows(), weights.n, weights.k)
    };
    let operands = kernel::Operands {
        norm: norm.map(buffers),
        position: position.map(Tensor::buffer),
        bias: on_device.bias.as_ref().map(Tensor::buffer),
        residual: match epilogue.residual {
            _ if epilogue.accumulate => kernel::Residual::Accumulate,
            Some(rows) => kernel::Residual::Rows(rows.buffer(), rows.rows()),
            None => kernel::Residual::None,
        },
        norm_after: epilogue.norm.map(buffers),
        ..kernel::Operands::new(x.buffer(), on_device.weight.buffer(), y.buffer())
    };
    problem.launch(&cuda.runtime, &operands)
}

fn buffers(norm: &Norm) -> kernel::NormBuffers<'_> {
    kernel::NormBuffers {
        gamma: norm.gamma.buffer(),
        beta: norm.beta.buffer(),
    }
}

/// A new tensor of the input's leading shape: see [`linear`].
///
/// # Errors
/// When the device's budget has no room for it; as [`linear`].
pub fn linear_new(input: Input<'_>, weights: &Linear, epilogue: Epilogue<'_>) -> Result<Tensor> {
    linear_of(input, weights, epilogue, Dtype::Bf16)
}

/// A new tensor whose values stay f32 on every device: for scores.
///
/// # Errors
/// As [`linear_new`].
pub fn linear_f32(input: Input<'_>, weights: &Linear, epilogue: Epilogue<'_>) -> Result<Tensor> {
    linear_of(input, weights, epilogue, Dtype::F32)
}

fn linear_of(input: Input<'_>, weights: &Linear, epilogue: Epilogue<'_>, dtype: Dtype) -> Result<Tensor> {
    let mut shape = input.tensor().shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = weights.n();
    }
    let mut y = Tensor::of(input.tensor().device(), &shape, dtype)?;
    linear(input, weights, epilogue, &mut y)?;
    Ok(y)
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
        ("hiera.stage2.contract", 4096, 192, 768),
        ("hiera.stage3.qkv", 1024, 1152, 384),
        ("hiera.stage3.expand", 1024, 1536, 384),
        ("hiera.stage3.contract", 1024, 384, 1536),
        ("hiera.stage4.contract", 256, 768, 3072),
        ("memory_attention.expand", 5120, 2048, 256),
        ("memory_attention.contract", 5120, 256, 2048),
        ("memory_attention.out", 5120, 256, 256),
        ("decoder.tokens", 40, 256, 256),
    ]
    .map(|(name, m, n, k)| Case { name, m, n, k })
    .to_vec()
}
