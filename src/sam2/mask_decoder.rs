//! The mask decoder: mask logits, predicted IoU, object score and pointer of a slice, with a mask prompt or none.

use super::config::Config;
use super::encoder::Features;
use super::load;
use super::prompt::PromptEncoder;
use super::two_way::TwoWay;
use crate::ops::linear::{Activation, Epilogue, Input, Linear, linear_new};
use crate::ops::mask_product::mask_product;
use crate::ops::upscale::{Upscale, upscale};
use crate::tensor::Tensor;
use crate::weights::StrictLoader;

/// A mask's logit where no object is.
pub const NO_OBJECT: f32 = -1024.0;
/// Mask tokens: one for a single mask, three for ambiguous prompts.
const MASKS: usize = 4;

/// The decoder's parameters, and the pointer's projection.
pub struct MaskDecoder {
    /// Object score, IoU and mask tokens, then the prompt's two, [8, d].
    tokens: Vec<f32>,
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
    /// Logits of the masks that were asked for, [N, masks, 4 G, 4 G] (G: grid side).
    pub masks: Tensor,
    /// Predicted IoU of those masks, `[N][masks]`.
    pub ious: Vec<Vec<f32>>,
    /// Object score per slice; the object is there if it is above 0.
    pub scores: Vec<f32>,
    /// Object pointer per slice `[d]`, `no_obj_ptr` where the object is not.
    pub pointers: Vec<Vec<f32>>,
    /// The mask of highest predicted IoU, per slice.
    pub best: Vec<usize>,
}

impl Decoded {
    /// The best mask's logits of slice `item`, [4 G * 4 G].
    pub fn best_mask(&self, item: usize) -> &[f32] {
        let &[_, masks, h, w] = self.masks.shape() else { return &[] };
        &self.masks.values()[(item * masks + self.best[item]) * h * w..][..h * w]
    }
}

/// Linear layers with ReLU between.
struct Mlp(Vec<Linear>);

impl Mlp {
    fn load(at: &StrictLoader<'_>, name: &str, input: usize, output: usize) -> Self {
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
        Self(layers.collect())
    }

    fn run(&self, x: &Tensor) -> Tensor {
        let mut y: Option<Tensor> = None;
        for (i, layer) in self.0.iter().enumerate() {
            let activation = if i + 1 == self.0.len() {
                Activation::None
            } else {
                Activation::Relu
            };
            y = Some(linear_new(
                Input::Plain(y.as_ref().unwrap_or(x)),
                layer,
                Epilogue::activation(activation),
            ));
        }
        y.unwrap_or_else(|| x.clone())
    }
}

impl MaskDecoder {
    /// Loads `sam_mask_decoder`, `obj_ptr_proj` and `no_obj_ptr`.
    pub fn load(at: &StrictLoader<'_>, config: &Config, prompt: &PromptEncoder) -> Self {
        let d = config.d_model;
        let no_pointer = at.tensor("no_obj_ptr", &[1, d]);
        let pointer = Mlp::load(at, "obj_ptr_proj", d, d);
        let transformer = TwoWay::load(at, config);
        let at = at.path("sam_mask_decoder");
        let mut tokens = at.tensor("obj_score_token.weight", &[1, d]);
        tokens.extend(at.tensor("iou_token.weight", &[1, d]));
        tokens.extend(at.tensor("mask_tokens.weight", &[MASKS, d]));
        tokens.extend_from_slice(&prompt.not_a_point);
        tokens.extend_from_slice(&prompt.not_a_point);
        let up = |name: &str, c: usize, o: usize, norm: Option<&str>| {
            let part = at.path(name);
            let norm = norm.map(|norm| load::norm(&at, norm, o, 1e-6));
            Upscale::new(&part.tensor("weight", &[c, o, 2, 2]), c, o, &part.tensor("bias", &[o]), norm)
        };
        Self {
            tokens,
            transformer,
            upscale: [
                up("output_upscaling.0", d, d / 4, Some("output_upscaling.1")),
                up("output_upscaling.3", d / 4, d / 8, None),
            ],
            hypernetworks: (0..MASKS)
                .map(|i| Mlp::load(&at, &format!("output_hypernetworks_mlps.{i}"), d, d / 8))
                .collect(),
            iou: Mlp::load(&at, "iou_prediction_head", d, MASKS),
            score: Mlp::load(&at, "pred_obj_score_head", d, 1),
            pointer,
            no_pointer,
            grid: config.grid(),
        }
    }

