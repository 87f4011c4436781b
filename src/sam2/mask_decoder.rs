//! The mask decoder: mask logits, predicted IoU, object score and pointer of a slice, with a mask prompt or none.

use super::config::Config;
use super::encoder::Skips;
use super::load::{self, Loader};
use super::prompt::PromptEncoder;
use super::two_way::TwoWay;
use crate::ops::linear::{Activation, Epilogue, Input, Linear, linear_f32, linear_new};
use crate::ops::mask_product::mask_product;
use crate::ops::rows;
use crate::ops::upscale::{Upscale, upscale};
use crate::tensor::Tensor;
use anyhow::Result;

/// A mask's logit where no object is.
pub const NO_OBJECT: f32 = -1024.0;
/// Mask tokens: one for a single mask, three for ambiguous prompts.
const MASKS: usize = 4;

/// The decoder's parameters, and the pointer's projection.
pub struct MaskDecoder {
    /// Object score, IoU and mask tokens, then the prompt's two, [8, d].
    tokens: Tensor,
    transformer: TwoWay,
    upscale: [Upscale; 2],
    hypernetworks: Vec<Mlp>,
    iou: Mlp,
    score: Mlp,
    pointer: Mlp,
    /// The pointer where no object is, [d].
    no_pointer: Vec<f32>,
    grid: usize,
}

/// What the decoder says of N slices.
pub struct Decoded {
    /// Logits of the three masks, [N, 3, 4 G, 4 G] (G: grid side).
    pub masks: Tensor,
    /// Predicted IoU of those masks, `[N][3]`.
    pub ious: Vec<Vec<f32>>,
    /// Object score per slice; the object is there if it is above 0.
    pub scores: Vec<f32>,
    /// Object pointer per slice `[d]`, `no_obj_ptr` where the object is not.
    pub pointers: Vec<Vec<f32>>,
    /// The mask of highest predicted IoU, per slice.
    pub best: Vec<usize>,
}

impl Decoded {
    /// Numbers of the best masks of these slices among all planes of `masks`.
    pub fn best_planes(&self, items: impl Iterator<Item = usize>) -> Vec<usize> {
        items.map(|item| item * self.masks.shape()[1] + self.best[item]).collect()
    }
}

/// Linear layers with ReLU between.
struct Mlp(Vec<Linear>);

impl Mlp {
    fn load(at: &Loader<'_>, name: &str, input: usize, output: usize) -> Result<Self> {
        let at = at.path(name);
        let depth = (0..).take_while(|i| at.shape(&format!("layers.{i}.weight")).is_some()).count();
        let mut width = input;
        let layers = (0..depth.max(1)).map(|i| {
            let name = format!("layers.{i}");
            let n = if i + 1 == depth.max(1) {
                output
            } else {
                load::rows(&at, &format!("{name}.weight"))
            };
            let layer = load::linear(&at, &name, n, width);
            width = n;
            layer
        });
        Ok(Self(layers.collect::<Result<_>>()?))
    }

    /// The last layer's output stays f32: it is read, or decides.
    fn run(&self, x: &Tensor) -> Result<Tensor> {
        self.run_to(x, linear_f32)
    }

    fn run_to(&self, x: &Tensor, last_linear: fn(Input<'_>, &Linear, Epilogue<'_>) -> Result<Tensor>) -> Result<Tensor> {
        let Some((last, layers)) = self.0.split_last() else {
            return x.copy();
        };
        let mut y: Option<Tensor> = None;
        for layer in layers {
            let x = y.as_ref().unwrap_or(x);
            y = Some(linear_new(Input::Plain(x), layer, Epilogue::activation(Activation::Relu))?);
        }
        last_linear(Input::Plain(y.as_ref().unwrap_or(x)), last, Epilogue::NONE)
    }
}

impl MaskDecoder {
    /// Loads `sam_mask_decoder`, `obj_ptr_proj` and `no_obj_ptr`.
    ///
    /// # Errors
    /// When the device's budget has no room for it.
    pub fn load(at: &Loader<'_>, config: &Config, prompt: &PromptEncoder) -> Result<Self> {
        let d = config.d_model;
        let no_pointer = at.tensor("no_obj_ptr", &[1, d]);
        let pointer = Mlp::load(at, "obj_ptr_proj", d, d)?;
        let transformer = TwoWay::load(at, config)?;
        let at = at.path("sam_mask_decoder");
        let mut tokens = at.tensor("obj_score_token.weight", &[1, d]);
        tokens.extend(at.tensor("iou_token.weight", &[1, d]));
        tokens.extend(at.tensor("mask_tokens.weight", &[MASKS, d]));
        tokens.extend_from_slice(&prompt.not_a_point);
        tokens.extend_from_slice(&prompt.not_a_point);
        let up = |name: &str, c: usize, o: usize, norm: Option<&str>| {
            let part = at.path(name);
            let norm = norm.map(|norm| load::norm(&at, norm, o, 1e-6)).transpose()?;
            Upscale::new(
                at.device,
                &part.tensor("weight", &[c, o, 2, 2]),
                c,
                o,
                &part.tensor("bias", &[o]),
                norm,
            )
        };
        Ok(Self {
            tokens: Tensor::from_slice(at.device, &[tokens.len() / d, d], &tokens)?,
            transformer,
            upscale: [
                up("output_upscaling.0", d, d / 4, Some("output_upscaling.1"))?,
                up("output_upscaling.3", d / 4, d / 8, None)?,
            ],
            hypernetworks: (0..MASKS)
                .map(|i| Mlp::load(&at, &format!("output_hypernetworks_mlps.{i}"), d, d / 8))
                .collect::<Result<_>>()?,
            iou: Mlp::load(&at, "iou_prediction_head", d, MASKS)?,
            score: Mlp::load(&at, "pred_obj_score_head", d, 1)?,
            pointer,
            no_pointer,
            grid: config.grid(),
        })
    }

