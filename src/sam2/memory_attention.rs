//! Memory attention: a slice's features, conditioned on what the memory bank holds.
//!
//! The first layer's self-attention and queries depend on the slice alone ([`Start`]), and its attention over a support's conditioning tokens on slice and support
//! ([`MemoryAttention::share`]): both are made once and serve every lane.

use super::config::Config;
use super::load::{self, Loader};
use super::position;
use crate::ops::attention::{Columns, Windows, attention};
use crate::ops::linear::{Activation, Epilogue, Input, Linear, linear, linear_new};
use crate::ops::memory_attention::{KeyTables, Memory, Pointers, State, memory_attention, partial};
use crate::ops::norm::{Norm, norm};
use crate::ops::rope::{Rope, rope};
use crate::ops::rows;
use crate::tensor::Tensor;
use anyhow::Result;

/// The layers and what is constant about positions.
pub struct MemoryAttention {
    layers: Vec<Layer>,
    norm: Norm,
    rope: Rope,
    windows: Windows,
    /// 0.1 times the sine position of the features, [P, d].
    position: Tensor,
}

struct Layer {
    norm1: Norm,
    qkv: Linear,
    out: Linear,
    norm2: Norm,
    cross_q: Linear,
    keys: KeyTables,
    /// The value and output projections in one: tokens of width M to d.
    cross_out: Linear,
    norm3: Norm,
    expand: Linear,
    contract: Linear,
}

/// Layer 1 of N slices as far as it depends on the slice alone.
pub struct Start {
    /// The features after the first self-attention, [N * P, d].
    pub x: Tensor,
    /// The first cross-attention's queries, turned, [N * P, d].
    pub q: Tensor,
}

impl MemoryAttention {
    /// Loads `memory_attention`; `times` [T, M] are the temporal positions of memory slices.
    ///
    /// # Errors
    /// When the device's budget has no room for it.
    pub fn load(at: &Loader<'_>, config: &Config, times: &[f32]) -> Result<Self> {
        let at = at.path("memory_attention");
        let (d, grid) = (config.d_model, config.grid());
        let rope = Rope::new(at.device, d, (grid, grid), config.rope_theta)?;
        let token_position = position::sine_2d(grid, grid, config.mem_dim);
        let layers = (0..config.memory_attention_layers)
            .map(|i| Layer::load(&at.path(&format!("layers.{i}")), config, times, &token_position, &rope))
            .collect::<Result<_>>()?;
        let scaled: Vec<f32> = position::sine_2d(grid, grid, d).iter().map(|v| 0.1 * v).collect();
        Ok(Self {
            layers,
            norm: load::norm(&at, "norm", d, 1e-5)?,
            rope,
            windows: Windows::whole(grid * grid, grid * grid),
            position: Tensor::from_slice(at.device, &[grid * grid, d], &scaled)?,
        })
    }

    /// Layer 1 of N slices, up to its cross-attention; `top` [N * P, d] are the slices' features.
    ///
    /// # Errors
    /// Those of a CUDA device.
    pub fn start(&self, top: &Tensor) -> Result<Start> {
        let mut x = top.copy()?;
        rows::add(&mut x, &self.position)?;
        self.self_attention(&self.layers[0], &mut x)?;
        let q = self.cross_queries(&self.layers[0], &x)?;
        Ok(Start { x, q })
    }

