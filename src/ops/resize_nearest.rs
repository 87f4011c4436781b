//! Nearest-neighbour resize of a plane of labels, as PyTorch's "legacy" `F.interpolate(mode="nearest")` computes it.
//!
//! Contract, per axis of n_in samples to n_out: source index min(floor(i s), n_in - 1) with s = f32(n_in) / f32(n_out) and the product in
//! f32; i >> 1 when n_out = 2 n_in; i when the sizes are equal. So it differs from exact arithmetic in places (208 to 176: nine).
//! Planes are `[H, W]`, row by row, of any type. Source: PyTorch's documentation and behaviour.

use super::Cost;
use anyhow::{Result, ensure};

use super::resize::check_sizes;

/// Nearest-neighbour resize of label planes, for any number of planes.
#[derive(Debug, Clone)]
pub struct NearestPlan {
    input: (usize, usize),
    y: Vec<u32>, // [h] source rows
    x: Vec<u32>, // [w] source columns
}

impl NearestPlan {
    /// From `input` = (H, W) to `output` = (h, w).
    ///
    /// # Errors
    /// A size of zero, or above 2^24 (beyond which f32 cannot count pixels).
    pub fn new(input: (usize, usize), output: (usize, usize)) -> Result<Self> {
        check_sizes(input, output)?;
        Ok(Self {
            input,
            y: nearest_indices(input.0, output.0),
            x: nearest_indices(input.1, output.1),
        })
    }

    /// (h, w) of the planes it makes.
    pub fn output(&self) -> (usize, usize) {
        (self.y.len(), self.x.len())
    }

    /// Resizes `src` `[H, W]` into `out` `[h, w]`.
    ///
    /// # Errors
    /// A slice of another size.
    pub fn resize<T: Copy>(&self, src: &[T], out: &mut [T]) -> Result<()> {
        let (height, width) = self.input;
        ensure!(
            src.len() == height * width,
            "nearest resize: {} values for a plane of {:?}",
            src.len(),
            self.input
        );
        ensure!(
            out.len() == self.y.len() * self.x.len(),
            "nearest resize: room for {} values, need {:?}",
            out.len(),
            self.output()
        );
        for (out_row, &y) in out.chunks_exact_mut(self.x.len()).zip(&self.y) {
            let row = &src[y as usize * width..][..width];
            for (value, &x) in out_row.iter_mut().zip(&self.x) {
                *value = row[x as usize];
            }
        }
        Ok(())
    }

    /// Cost of one plane of values of `size` bytes: no arithmetic, every output read once and written once.
    pub fn cost(&self, size: usize) -> Cost {
        Cost {
            flops: 0.0,
            bytes: 2.0 * (self.y.len() * self.x.len() * size) as f64,
        }
    }
}

fn nearest_indices(input: usize, output: usize) -> Vec<u32> {
    let scale = input as f32 / output as f32;
    let index = |i: usize| {
        if output == input {
            i
        } else if output == 2 * input {
            i >> 1
        } else {
            ((i as f32 * scale).floor() as usize).min(input - 1)
        }
    };
    (0..output).map(|i| index(i) as u32).collect()
}

/// A plane of one size to another.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Case {
    pub name: &'static str,
    pub input: (usize, usize),
    pub output: (usize, usize),
}

/// The op's table: awkward sizes, then the network's (see [`super::in_network`]).
pub fn cases() -> Vec<Case> {
    [
        ("from one", (1, 1), (5, 7)),
        ("to one", (7, 5), (1, 1)),
        ("doubling one axis", (3, 5), (6, 7)),
        ("primes", (97, 13), (1021, 11)),
        ("a copy", (6, 7), (6, 7)),
        ("tffs.labels", (208, 176), (512, 512)),
        ("tffs.masks", (512, 512), (208, 176)),
    ]
    .map(|(name, input, output)| Case { name, input, output })
    .to_vec()
}
