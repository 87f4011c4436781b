//! `max_pool`: 2x2 maximum with stride 2 over some columns of a map.
//!
//! Shapes: x [N, H, W, C], columns from .. from + n, y [N, H / 2, W / 2, n]; H and W even. Source: Hiera's query pooling.

use super::Cost;
use crate::cuda::max_pool as kernel;
use crate::tensor::Tensor;
use anyhow::Result;
use rayon::prelude::*;

/// y = the maximum over each 2x2 cell of columns `from .. from + n` of x.
///
/// # Errors
/// Those of a CUDA device.
pub fn max_pool(x: &Tensor, from: usize, n: usize) -> Result<Tensor> {
    let &[items, height, width, channels] = x.shape() else {
        panic!("max_pool: {x:?} is not [N, H, W, C]");
    };
    assert!(
        height % 2 == 0 && width % 2 == 0 && from + n <= channels,
        "max_pool: columns {from} + {n} of {x:?}"
    );
    let mut y = Tensor::empty(x.device(), &[items, height / 2, width / 2, n])?;
    if let Some(cuda) = x.device().cuda() {
        let problem = kernel::MaxPool {
            items,
            height,
            width,
            channels,
            from,
            taken: n,
        };
        problem.launch(&cuda.runtime, x.buffer(), y.buffer())?;
        return Ok(y);
    }
    let values = x.values();
    y.values_mut()
        .par_chunks_exact_mut(width / 2 * n)
        .enumerate()
        .for_each(|(row, out)| {
            let top = row * 2 * width * channels;
            for (ox, out) in out.chunks_exact_mut(n).enumerate() {
                let at = |dy: usize, dx: usize| &values[top + (dy * width + 2 * ox + dx) * channels + from..][..n];
                let (a, b, c, d) = (at(0, 0), at(0, 1), at(1, 0), at(1, 1));
                for i in 0..n {
                    out[i] = a[i].max(b[i]).max(c[i].max(d[i]));
                }
            }
        });
    Ok(y)
}

/// Cost of `pixels` output pixels of n channels.
pub fn cost(pixels: usize, n: usize) -> Cost {
    Cost {
        flops: 3.0 * (pixels * n) as f64,
        bytes: 20.0 * (pixels * n) as f64,
    }
}

/// Columns from .. from + n of N maps [H, W, C].
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Case {
    pub name: &'static str,
    pub items: usize,
    pub size: (usize, usize),
    pub channels: usize,
    pub from: usize,
    pub n: usize,
}

/// The op's table: awkward sizes, then the network's (see [`super::in_network`]).
pub fn cases() -> Vec<Case> {
    [
        ("one cell", 1, (2, 2), 1, 0, 1),
        ("primes", 2, (6, 10), 13, 5, 7),
        ("vector - 1", 1, (4, 2), 15, 0, 15),
        ("vector + 1", 1, (2, 4), 18, 1, 17),
        ("hiera.block1.q", 1, (128, 128), 768, 0, 192),
        ("hiera.block1.shortcut", 1, (128, 128), 768, 576, 192),
    ]
    .map(|(name, items, size, channels, from, n)| Case {
        name,
        items,
        size,
        channels,
        from,
        n,
    })
    .to_vec()
}
