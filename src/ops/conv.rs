//! `conv`: a small square convolution as patch rows times packed weights, with `linear`'s epilogue (bias, residual, LayerNorm, GELU).
//!
//! Shapes: x [N, H, W, C], weight [O, C, k, k] as PyTorch's `nn.Conv2d`, y [N, H', W', O]; zeros outside. The patches are gathered into the product's row buffer and
//! never stored. Serves the patch embedding (7x7 stride 4), the mask downsamplers (3x3 stride 2, 2x2 stride 2, 4x4 stride 4).

use super::Cost;
use super::linear::{Epilogue, Linear};
use crate::cpu::gemm;
use crate::tensor::Tensor;

/// A convolution's weights and geometry.
pub struct Conv {
    linear: Linear,
    kernel: usize,
    stride: usize,
    padding: usize,
    channels: usize,
}

impl Conv {
    /// Packs `weight` [n, channels, kernel, kernel] with `bias` [n] or none.
    pub fn new(weight: &[f32], n: usize, channels: usize, kernel: usize, stride: usize, padding: usize, bias: Option<&[f32]>) -> Self {
        let k = kernel * kernel * channels;
        assert_eq!(weight.len(), n * k, "convolution weights are not [{n}, {channels}, {kernel}, {kernel}]");
        let mut rows = vec![0.0; n * k];
        for o in 0..n {
            for c in 0..channels {
                for tap in 0..kernel * kernel {
                    rows[o * k + tap * channels + c] = weight[(o * channels + c) * kernel * kernel + tap];
                }
            }
        }
        Self { linear: Linear::new(&rows, n, k, bias), kernel, stride, padding, channels }
    }
}

/// y = epilogue(conv(x)), a new tensor [N, H', W', O].
pub fn conv(x: &Tensor, weights: &Conv, epilogue: Epilogue<'_>) -> Tensor {
    let &[n, height, width, channels] = x.shape() else {
        panic!("conv: {x:?} is not [N, H, W, C]");
    };
    assert_eq!(channels, weights.channels, "conv: {x:?} against {} channels", weights.channels);
    let patch =
        gemm::Patch { x: x.values(), height, width, channels, kernel: weights.kernel, stride: weights.stride, padding: weights.padding };
    let (out_h, out_w) = patch.out_size();
    let mut y = Tensor::empty(x.device(), &[n, out_h, out_w, weights.linear.n()]);
    gemm::gemm(n * out_h * out_w, gemm::Rows::Patch(patch), weights.linear.packed(), epilogue.cpu(), y.values_mut());
    y
}

/// Cost of `pixels` output pixels.
pub fn cost(pixels: usize, n: usize, channels: usize, kernel: usize, stride: usize) -> Cost {
    let k = kernel * kernel * channels;
    let moved = pixels * (stride * stride * channels + n) + n * k;
    Cost { flops: 2.0 * (pixels * n * k) as f64, bytes: 4.0 * moved as f64 }
}
