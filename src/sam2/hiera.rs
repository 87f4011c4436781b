//! The Hiera trunk: patch embedding, four stages of blocks with windowed or global attention, and the neck's linear maps folded in where only one follows.

use super::config::Config;
use super::load::{self, Loader};
use crate::ops::attention::{Columns, Windows, attention};
use crate::ops::conv::{Conv, conv};
use crate::ops::linear::{Activation, Epilogue, Input, Linear, linear, linear_new};
use crate::ops::max_pool::max_pool;
use crate::ops::norm::Norm;
use crate::ops::resize::ResizePlan;
use crate::tensor::Tensor;
use anyhow::Result;

/// Mean and standard deviation the three equal channels are normalised by.
const MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const STD: [f64; 3] = [0.229, 0.224, 0.225];

/// The trunk's parameters.
pub struct Hiera {
    patch: Conv,
    /// [tokens, embed_dim]: bias, what the mean of the input contributes at each place, and both position embeddings.
    constant: Tensor,
    blocks: Vec<Block>,
    stage_ends: Vec<usize>,
}

struct Block {
    norm1: Norm,
    /// q, k, v and, where the width changes, the shortcut: all from the same normalised rows.
    qkv: Linear,
    /// Key and value of a padding token, [2, width]: the bias alone.
    padding: Tensor,
    project: Linear,
    norm2: Norm,
    expand: Linear,
    contract: Linear,
    width: usize,
    heads: usize,
    /// Whether it halves the map (and doubles the width: `Config::check` has seen to it that both go together).
    pools: bool,
    windows: Windows,
}

impl Hiera {
    /// Loads `image_encoder.trunk`.
    ///
    /// # Errors
    /// When the device's budget has no room for it.
    pub fn load(at: &Loader<'_>, config: &Config) -> Result<Self> {
        let at = at.path("image_encoder.trunk");
        let (patch, constant) = load_patch(&at, config)?;
        let side = config.image_size / 4;
        let constant = Tensor::from_slice_f32(at.device, &[side * side, config.embed_dim], &constant)?;
        let stage_ends: Vec<usize> = config
            .stages
            .iter()
            .scan(0, |sum, n| {
                Some({
                    *sum += n;
                    *sum - 1
                })
            })
            .collect();
        let mut blocks = Vec::new();
        let (mut width, mut side) = (config.embed_dim, side);
        for stage in 0..config.stages.len() {
            for within in 0..config.stages[stage] {
                let index = blocks.len();
                let pools = within == 0 && (1..=config.q_pool).contains(&stage);
                let out = if within == 0 && stage > 0 { 2 * width } else { width };
                // The first block of a stage still has the window of the stage before.
                let spec = config.window_spec[if within == 0 { stage.saturating_sub(1) } else { stage }];
                let window = if config.global_att_blocks.contains(&index) { side } else { spec };
                let heads = config.num_heads << stage;
                let windows = Windows::partition(side, window, pools);
                blocks.push(Block::load(
                    &at.path(&format!("blocks.{index}")),
                    width,
                    out,
                    heads,
                    pools,
                    windows,
                )?);
                width = out;
                side /= if pools { 2 } else { 1 };
            }
        }
        Ok(Self {
            patch,
            constant,
            blocks,
            stage_ends,
        })
    }

    /// Channels of each stage's output.
    pub fn widths(config: &Config) -> Vec<usize> {
        (0..config.stages.len()).map(|s| config.embed_dim << s).collect()
    }

    /// The stages' outputs [N, S / 4, S / 4, C] ... [N, S / 32, S / 32, 8 C] of slices [N, S, S, 1] in 0..255. `trace` sees `patch_embed` (position included) and
    /// every block's output.
    ///
    /// # Errors
    /// Those of a CUDA device.
    pub fn forward(&self, slices: &Tensor, trace: &mut dyn FnMut(&str, &Tensor)) -> Result<Vec<Tensor>> {
        let mut x = conv(
            slices,
            &self.patch,
            Epilogue {
                residual: Some(&self.constant),
                ..Epilogue::NONE
            },
        )?;
        trace("patch_embed", &x);
        let mut outputs = Vec::with_capacity(4);
        for (index, block) in self.blocks.iter().enumerate() {
            x = block.forward(x)?;
            trace(&format!("block{index}"), &x);
            if self.stage_ends.contains(&index) {
                outputs.push(x.copy()?);
            }
        }
        Ok(outputs)
    }
}

impl Block {
    fn load(at: &Loader<'_>, width: usize, out: usize, heads: usize, pools: bool, windows: Windows) -> Result<Self> {
        let mut weight = at.tensor("attn.qkv.weight", &[3 * out, width]);
        let mut bias = at.tensor("attn.qkv.bias", &[3 * out]);
        let padding = Tensor::from_slice(at.device, &[2, out], &bias[out..3 * out])?;
        if pools {
            weight.extend(at.tensor("proj.weight", &[out, width]));
            bias.extend(at.tensor("proj.bias", &[out]));
        }
        let hidden = load::rows(at, "mlp.layers.0.weight");
        Ok(Self {
            norm1: load::norm(at, "norm1", width, 1e-6)?,
            qkv: Linear::new(at.device, &weight, bias.len(), width, Some(&bias))?,
            padding,
            project: load::linear(at, "attn.proj", out, out)?,
            norm2: load::norm(at, "norm2", out, 1e-6)?,
            expand: load::linear(at, "mlp.layers.0", hidden, out)?,
            contract: load::linear(at, "mlp.layers.1", out, hidden)?,
            width: out,
            heads,
            pools,
            windows,
        })
    }

