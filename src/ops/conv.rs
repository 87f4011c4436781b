//! `conv`: a small square convolution as patch rows times packed weights, with `linear`'s epilogue (bias, residual, LayerNorm, GELU).
//!
//! Shapes: x [N, H, W, C], weight [O, C, k, k] as PyTorch's `nn.Conv2d`, y [N, H', W', O]; zeros outside. The patches are gathered into the product's row buffer and
//! never stored. Serves the patch embedding (7x7 stride 4), the mask downsamplers (3x3 stride 2, 2x2 stride 2, 4x4 stride 4).

use super::Cost;
use super::linear::{Epilogue, Linear};
use crate::cpu::gemm;
use crate::cuda::conv as kernel;
use crate::device::Device;
use crate::tensor::Tensor;
use anyhow::Result;

/// A convolution's weights and geometry.
pub struct Conv {
    linear: Linear,
    kernel: usize,
    stride: usize,
    padding: usize,
    channels: usize,
}

impl Conv {
    /// Packs `weight` [n, channels, kernel, kernel] with `bias` `[n]` or none.
    ///
    /// # Errors
    /// When the device's budget has no room for them.
    pub fn new(
        device: &Device,
        weight: &[f32],
        [n, channels]: [usize; 2],
        [kernel, stride, padding]: [usize; 3],
        bias: Option<&[f32]>,
    ) -> Result<Self> {
        let k = kernel * kernel * channels;
        assert_eq!(
            weight.len(),
            n * k,
            "convolution weights are not [{n}, {channels}, {kernel}, {kernel}]"
        );
        // On a CUDA device rows are whole vectors of 8.
        let row = if device.cuda().is_some() { k.next_multiple_of(8) } else { k };
        let mut rows = vec![0.0; n * row];
        for o in 0..n {
            for c in 0..channels {
                for tap in 0..kernel * kernel {
                    rows[o * row + tap * channels + c] = weight[(o * channels + c) * kernel * kernel + tap];
                }
            }
        }
        Ok(Self {
            linear: Linear::new(device, &rows, n, row, bias)?,
            kernel,
            stride,
            padding,
            channels,
        })
    }
}

/// y = epilogue(conv(x)), a new tensor [N, H', W', O].
///
/// # Errors
/// Those of a CUDA device.
pub fn conv(x: &Tensor, weights: &Conv, epilogue: Epilogue<'_>) -> Result<Tensor> {
    let &[n, height, width, channels] = x.shape() else {
        panic!("conv: {x:?} is not [N, H, W, C]");
    };
    assert_eq!(channels, weights.channels, "conv: {x:?} against {} channels", weights.channels);
    let padded = |side: usize| side + 2 * weights.padding;
    assert!(
        padded(height).min(padded(width)) >= weights.kernel,
        "conv: {x:?} under a window of {}",
        weights.kernel
    );
    let out = |side: usize| (padded(side) - weights.kernel) / weights.stride + 1;
    let (out_h, out_w) = (out(height), out(width));
    let mut y = Tensor::empty(x.device(), &[n, out_h, out_w, weights.linear.n()])?;
    if let Some(cuda) = x.device().cuda() {
        let problem = kernel::Conv {
            items: n,
            height,
            width,
            channels,
            columns: weights.linear.n(),
            side: weights.kernel,
            stride: weights.stride,
            padding: weights.padding,
        };
        let after = match (epilogue.norm, epilogue.residual) {
            (Some(norm), _) => kernel::After::NormGelu {
                gamma: norm.gamma.buffer(),
                beta: norm.beta.buffer(),
                eps: norm.eps,
            },
            (None, Some(rows)) => kernel::After::Rows(rows.buffer(), rows.rows()),
            (None, None) => kernel::After::Nothing,
        };
        let on_device = weights.linear.cuda();
        let bias = on_device.bias.as_ref().map(Tensor::buffer);
        problem.launch(&cuda.runtime, x.buffer(), on_device.weight.buffer(), bias, after, y.buffer())?;
        return Ok(y);
    }
    let patch = gemm::Patch {
        x: x.values(),
        height,
        width,
        channels,
        kernel: weights.kernel,
        stride: weights.stride,
        padding: weights.padding,
    };
    gemm::gemm(
        n * out_h * out_w,
        gemm::Rows::Patch(patch),
        weights.linear.packed(),
        epilogue.cpu(),
        y.values_mut(),
    );
    Ok(y)
}

/// Cost of `pixels` output pixels.
pub fn cost(pixels: usize, n: usize, channels: usize, kernel: usize, stride: usize) -> Cost {
    let k = kernel * kernel * channels;
    let moved = pixels * (stride * stride * channels + n) + n * k;
    Cost {
        flops: 2.0 * (pixels * n * k) as f64,
        bytes: 4.0 * moved as f64,
    }
}

/// N images [H, W, C] to O channels.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Case {
    pub name: &'static str,
    pub items: usize,
    pub size: (usize, usize),
    pub channels: usize,
    pub n: usize,
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
}

/// The op's table: awkward sizes, then the network's (see [`super::in_network`]).
pub fn cases() -> Vec<Case> {
    [
        ("one", 1, (1, 1), 1, 1, 1, 1, 0),
        ("one pixel, all padding around", 1, (1, 1), 3, 5, 3, 1, 1),
        ("primes", 2, (13, 17), 5, 7, 3, 2, 1),
        ("tile - 1", 1, (11, 47), 2, 31, 3, 1, 1),
        ("tile + 1", 1, (7, 7), 3, 33, 2, 1, 0),
        ("window wider than the stride", 1, (19, 23), 1, 9, 7, 4, 3),
        ("stride wider than the window", 2, (9, 10), 3, 4, 1, 3, 0),
        ("hiera.patch_embed", 1, (512, 512), 1, 96, 7, 4, 3),
        ("memory_encoder.mask0", 1, (512, 512), 1, 4, 3, 2, 1),
        ("memory_encoder.mask1", 1, (256, 256), 4, 16, 3, 2, 1),
        ("memory_encoder.mask2", 1, (128, 128), 16, 64, 3, 2, 1),
        ("memory_encoder.mask3", 1, (64, 64), 64, 256, 3, 2, 1),
        ("prompt.mask0", 1, (128, 128), 1, 4, 2, 2, 0),
        ("prompt.mask1", 1, (64, 64), 4, 16, 2, 2, 0),
    ]
    .map(|(name, items, size, channels, n, kernel, stride, padding)| Case {
        name,
        items,
        size,
        channels,
        n,
        kernel,
        stride,
        padding,
    })
    .to_vec()
}