    /// While tracking, without a prompt: three masks and the best one's pointer. `embedding` [N * P, d] are the memory-conditioned features, `skips` the slices'.
    ///
    /// # Errors
    /// Those of a CUDA device.
    pub fn track(&self, embedding: &Tensor, skips: &Skips, prompt: &PromptEncoder) -> Result<Decoded> {
        let n = embedding.rows() / (self.grid * self.grid);
        let (tokens, image) = self.attend(embedding, &prompt.no_mask, prompt, n)?;
        // All that decides what follows is brought to the host at once: the device waits for the host here, once a step.
        let scores = self.score.run(&token(&tokens, n, 0)?)?;
        let ious = self.iou.run(&token(&tokens, n, 1)?)?;
        let pointers = (0..MASKS - 1)
            .map(|mask| self.pointer.run(&token(&tokens, n, 3 + mask)?))
            .collect::<Result<Vec<_>>>()?;
        let (up, hyper) = self.upscaled(&tokens, image, skips, n)?;
        let scores = scores.to_vec()?;
        let ious: Vec<Vec<f32>> = ious
            .to_vec()?
            .chunks_exact(MASKS)
            .map(|all| all[1..].iter().map(|v| 1.0 / (1.0 + (-v).exp())).collect())
            .collect();
        // The first of equal maxima, as torch.argmax.
        let best: Vec<usize> = ious
            .iter()
            .map(|row| (1..row.len()).fold(0, |top, i| if row[i] > row[top] { i } else { top }))
            .collect();
        let pointers = pointers.iter().map(Tensor::to_vec).collect::<Result<Vec<_>>>()?;
        let pointers = (0..n).map(|item| self.pointer_of(&pointers[best[item]], item, scores[item]));
        let present: Vec<bool> = scores.iter().map(|&score| score > 0.0).collect();
        Ok(Decoded {
            pointers: pointers.collect(),
            masks: mask_product(&up, &hyper, &present, NO_OBJECT)?,
            ious,
            scores,
            best,
        })
    }

    /// The pointers of N prompted slices: `top` [N * P, d] are their features without memory, `masks` [N * P, d] the prompt's dense embedding.
    ///
    /// # Errors
    /// Those of a CUDA device.
    pub fn prompted_pointers(&self, top: &Tensor, masks: &Tensor, prompt: &PromptEncoder) -> Result<Vec<Vec<f32>>> {
        let n = top.rows() / (self.grid * self.grid);
        let (tokens, _) = self.attend(top, masks, prompt, n)?;
        let scores = self.score.run(&token(&tokens, n, 0)?)?.to_vec()?;
        let pointers = self.pointer.run(&token(&tokens, n, 2)?)?.to_vec()?;
        Ok((0..n).map(|item| self.pointer_of(&pointers, item, scores[item])).collect())
    }

    /// The transformer on image features plus the dense prompt.
    fn attend(&self, embedding: &Tensor, dense: &Tensor, prompt: &PromptEncoder, n: usize) -> Result<(Tensor, Tensor)> {
        let mut image = embedding.copy()?;
        rows::add(&mut image, dense)?;
        let tokens = rows::gather(&self.tokens, self.tokens.rows(), &vec![0; n])?;
        self.transformer.forward(tokens, image, &prompt.dense_position, n)
    }

    /// Features at the masks' resolution [N, 4 G, 4 G, d / 8], and what masks 1 to 3 multiply them by, [N, 3, d / 8].
    fn upscaled(&self, tokens: &Tensor, image: Tensor, skips: &Skips, n: usize) -> Result<(Tensor, Tensor)> {
        let d = image.width();
        let up = upscale(&image.reshaped(&[n, self.grid, self.grid, d]), &self.upscale[0], &skips.middle)?;
        let up = upscale(&up, &self.upscale[1], &skips.fine)?;
        let mut hyper = Tensor::empty(up.device(), &[MASKS - 1, n, d / 8])?;
        for mask in 1..MASKS {
            rows::put(
                &mut hyper,
                (mask - 1) * n,
                &self.hypernetworks[mask].run_to(&token(tokens, n, 2 + mask)?, linear_new)?,
            )?;
        }
        // From mask by mask to item by item.
        let by_item: Vec<usize> = (0..n).flat_map(|item| (0..MASKS - 1).map(move |mask| mask * n + item)).collect();
        let hyper = rows::gather(&hyper, 1, &by_item)?;
        Ok((up, hyper.reshaped(&[n, MASKS - 1, d / 8])))
    }

    fn pointer_of(&self, pointers: &[f32], item: usize, score: f32) -> Vec<f32> {
        let d = self.no_pointer.len();
        if score > 0.0 {
            pointers[item * d..][..d].to_vec()
        } else {
            self.no_pointer.clone()
        }
    }

    /// The pointer where no object is.
    pub fn no_pointer(&self) -> &[f32] {
        &self.no_pointer
    }
}

/// Token `index` of each of N items, [N, d].
fn token(tokens: &Tensor, n: usize, index: usize) -> Result<Tensor> {
    let t = tokens.rows() / n;
    let rows: Vec<usize> = (0..n).map(|item| item * t + index).collect();
    rows::gather(tokens, 1, &rows)
}