    fn forward(&self, x: Tensor) -> Result<Tensor> {
        let n = x.shape()[0];
        let qkv = linear_new(Input::Norm(&x, &self.norm1), &self.qkv, Epilogue::NONE)?;
        let pooled = self.pools.then(|| max_pool(&qkv, 0, self.width)).transpose()?;
        let q = pooled.as_ref().unwrap_or(&qkv);
        let mut heads_out = Tensor::empty(x.device(), &[q.shape()[0], q.shape()[1], q.shape()[2], self.width])?;
        let columns = [Columns(q, 0), Columns(&qkv, self.width), Columns(&qkv, 2 * self.width)];
        attention(columns, Some(&self.padding), &self.windows, n, self.heads, &mut heads_out)?;
        let mut y = if self.pools {
            max_pool(&qkv, 3 * self.width, self.width)?
        } else {
            x
        };
        linear(Input::Plain(&heads_out), &self.project, Epilogue::ACCUMULATE, &mut y)?;
        let hidden = linear_new(Input::Norm(&y, &self.norm2), &self.expand, Epilogue::activation(Activation::Gelu))?;
        linear(Input::Plain(&hidden), &self.contract, Epilogue::ACCUMULATE, &mut y)?;
        Ok(y)
    }
}

/// The patch embedding on one channel: the three are equal, so their weights (over 255 std) sum up; what their means contribute depends on how many taps fall
/// inside the slice (padding is zero *after* normalisation) and joins the position embeddings as a constant per token.
fn load_patch(at: &Loader<'_>, config: &Config) -> Result<(Conv, Vec<f32>)> {
    let c = config.embed_dim;
    let weight = at.tensor("patch_embed.proj.weight", &[c, 3, 7, 7]);
    let bias = at.tensor("patch_embed.proj.bias", &[c]);
    let (mut folded, mut mean) = (vec![0f32; c * 49], vec![0f64; c * 49]);
    for o in 0..c {
        for tap in 0..49 {
            let of = |channel: usize| f64::from(weight[(o * 3 + channel) * 49 + tap]) / STD[channel];
            folded[o * 49 + tap] = ((of(0) + of(1) + of(2)) / 255.0) as f32;
            mean[o * 49 + tap] = -(0..3).map(|channel| of(channel) * MEAN[channel]).sum::<f64>();
        }
    }
    // A device that rounds weights shifts the product by what it rounded off times the grey level: that of a mean one joins the constant.
    let held = Tensor::from_slice(at.device, &[c, 49], &folded)?.to_vec()?;
    let mean_grey = 255.0 * MEAN.iter().sum::<f64>() / 3.0;
    for ((mean, exact), held) in mean.iter_mut().zip(&folded).zip(&held) {
        *mean += mean_grey * f64::from(exact - held);
    }
    let patch = Conv::new(at.device, &folded, [c, 1], [7, 4, 3], None)?;
    let side = config.image_size / 4;
    let position = position(at, config)?;
    let inside = |out: usize, tap: usize| (3..config.image_size + 3).contains(&(4 * out + tap));
    let mut constant = position;
    for y in 0..side {
        for x in 0..side {
            let row = &mut constant[(y * side + x) * c..][..c];
            for o in 0..c {
                let mut sum = f64::from(bias[o]);
                for ky in (0..7).filter(|&k| inside(y, k)) {
                    sum += (0..7).filter(|&k| inside(x, k)).map(|kx| mean[o * 49 + ky * 7 + kx]).sum::<f64>();
                }
                row[o] += sum as f32;
            }
        }
    }
    Ok((patch, constant))
}

/// `pos_embed` resized bicubically to the token grid plus `pos_embed_window` tiled over it, [tokens, C].
fn position(at: &Loader<'_>, config: &Config) -> Result<Vec<f32>> {
    let (c, side, window) = (config.embed_dim, config.image_size / 4, config.window_spec[0]);
    let [h, w] = [
        config.window_pos_embed_bkg_spatial_size[0],
        config.window_pos_embed_bkg_spatial_size[1],
    ];
    let background = at.tensor("pos_embed", &[1, c, h, w]);
    let tile = at.tensor("pos_embed_window", &[1, c, window, window]);
    let plan = ResizePlan::bicubic((h, w), (side, side))?;
    let mut scratch = vec![0.0; plan.scratch_len(1)];
    let mut plane = vec![0.0; side * side];
    let mut out = vec![0.0; side * side * c];
    for channel in 0..c {
        plan.resize(&background[channel * h * w..][..h * w], &mut scratch, &mut plane)?;
        for y in 0..side {
            for x in 0..side {
                let local = tile[(channel * window + y % window) * window + x % window];
                out[(y * side + x) * c + channel] = plane[y * side + x] + local;
            }
        }
    }
    Ok(out)
}
