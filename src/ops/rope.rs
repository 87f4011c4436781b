//! `rope`: axial rotary position, in place: pairs (2i, 2i + 1) of a row at (x, y) turn by x theta^(-4i / D) in the first half of the pairs, by y in the second.
//!
//! Shapes: x [items * height * width, ..], columns from .. from + D. Source: SAM 2's RoPEAttention (theta 10000).

use super::Cost;
use crate::cuda::rope as kernel;
use crate::device::Device;
use crate::tensor::{Parameter, Tensor};
use anyhow::Result;
use rayon::prelude::*;

/// Cosines and sines of a D-wide rotation on a grid.
pub struct Rope {
    /// Width of what is turned, D.
    pub width: usize,
    /// Grid (height, width).
    pub grid: (usize, usize),
    /// [longest side, D / 4].
    pub cos: Parameter,
    /// [longest side, D / 4].
    pub sin: Parameter,
}

impl Rope {
    /// Tables for D-wide rows on a grid; D divisible by 4.
    ///
    /// # Errors
    /// When the device's budget has no room for them.
    pub fn new(device: &Device, width: usize, grid: (usize, usize), theta: f64) -> Result<Self> {
        let quarter = width / 4;
        let side = grid.0.max(grid.1);
        let (mut cos, mut sin) = (Vec::with_capacity(side * quarter), Vec::with_capacity(side * quarter));
        for coordinate in 0..side {
            for i in 0..quarter {
                // Frequency and angle in f32, as the reference rounds them.
                let frequency = 1.0 / (theta as f32).powf((4 * i) as f32 / width as f32);
                let angle = coordinate as f32 * frequency;
                cos.push(angle.cos());
                sin.push(angle.sin());
            }
        }
        Ok(Self {
            width,
            grid,
            cos: Parameter::new(device, cos)?,
            sin: Parameter::new(device, sin)?,
        })
    }
}

/// Turns columns `from .. from + D` of every row by the row's position.
///
/// # Errors
/// Those of a CUDA device.
pub fn rope(x: &mut Tensor, from: usize, rope: &Rope) -> Result<()> {
    let (height, width) = rope.grid;
    let channels = x.width();
    assert!(
        x.rows().is_multiple_of(height * width) && from + rope.width <= channels,
        "rope: {x:?} on a {height} x {width} grid"
    );
    if let Some(cuda) = x.device().cuda() {
        let problem = kernel::Rope {
            items: x.rows() / (height * width),
            height,
            width,
            channels,
            from,
            turned: rope.width,
            at: 0,
        };
        return problem.launch(&cuda.runtime, x.buffer(), rope.cos.buffer(), rope.sin.buffer());
    }
    let quarter = rope.width / 4;
    x.values_mut()
        .par_chunks_exact_mut(channels)
        .with_min_len(64)
        .enumerate()
        .for_each(|(row, values)| {
            let (y, x) = (row / width % height, row % width);
            let (first, second) = values[from..from + rope.width].split_at_mut(2 * quarter);
            for (half, coordinate) in [(first, x), (second, y)] {
                let (cos, sin) = (
                    &rope.cos[coordinate * quarter..][..quarter],
                    &rope.sin[coordinate * quarter..][..quarter],
                );
                for (i, pair) in half.chunks_exact_mut(2).enumerate() {
                    let (a, b) = (pair[0], pair[1]);
                    pair[0] = a * cos[i] - b * sin[i];
                    pair[1] = a * sin[i] + b * cos[i];
                }
            }
        });
    Ok(())
}

/// Cost of M rows of D.
pub fn cost(m: usize, d: usize) -> Cost {
    Cost {
        flops: 3.0 * (m * d) as f64,
        bytes: 8.0 * (m * d) as f64,
    }
}

/// `items` grids of rows of C, of which D columns turn.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Case {
    pub name: &'static str,
    pub items: usize,
    pub grid: (usize, usize),
    pub channels: usize,
    pub from: usize,
    pub width: usize,
}

/// The op's table: awkward sizes, then the network's (see [`super::in_network`]).
pub fn cases() -> Vec<Case> {
    [
        ("one", 1, (1, 1), 4, 0, 4),
        ("primes", 2, (5, 7), 13, 1, 12),
        ("wide", 1, (3, 67), 8, 0, 8),
        ("tall", 1, (67, 1), 12, 4, 8),
        ("memory_attention.q", 5, (32, 32), 768, 0, 256),
        ("memory_attention.k", 5, (32, 32), 768, 256, 256),
    ]
    .map(|(name, items, grid, channels, from, width)| Case {
        name,
        items,
        grid,
        channels,
        from,
        width,
    })
    .to_vec()
}
