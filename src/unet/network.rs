//! nnU-Net's `PlainConvUNet` in three dimensions: forward and backward side by side.
//!
//! A block is a convolution, instance norm and LeakyReLU. What is kept for the backward pass is the convolution's raw output and its statistics; the next convolution's padded input
//! is made again when a gradient needs it, and the concatenation of skip and upsampled maps lives only as such an input. Memory of a training step is therefore 4 bytes for every
//! output of a convolution, and the largest padded input and gradient on top.

use super::architecture::{Architecture, Family};
use super::loss::{self, Settings, Targets};
use super::names::{Parameter, parameters};
use crate::bad_input;
use crate::keyed_rng::keyed_rng;
use crate::ops::conv3d::{Channels, Geometry, conv3d, d_bias, d_input, d_weight, transposed, transposed_d_input, transposed_d_weight};
use crate::ops::instance_norm::{Norm, Source, Statistics, activate, backward, statistics};
use crate::tensor::Tensor;
use crate::weights::StrictLoader;
use anyhow::Result;
use rand::RngExt;
use std::f64::consts::TAU;

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
    /// First parameter of each block: encoder stages, then decoder stages.
    encoder: Vec<Vec<usize>>,
    decoder: Vec<Vec<usize>>,
    ups: usize,
    heads: usize,
}

/// A block's raw output and its statistics.
struct Block {
    y: Tensor,
    statistics: Statistics,
}

/// What a forward pass leaves for the backward pass.
pub struct Activations<'a> {
    image: &'a Tensor,
    encoder: Vec<Vec<Option<Block>>>,
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
    /// A network whose parameters are drawn as PyTorch's He initialisation for LeakyReLU(0.01) does: weights N(0, 2 / (1.0001 fan)), fan = weight.shape\[1\] times the kernel's voxels; biases 0;
    /// norms 1 and 0.
    ///
    /// # Errors
    /// A residual network, which is not trained yet.
    pub fn new(architecture: &Architecture, channels: usize, classes: usize, seed: u64) -> Result<Self> {
        let mut network = Self::empty(architecture, channels, classes)?;
        for (parameter, values) in network.parameters.iter().zip(&mut network.values) {
            if let [_, next, kernel @ ..] = &parameter.shape[..] {
                let fan = next * kernel.iter().product::<usize>();
                let deviation = (2.0 / (1.0 + 1e-4) / fan as f64).sqrt();
                let mut rng = keyed_rng(seed, &["initial weights", &parameter.name]);
                // Box and Muller.
                let mut normal = || (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt() * (TAU * rng.random::<f64>()).cos();
                values.iter_mut().for_each(|value| *value = (deviation * normal()) as f32);
            } else if parameter.name.ends_with("norm.weight") {
                values.fill(1.0);
            }
        }
        Ok(network)
    }

    /// A network with the parameters of a checkpoint, by their names; [`StrictLoader::finish`] says which are missing or of other shapes.
    ///
    /// # Errors
    /// A residual network.
    pub fn load(architecture: &Architecture, channels: usize, classes: usize, loader: &StrictLoader<'_>) -> Result<Self> {
        let mut network = Self::empty(architecture, channels, classes)?;
        for (parameter, values) in network.parameters.iter().zip(&mut network.values) {
            *values = loader.tensor(&parameter.name, &parameter.shape);
        }
        Ok(network)
    }

    fn empty(architecture: &Architecture, channels: usize, classes: usize) -> Result<Self> {
        if architecture.family != Family::PlainConv {
            bad_input!(
                "the plan asks for a ResidualEncoderUNet, which is not to be had yet; plan anew with hpc-seg plan for a PlainConvUNet"
            );
        }
        let parameters = parameters(architecture, channels, classes);
        let mut next = 0;
        let mut blocks = |counts: &[usize]| -> Vec<Vec<usize>> {
            let mut stage = |count: usize| {
                let first = next;
                next += 4 * count;
                (0..count).map(|block| first + 4 * block).collect()
            };
            counts.iter().map(|&count| stage(count)).collect()
        };
        let (encoder, decoder) = (blocks(&architecture.convs_per_stage), blocks(&architecture.convs_per_stage_decoder));
        let steps = decoder.len();
        Ok(Self {
            architecture: architecture.clone(),
            channels,
            classes,
            values: parameters.iter().map(|p| vec![0.0; p.shape.iter().product()]).collect(),
            parameters,
            encoder,
            decoder,
            ups: next,
            heads: next + 2 * steps,
        })
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
        let x = activate(sources, geometry.padding())?;
        let y = conv3d(&x, &self.values[parameters], &self.values[parameters + 1], geometry)?;
        drop(x);
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
        let empty = |stages: &[Vec<usize>]| stages.iter().map(|stage| stage.iter().map(|_| None).collect()).collect();
        let mut a = Activations {
            image,
            encoder: empty(&self.encoder),
            decoder: empty(&self.decoder),
            ups: self.decoder.iter().map(|_| None).collect(),
            logits: Vec::new(),
        };
        for (stage, blocks) in self.encoder.iter().enumerate() {
            for (at, &parameters) in blocks.iter().enumerate() {
                let block = self.block(parameters, &[self.encoder_source(&a, stage, at)], self.geometry(stage, at == 0))?;
                if !keeps && at > 0 {
                    a.encoder[stage][at - 1] = None;
                }
                a.encoder[stage][at] = Some(block);
            }
        }
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
                    (a.ups[step], a.encoder[skip]) = (None, Vec::new());
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
        self.encoder.len() - 2 - step
    }

    fn encoder_source<'a>(&'a self, a: &'a Activations<'_>, stage: usize, at: usize) -> Source<'a> {
        match (stage, at) {
            (0, 0) => Source { y: a.image, norm: None },
            (_, 0) => self.encoder_last(stage - 1, a),
            _ => self.source(self.encoder[stage][at - 1], a.encoder[stage][at - 1].as_ref()),
        }
    }

    fn encoder_last<'a>(&'a self, stage: usize, a: &'a Activations<'_>) -> Source<'a> {
        let at = self.encoder[stage].len() - 1;
        self.source(self.encoder[stage][at], a.encoder[stage][at].as_ref())
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
            None => self.encoder_last(self.encoder.len() - 1, a),
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
        let mut d_next = d_below;
        for stage in (0..self.encoder.len()).rev() {
            let skip = (stage < steps).then(|| concatenated[steps - 1 - stage].take()).flatten();
            for at in (0..self.encoder[stage].len()).rev() {
                let mut of: Vec<Channels<'_>> = d_next.iter().map(Channels::all).collect();
                if let Some(skip) = skip.as_ref().filter(|_| at + 1 == self.encoder[stage].len()) {
                    let count = self.architecture.features[stage];
                    of.push(Channels {
                        tensor: skip,
                        first: skip.width() - count,
                        count,
                    });
                }
                let (sources, parameters) = ([self.encoder_source(a, stage, at)], self.encoder[stage][at]);
                let block = a.encoder[stage][at].as_ref();
                let d_x = self.block_backward(parameters, block, &sources, &of, self.geometry(stage, at == 0), &mut gradients)?;
                drop(of);
                d_next = d_x;
                a.encoder[stage][at] = None;
            }
        }
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
        let of = backward(&block.y, self.norm(parameters, &block.statistics), users, geometry.padding())?;
        let x = activate(sources, geometry.padding())?;
        gradients[parameters] = Some(d_weight(&x, &of.d_y, geometry));
        drop(x);
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
