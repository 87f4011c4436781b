//! From masks to memory: what a slice leaves behind for later ones.

use super::Sam2;
use super::mask_decoder::Decoded;
use crate::ops::components::{Runs, fill_holes_2d};
use crate::ops::memory_mask::{Affine, memory_mask};
use crate::ops::resize::ResizePlan;
use crate::tensor::Tensor;
use anyhow::Result;
use rayon::prelude::*;

/// Background components of at most this logit are holes to fill.
pub const FILLED: f32 = 0.1;

/// What slices prompted with a mask leave behind.
pub struct Prompted {
    /// Memory tokens [N * P, M], bf16 values.
    pub tokens: Tensor,
    /// Object pointers `[N][d]`.
    pub pointers: Vec<Vec<f32>>,
    /// Low-resolution mask logits [N, 4 G, 4 G], holes filled.
    pub low_res: Vec<f32>,
}

impl Sam2 {
    /// Memory and pointers of N slices prompted with `masks` (S x S, zeros and ones each); `top` [N * P, d] are their features. Holes of at most `fill_holes` pixels of a
    /// low-resolution mask are filled before it becomes memory.
    ///
    /// # Errors
    /// A mask of another size; those of a CUDA device.
    pub fn prompt_with_masks(&self, top: &Tensor, masks: &[&[u8]], fill_holes: usize) -> Result<Prompted> {
        let (s, side) = (self.config.image_size, 4 * self.config.grid());
        let values: Vec<f32> = masks.iter().flat_map(|mask| mask.iter().map(|&inside| f32::from(inside))).collect();
        let square = Tensor::from_slice(self.device(), &[masks.len(), s, s, 1], &values)?;
        let present: Vec<bool> = masks.iter().map(|mask| mask.iter().any(|&v| v != 0)).collect();
        let mut pointers = self.decoder.prompted_pointers(top, &self.prompt.mask(&square)?, &self.prompt)?;
        drop(square);
        for (pointer, present) in pointers.iter_mut().zip(&present) {
            if !present {
                pointer.copy_from_slice(self.decoder.no_pointer());
            }
        }
        let low_res = self.low_resolution(&values, fill_holes)?;
        let logits = Tensor::from_slice_f32(self.device(), &[masks.len(), side, side], &low_res)?;
        let planes: Vec<usize> = (0..masks.len()).collect();
        let tokens = self.remember(&logits, &planes, self.memory_encoder.features(top)?, &present, true)?;
        Ok(Prompted { tokens, pointers, low_res })
    }

    /// Low-resolution logits of prompts [N, S, S]: mask * 20 - 10 shrunk four times, antialiased, holes filled.
    fn low_resolution(&self, masks: &[f32], fill_holes: usize) -> Result<Vec<f32>> {
        let (s, side) = (self.config.image_size, 4 * self.config.grid());
        let plan = ResizePlan::bilinear_antialiased((s, s), (side, side))?;
        let mut out = vec![0.0; masks.len() / (s * s) * side * side];
        let buffers = || (vec![0.0; s * s], vec![0.0; plan.scratch_len(1)], Runs::default());
        let pairs = masks.par_chunks_exact(s * s).zip(out.par_chunks_exact_mut(side * side));
        pairs.try_for_each_init(buffers, |(logits, scratch, runs), (mask, low)| {
            for (logit, value) in logits.iter_mut().zip(mask) {
                *logit = 20.0 * value - 10.0;
            }
            plan.resize(logits, scratch, low)?;
            if fill_holes > 0 {
                fill_holes_2d(low, side, side, fill_holes, FILLED, runs)?;
            }
            anyhow::Ok(())
        })?;
        Ok(out)
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