    /// While tracking, without a prompt: three masks and the best one's pointer. `embedding` [N * P, d] are the memory-conditioned features, `features` the slices'.
    pub fn track(&self, embedding: &Tensor, features: &[&Features], prompt: &PromptEncoder) -> Decoded {
        let n = features.len();
        let (tokens, image) = self.attend(embedding, &prompt.no_mask, prompt, n);
        let scores = self.score.run(&self.token(&tokens, n, 0)).values().to_vec();
        let ious = self.iou.run(&self.token(&tokens, n, 1));
        let ious: Vec<Vec<f32>> = ious
            .values()
            .chunks_exact(MASKS)
            .map(|all| all[1..].iter().map(|v| 1.0 / (1.0 + (-v).exp())).collect())
            .collect();
        let mut masks = self.masks(&tokens, image, features);
        let (len, present) = (16 * self.grid * self.grid, |item: usize| scores[item] > 0.0);
        for (i, mask) in masks.values_mut().chunks_exact_mut(len).enumerate() {
            if !present(i / (MASKS - 1)) {
                mask.fill(NO_OBJECT);
            }
        }
        // The first of equal maxima, as torch.argmax.
        let best: Vec<usize> = ious
            .iter()
            .map(|row| (1..row.len()).fold(0, |top, i| if row[i] > row[top] { i } else { top }))
            .collect();
        let chosen = self.token_of(&tokens, n, |item| 3 + best[item]);
        let pointers = self.pointers(&chosen, &scores);
        Decoded {
            masks,
            ious,
            scores,
            pointers,
            best,
        }
    }

    /// The pointers of prompted slices: `top` [N * P, d] are their features without memory, `masks` [N * P, d] the prompt's dense embedding.
    pub fn prompted_pointers(&self, top: &Tensor, masks: &Tensor, prompt: &PromptEncoder) -> Vec<Vec<f32>> {
        let n = top.rows() / (self.grid * self.grid);
        let (tokens, _) = self.attend(top, masks, prompt, n);
        let scores = self.score.run(&self.token(&tokens, n, 0)).values().to_vec();
        self.pointers(&self.token(&tokens, n, 2), &scores)
    }

    /// The transformer on image features plus the dense prompt.
    fn attend(&self, embedding: &Tensor, dense: &Tensor, prompt: &PromptEncoder, n: usize) -> (Tensor, Tensor) {
        let d = embedding.width();
        let mut image = embedding.clone();
        let len = dense.values().len();
        for chunk in image.values_mut().chunks_exact_mut(len) {
            for (value, add) in chunk.iter_mut().zip(dense.values()) {
                *value += add;
            }
        }
        let mut tokens = Tensor::empty(embedding.device(), &[n * self.tokens.len() / d, d]);
        for chunk in tokens.values_mut().chunks_exact_mut(self.tokens.len()) {
            chunk.copy_from_slice(&self.tokens);
        }
        self.transformer.forward(tokens, image, &prompt.dense_position, n)
    }

    /// Logits of masks 1 to 3.
    fn masks(&self, tokens: &Tensor, image: Tensor, features: &[&Features]) -> Tensor {
        let (n, d) = (features.len(), image.width());
        let middles: Vec<&Tensor> = features.iter().map(|f| &f.middle).collect();
        let fines: Vec<&Tensor> = features.iter().map(|f| &f.fine).collect();
        let up = upscale(&image.reshaped(&[n, self.grid, self.grid, d]), &self.upscale[0], &middles);
        let up = upscale(&up, &self.upscale[1], &fines);
        let width = d / 8;
        let mut hyper = Tensor::empty(up.device(), &[n, MASKS - 1, width]);
        for mask in 1..MASKS {
            let row = self.hypernetworks[mask].run(&self.token(tokens, n, 2 + mask));
            for item in 0..n {
                let at = (item * (MASKS - 1) + mask - 1) * width;
                hyper.values_mut()[at..at + width].copy_from_slice(&row.values()[item * width..][..width]);
            }
        }
        mask_product(&up, &hyper)
    }

    /// Token `index` of every item, [N, d].
    fn token(&self, tokens: &Tensor, n: usize, index: usize) -> Tensor {
        self.token_of(tokens, n, |_| index)
    }

    fn token_of(&self, tokens: &Tensor, n: usize, index: impl Fn(usize) -> usize) -> Tensor {
        let (d, t) = (tokens.width(), tokens.rows() / n);
        let mut out = Tensor::empty(tokens.device(), &[n, d]);
        for (item, row) in out.values_mut().chunks_exact_mut(d).enumerate() {
            row.copy_from_slice(&tokens.values()[(item * t + index(item)) * d..][..d]);
        }
        out
    }

    fn pointers(&self, chosen: &Tensor, scores: &[f32]) -> Vec<Vec<f32>> {
        let pointers = self.pointer.run(chosen);
        let rows = pointers.values().chunks_exact(self.no_pointer.len());
        rows.zip(scores)
            .map(|(row, &score)| if score > 0.0 { row.to_vec() } else { self.no_pointer.clone() })
            .collect()
    }

    /// The pointer where no object is.
    pub fn no_pointer(&self) -> &[f32] {
        &self.no_pointer
    }
}
