//! The memory encoder: a slice's features and mask become tokens that later slices attend to.

use super::config::Config;
use super::load;
use crate::ops::conv::{Conv, conv};
use crate::ops::depthwise::{Depthwise, depthwise};
use crate::ops::linear::{Activation, Epilogue, Input, Linear, linear, linear_new};
use crate::ops::norm::Norm;
use crate::tensor::Tensor;
use crate::weights::StrictLoader;
use half::bf16;

/// The memory encoder's parameters.
pub struct MemoryEncoder {
    downsample: Vec<(Conv, Norm)>,
    mask_project: Linear,
    feature_project: Linear,
    fuser: Vec<Fuse>,
    out: Linear,
    /// Added where the object is absent, [M].
    absent: Vec<f32>,
    grid: usize,
}

struct Fuse {
    depthwise: Depthwise,
    expand: Linear,
    contract: Linear,
}

impl MemoryEncoder {
    /// Loads `memory_encoder` and `no_obj_embed_spatial`.
    pub fn load(at: &StrictLoader<'_>, config: &Config) -> Self {
        let absent = at.tensor("no_obj_embed_spatial", &[1, config.mem_dim]);
        let at = at.path("memory_encoder");
        let d = config.d_model;
        let mut channels = 1;
        let downsample = (0..4).map(|i| {
            let name = format!("mask_downsampler.encoder.{}", 3 * i);
            let n = load::rows(&at, &format!("{name}.weight"));
            let pair = (
                load::conv(&at, &name, n, channels, [3, 2, 1]),
                load::norm(&at, &format!("mask_downsampler.encoder.{}", 3 * i + 1), n, 1e-6),
            );
            channels = n;
            pair
        });
        let downsample = downsample.collect();
        let depth = (0..).take_while(|i| at.shape(&format!("fuser.layers.{i}.gamma")).is_some()).count();
        let fuser = (0..depth).map(|i| {
            let at = at.path(&format!("fuser.layers.{i}"));
            let hidden = load::rows(&at, "pwconv1.weight");
            let weight = at.tensor("dwconv.weight", &[d, 1, 7, 7]);
            Fuse {
                depthwise: Depthwise::new(&weight, at.tensor("dwconv.bias", &[d]), load::norm(&at, "norm", d, 1e-6)),
                expand: load::linear(&at, "pwconv1", hidden, d),
                contract: Linear::scaled(
                    &at.tensor("pwconv2.weight", &[d, hidden]),
                    d,
                    hidden,
                    Some(&at.tensor("pwconv2.bias", &[d])),
                    &at.tensor("gamma", &[d]),
                ),
            }
        });
        Self {
            fuser: fuser.collect(),
            downsample,
            mask_project: load::conv1x1(&at, "mask_downsampler.encoder.12", d, channels),
            feature_project: load::conv1x1(&at, "pix_feat_proj", d, d),
            out: load::conv1x1(&at, "out_proj", config.mem_dim, d),
            absent,
            grid: config.grid(),
        }
    }

    /// The features' part of the memory, [P, d]: it depends on the slice alone.
    pub fn features(&self, top: &Tensor) -> Tensor {
        linear_new(Input::Plain(top), &self.feature_project, Epilogue::NONE)
    }

    /// Memory tokens [N * P, M], rounded to bf16 (nearest even) as the reference keeps them, of masks [N, S, S, 1] (probability * scale + bias); `features[n]` is
    /// slice n's [`features`](Self::features), `present[n]` whether the object is there.
    pub fn forward(&self, masks: Tensor, features: &[&Tensor], present: &[bool]) -> Tensor {
        let (n, p) = (features.len(), self.grid * self.grid);
        let mut x = masks;
        for (weights, norm) in &self.downsample {
            x = conv(
                &x,
                weights,
                Epilogue {
                    norm: Some(norm),
                    gelu: true,
                    ..Epilogue::NONE
                },
            );
        }
        let d = self.mask_project.n();
        let mut y = Tensor::empty(x.device(), &[n, self.grid, self.grid, d]);
        for (chunk, part) in y.values_mut().chunks_exact_mut(p * d).zip(features) {
            chunk.copy_from_slice(part.values());
        }
        linear(Input::Plain(&x), &self.mask_project, Epilogue::ACCUMULATE, &mut y);
        for block in &self.fuser {
            let normed = depthwise(&y, &block.depthwise);
            let hidden = linear_new(Input::Plain(&normed), &block.expand, Epilogue::activation(Activation::Gelu));
            linear(Input::Plain(&hidden), &block.contract, Epilogue::ACCUMULATE, &mut y);
        }
        let shape = [n * p, d];
        let mut tokens = linear_new(Input::Plain(&y.reshaped(&shape)), &self.out, Epilogue::NONE);
        let m = self.absent.len();
        for (chunk, &present) in tokens.values_mut().chunks_exact_mut(p * m).zip(present) {
            for row in chunk.chunks_exact_mut(m) {
                for (value, absent) in row.iter_mut().zip(&self.absent) {
                    let sum = if present { *value } else { *value + absent };
                    *value = bf16::from_f32(sum).to_f32();
                }
            }
        }
        tokens
    }
}
