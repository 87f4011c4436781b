//! nnU-Net's `PlainConvUNet` and `ResidualEncoderUNet` in three dimensions: forward and backward side by side.
//!
//! A block is a convolution, instance norm and LeakyReLU. What is kept for the backward pass is the convolution's raw output and its statistics; the next convolution's padded input
//! is made again when a gradient needs it, and the concatenation of skip and upsampled maps lives only as such an input. Memory of a training step is therefore 4 bytes for every
//! output of a convolution (and of a residual unit), and the largest padded input and gradient on top.

mod encoder;
mod init;
mod residual;

use super::architecture::Architecture;
use super::loss::{self, Settings, Targets};
use super::names::Parameter;
use crate::ops::conv3d::{Channels, Geometry, conv3d, d_bias, d_input, d_weight, transposed, transposed_d_input, transposed_d_weight};
use crate::ops::instance_norm::{Norm, SLOPE, Source, Statistics, activate, backward, statistics};
use crate::ops::normed_conv3d::{normed_conv3d, normed_d_weight};
use crate::tensor::Tensor;
use anyhow::Result;

/// A network with its parameters.
#[derive(Clone, Debug)]
pub struct Network {
    architecture: Architecture,
    channels: usize,
    classes: usize,
    /// Names and shapes.
    pub parameters: Vec<Parameter>,
    /// Their values.
    pub values: Vec<Vec<f32>>,
    encoder: Encoder,
    /// First parameter of each block of the decoder's stages.
    decoder: Vec<Vec<usize>>,
    ups: usize,
    heads: usize,
}

/// Where the parameters of an encoder are.
#[derive(Clone, Debug)]
enum Encoder {
    /// First parameter of each block of each stage.
    Plain(Vec<Vec<usize>>),
    /// A stem, whose parameters are the first, and the units of each stage.
    Residual(Vec<Vec<residual::Unit>>),
}

/// A block's raw output and its statistics.
struct Block {
    y: Tensor,
    statistics: Statistics,
}

/// What a forward pass leaves for the backward pass.
pub struct Activations<'a> {
    image: &'a Tensor,
    /// Of a plain encoder.
    blocks: Vec<Vec<Option<Block>>>,
    /// Of a residual encoder.
    stem: Option<Block>,
    units: Vec<Vec<Option<residual::Kept>>>,
    decoder: Vec<Vec<Option<Block>>>,
    ups: Vec<Option<Tensor>>,
    /// Logits [N, D, H, W, classes] of the heads, the finest first.
    pub logits: Vec<Tensor>,
}

/// Loss and gradients of a batch.
pub struct Step {
    /// The weighted sum over the heads.
    pub loss: f64,
    /// As the parameters; none where a parameter has no part in the loss.
    pub gradients: Vec<Option<Vec<f32>>>,
    /// Logits of the finest head.
    pub logits: Tensor,
}

const ONE: Geometry = Geometry {
    kernel: [1; 3],
    stride: [1; 3],
};

impl Network {
    fn stages(&self) -> usize {
        self.architecture.features.len()
    }

    /// Channels of an image.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Classes told apart.
    pub fn classes(&self) -> usize {
        self.classes
    }

    fn norm<'a>(&'a self, block: usize, statistics: &'a Statistics) -> Norm<'a> {
        Norm {
            statistics,
            gamma: &self.values[block + 2],
            beta: &self.values[block + 3],
            slope: SLOPE,
        }
    }

    /// A block's output as the input of what follows.
    fn source<'a>(&'a self, parameters: usize, block: Option<&'a Block>) -> Source<'a> {
        match block {
            Some(block) => Source {
                y: &block.y,
                norm: Some(self.norm(parameters, &block.statistics)),
            },
            None => unreachable!("a block is kept until its users are done"),
        }
    }

    fn geometry(&self, stage: usize, is_first_of_encoder: bool) -> Geometry {
        Geometry {
            kernel: self.architecture.kernel_sizes[stage],
            stride: if is_first_of_encoder {
                self.architecture.strides[stage]
            } else {
                [1; 3]
            },
        }
    }

