//! The image encoder: trunk and neck, once per slice.

use super::config::Config;
use super::hiera::Hiera;
use super::load::{self, Loader};
use crate::ops::linear::{Epilogue, Input, Linear, linear_new};
use crate::ops::nearest_add::nearest_add;
use crate::ops::rows::gather;
use crate::tensor::Tensor;
use anyhow::Result;

/// What the rest of the network needs of N slices.
pub struct Features {
    /// Stride 16: [N * P, d], before any memory.
    pub top: Tensor,
    /// For the mask decoder.
    pub skips: Skips,
}

/// The maps of higher resolution that the mask decoder adds, of N slices.
pub struct Skips {
    /// Stride 8: [N * 4 P, d / 4].
    pub middle: Tensor,
    /// Stride 4: [N * 16 P, d / 8].
    pub fine: Tensor,
}

impl Features {
    /// Those of one of `slices` slices.
    ///
    /// # Errors
    /// When the device's budget has no room for them.
    pub fn of_slice(&self, slice: usize, slices: usize) -> Result<Self> {
        let part = |x: &Tensor| gather(x, x.rows() / slices, &[slice]);
        Ok(Self {
            top: part(&self.top)?,
            skips: Skips {
                middle: part(&self.skips.middle)?,
                fine: part(&self.skips.fine)?,
            },
        })
    }
}

/// Trunk and neck.
pub struct ImageEncoder {
    trunk: Hiera,
    /// To d: stride 16 and stride 32.
    levels: [Linear; 2],
    /// Stride 4 to d / 8 and stride 8 to d / 4: the neck's 1x1 convolution with the mask decoder's `conv_s0` or `conv_s1` folded in (exact: nothing stands between).
    skips: [Linear; 2],
}

impl ImageEncoder {
    /// Loads `image_encoder` and the two skip convolutions of `sam_mask_decoder`.
    ///
    /// # Errors
    /// When the device's budget has no room for it.
    pub fn load(at: &Loader<'_>, config: &Config) -> Result<Self> {
        let widths = Hiera::widths(config);
        let d = config.d_model;
        // `neck.convs.0` belongs to the lowest resolution.
        let neck = |level: usize| format!("image_encoder.neck.convs.{}.conv", 3 - level);
        let skip = |level: usize, out: usize| {
            let inner = load::conv1x1_values(at, &neck(level), d, widths[level]);
            let outer = load::conv1x1_values(at, &format!("sam_mask_decoder.conv_s{level}"), out, d);
            let (weight, bias) = load::folded((&outer.0, &outer.1), (&inner.0, &inner.1), widths[level]);
            Linear::new(at.device, &weight, out, widths[level], Some(&bias))
        };
        Ok(Self {
            trunk: Hiera::load(at, config)?,
            levels: [
                load::conv1x1(at, &neck(2), d, widths[2])?,
                load::conv1x1(at, &neck(3), d, widths[3])?,
            ],
            skips: [skip(0, d / 8)?, skip(1, d / 4)?],
        })
    }

    /// Features of slices [N, S, S, 1] in 0..255. `trace` sees the trunk's stages.
    ///
    /// # Errors
    /// Those of a CUDA device.
    pub fn forward(&self, slices: &Tensor, trace: &mut dyn FnMut(&str, &Tensor)) -> Result<Features> {
        let stages = self.trunk.forward(slices, trace)?;
        let mut top = linear_new(Input::Plain(&stages[2]), &self.levels[0], Epilogue::NONE)?;
        let lowest = linear_new(Input::Plain(&stages[3]), &self.levels[1], Epilogue::NONE)?;
        nearest_add(&mut top, &lowest)?;
        let middle = linear_new(Input::Plain(&stages[1]), &self.skips[1], Epilogue::NONE)?;
        let fine = linear_new(Input::Plain(&stages[0]), &self.skips[0], Epilogue::NONE)?;
        Ok(Features {
            top: in_rows(top),
            skips: Skips {
                middle: in_rows(middle),
                fine: in_rows(fine),
            },
        })
    }
}

/// [N, h, w, C] as [N h w, C].
fn in_rows(map: Tensor) -> Tensor {
    let shape = [map.rows(), map.width()];
    map.reshaped(&shape)
}
