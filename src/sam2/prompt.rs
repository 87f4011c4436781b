//! The prompt encoder: what the mask decoder is told besides the image. Here a prompt is a mask or nothing; points and boxes are not used.

use super::config::Config;
use super::load::{self, Loader};
use super::position;
use crate::ops::conv::{Conv, conv};
use crate::ops::linear::{Epilogue, Input, Linear, linear_new};
use crate::ops::norm::Norm;
use crate::tensor::Tensor;
use anyhow::Result;

/// Prompt embeddings and their constants.
pub struct PromptEncoder {
    /// Position of each pixel of the embedding, [P, d].
    pub dense_position: Tensor,
    /// The dense embedding without a mask, [1, d].
    pub no_mask: Tensor,
    /// The one sparse token there is without points (it is given twice: padding and the point that is none), [1, d].
    pub not_a_point: Vec<f32>,
    /// `mask_downsample`, 4x4 stride 4, then two 2x2 stride 2.
    shrink: Conv,
    downscale: [(Conv, Norm); 2],
    project: Linear,
}

impl PromptEncoder {
    /// Loads `sam_prompt_encoder` and `mask_downsample`.
    ///
    /// # Errors
    /// When the device's budget has no room for it.
    pub fn load(at: &Loader<'_>, config: &Config) -> Result<Self> {
        let shrink = load::conv(at, "mask_downsample", 1, 1, [4, 4, 0])?;
        let at = at.path("sam_prompt_encoder");
        let (d, grid) = (config.d_model, config.grid());
        let first = load::rows(&at, "mask_downscaling.0.weight");
        let second = load::rows(&at, "mask_downscaling.3.weight");
        let gaussian = at.tensor("pe_layer.positional_encoding_gaussian_matrix", &[2, d / 2]);
        for i in 0..4 {
            at.ignore(&format!("point_embeddings.{i}.weight"));
        }
        Ok(Self {
            dense_position: Tensor::from_slice(at.device, &[grid * grid, d], &position::random_fourier(grid, &gaussian))?,
            no_mask: Tensor::from_slice(at.device, &[1, d], &at.tensor("no_mask_embed.weight", &[1, d]))?,
            not_a_point: at.tensor("not_a_point_embed.weight", &[1, d]),
            shrink,
            downscale: [
                (
                    load::conv(&at, "mask_downscaling.0", first, 1, [2, 2, 0])?,
                    load::norm(&at, "mask_downscaling.1", first, 1e-6)?,
                ),
                (
                    load::conv(&at, "mask_downscaling.3", second, first, [2, 2, 0])?,
                    load::norm(&at, "mask_downscaling.4", second, 1e-6)?,
                ),
            ],
            project: load::conv1x1(&at, "mask_downscaling.6", d, second)?,
        })
    }

    /// The dense embedding [N * P, d] of masks [N, S, S, 1] of zeros and ones.
    ///
    /// # Errors
    /// Those of a CUDA device.
    pub fn mask(&self, mask: &Tensor) -> Result<Tensor> {
        let mut x = conv(mask, &self.shrink, Epilogue::NONE)?;
        for (weights, norm) in &self.downscale {
            x = conv(
                &x,
                weights,
                Epilogue {
                    norm: Some(norm),
                    gelu: true,
                    ..Epilogue::NONE
                },
            )?;
        }
        let y = linear_new(Input::Plain(&x), &self.project, Epilogue::NONE)?;
        let shape = [y.rows(), y.width()];
        Ok(y.reshaped(&shape))
    }
}
