//! What a training step takes, counted before there is one: the tensors of [`Network::step`](super::network::Network::step) in the order in which they come and go, and the parameters
//! beside them. The device keeps a buffer that was given back for the next tensor of its length, so that what a process holds is, for every length, the most that lived at a time. Not counted: working
//! memory of products, a few MiB a thread and at most 64 MiB for the weights' gradients.

use super::architecture::{Architecture, Family};
use super::names::parameters;
use super::plan::Configuration;
use crate::ops::conv3d::Geometry;
use crate::ops::normed_conv3d::is_fused;
use std::collections::BTreeMap;

/// Bytes of a training step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepMemory {
    /// Parameters, their gradients, and momentum.
    pub parameters: usize,
    /// Tensors at the busiest moment.
    pub live: usize,
    /// Tensors' buffers, those that wait for another tensor among them.
    pub held: usize,
}

impl StepMemory {
    /// All that the process holds for the step.
    pub fn total(&self) -> usize {
        self.parameters + self.held
    }
}

/// What a step of a plan takes.
pub fn of_plan(configuration: &Configuration, classes: usize) -> StepMemory {
    let (channels, batch) = (configuration.normalisation.len(), configuration.batch_size);
    step_memory(&configuration.architecture, channels, classes, batch, configuration.patch_size)
}

/// What a step of `batch` patches takes.
pub fn step_memory(architecture: &Architecture, channels: usize, classes: usize, batch: usize, patch: [usize; 3]) -> StepMemory {
    let values: usize = parameters(architecture, channels, classes)
        .iter()
        .map(|parameter| parameter.shape.iter().product::<usize>())
        .sum();
    let mut walk = Walk::new(architecture, channels, classes, batch, patch);
    walk.forward();
    walk.backward();
    StepMemory {
        parameters: 3 * 4 * values,
        live: walk.tensors.most,
        held: walk.tensors.held(),
    }
}

/// Tensors that live now and at most, by their number of floats.
#[derive(Default)]
struct Tensors {
    counts: BTreeMap<usize, [usize; 2]>,
    now: usize,
    most: usize,
}

impl Tensors {
    fn take(&mut self, floats: usize) -> usize {
        let [now, most] = self.counts.entry(floats).or_default();
        *now += 1;
        *most = (*most).max(*now);
        self.now += 4 * floats;
        self.most = self.most.max(self.now);
        floats
    }

    fn give(&mut self, floats: usize) {
        if let Some([now, _]) = self.counts.get_mut(&floats) {
            *now -= 1;
        }
        self.now -= 4 * floats;
    }

    fn held(&self) -> usize {
        self.counts.iter().map(|(floats, [_, most])| 4 * floats * most).sum()
    }
}

/// The step, with lengths in place of tensors.
struct Walk<'a> {
    architecture: &'a Architecture,
    channels: usize,
    classes: usize,
    batch: usize,
    /// Voxels along each axis of every stage.
    sizes: Vec<[usize; 3]>,
    tensors: Tensors,
}

impl<'a> Walk<'a> {
    fn new(architecture: &'a Architecture, channels: usize, classes: usize, batch: usize, patch: [usize; 3]) -> Self {
        let smaller = |size: &mut [usize; 3], stride: &[usize; 3]| {
            *size = std::array::from_fn(|axis| (size[axis] - 1) / stride[axis] + 1);
            Some(*size)
        };
        Self {
            architecture,
            channels,
            classes,
            batch,
            sizes: architecture.strides.iter().scan(patch, smaller).collect(),
            tensors: Tensors::default(),
        }
    }

    fn steps(&self) -> usize {
        self.sizes.len() - 1
    }

    /// The stage that a step of the decoder brings back.
    fn skip(&self, step: usize) -> usize {
        self.sizes.len() - 2 - step
    }

    /// Floats of a tensor of a stage's size; with a kernel, padded for it.
    fn floats(&self, stage: usize, channels: usize, kernel: Option<[usize; 3]>) -> usize {
        let padded = |axis: usize| self.sizes[stage][axis] + kernel.map_or(0, |kernel| kernel[axis] - 1);
        self.batch * channels * padded(0) * padded(1) * padded(2)
    }

