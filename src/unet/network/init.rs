//! A network's layout and its first parameters.

use super::{Encoder, Network, residual};
use crate::keyed_rng::keyed_rng;
use crate::unet::architecture::{Architecture, Family};
use crate::unet::names::parameters;
use crate::weights::StrictLoader;
use rand::RngExt;
use std::f64::consts::TAU;

impl Network {
    /// A network whose parameters are drawn as PyTorch's He initialisation for LeakyReLU(0.01) does: weights N(0, 2 / (1.0001 fan)), fan = weight.shape\[1\] times the kernel's voxels; biases 0;
    /// norms 1 and 0, but 0 and 0 at the end of a residual unit's convolutions.
    pub fn new(architecture: &Architecture, channels: usize, classes: usize, seed: u64) -> Self {
        let mut network = Self::empty(architecture, channels, classes);
        for (parameter, values) in network.parameters.iter().zip(&mut network.values) {
            if let [_, next, kernel @ ..] = &parameter.shape[..] {
                let fan = next * kernel.iter().product::<usize>();
                let deviation = (2.0 / (1.0 + 1e-4) / fan as f64).sqrt();
                let mut rng = keyed_rng(seed, &["initial weights", &parameter.name]);
                // Box and Muller.
                let mut normal = || (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt() * (TAU * rng.random::<f64>()).cos();
                values.iter_mut().for_each(|value| *value = (deviation * normal()) as f32);
            } else if parameter.name.ends_with("norm.weight") && !parameter.name.contains(".conv2.") {
                values.fill(1.0);
            }
        }
        network
    }

    /// A network with the parameters of a checkpoint, by their names; [`StrictLoader::finish`] says which are missing or of other shapes.
    pub fn load(architecture: &Architecture, channels: usize, classes: usize, loader: &StrictLoader<'_>) -> Self {
        let mut network = Self::empty(architecture, channels, classes);
        for (parameter, values) in network.parameters.iter().zip(&mut network.values) {
            *values = loader.tensor(&parameter.name, &parameter.shape);
        }
        network
    }

    fn empty(architecture: &Architecture, channels: usize, classes: usize) -> Self {
        let parameters = parameters(architecture, channels, classes);
        let mut next = 0;
        let encoder = match architecture.family {
            Family::PlainConv => Encoder::Plain(blocks(&architecture.convs_per_stage, &mut next)),
            Family::ResidualEncoder => Encoder::Residual(residual::units(architecture, &mut next)),
        };
        let decoder = blocks(&architecture.convs_per_stage_decoder, &mut next);
        let steps = decoder.len();
        Self {
            architecture: architecture.clone(),
            channels,
            classes,
            values: parameters.iter().map(|p| vec![0.0; p.shape.iter().product()]).collect(),
            parameters,
            encoder,
            decoder,
            ups: next,
            heads: next + 2 * steps,
        }
    }
}

/// First parameter of each block of four, stage by stage, from `next` on.
fn blocks(counts: &[usize], next: &mut usize) -> Vec<Vec<usize>> {
    let mut stage = |count: usize| {
        let first = *next;
        *next += 4 * count;
        (0..count).map(|block| first + 4 * block).collect()
    };
    counts.iter().map(|&count| stage(count)).collect()
}