    /// Width of the layers' hidden linear map.
    pub fn hidden(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.expand.n())
    }

    /// Floats of a shared state of layer 1.
    pub fn state_len(&self) -> usize {
        self.layers[0].keys.state_len()
    }

    /// Bytes that one lane's cross-attention takes of a CUDA device's memory beside its tensors.
    pub fn scratch_bytes(&self, slices: usize, pointers: usize) -> usize {
        self.layers[0].keys.scratch_bytes(slices, pointers)
    }

    /// Layer 1's unfinished attention of slices to supports' conditioning tokens: what every lane of that support goes on from. `q` [memories * P, d] are the slices'
    /// [`Start::q`].
    ///
    /// # Errors
    /// Those of a CUDA device.
    pub fn share(&self, q: &Tensor, memories: &[Memory<'_>]) -> Result<Tensor> {
        partial(q, &self.layers[0].keys, memories)
    }

    /// Conditioned features [lanes * P, d] of slices that lanes see. `shared[l]`, if there, is lane l's of [`share`](Self::share): its layer 1 then leaves the conditioning
    /// tokens out.
    ///
    /// # Errors
    /// Those of a CUDA device.
    pub fn forward(&self, Start { mut x, mut q }: Start, memories: &[Memory<'_>], shared: &[Option<State<'_>>]) -> Result<Tensor> {
        let first: Vec<Memory<'_>> = memories.iter().zip(shared).map(|(memory, state)| memory.after(*state)).collect();
        let pointers = Pointers::of(x.device(), memories)?;
        for (index, layer) in self.layers.iter().enumerate() {
            if index > 0 {
                self.self_attention(layer, &mut x)?;
                q = self.cross_queries(layer, &x)?;
            }
            let mut tokens = Tensor::empty(x.device(), &[x.rows(), layer.keys.token_width()])?;
            memory_attention(&q, &layer.keys, if index == 0 { &first } else { memories }, &pointers, &mut tokens)?;
            linear(Input::Plain(&tokens), &layer.cross_out, Epilogue::ACCUMULATE, &mut x)?;
            let hidden = linear_new(Input::Norm(&x, &layer.norm3), &layer.expand, Epilogue::activation(Activation::Relu))?;
            linear(Input::Plain(&hidden), &layer.contract, Epilogue::ACCUMULATE, &mut x)?;
        }
        norm(&mut x, &self.norm, false)?;
        Ok(x)
    }

    fn self_attention(&self, layer: &Layer, x: &mut Tensor) -> Result<()> {
        let d = x.width();
        let mut qkv = linear_new(Input::Norm(x, &layer.norm1), &layer.qkv, Epilogue::NONE)?;
        rope(&mut qkv, 0, &self.rope)?;
        rope(&mut qkv, d, &self.rope)?;
        let mut out = Tensor::empty(x.device(), x.shape())?;
        let items = x.rows() / self.windows.query_rows;
        let columns = [Columns(&qkv, 0), Columns(&qkv, d), Columns(&qkv, 2 * d)];
        attention(columns, None, &self.windows, items, 1, &mut out)?;
        linear(Input::Plain(&out), &layer.out, Epilogue::ACCUMULATE, x)
    }

    fn cross_queries(&self, layer: &Layer, x: &Tensor) -> Result<Tensor> {
        let mut q = linear_new(Input::Norm(x, &layer.norm2), &layer.cross_q, Epilogue::NONE)?;
        rope(&mut q, 0, &self.rope)?;
        Ok(q)
    }
}

impl Layer {
    fn load(at: &Loader<'_>, config: &Config, times: &[f32], position: &[f32], rope: &Rope) -> Result<Self> {
        let (d, m) = (config.d_model, config.mem_dim);
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for name in ["q_proj", "k_proj", "v_proj"] {
            weight.extend(at.tensor(&format!("self_attn.{name}.weight"), &[d, d]));
            bias.extend(at.tensor(&format!("self_attn.{name}.bias"), &[d]));
        }
        let cross = at.path("cross_attn_image");
        let of = |name: &str, k: usize| {
            (
                cross.tensor(&format!("{name}.weight"), &[d, k]),
                cross.tensor(&format!("{name}.bias"), &[d]),
            )
        };
        let (key, value, out) = (of("k_proj", m), of("v_proj", m), of("out_proj", d));
        let folded = load::folded((&out.0, &out.1), (&value.0, &value.1), m);
        let hidden = load::rows(at, "linear1.weight");
        Ok(Self {
            norm1: load::norm(at, "norm1", d, 1e-5)?,
            qkv: Linear::new(at.device, &weight, 3 * d, d, Some(&bias))?,
            out: load::linear(at, "self_attn.out_proj", d, d)?,
            norm2: load::norm(at, "norm2", d, 1e-5)?,
            cross_q: load::linear(&cross, "q_proj", d, d)?,
            keys: KeyTables::new(at.device, &key.0, &key.1, times, position, rope)?,
            cross_out: Linear::new(at.device, &folded.0, d, m, Some(&folded.1))?,
            norm3: load::norm(at, "norm3", d, 1e-5)?,
            expand: load::linear(at, "linear1", hidden, d)?,
            contract: load::linear(at, "linear2", d, hidden)?,
        })
    }
}