    /// Channels and stage of a block's input, its place: those of encoder blocks.
    fn encoder_input(&self, stage: usize, at: usize) -> (usize, usize) {
        match (stage, at) {
            (0, 0) if self.is_residual() => (self.architecture.features[0], 0),
            (0, 0) => (self.channels, 0),
            (_, 0) => (self.architecture.features[stage - 1], stage - 1),
            _ => (self.architecture.features[stage], stage),
        }
    }

    fn kernel(&self, stage: usize) -> Option<[usize; 3]> {
        Some(self.architecture.kernel_sizes[stage])
    }

    /// Upsampled and skip, or the block before.
    fn decoder_sources(&self, at: usize) -> usize {
        if at == 0 { 2 } else { 1 }
    }

    /// A block's raw output; its padded input is beside it while it is made, if it is written at all.
    fn convolution(&mut self, sources: &[usize], from: usize, stage: usize) {
        let features = self.architecture.features[stage];
        let input = self.floats(from, sources.iter().sum(), self.kernel(stage));
        let output = self.floats(stage, features, None);
        if self.is_fused(sources, from, stage) {
            self.tensors.take(output);
        } else {
            self.product(input, output);
        }
    }

    fn is_fused(&self, sources: &[usize], from: usize, stage: usize) -> bool {
        let stride = if self.sizes[from] == self.sizes[stage] { [1; 3] } else { [2; 3] };
        let geometry = Geometry {
            kernel: self.architecture.kernel_sizes[stage],
            stride,
        };
        is_fused(self.batch, self.sizes[stage], sources, self.architecture.features[stage], geometry)
    }

    /// A temporary input beside a new tensor that stays.
    fn product(&mut self, input: usize, output: usize) {
        let input = self.tensors.take(input);
        self.tensors.take(output);
        self.tensors.give(input);
    }

    fn forward(&mut self) {
        self.tensors.take(self.floats(0, self.channels, None));
        if self.is_residual() {
            self.convolution(&[self.channels], 0, 0);
        }
        for stage in 0..self.sizes.len() {
            for at in 0..self.architecture.convs_per_stage[stage] {
                let (channels, from) = self.encoder_input(stage, at);
                self.convolution(&[channels], from, stage);
                if self.is_residual() {
                    self.convolution(&[self.architecture.features[stage]], stage, stage);
                    self.skip_forward(stage, at);
                }
            }
        }
        for step in 0..self.steps() {
            let skip = self.skip(step);
            let features = self.architecture.features[skip];
            let below = self.floats(skip + 1, self.architecture.features[skip + 1], None);
            self.product(below, self.floats(skip, features, None));
            for at in 0..self.architecture.convs_per_stage_decoder[step] {
                self.convolution(&vec![features; self.decoder_sources(at)], skip, skip);
            }
            self.product(self.floats(skip, features, None), self.floats(skip, self.classes, None));
        }
    }

    fn backward(&mut self) {
        // Of all heads but the deepest, whose loss has no weight, unless it is the only one.
        let counted = self.steps().max(2) - 1;
        for step in self.steps() - counted..self.steps() {
            self.tensors.take(self.floats(self.skip(step), self.classes, None));
        }
        let mut concatenated = vec![0; self.steps()];
        let mut below = None;
        for step in (0..self.steps()).rev() {
            let skip = self.skip(step);
            let features = self.architecture.features[skip];
            let mut users: Vec<usize> = Vec::new();
            if step >= self.steps() - counted {
                self.product(self.floats(skip, features, None), self.floats(skip, features, None));
                users.push(self.floats(skip, features, None));
                self.tensors.give(self.floats(skip, self.classes, None));
            }
            users.extend(below.take());
            for at in (0..self.architecture.convs_per_stage_decoder[step]).rev() {
                let sources = vec![features; self.decoder_sources(at)];
                let input = features * sources.len();
                self.block(skip, (&sources, skip), true);
                users.drain(..).for_each(|user| self.tensors.give(user));
                users.push(self.floats(skip, input, None));
                self.tensors.give(self.floats(skip, features, None));
            }
            let up = self.floats(skip + 1, self.architecture.features[skip + 1], None);
            self.product(up, up);
            below = Some(up);
            self.tensors.give(self.floats(skip, features, None));
            concatenated[step] = users[0];
        }
        let mut users: Vec<usize> = below.into_iter().collect();
        for stage in (0..self.sizes.len()).rev() {
            for at in (0..self.architecture.convs_per_stage[stage]).rev() {
                let new = if self.is_residual() {
                    self.unit(stage, at)
                } else {
                    self.plain(stage, at)
                };
                users.drain(..).for_each(|user| self.tensors.give(user));
                users = new;
                if stage < self.steps() && at + 1 == self.architecture.convs_per_stage[stage] {
                    self.tensors.give(concatenated[self.steps() - 1 - stage]);
                }
            }
        }
        if self.is_residual() {
            self.block(0, (&[self.channels], 0), false);
        }
    }

