//! Memory attention: a slice's features, conditioned on what the memory bank holds.
//!
//! The first layer's self-attention and queries depend on the slice alone ([`Start`]), and its attention over a support's conditioning tokens on slice and support
//! ([`MemoryAttention::share`]): both are made once and serve every lane.

use super::config::Config;
use super::load;
use super::position;
use crate::device::Device;
use crate::ops::attention::{Columns, Windows, attention};
use crate::ops::linear::{Activation, Epilogue, Input, Linear, linear, linear_new};
use crate::ops::memory_attention::{KeyTables, Memory, memory_attention, partial};
use crate::ops::norm::{Norm, norm};
use crate::ops::rope::{Rope, rope};
use crate::tensor::Tensor;
use crate::weights::StrictLoader;

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

/// Layer 1 as far as it depends on the slice alone.
pub struct Start {
    /// The features after the first self-attention, [P, d].
    x: Tensor,
    /// The first cross-attention's queries, turned, [P, d].
    q: Tensor,
}

impl MemoryAttention {
    /// Loads `memory_attention`; `times` [T, M] are the temporal positions of memory slices.
    pub fn load(at: &StrictLoader<'_>, config: &Config, times: &[f32], device: &Device) -> Self {
        let at = at.path("memory_attention");
        let (d, grid) = (config.d_model, config.grid());
        let rope = Rope::new(d, (grid, grid), config.rope_theta);
        let token_position = position::sine_2d(grid, grid, config.mem_dim);
        let layers = (0..config.memory_attention_layers)
            .map(|i| Layer::load(&at.path(&format!("layers.{i}")), config, times, &token_position, &rope))
            .collect();
        let scaled: Vec<f32> = position::sine_2d(grid, grid, d).iter().map(|v| 0.1 * v).collect();
        Self {
            layers,
            norm: load::norm(&at, "norm", d, 1e-5),
            rope,
            windows: Windows::whole(grid * grid, grid * grid),
            position: Tensor::from_slice(device, &[grid * grid, d], &scaled),
        }
    }

    /// Layer 1 of a slice, up to its cross-attention; `top` [P, d] are the slice's features.
    pub fn start(&self, top: &Tensor) -> Start {
        let mut x = top.clone();
        for (value, position) in x.values_mut().iter_mut().zip(self.position.values()) {
            *value += position;
        }
        self.self_attention(&self.layers[0], &mut x);
        let q = self.cross_queries(&self.layers[0], &x);
        Start { x, q }
    }

    /// Width of the layers' hidden linear map.
    pub fn hidden(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.expand.n())
    }

    /// Floats of a shared state of layer 1.
    pub fn state_len(&self) -> usize {
        self.layers[0].keys.state_len()
    }

    /// Layer 1's unfinished attention of a slice to a support's conditioning tokens: what every lane of that support goes on from.
    pub fn share(&self, start: &Start, memory: Memory<'_>) -> Tensor {
        partial(&start.q, &self.layers[0].keys, &[memory])
    }

    /// Conditioned features [lanes * P, d]. `shared[l]`, if there, is lane l's [`share`](Self::share): its layer 1 then leaves the conditioning tokens out.
    pub fn forward(&self, starts: &[&Start], memories: &[Memory<'_>], shared: &[Option<&Tensor>]) -> Tensor {
        let (p, d) = (starts[0].x.rows(), starts[0].x.width());
        let device = starts[0].x.device();
        let mut x = Tensor::empty(device, &[starts.len() * p, d]);
        let mut q = Tensor::empty(device, &[starts.len() * p, d]);
        for (lane, start) in starts.iter().enumerate() {
            x.values_mut()[lane * p * d..][..p * d].copy_from_slice(start.x.values());
            q.values_mut()[lane * p * d..][..p * d].copy_from_slice(start.q.values());
        }
        let first: Vec<Memory<'_>> = memories
            .iter()
            .zip(shared)
            .map(|(memory, state)| memory.after(state.map(Tensor::values)))
            .collect();
        for (index, layer) in self.layers.iter().enumerate() {
            if index > 0 {
                self.self_attention(layer, &mut x);
                q = self.cross_queries(layer, &x);
            }
            let mut tokens = Tensor::empty(device, &[x.rows(), layer.keys.token_width()]);
            memory_attention(&q, &layer.keys, if index == 0 { &first } else { memories }, &mut tokens);
            linear(Input::Plain(&tokens), &layer.cross_out, Epilogue::ACCUMULATE, &mut x);
            let hidden = linear_new(Input::Norm(&x, &layer.norm3), &layer.expand, Epilogue::activation(Activation::Relu));
            linear(Input::Plain(&hidden), &layer.contract, Epilogue::ACCUMULATE, &mut x);
        }
        norm(&mut x, &self.norm, false);
        x
    }

    fn self_attention(&self, layer: &Layer, x: &mut Tensor) {
        let d = x.width();
        let mut qkv = linear_new(Input::Norm(x, &layer.norm1), &layer.qkv, Epilogue::NONE);
        rope(&mut qkv, 0, &self.rope);
        rope(&mut qkv, d, &self.rope);
        let mut out = Tensor::empty(x.device(), x.shape());
        let items = x.rows() / self.windows.query_rows;
        attention(
            [Columns(&qkv, 0), Columns(&qkv, d), Columns(&qkv, 2 * d)],
            None,
            &self.windows,
            items,
            1,
            &mut out,
        );
        linear(Input::Plain(&out), &layer.out, Epilogue::ACCUMULATE, x);
    }

    fn cross_queries(&self, layer: &Layer, x: &Tensor) -> Tensor {
        let mut q = linear_new(Input::Norm(x, &layer.norm2), &layer.cross_q, Epilogue::NONE);
        rope(&mut q, 0, &self.rope);
        q
    }
}

impl Layer {
    fn load(at: &StrictLoader<'_>, config: &Config, times: &[f32], position: &[f32], rope: &Rope) -> Self {
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
        Self {
            norm1: load::norm(at, "norm1", d, 1e-5),
            qkv: Linear::new(&weight, 3 * d, d, Some(&bias)),
            out: load::linear(at, "self_attn.out_proj", d, d),
            norm2: load::norm(at, "norm2", d, 1e-5),
            cross_q: load::linear(&cross, "q_proj", d, d),
            keys: KeyTables::new(&key.0, &key.1, times, position, rope),
            cross_out: Linear::new(&folded.0, d, m, Some(&folded.1)),
            norm3: load::norm(at, "norm3", d, 1e-5),
            expand: load::linear(at, "linear1", hidden, d),
            contract: load::linear(at, "linear2", d, hidden),
        }
    }
}
