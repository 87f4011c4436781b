//! What the tensors' shapes do not tell: heads, windows, global blocks, image size.

use crate::bad_input;
use crate::weights::Checkpoint;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The network's configuration; keys as in the JSON that safetensors files carry under `config`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Side S of the square slices the network sees, in pixels.
    pub image_size: usize,
    /// Channels of the first stage.
    pub embed_dim: usize,
    /// Attention heads of the first stage; they double with the width.
    pub num_heads: usize,
    /// Blocks per stage.
    pub stages: Vec<usize>,
    /// Blocks that attend globally.
    pub global_att_blocks: Vec<usize>,
    /// Window side per stage.
    pub window_spec: Vec<usize>,
    /// Size of the position embedding that is resized.
    pub window_pos_embed_bkg_spatial_size: Vec<usize>,
    /// Stages that begin by pooling their queries (the first stage never does).
    pub q_pool: usize,
    /// Neck levels that are joined top-down.
    pub fpn_top_down_levels: Vec<usize>,
    /// Width of the features behind the neck.
    pub d_model: usize,
    /// Width of a memory token.
    pub mem_dim: usize,
    /// Memory slices with a temporal position, the current one included.
    pub num_maskmem: usize,
    /// Layers of memory attention.
    pub memory_attention_layers: usize,
    /// Slices whose object pointers are attended to, at most.
    pub max_obj_ptrs_in_encoder: usize,
    /// A mask enters the memory encoder as probability * scale + bias.
    pub sigmoid_scale_for_mem_enc: f32,
    /// The bias.
    pub sigmoid_bias_for_mem_enc: f32,
    /// Heads of the mask decoder's transformer.
    pub decoder_heads: usize,
    /// Base of the rotary position's frequencies.
    pub rope_theta: f64,
}

impl Default for Config {
    /// MedSAM2: SAM 2.1, Hiera-tiny, 512 x 512.
    fn default() -> Self {
        Self {
            image_size: 512,
            embed_dim: 96,
            num_heads: 1,
            stages: vec![1, 2, 7, 2],
            global_att_blocks: vec![5, 7, 9],
            window_spec: vec![8, 4, 14, 7],
            window_pos_embed_bkg_spatial_size: vec![7, 7],
            q_pool: 3,
            fpn_top_down_levels: vec![2, 3],
            d_model: 256,
            mem_dim: 64,
            num_maskmem: 7,
            memory_attention_layers: 4,
            max_obj_ptrs_in_encoder: 16,
            sigmoid_scale_for_mem_enc: 20.0,
            sigmoid_bias_for_mem_enc: -10.0,
            decoder_heads: 8,
            rope_theta: 10000.0,
        }
    }
}

impl Config {
    /// The configuration of a checkpoint: `file` if given (its keys override), else the checkpoint's own metadata, else the table of published models by
    /// (embed_dim, blocks). The image size cannot be seen in a checkpoint; without a word about it, it is MedSAM2's 512.
    pub fn of(checkpoint: &Checkpoint, file: Option<&Path>) -> Result<Self> {
        let base = match checkpoint.metadata("config") {
            Some(json) => match serde_json::from_str(json) {
                Ok(config) => Some(config),
                Err(error) => bad_input!(
                    "{}: the metadata key `config` is not a configuration: {error}; write it anew, or use the settings that came with the weights",
                    checkpoint.path().display()
                ),
            },
            None => Self::published(checkpoint),
        };
        let config = match (file, base) {
            (Some(file), base) => Self::overridden(file, base.unwrap_or_default())?,
            (None, Some(base)) => base,
            (None, None) => bad_input!(
                "{}: the network is none of the published SAM 2.1 models (t, s, b+, l) and carries no configuration; \
                 give its settings with --config FILE",
                checkpoint.path().display()
            ),
        };
        config.check().with_context(|| match file {
            Some(file) => format!("{}: unusable configuration", file.display()),
            None => format!("{}: unusable configuration", checkpoint.path().display()),
        })?;
        Ok(config)
    }

