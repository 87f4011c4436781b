//! `residual`: the end of a residual block, where what went through the convolutions and what went past them meet.
//!
//! Formula: y = lrelu(a + b), lrelu(v) = v > 0 ? v : 0.01 v. Shapes: a, b, y [N, D, H, W, C]. Saved: y, whose sign is that of a + b. Gradient: d_a = d_b = d_y lrelu'. Source: nnU-Net's
//! ResidualEncoderUNet.

use super::Cost;
use super::conv3d::Channels;
use super::instance_norm::SLOPE;
use crate::tensor::Tensor;
use anyhow::Result;
use rayon::prelude::*;

/// Values that a task has.
const BLOCK: usize = 1 << 14;

/// Makes a to y.
pub fn residual(a: &mut Tensor, b: &Tensor) {
    assert_eq!(a.shape(), b.shape(), "residual: {a:?} and {b:?}");
    let blocks = a.values_mut().par_chunks_mut(BLOCK).zip(b.values().par_chunks(BLOCK));
    blocks.for_each(|(a, b)| {
        for (a, b) in a.iter_mut().zip(b) {
            let v = *a + b;
            *a = if v > 0.0 { v } else { SLOPE * v };
        }
    });
}

/// d_a, a new tensor, given the gradients of y from each of its users, which are added up.
///
/// # Errors
/// When the device's budget has no room for it.
pub fn residual_backward(y: &Tensor, users: &[Channels<'_>]) -> Result<Tensor> {
    let c = y.width();
    assert!(
        !users.is_empty() && users.iter().all(|user| user.count == c && user.tensor.rows() == y.rows()),
        "residual: gradients of other sizes than {y:?}"
    );
    let mut d = Tensor::empty(y.device(), y.shape())?;
    let voxels = (BLOCK / c).max(1);
    let blocks = d
        .values_mut()
        .par_chunks_mut(voxels * c)
        .zip(y.values().par_chunks(voxels * c))
        .enumerate();
    blocks.for_each(|(block, (out, y))| {
        for (at, (out, y)) in out.chunks_exact_mut(c).zip(y.chunks_exact(c)).enumerate() {
            out.fill(0.0);
            for user in users {
                let from = &user.tensor.values()[(block * voxels + at) * user.tensor.width() + user.first..][..c];
                out.iter_mut().zip(from).for_each(|(sum, d)| *sum += d);
            }
            for (d, y) in out.iter_mut().zip(y) {
                *d *= if *y > 0.0 { 1.0 } else { SLOPE };
            }
        }
    });
    Ok(d)
}

/// Cost of either, for so many values.
pub fn cost(values: usize) -> Cost {
    Cost {
        flops: 2.0 * values as f64,
        bytes: 12.0 * values as f64,
    }
}

/// N volumes of `size` voxels and C channels; a second user has others before them.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Case {
    pub name: &'static str,
    pub items: usize,
    pub size: [usize; 3],
    pub channels: usize,
    pub before: usize,
}

/// The op's table: awkward sizes.
pub fn cases() -> Vec<Case> {
    [
        ("one", 1, [1, 1, 1], 1, 0),
        ("primes", 2, [3, 5, 7], 5, 3),
        ("a block and a tail", 1, [7, 17, 19], 11, 1),
        ("wide", 1, [1, 2, 3], 70, 33),
    ]
    .map(|(name, items, size, channels, before)| Case {
        name,
        items,
        size,
        channels,
        before,
    })
    .to_vec()
}
