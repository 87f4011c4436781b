//! The two-way transformer of the mask decoder: a handful of tokens and the image attend to each other.
//!
//! Layers are post-norm. The tokens as they came in are the queries' position, the dense position the image's: added to queries and keys, never to values.

use super::config::Config;
use super::load::{self, Loader};
use crate::ops::attention::{Columns, Windows, attention};
use crate::ops::linear::{Activation, Epilogue, Input, Linear, linear, linear_new};
use crate::ops::norm::Norm;
use crate::tensor::Tensor;
use anyhow::Result;

/// The transformer's parameters.
pub struct TwoWay {
    layers: Vec<Layer>,
    last: Cross,
    last_norm: Norm,
    heads: usize,
}

struct Layer {
    itself: Cross,
    norm1: Norm,
    to_image: Cross,
    norm2: Norm,
    expand: Linear,
    contract: Linear,
    norm3: Norm,
    to_tokens: Cross,
    norm4: Norm,
}

/// Projections of one attention; cross-attention works at half the width.
struct Cross {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
}

impl Cross {
    fn load(at: &Loader<'_>, name: &str, d: usize, inner: usize) -> Result<Self> {
        let at = at.path(name);
        Ok(Self {
            q: load::linear(&at, "q_proj", inner, d)?,
            k: load::linear(&at, "k_proj", inner, d)?,
            v: load::linear(&at, "v_proj", inner, d)?,
            out: load::linear(&at, "out_proj", d, inner)?,
        })
    }

    /// y = LayerNorm([y +] attention(q, k, v) W + b): `replace` leaves the old y out.
    fn run(
        &self,
        q: Input<'_>,
        k: Input<'_>,
        v: Input<'_>,
        windows: &Windows,
        heads: usize,
        y: &mut Tensor,
        norm: &Norm,
        replace: bool,
    ) -> Result<()> {
        let q = linear_new(q, &self.q, Epilogue::NONE)?;
        let k = linear_new(k, &self.k, Epilogue::NONE)?;
        let v = linear_new(v, &self.v, Epilogue::NONE)?;
        let mut out = Tensor::empty(y.device(), q.shape())?;
        let items = q.rows() / windows.query_rows;
        let columns = [Columns(&q, 0), Columns(&k, 0), Columns(&v, 0)];
        attention(columns, None, windows, items, heads, &mut out)?;
        linear(
            Input::Plain(&out),
            &self.out,
            Epilogue {
                accumulate: !replace,
                norm: Some(norm),
                ..Epilogue::NONE
            },
            y,
        )
    }
}

impl TwoWay {
    /// Loads `sam_mask_decoder.transformer`.
    ///
    /// # Errors
    /// When the device's budget has no room for it.
    pub fn load(at: &Loader<'_>, config: &Config) -> Result<Self> {
        let at = at.path("sam_mask_decoder.transformer");
        let d = config.d_model;
        let depth = (0..)
            .take_while(|i| at.shape(&format!("layers.{i}.norm1.weight")).is_some())
            .count();
        let layers = (0..depth)
            .map(|i| {
                let at = at.path(&format!("layers.{i}"));
                let hidden = load::rows(&at, "mlp.layers.0.weight");
                Ok(Layer {
                    itself: Cross::load(&at, "self_attn", d, d)?,
                    norm1: load::norm(&at, "norm1", d, 1e-5)?,
                    to_image: Cross::load(&at, "cross_attn_token_to_image", d, d / 2)?,
                    norm2: load::norm(&at, "norm2", d, 1e-5)?,
                    expand: load::linear(&at, "mlp.layers.0", hidden, d)?,
                    contract: load::linear(&at, "mlp.layers.1", d, hidden)?,
                    norm3: load::norm(&at, "norm3", d, 1e-5)?,
                    to_tokens: Cross::load(&at, "cross_attn_image_to_token", d, d / 2)?,
                    norm4: load::norm(&at, "norm4", d, 1e-5)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            layers,
            last: Cross::load(&at, "final_attn_token_to_image", d, d / 2)?,
            last_norm: load::norm(&at, "norm_final_attn", d, 1e-5)?,
            heads: config.decoder_heads,
        })
    }

    /// Turns `tokens` [N * T, d] and `image` [N * P, d] into their attended selves; `position` [P, d] is the image's.
    ///
    /// # Errors
    /// Those of a CUDA device.
    pub fn forward(&self, tokens: Tensor, mut image: Tensor, position: &Tensor, items: usize) -> Result<(Tensor, Tensor)> {
        let (t, p) = (tokens.rows() / items, image.rows() / items);
        let itself = Windows::whole(t, t);
        let to_image = Windows::whole(t, p);
        let to_tokens = Windows::whole(p, t);
        let mut x = tokens.copy()?;
        for (index, layer) in self.layers.iter().enumerate() {
            let first = index == 0;
            let old = x.copy()?;
            let q = if first { Input::Plain(&old) } else { Input::Sum(&old, &tokens) };
            // The first layer uses no position and replaces the queries.
            layer
                .itself
                .run(q, q, Input::Plain(&old), &itself, self.heads, &mut x, &layer.norm1, first)?;
            let old = x.copy()?;
            let (q, k) = (Input::Sum(&old, &tokens), Input::Sum(&image, position));
            layer
                .to_image
                .run(q, k, Input::Plain(&image), &to_image, self.heads, &mut x, &layer.norm2, false)?;
            let hidden = linear_new(Input::Plain(&x), &layer.expand, Epilogue::activation(Activation::Relu))?;
            let after = Epilogue {
                accumulate: true,
                norm: Some(&layer.norm3),
                ..Epilogue::NONE
            };
            linear(Input::Plain(&hidden), &layer.contract, after, &mut x)?;
            let old = image.copy()?;
            let (q, k) = (Input::Sum(&old, position), Input::Sum(&x, &tokens));
            layer
                .to_tokens
                .run(q, k, Input::Plain(&x), &to_tokens, self.heads, &mut image, &layer.norm4, false)?;
        }
        let old = x.copy()?;
        let (q, k) = (Input::Sum(&old, &tokens), Input::Sum(&image, position));
        self.last
            .run(q, k, Input::Plain(&image), &to_image, self.heads, &mut x, &self.last_norm, false)?;
        Ok((x, image))
    }
}
