//! `nearest_add`: y += x enlarged twice by nearest neighbour, the neck's top-down join.
//!
//! Shapes: y [N, 2H, 2W, C], x [N, H, W, C].

use super::Cost;
use crate::tensor::Tensor;
use rayon::prelude::*;

/// y[n, i, j] += x[n, i / 2, j / 2].
pub fn nearest_add(y: &mut Tensor, x: &Tensor) {
    let &[n, height, width, channels] = x.shape() else {
        panic!("nearest_add: {x:?} is not [N, H, W, C]");
    };
    assert_eq!(y.shape(), [n, 2 * height, 2 * width, channels], "nearest_add: {x:?} into {y:?}");
    let values = x.values();
    y.values_mut().par_chunks_exact_mut(2 * width * channels).enumerate().for_each(|(row, out)| {
        let source = &values[row / 2 * width * channels..][..width * channels];
        for (j, out) in out.chunks_exact_mut(channels).enumerate() {
            for (a, b) in out.iter_mut().zip(&source[j / 2 * channels..][..channels]) {
                *a += b;
            }
        }
    });
}

/// Cost of `pixels` output pixels.
pub fn cost(pixels: usize, c: usize) -> Cost {
    Cost { flops: (pixels * c) as f64, bytes: 9.0 * (pixels * c) as f64 }
}
