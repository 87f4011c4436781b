//! `average_pool`: the mean over cells of a volume, and its gradient.
//!
//! Shapes: x [N, D, H, W, C], stride (sd, sh, sw) of 1 or 2 that divides the sizes, y [N, D / sd, H / sh, W / sw, C]. Nothing is saved: d_x = d_y / (sd sh sw). Source: the skip
//! connections of nnU-Net's ResidualEncoderUNet (PyTorch's `AvgPool3d(stride, stride)`).

use super::Cost;
use super::conv3d::sizes;
use crate::tensor::Tensor;
use anyhow::Result;
use rayon::prelude::*;

/// y, a new tensor.
///
/// # Errors
/// When the device's budget has no room for it.
pub fn average_pool(x: &Tensor, stride: [usize; 3]) -> Result<Tensor> {
    let (n, size, c) = sizes(x);
    assert!(
        (0..3).all(|axis| size[axis].is_multiple_of(stride[axis])),
        "average_pool: {x:?} by {stride:?}"
    );
    let [d, h, w]: [usize; 3] = std::array::from_fn(|axis| size[axis] / stride[axis]);
    let mut y = Tensor::empty(x.device(), &[n, d, h, w, c])?;
    let share = 1.0 / stride.iter().product::<usize>() as f32;
    let values = x.values();
    y.values_mut().par_chunks_exact_mut(w * c).enumerate().for_each(|(row, out)| {
        let (item, z, y) = (row / (d * h), row / h % d, row % h);
        out.fill(0.0);
        for (dz, dy) in (0..stride[0]).flat_map(|dz| (0..stride[1]).map(move |dy| (dz, dy))) {
            let line = (item * size[0] + z * stride[0] + dz) * size[1] + y * stride[1] + dy;
            let cells = values[line * size[2] * c..][..size[2] * c].chunks_exact(stride[2] * c);
            for (out, cell) in out.chunks_exact_mut(c).zip(cells) {
                for voxel in cell.chunks_exact(c) {
                    out.iter_mut().zip(voxel).for_each(|(sum, v)| *sum += share * v);
                }
            }
        }
    });
    Ok(y)
}

/// d_x, a new tensor of `stride` times the sizes of d_y.
///
/// # Errors
/// When the device's budget has no room for it.
pub fn average_pool_backward(d_y: &Tensor, stride: [usize; 3]) -> Result<Tensor> {
    let (n, size, c) = sizes(d_y);
    let [d, h, w]: [usize; 3] = std::array::from_fn(|axis| size[axis] * stride[axis]);
    let mut d_x = Tensor::empty(d_y.device(), &[n, d, h, w, c])?;
    let share = 1.0 / stride.iter().product::<usize>() as f32;
    let values = d_y.values();
    d_x.values_mut().par_chunks_exact_mut(w * c).enumerate().for_each(|(row, out)| {
        let (item, z, y) = (row / (d * h), row / h % d, row % h);
        let line = (item * size[0] + z / stride[0]) * size[1] + y / stride[1];
        for (x, out) in out.chunks_exact_mut(c).enumerate() {
            let from = &values[(line * size[2] + x / stride[2]) * c..][..c];
            out.iter_mut().zip(from).for_each(|(d, v)| *d = share * v);
        }
    });
    Ok(d_x)
}

/// Cost for `voxels` voxels of x and C channels.
pub fn cost(voxels: usize, channels: usize, stride: [usize; 3]) -> Cost {
    let values = (voxels * channels) as f64;
    Cost {
        flops: values,
        bytes: 4.0 * values * (1.0 + 1.0 / stride.iter().product::<usize>() as f64),
    }
}

/// N volumes of `size` voxels of y and C channels.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Case {
    pub name: &'static str,
    pub items: usize,
    pub size: [usize; 3],
    pub channels: usize,
    pub stride: [usize; 3],
}

/// The op's table: awkward sizes.
pub fn cases() -> Vec<Case> {
    [
        ("one", 1, [1, 1, 1], 1, [2, 2, 2]),
        ("primes", 2, [3, 5, 7], 5, [2, 2, 2]),
        ("in-plane", 1, [3, 2, 4], 33, [1, 2, 2]),
        ("one axis", 2, [2, 3, 5], 8, [2, 1, 1]),
    ]
    .map(|(name, items, size, channels, stride)| Case {
        name,
        items,
        size,
        channels,
        stride,
    })
    .to_vec()
}