    fn block(&self, parameters: usize, sources: &[Source<'_>], geometry: Geometry) -> Result<Block> {
        let y = normed_conv3d(sources, &self.values[parameters], &self.values[parameters + 1], geometry)?;
        let statistics = statistics(&y);
        Ok(Block { y, statistics })
    }

    /// Logits of the finest head [N, D, H, W, classes] for images [N, D, H, W, C]; nothing is kept.
    ///
    /// # Errors
    /// When the device's budget has no room.
    pub fn infer(&self, image: &Tensor) -> Result<Tensor> {
        let mut done = self.pass(image, false)?;
        Ok(done.logits.swap_remove(0))
    }

    /// Logits of all heads, and all the backward pass needs.
    ///
    /// # Errors
    /// When the device's budget has no room.
    pub fn forward<'a>(&self, image: &'a Tensor) -> Result<Activations<'a>> {
        self.pass(image, true)
    }

    fn pass<'a>(&self, image: &'a Tensor, keeps: bool) -> Result<Activations<'a>> {
        assert_eq!(image.width(), self.channels, "network: {image:?} for {} channels", self.channels);
        let mut a = Activations {
            image,
            blocks: Vec::new(),
            stem: None,
            units: Vec::new(),
            decoder: self.decoder.iter().map(|blocks| blocks.iter().map(|_| None).collect()).collect(),
            ups: self.decoder.iter().map(|_| None).collect(),
            logits: Vec::new(),
        };
        self.encode(&mut a, keeps)?;
        for (step, blocks) in self.decoder.iter().enumerate() {
            let skip = self.skip(step);
            let below = activate(&[self.below(&a, step)], [0; 3])?;
            let up = self.ups + 2 * step;
            a.ups[step] = Some(transposed(
                &below,
                &self.values[up],
                &self.values[up + 1],
                self.architecture.strides[skip + 1],
            )?);
            drop(below);
            for (at, &parameters) in blocks.iter().enumerate() {
                let block = self.block(parameters, &self.decoder_sources(&a, step, at), self.geometry(skip, false))?;
                a.decoder[step][at] = Some(block);
                if !keeps {
                    // The skip, what was upsampled, and the block before have served.
                    a.ups[step] = None;
                    a.forget_stage(skip);
                    if at > 0 {
                        a.decoder[step][at - 1] = None;
                    }
                }
            }
            if keeps || step + 1 == self.decoder.len() {
                let head = self.heads + 2 * step;
                let x = activate(&[self.last(step, &a)], [0; 3])?;
                a.logits.insert(0, conv3d(&x, &self.values[head], &self.values[head + 1], ONE)?);
            }
        }
        Ok(a)
    }

    /// The encoder's stage that a step of the decoder brings back.
    fn skip(&self, step: usize) -> usize {
        self.stages() - 2 - step
    }

    /// The last block of a step of the decoder.
    fn last<'a>(&'a self, step: usize, a: &'a Activations<'_>) -> Source<'a> {
        let at = self.decoder[step].len() - 1;
        self.source(self.decoder[step][at], a.decoder[step][at].as_ref())
    }

    /// What a step of the decoder brings up: the step before, or the bottleneck.
    fn below<'a>(&'a self, a: &'a Activations<'_>, step: usize) -> Source<'a> {
        match step.checked_sub(1) {
            Some(before) => self.last(before, a),
            None => self.encoder_last(self.stages() - 1, a),
        }
    }

    /// Upsampled maps first, then the skip.
    fn decoder_sources<'a>(&'a self, a: &'a Activations<'_>, step: usize, at: usize) -> Vec<Source<'a>> {
        match (at.checked_sub(1), a.ups[step].as_ref()) {
            (Some(before), _) => vec![self.source(self.decoder[step][before], a.decoder[step][before].as_ref())],
            (None, Some(up)) => vec![Source { y: up, norm: None }, self.encoder_last(self.skip(step), a)],
            (None, None) => unreachable!("maps are upsampled before they are used"),
        }
    }

    /// Loss and gradients of images [N, D, H, W, C] with the targets of each head, the finest first.
    ///
    /// # Errors
    /// When the device's budget has no room; targets that are no class.
    pub fn step(&self, image: &Tensor, targets: &[Targets<'_>], settings: Settings) -> Result<Step> {
        let mut a = self.forward(image)?;
        let n = image.shape()[0];
        let mut d_logits = Vec::with_capacity(targets.len());
        let mut loss = 0.0;
        for ((logits, targets), weight) in a.logits.iter().zip(targets).zip(loss::head_weights(a.logits.len())) {
            if weight == 0.0 {
                d_logits.push(None);
                continue;
            }
            let mut d = Tensor::empty(image.device(), logits.shape())?;
            loss += weight * loss::loss(logits.values(), *targets, n, settings, weight, d.values_mut())?;
            d_logits.push(Some(d));
        }
        let gradients = self.backward(&mut a, d_logits)?;
        Ok(Step {
            loss,
            gradients,
            logits: a.logits.swap_remove(0),
        })
    }

    /// Gradients of all parameters, given those of the logits (the finest first; none for a head without part in the loss). What was kept is given up on the way.
    ///
    /// # Errors
    /// When the device's budget has no room.
    pub fn backward(&self, a: &mut Activations<'_>, d_logits: Vec<Option<Tensor>>) -> Result<Vec<Option<Vec<f32>>>> {
        let mut gradients: Vec<Option<Vec<f32>>> = vec![None; self.parameters.len()];
        let steps = self.decoder.len();
        // Of the concatenated input of each step's first convolution, and of what each step was brought up from.
        let mut concatenated: Vec<Option<Tensor>> = (0..steps).map(|_| None).collect();
        let mut d_below: Option<Tensor> = None;
        let mut d_logits = d_logits.into_iter();
        for step in (0..steps).rev() {
            let d_head = match d_logits.next().flatten() {
                Some(d) => Some(self.head_backward(a, step, &d, &mut gradients)?),
                None => None,
            };
            let mut users: Vec<Tensor> = d_head.into_iter().chain(d_below.take()).collect();
            for at in (0..self.decoder[step].len()).rev() {
                let geometry = self.geometry(self.skip(step), false);
                let of: Vec<Channels<'_>> = users.iter().map(Channels::all).collect();
                let sources = self.decoder_sources(a, step, at);
                let parameters = self.decoder[step][at];
                let d_x = self.block_backward(parameters, a.decoder[step][at].as_ref(), &sources, &of, geometry, &mut gradients)?;
                drop(of);
                users = d_x.into_iter().collect();
                a.decoder[step][at] = None;
            }
            d_below = Some(self.up_backward(a, step, &users[0], &mut gradients)?);
            a.ups[step] = None;
            concatenated[step] = users.pop();
        }
        let mut users: Vec<Tensor> = d_below.into_iter().collect();
        for stage in (0..self.stages()).rev() {
            let skip = (stage < steps).then(|| concatenated[steps - 1 - stage].take()).flatten();
            users = self.encoder_backward(a, stage, users, skip, &mut gradients)?;
        }
        self.stem_backward(a, &users, &mut gradients)?;
        Ok(gradients)
    }

    /// Gradients of a block's parameters; gives that of its input, unless that is the image.
    fn block_backward(
        &self,
        parameters: usize,
        block: Option<&Block>,
        sources: &[Source<'_>],
        users: &[Channels<'_>],
        geometry: Geometry,
        gradients: &mut [Option<Vec<f32>>],
    ) -> Result<Option<Tensor>> {
        let Some(block) = block else {
            unreachable!("a block is kept until its gradient is taken")
        };
        let norm = self.norm(parameters, &block.statistics);
        self.gradients_of(parameters, &block.y, norm, sources, users, geometry, gradients)
    }

    /// The same for any norm of the convolution's raw output y.
    #[allow(clippy::too_many_arguments)] // the convolution, its two sides, and where gradients go
    fn gradients_of(
        &self,
        parameters: usize,
        y: &Tensor,
        norm: Norm<'_>,
        sources: &[Source<'_>],
        users: &[Channels<'_>],
        geometry: Geometry,
        gradients: &mut [Option<Vec<f32>>],
    ) -> Result<Option<Tensor>> {
        let of = backward(y, norm, users, geometry.padding())?;
        gradients[parameters] = Some(normed_d_weight(sources, &of.d_y, geometry)?);
        gradients[parameters + 1] = Some(of.d_bias);
        gradients[parameters + 2] = Some(of.d_gamma);
        gradients[parameters + 3] = Some(of.d_beta);
        if parameters == 0 {
            return Ok(None);
        }
        let &[_, d, h, w, _] = sources[0].y.shape() else {
            unreachable!("sources are volumes")
        };
        d_input(&of.d_y, &self.values[parameters], [d, h, w], geometry).map(Some)
    }

    fn head_backward(&self, a: &Activations<'_>, step: usize, d: &Tensor, gradients: &mut [Option<Vec<f32>>]) -> Result<Tensor> {
        let head = self.heads + 2 * step;
        let x = activate(&[self.last(step, a)], [0; 3])?;
        gradients[head] = Some(d_weight(&x, d, ONE));
        gradients[head + 1] = Some(d_bias(Channels::all(d)));
        let &[_, z, y, x, _] = d.shape() else {
            unreachable!("logits are volumes")
        };
        d_input(d, &self.values[head], [z, y, x], ONE)
    }

    /// The gradient of what a step was brought up from, given that of its concatenated input.
    fn up_backward(&self, a: &Activations<'_>, step: usize, d: &Tensor, gradients: &mut [Option<Vec<f32>>]) -> Result<Tensor> {
        let (up, stride) = (self.ups + 2 * step, self.architecture.strides[self.skip(step) + 1]);
        let d_up = Channels {
            tensor: d,
            first: 0,
            count: self.architecture.features[self.skip(step)],
        };
        let below = activate(&[self.below(a, step)], [0; 3])?;
        let (weight, bias) = transposed_d_weight(&below, d_up, stride);
        (gradients[up], gradients[up + 1]) = (Some(weight), Some(bias));
        transposed_d_input(d_up, &self.values[up], stride)
    }
}
