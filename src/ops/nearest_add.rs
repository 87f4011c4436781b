//! `nearest_add`: y += x enlarged twice by nearest neighbour, the neck's top-down join.
//!
//! Shapes: y [N, 2H, 2W, C], x [N, H, W, C].

use super::Cost;
use crate::cuda::nearest_add as kernel;
use crate::tensor::Tensor;
use anyhow::Result;
use rayon::prelude::*;

/// y[n, i, j] += x[n, i / 2, j / 2].
///
/// # Errors
/// Those of a CUDA device.
pub fn nearest_add(y: &mut Tensor, x: &Tensor) -> Result<()> {
    let &[n, height, width, channels] = x.shape() else {
        panic!("nearest_add: {x:?} is not [N, H, W, C]");
    };
    assert_eq!(y.shape(), [n, 2 * height, 2 * width, channels], "nearest_add: {x:?} into {y:?}");
    if let Some(cuda) = x.device().cuda() {
        let problem = kernel::NearestAdd {
            items: n,
            height,
            width,
            channels,
        };
        return problem.launch(&cuda.runtime, x.buffer(), y.buffer());
    }
    let values = x.values();
    y.values_mut()
        .par_chunks_exact_mut(2 * width * channels)
        .enumerate()
        .for_each(|(row, out)| {
            let source = &values[row / 2 * width * channels..][..width * channels];
            for (j, out) in out.chunks_exact_mut(channels).enumerate() {
                for (a, b) in out.iter_mut().zip(&source[j / 2 * channels..][..channels]) {
                    *a += b;
                }
            }
        });
    Ok(())
}

/// Cost of `pixels` output pixels.
pub fn cost(pixels: usize, c: usize) -> Cost {
    Cost {
        flops: (pixels * c) as f64,
        bytes: 9.0 * (pixels * c) as f64,
    }
}

/// N maps [H, W, C] into [2H, 2W, C].
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Case {
    pub name: &'static str,
    pub items: usize,
    pub size: (usize, usize),
    pub channels: usize,
}

/// The op's table: awkward sizes, then the network's (see [`super::in_network`]).
pub fn cases() -> Vec<Case> {
    [
        ("one", 1, (1, 1), 1),
        ("primes", 2, (3, 5), 7),
        ("vector - 1", 1, (2, 1), 15),
        ("vector + 1", 1, (1, 2), 17),
        ("neck.top", 1, (16, 16), 256),
    ]
    .map(|(name, items, size, channels)| Case {
        name,
        items,
        size,
        channels,
    })
    .to_vec()
}
