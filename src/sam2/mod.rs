//! SAM 2.1 / MedSAM2: the network, frozen. Tensor names and code structure agree with Meta's PyTorch program.

pub mod config;
mod cost;
pub mod encoder;
pub mod hiera;
mod load;
pub mod mask_decoder;
pub mod memory_attention;
pub mod memory_bank;
pub mod memory_encoder;
pub mod position;
pub mod prompt;
pub mod remember;
pub mod two_way;

pub use config::Config;

use crate::device::Device;
use crate::ops::resize::ResizePlan;
use crate::weights::{Checkpoint, StrictLoader};
use anyhow::Result;
use encoder::ImageEncoder;
use load::Loader;
use mask_decoder::MaskDecoder;
use memory_attention::MemoryAttention;
use memory_encoder::MemoryEncoder;
use prompt::PromptEncoder;

/// The whole network.
pub struct Sam2 {
    /// Its configuration.
    pub config: Config,
    /// Trunk and neck.
    pub encoder: ImageEncoder,
    /// Features conditioned on memory.
    pub memory_attention: MemoryAttention,
    /// Prompts to embeddings.
    pub prompt: PromptEncoder,
    /// Embeddings to masks and pointers.
    pub decoder: MaskDecoder,
    /// Masks to memory.
    pub memory_encoder: MemoryEncoder,
    /// `obj_ptr_tpos_proj`: weight [M, d] and bias [M].
    pointer_position: (Vec<f32>, Vec<f32>),
    /// Low-resolution logits to S x S.
    mask_to_memory: ResizePlan,
    parameters: usize,
    device: Device,
}

impl Sam2 {
    /// Loads a checkpoint, strictly: every tensor is used and none is missing.
    pub fn load(checkpoint: &Checkpoint, config: Config, device: &Device) -> Result<Self> {
        let at = Loader::new(StrictLoader::new(checkpoint), device);
        let (d, m) = (config.d_model, config.mem_dim);
        let times = at.tensor("maskmem_tpos_enc", &[config.num_maskmem, 1, 1, m]);
        // Only for a slice without any memory, which tracking never meets.
        at.ignore("no_mem_embed");
        at.ignore("no_mem_pos_enc");
        let prompt = PromptEncoder::load(&at, &config)?;
        let network = Self {
            encoder: ImageEncoder::load(&at, &config)?,
            memory_attention: MemoryAttention::load(&at, &config, &times)?,
            decoder: MaskDecoder::load(&at, &config, &prompt)?,
            prompt,
            memory_encoder: MemoryEncoder::load(&at, &config)?,
            pointer_position: (
                at.tensor("obj_ptr_tpos_proj.weight", &[m, d]),
                at.tensor("obj_ptr_tpos_proj.bias", &[m]),
            ),
            mask_to_memory: ResizePlan::bilinear((4 * config.grid(), 4 * config.grid()), (config.image_size, config.image_size))?,
            config,
            parameters: checkpoint
                .names()
                .filter_map(|name| checkpoint.shape(name))
                .map(|shape| shape.iter().product::<usize>())
                .sum(),
            device: device.clone(),
        };
        at.finish()?;
        Ok(network)
    }

    /// Parameters of its checkpoint.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// The device it lives on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Position `[M]` of an object pointer `distance` slices away, where distances are divided by `reach - 1`.
    pub fn pointer_position(&self, distance: usize, reach: usize) -> Vec<f32> {
        let (weight, bias) = &self.pointer_position;
        let sine = position::sine_1d(distance as f32 / (reach.max(2) - 1) as f32, self.config.d_model);
        bias.iter()
            .zip(weight.chunks_exact(sine.len()))
            .map(|(b, row)| b + row.iter().zip(&sine).map(|(w, s)| w * s).sum::<f32>())
            .collect()
    }

    /// Those positions for distances 0 .. count, [count, M].
    pub fn pointer_positions(&self, reach: usize, count: usize) -> Vec<f32> {
        (0..count).flat_map(|distance| self.pointer_position(distance, reach)).collect()
    }
}
