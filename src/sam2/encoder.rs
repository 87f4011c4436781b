//! The image encoder: trunk and neck, once per slice.

use super::config::Config;
use super::hiera::Hiera;
use super::load;
use crate::device::Device;
use crate::ops::linear::{Epilogue, Input, Linear, linear_new};
use crate::ops::nearest_add::nearest_add;
use crate::tensor::Tensor;
use crate::weights::StrictLoader;
use anyhow::Result;

/// What the rest of the network needs of a slice.
pub struct Features {
    /// Stride 16: [P, d], before any memory.
    pub top: Tensor,
    /// Stride 8, for the mask decoder: [4 P, d / 4].
    pub middle: Tensor,
    /// Stride 4: [16 P, d / 8].
    pub fine: Tensor,
}

/// Trunk and neck.
pub struct ImageEncoder {
    trunk: Hiera,
    /// To d: stride 16 and stride 32.
    levels: [Linear; 2],
    /// Stride 4 to d / 8 and stride 8 to d / 4: the neck's 1x1 convolution with the mask decoder's `conv_s0` or `conv_s1` folded in (exact: nothing stands between).
    skips: [Linear; 2],
    grid: usize,
}

impl ImageEncoder {
    /// Loads `image_encoder` and the two skip convolutions of `sam_mask_decoder`.
    pub fn load(at: &StrictLoader<'_>, config: &Config, device: &Device) -> Result<Self> {
        let widths = Hiera::widths(config);
        let d = config.d_model;
        // `neck.convs.0` belongs to the lowest resolution.
        let neck = |level: usize| format!("image_encoder.neck.convs.{}.conv", 3 - level);
        let skip = |level: usize, out: usize| {
            let inner = load::conv1x1_values(at, &neck(level), d, widths[level]);
            let outer = load::conv1x1_values(at, &format!("sam_mask_decoder.conv_s{level}"), out, d);
            let (weight, bias) = load::folded((&outer.0, &outer.1), (&inner.0, &inner.1), widths[level]);
            Linear::new(&weight, out, widths[level], Some(&bias))
        };
        Ok(Self {
            trunk: Hiera::load(at, config, device)?,
            levels: [load::conv1x1(at, &neck(2), d, widths[2]), load::conv1x1(at, &neck(3), d, widths[3])],
            skips: [skip(0, d / 8), skip(1, d / 4)],
            grid: config.grid(),
        })
    }

    /// Features of slices [N, S, S, 1] in 0..255, one after the other.
    pub fn forward(&self, slices: &Tensor, trace: &mut dyn FnMut(&str, &Tensor)) -> Vec<Features> {
        let n = slices.shape()[0];
        let stages = self.trunk.forward(slices, trace);
        let mut top = linear_new(Input::Plain(&stages[2]), &self.levels[0], Epilogue::NONE);
        let lowest = linear_new(Input::Plain(&stages[3]), &self.levels[1], Epilogue::NONE);
        nearest_add(&mut top, &lowest);
        let middle = linear_new(Input::Plain(&stages[1]), &self.skips[1], Epilogue::NONE);
        let fine = linear_new(Input::Plain(&stages[0]), &self.skips[0], Epilogue::NONE);
        let split = |map: &Tensor, rows: usize, item: usize| {
            let len = rows * map.width();
            Tensor::from_slice(map.device(), &[rows, map.width()], &map.values()[item * len..][..len])
        };
        let p = self.grid * self.grid;
        (0..n)
            .map(|item| Features {
                top: split(&top, p, item),
                middle: split(&middle, 4 * p, item),
                fine: split(&fine, 16 * p, item),
            })
            .collect()
    }
}
