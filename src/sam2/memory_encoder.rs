//! The memory encoder: a slice's features and mask become tokens that later slices attend to.

use super::config::Config;
use super::load::{self, Loader};
use crate::ops::conv::{Conv, conv};
use crate::ops::depthwise::{Depthwise, depthwise};
use crate::ops::linear::{Activation, Epilogue, Input, Linear, linear, linear_new};
use crate::ops::norm::Norm;
use crate::ops::rows;
use crate::tensor::{Parameter, Tensor};
use anyhow::Result;

/// The memory encoder's parameters.
pub struct MemoryEncoder {
    downsample: Vec<(Conv, Norm)>,
    mask_project: Linear,
    feature_project: Linear,
    fuser: Vec<Fuse>,
    out: Linear,
    /// Added where the object is absent, [M].
    absent: Parameter,
    grid: usize,
}

struct Fuse {
    depthwise: Depthwise,
    expand: Linear,
    contract: Linear,
}

impl MemoryEncoder {
    /// Loads `memory_encoder` and `no_obj_embed_spatial`.
    ///
    /// # Errors
    /// When the device's budget has no room for it.
    pub fn load(at: &Loader<'_>, config: &Config) -> Result<Self> {
        let absent = Parameter::new(at.device, at.tensor("no_obj_embed_spatial", &[1, config.mem_dim]))?;
        let at = at.path("memory_encoder");
        let d = config.d_model;
        let mut channels = 1;
        let downsample = (0..4).map(|i| {
            let name = format!("mask_downsampler.encoder.{}", 3 * i);
            let n = load::rows(&at, &format!("{name}.weight"));
            let pair = (
                load::conv(&at, &name, n, channels, [3, 2, 1])?,
                load::norm(&at, &format!("mask_downsampler.encoder.{}", 3 * i + 1), n, 1e-6)?,
            );
            channels = n;
            Ok(pair)
        });
        let downsample = downsample.collect::<Result<_>>()?;
        let depth = (0..).take_while(|i| at.shape(&format!("fuser.layers.{i}.gamma")).is_some()).count();
        let fuser = (0..depth).map(|i| {
            let at = at.path(&format!("fuser.layers.{i}"));
            let hidden = load::rows(&at, "pwconv1.weight");
            let weight = at.tensor("dwconv.weight", &[d, 1, 7, 7]);
            Ok(Fuse {
                depthwise: Depthwise::new(
                    at.device,
                    &weight,
                    at.tensor("dwconv.bias", &[d]),
                    load::norm(&at, "norm", d, 1e-6)?,
                )?,
                expand: load::linear(&at, "pwconv1", hidden, d)?,
                contract: Linear::scaled(
                    at.device,
                    &at.tensor("pwconv2.weight", &[d, hidden]),
                    d,
                    hidden,
                    Some(&at.tensor("pwconv2.bias", &[d])),
                    &at.tensor("gamma", &[d]),
                )?,
            })
        });
        Ok(Self {
            fuser: fuser.collect::<Result<_>>()?,
            downsample,
            mask_project: load::conv1x1(&at, "mask_downsampler.encoder.12", d, channels)?,
            feature_project: load::conv1x1(&at, "pix_feat_proj", d, d)?,
            out: load::conv1x1(&at, "out_proj", config.mem_dim, d)?,
            absent,
            grid: config.grid(),
        })
    }

    /// The features' part of the memory of N slices, [N * P, d]: it depends on the slice alone.
    ///
    /// # Errors
    /// Those of a CUDA device.
    pub fn features(&self, top: &Tensor) -> Result<Tensor> {
        linear_new(Input::Plain(top), &self.feature_project, Epilogue::NONE)
    }

    /// Memory tokens [N * P, M], rounded to bf16 (nearest even) as the reference keeps them, of masks [N, S, S, 1] (probability * scale + bias); `features` are the
    /// slices' [`features`](Self::features), `present[n]` says whether the object is there.
    ///
    /// # Errors
    /// Those of a CUDA device.
    pub fn forward(&self, masks: Tensor, features: Tensor, present: &[bool]) -> Result<Tensor> {
        let mut x = masks;
        for (weights, norm) in &self.downsample {
            let epilogue = Epilogue {
                norm: Some(norm),
                gelu: true,
                ..Epilogue::NONE
            };
            x = conv(&x, weights, epilogue)?;
        }
        let mut y = features.reshaped(&[present.len(), self.grid, self.grid, self.mask_project.n()]);
        linear(Input::Plain(&x), &self.mask_project, Epilogue::ACCUMULATE, &mut y)?;
        for block in &self.fuser {
            let normed = depthwise(&y, &block.depthwise)?;
            let hidden = linear_new(Input::Plain(&normed), &block.expand, Epilogue::activation(Activation::Gelu))?;
            linear(Input::Plain(&hidden), &block.contract, Epilogue::ACCUMULATE, &mut y)?;
        }
        let mut tokens = linear_new(Input::Plain(&y), &self.out, Epilogue::NONE)?;
        rows::add_unless(&mut tokens, present, &self.absent)?;
        rows::round_bf16(&mut tokens);
        let shape = [tokens.rows(), tokens.width()];
        Ok(tokens.reshaped(&shape))
    }
}
