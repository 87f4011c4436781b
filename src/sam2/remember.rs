//! From masks to memory: what a slice leaves behind for later ones.

use super::Sam2;
use super::mask_decoder::Decoded;
use crate::ops::components::holes_filled;
use crate::ops::memory_mask::{Affine, memory_mask};
use crate::ops::prompt_mask::prompt_mask;
use crate::tensor::Tensor;
use anyhow::Result;

/// Background components of at most this logit are holes to fill.
pub const FILLED: f32 = 0.1;

/// What slices prompted with a mask leave behind.
pub struct Prompted {
    /// Memory tokens [N * P, M], bf16 values.
    pub tokens: Tensor,
    /// Object pointers `[N][d]`.
    pub pointers: Vec<Vec<f32>>,
    /// Low-resolution mask logits [N, 4 G, 4 G], holes filled.
    pub low_res: Tensor,
}

impl Sam2 {
    /// Memory and pointers of N slices prompted with `masks` (S x S, zeros and ones each); `top` [N * P, d] are their features. Holes of at most `fill_holes` pixels of a
    /// low-resolution mask are filled before it becomes memory.
    ///
    /// # Errors
    /// A mask of another size; those of a CUDA device.
    pub fn prompt_with_masks(&self, top: &Tensor, masks: &[&[u8]], fill_holes: usize) -> Result<Prompted> {
        let (square, mut low_res) = prompt_mask(self.device(), masks, self.config.image_size)?;
        let present: Vec<bool> = masks.iter().map(|mask| mask.iter().any(|&v| v != 0)).collect();
        let mut pointers = self.decoder.prompted_pointers(top, &self.prompt.mask(&square)?, &self.prompt)?;
        drop(square);
        for (pointer, present) in pointers.iter_mut().zip(&present) {
            if !present {
                pointer.copy_from_slice(self.decoder.no_pointer());
            }
        }
        let planes: Vec<usize> = (0..masks.len()).collect();
        if fill_holes > 0 {
            low_res = holes_filled(&low_res, &planes, fill_holes, FILLED)?;
        }
        let tokens = self.remember(&low_res, &planes, self.memory_encoder.features(top)?, &present, true)?;
        Ok(Prompted { tokens, pointers, low_res })
    }

    /// Memory tokens [N * P, M] of planes of low-resolution mask logits; `parts` [N * P, d] is `memory_encoder.features` of the slices, `prompted` binarises the masks.
    ///
    /// # Errors
    /// Those of a CUDA device.
    pub fn remember(&self, masks: &Tensor, planes: &[usize], parts: Tensor, present: &[bool], prompted: bool) -> Result<Tensor> {
        let affine = Affine {
            prompted,
            scale: self.config.sigmoid_scale_for_mem_enc,
            bias: self.config.sigmoid_bias_for_mem_enc,
        };
        let masks = memory_mask(masks, planes, &self.mask_to_memory, affine)?;
        self.memory_encoder.forward(masks, parts, present)
    }

    /// Memory tokens of these of the tracked slices; `parts` are theirs.
    ///
    /// # Errors
    /// As [`remember`](Self::remember).
    pub fn remember_tracked(&self, decoded: &Decoded, items: &[usize], parts: Tensor) -> Result<Tensor> {
        let present: Vec<bool> = items.iter().map(|&item| decoded.scores[item] > 0.0).collect();
        let planes = decoded.best_planes(items.iter().copied());
        self.remember(&decoded.masks, &planes, parts, &present, false)
    }
}