    fn overridden(file: &Path, base: Self) -> Result<Self> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) => bad_input!("{}: cannot read the configuration: {error}", file.display()),
        };
        let parsed: serde_json::Value = match serde_json::from_str(&text) {
            Ok(value) => value,
            Err(error) => bad_input!("{}: not JSON: {error}", file.display()),
        };
        let mut merged = serde_json::to_value(base)?;
        match (merged.as_object_mut(), parsed) {
            (Some(all), serde_json::Value::Object(given)) => all.extend(given),
            _ => bad_input!("{}: a configuration is a JSON object of settings", file.display()),
        }
        match serde_json::from_value(merged) {
            Ok(config) => Ok(config),
            Err(error) => bad_input!("{}: {error}; the settings are those of `hpc-seg weights inspect`", file.display()),
        }
    }

    /// The published SAM 2.1 models, told apart by width and number of blocks.
    fn published(checkpoint: &Checkpoint) -> Option<Self> {
        let embed_dim = *checkpoint.shape("image_encoder.trunk.patch_embed.proj.weight")?.first()?;
        let blocks = (0..)
            .take_while(|i| checkpoint.shape(&format!("image_encoder.trunk.blocks.{i}.norm1.weight")).is_some())
            .count();
        let model = |num_heads, stages: [usize; 4], global: [usize; 3], windows: [usize; 4], position: usize| Self {
            embed_dim,
            num_heads,
            stages: stages.to_vec(),
            global_att_blocks: global.to_vec(),
            window_spec: windows.to_vec(),
            window_pos_embed_bkg_spatial_size: vec![position; 2],
            ..Self::default()
        };
        match (embed_dim, blocks) {
            (96, 12) => Some(model(1, [1, 2, 7, 2], [5, 7, 9], [8, 4, 14, 7], 7)),
            (96, 16) => Some(model(1, [1, 2, 11, 2], [7, 10, 13], [8, 4, 14, 7], 7)),
            (112, 24) => Some(model(2, [2, 3, 16, 3], [12, 16, 20], [8, 4, 14, 7], 14)),
            (144, 48) => Some(model(2, [2, 6, 36, 4], [23, 33, 43], [8, 4, 16, 8], 7)),
            _ => None,
        }
    }

    /// Side of the grid of memory tokens (stride 16).
    pub fn grid(&self) -> usize {
        self.image_size / 16
    }

    /// Tokens an object pointer is split into.
    pub fn pointer_tokens(&self) -> usize {
        self.d_model / self.mem_dim
    }

    fn check(&self) -> Result<()> {
        let stages = self.stages.len();
        if self.image_size == 0 || !self.image_size.is_multiple_of(32) || self.image_size > 4096 {
            bad_input!("image_size {} is not a multiple of 32 up to 4096", self.image_size);
        }
        if stages != 4 || self.window_spec.len() != 4 || self.stages.contains(&0) || self.q_pool != 3 {
            bad_input!("a Hiera trunk has four stages of at least one block, four window sizes and pools three times");
        }
        // A pooling block still uses the window of the stage before, whose 2 x 2 cells must not be cut.
        if self.window_spec.contains(&0) || self.window_spec[..3].iter().any(|w| w % 2 != 0) {
            bad_input!(
                "window_spec {:?}: the first three windows must be even, none may be 0",
                self.window_spec
            );
        }
        if self.fpn_top_down_levels != [2, 3] {
            bad_input!("fpn_top_down_levels {:?}: only [2, 3] is supported", self.fpn_top_down_levels);
        }
        let widths = [
            self.embed_dim,
            self.num_heads,
            self.d_model,
            self.mem_dim,
            self.decoder_heads,
            self.memory_attention_layers,
        ];
        // Bounds far above any network's, so that a slip in a file cannot ask for all the memory there is.
        if widths.iter().any(|&width| width > 1 << 13) || self.stages.iter().any(|&blocks| blocks > 1 << 10) {
            bad_input!("a width or a number of blocks is larger than any network's: {self:?}");
        }
        let position = &self.window_pos_embed_bkg_spatial_size;
        if position.len() != 2 || position.iter().any(|&side| side == 0 || side > 1 << 10) {
            bad_input!("window_pos_embed_bkg_spatial_size {position:?}: two sizes from 1 to 1024 are needed");
        }
        if self.window_spec.iter().any(|&window| window > self.image_size) {
            bad_input!("window_spec {:?}: no window is larger than the slice", self.window_spec);
        }
        if widths.contains(&0)
            || !self.d_model.is_multiple_of(8)
            || !self.d_model.is_multiple_of(self.mem_dim)
            || !self.mem_dim.is_multiple_of(4)
        {
            bad_input!("widths and heads must be positive, d_model a multiple of 8 and of mem_dim, mem_dim of 4");
        }
        if !self.embed_dim.is_multiple_of(self.num_heads) || !(self.d_model / 2).is_multiple_of(self.decoder_heads) {
            bad_input!("the heads do not divide the widths they split");
        }
        if self.num_maskmem < 2 || self.max_obj_ptrs_in_encoder < 2 || self.num_maskmem > 64 || self.max_obj_ptrs_in_encoder > 1024 {
            bad_input!("num_maskmem must be 2 to 64 and max_obj_ptrs_in_encoder 2 to 1024");
        }
        Ok(())
    }
}