    fn is_residual(&self) -> bool {
        self.architecture.family == Family::ResidualEncoder
    }

    /// Gradients of a block of a plain encoder; its input's.
    fn plain(&mut self, stage: usize, at: usize) -> Vec<usize> {
        let (input, features) = (self.encoder_input(stage, at), self.architecture.features[stage]);
        let goes_on = stage + at > 0;
        self.block(stage, (&[input.0], input.1), goes_on);
        self.tensors.give(self.floats(stage, features, None));
        goes_on.then(|| self.floats(input.1, input.0, None)).into_iter().collect()
    }

    /// Of a residual unit: floats of the skip's pooled input (none if it is not pooled), and whether that is projected.
    fn skip_of(&self, stage: usize, at: usize) -> (Option<usize>, bool) {
        let (channels, _) = self.encoder_input(stage, at);
        let is_pooled = at == 0 && self.architecture.strides[stage] != [1; 3];
        let pooled = is_pooled.then(|| self.floats(stage, channels, None));
        (pooled, channels != self.architecture.features[stage])
    }

    /// The skip's input, made and not given back.
    fn skip_input(&mut self, stage: usize, at: usize) -> usize {
        let (channels, from) = self.encoder_input(stage, at);
        let x = self.tensors.take(self.floats(from, channels, None));
        let Some(pooled) = self.skip_of(stage, at).0 else { return x };
        self.tensors.take(pooled);
        self.tensors.give(x);
        pooled
    }

    fn skip_forward(&mut self, stage: usize, at: usize) {
        let output = self.floats(stage, self.architecture.features[stage], None);
        let mut skip = self.skip_input(stage, at);
        if self.skip_of(stage, at).1 {
            self.tensors.take(output);
            self.tensors.give(skip);
            skip = self.tensors.take(output);
        }
        self.tensors.take(output);
        self.tensors.give(skip);
    }

    /// Gradients of a residual unit; its input's, by either way.
    fn unit(&mut self, stage: usize, at: usize) -> Vec<usize> {
        let ((channels, from), features) = (self.encoder_input(stage, at), self.architecture.features[stage]);
        let (input, output) = (self.floats(from, channels, None), self.floats(stage, features, None));
        let d = self.tensors.take(output);
        self.tensors.give(output);
        self.block(stage, (&[features], stage), true);
        self.tensors.give(output);
        self.block(stage, (&[channels], from), true);
        self.tensors.give(output);
        self.tensors.give(output);
        let (pooled, is_projected) = self.skip_of(stage, at);
        let mut way = d;
        if is_projected {
            let d_y = self.tensors.take(output);
            let skip = self.skip_input(stage, at);
            self.tensors.give(skip);
            way = self.tensors.take(pooled.unwrap_or(input));
            self.tensors.give(d_y);
            self.tensors.give(output);
        }
        if pooled.is_some() {
            self.tensors.take(input);
            self.tensors.give(way);
            way = input;
        }
        if is_projected {
            self.tensors.give(d);
        }
        vec![input, way]
    }

    /// A block's gradients: padded gradient of its output, its input made again for the weights (if it is written at all), then the gradient of the input.
    fn block(&mut self, stage: usize, (sources, from): (&[usize], usize), goes_on: bool) {
        let channels = sources.iter().sum();
        let d_y = self
            .tensors
            .take(self.floats(stage, self.architecture.features[stage], self.kernel(stage)));
        if !self.is_fused(sources, from, stage) {
            let x = self.tensors.take(self.floats(from, channels, self.kernel(stage)));
            self.tensors.give(x);
        }
        if goes_on {
            self.tensors.take(self.floats(from, channels, None));
        }
        self.tensors.give(d_y);
    }
}
