//! A layer's key projection on the device, as the kernels want it.

use super::super::arena::{Arena, Buffer};
use super::{Path, choose};
use anyhow::{Result, ensure};
use half::f16;

/// Rows of a half of the weights for the tensor cores: M, the bias, zeros; WEIGHT_ROWS in kernels/memory_attention_tables.cu.
const WEIGHT_ROWS: usize = 80;

/// A layer's key projection, rotation and the tokens' positions.
pub struct KeyTables {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) d: usize,
    pub(super) m: usize,
    pub(super) times: usize,
    pub(super) path: Path,
    /// [2, rows, D / 2]: of each half W^T, then the bias; f16 for the tensor cores, else f32.
    pub(super) weight: Buffer,
    /// [longest side, D / 4, 2] f32: cosine and sine.
    pub(super) turns: Buffer,
    /// [T, P, M]: temporal plus spatial position; f16 for the tensor cores, else f32.
    pub(super) places: Buffer,
}

impl KeyTables {
    /// `weight` [D, M] and `bias` `[D]` of the key projection, `times` [T, M] the temporal positions, `position` [P, M] the spatial ones on a (height, width) grid,
    /// `cos` and `sin` [longest side, D / 4] of the rotation.
    ///
    /// # Errors
    /// Sizes that do not belong together, a rotation that turns at coordinate 0, a full arena.
    pub fn new(
        arena: &Arena,
        weight: &[f32],
        bias: &[f32],
        times: &[f32],
        position: &[f32],
        (height, width): (usize, usize),
        [cos, sin]: [&[f32]; 2],
    ) -> Result<Self> {
        let d = bias.len();
        let m = weight.len() / d.max(1);
        ensure!(
            d > 0 && d.is_multiple_of(4) && m > 0 && weight.len() == d * m && times.len().is_multiple_of(m),
            "memory_attention: {} weights, {d} biases, {} temporal positions",
            weight.len(),
            times.len()
        );
        let turns = height.max(width) * d / 4;
        ensure!(
            position.len() == height * width * m && cos.len() == turns && sin.len() == turns,
            "memory_attention: {} positions and {} turns on a grid of {height} x {width}",
            position.len(),
            cos.len()
        );
        // Pointers, which are not turned, are taken to stand there.
        ensure!(
            cos.iter().zip(sin).take(d / 4).all(|turn| turn == (&1.0, &0.0)),
            "memory_attention: the rotation must not turn at coordinate 0"
        );
        let path = choose(d, m, arena.limits().shared_bytes);
        let rows = if path == Path::Any { m + 1 } else { WEIGHT_ROWS };
        let mut weights = vec![0.0; 2 * rows * d / 2];
        for (index, value) in weights.iter_mut().enumerate() {
            let (half, row, e) = (index / (rows * d / 2), index / (d / 2) % rows, index % (d / 2));
            let channel = half * (d / 2) + e;
            *value = match row {
                row if row < m => weight[channel * m + row],
                row if row == m => bias[channel],
                _ => 0.0,
            };
        }
        let places: Vec<f32> = times
            .chunks_exact(m)
            .flat_map(|time| position.chunks_exact(m).flat_map(move |at| at.iter().zip(time).map(|(a, b)| a + b)))
            .collect();
        let turns: Vec<f32> = cos.iter().zip(sin).flat_map(|(cos, sin)| [*cos, *sin]).collect();
        Ok(Self {
            width,
            height,
            d,
            m,
            times: times.len() / m,
            path,
            weight: upload(arena, path, &weights)?,
            turns: arena.filled(bytemuck::cast_slice(&turns))?,
            places: upload(arena, path, &places)?,
        })
    }

    /// Tokens per slice, P.
    pub fn positions(&self) -> usize {
        self.width * self.height
    }

    /// Bytes of one lane's unfinished attention: [P, M + 2] f32, weighted tokens, maximum (a power of two), sum of weights.
    pub fn state_bytes(&self) -> usize {
        self.positions() * (self.m + 2) * 4
    }
}

fn upload(arena: &Arena, path: Path, values: &[f32]) -> Result<Buffer> {
    match path {
        Path::Any => arena.filled(bytemuck::cast_slice(values)),
        Path::Tensor { .. } => arena.filled(
            &values
                .iter()
                .flat_map(|value| f16::from_f32(*value).to_le_bytes())
                .collect::<Vec<u8>>(),
        ),
    }
}
