//! From masks to memory: what a slice leaves behind for later ones.

use super::Sam2;
use super::encoder::Features;
use super::mask_decoder::Decoded;
use crate::ops::memory_mask::memory_mask;
use crate::ops::resize::ResizePlan;
use crate::tensor::Tensor;
use crate::volume::components::{Runs, fill_holes_2d};
use anyhow::Result;

/// Background components of at most this logit are holes to fill.
const FILLED: f32 = 0.1;

/// What slices prompted with a mask leave behind.
pub struct Prompted {
    /// Memory tokens [N * P, M], bf16 values.
    pub tokens: Tensor,
    /// Object pointers `[N][d]`.
    pub pointers: Vec<Vec<f32>>,
    /// Low-resolution mask logits [N][4 G * 4 G], holes filled.
    pub low_res: Vec<Vec<f32>>,
}

impl Sam2 {
    /// Memory and pointers of slices prompted with `masks` (S x S, zeros and ones each). Holes of at most `fill_holes` pixels of a low-resolution mask are filled before
    /// it becomes memory.
    ///
    /// # Errors
    /// A mask of another size.
    pub fn prompt_with_masks(&self, features: &[&Features], masks: &[&[u8]], fill_holes: usize) -> Result<Prompted> {
        let (s, grid) = (self.config.image_size, self.config.grid());
        let device = self.device();
        let mut square = Tensor::empty(device, &[masks.len(), s, s, 1]);
        for (out, mask) in square.values_mut().chunks_exact_mut(s * s).zip(masks) {
            for (value, &inside) in out.iter_mut().zip(*mask) {
                *value = f32::from(inside);
            }
        }
        let present: Vec<bool> = masks.iter().map(|mask| mask.iter().any(|&v| v != 0)).collect();
        let mut top = Tensor::empty(device, &[masks.len() * grid * grid, self.config.d_model]);
        for (chunk, part) in top.values_mut().chunks_exact_mut(grid * grid * self.config.d_model).zip(features) {
            chunk.copy_from_slice(part.top.values());
        }
        let mut pointers = self.decoder.prompted_pointers(&top, &self.prompt.mask(&square), &self.prompt);
        for (pointer, present) in pointers.iter_mut().zip(&present) {
            if !present {
                pointer.copy_from_slice(self.decoder.no_pointer());
            }
        }
        let low_res = self.low_resolution(&square, fill_holes)?;
        drop(square);
        let parts: Vec<Tensor> = features.iter().map(|f| self.memory_encoder.features(&f.top)).collect();
        let inputs: Vec<&[f32]> = low_res.iter().map(Vec::as_slice).collect();
        let tokens = self.remember(&inputs, &parts.iter().collect::<Vec<_>>(), &present, true)?;
        Ok(Prompted { tokens, pointers, low_res })
    }

    /// Low-resolution logits of prompts: mask * 20 - 10 shrunk four times, antialiased, holes filled.
    fn low_resolution(&self, square: &Tensor, fill_holes: usize) -> Result<Vec<Vec<f32>>> {
        let (s, side) = (self.config.image_size, 4 * self.config.grid());
        let plan = ResizePlan::bilinear_antialiased((s, s), (side, side))?;
        let mut scratch = vec![0.0; plan.scratch_len(1)];
        let mut runs = Runs::default();
        let mut logits = vec![0.0; s * s];
        let mut out = Vec::new();
        for mask in square.values().chunks_exact(s * s) {
            for (logit, value) in logits.iter_mut().zip(mask) {
                *logit = 20.0 * value - 10.0;
            }
            let mut low = vec![0.0; side * side];
            plan.resize(&logits, &mut scratch, &mut low)?;
            if fill_holes > 0 {
                fill_holes_2d(&mut low, side, side, fill_holes, FILLED, &mut runs)?;
            }
            out.push(low);
        }
        Ok(out)
    }

    /// Memory tokens [N * P, M] of low-resolution mask logits; `parts[n]` is `memory_encoder.features` of slice n, `prompted` binarises the masks.
    ///
    /// # Errors
    /// A mask of another size.
    pub fn remember(&self, masks: &[&[f32]], parts: &[&Tensor], present: &[bool], prompted: bool) -> Result<Tensor> {
        let config = &self.config;
        let scale = config.sigmoid_scale_for_mem_enc;
        let masks = memory_mask(
            self.device(),
            masks,
            &self.mask_to_memory,
            prompted,
            scale,
            config.sigmoid_bias_for_mem_enc,
        )?;
        Ok(self.memory_encoder.forward(masks, parts, present))
    }

    /// Memory tokens of tracked slices.
    ///
    /// # Errors
    /// As [`remember`](Self::remember).
    pub fn remember_tracked(&self, decoded: &Decoded, parts: &[&Tensor]) -> Result<Tensor> {
        let masks: Vec<&[f32]> = (0..parts.len()).map(|item| decoded.best_mask(item)).collect();
        let present: Vec<bool> = decoded.scores.iter().map(|&score| score > 0.0).collect();
        self.remember(&masks, parts, &present, false)
    }
}
