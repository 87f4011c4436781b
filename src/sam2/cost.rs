//! What the network's parts cost, for plans and benches: floating-point operations by the ops' own counts.

use super::Sam2;
use super::hiera::Hiera;
use crate::ops::{attention, depthwise, linear, memory_attention};

impl Sam2 {
    /// Operations of encoding one slice, layer 1's start and the features' part of its memory included.
    pub fn encode_flops(&self) -> f64 {
        let config = &self.config;
        let (d, p) = (config.d_model, config.grid().pow(2));
        let mut tokens = 16 * p;
        let mut sum = linear::cost(tokens, config.embed_dim, 49).flops;
        for (stage, &width) in Hiera::widths(config).iter().enumerate() {
            tokens = if stage > 0 { tokens / 4 } else { tokens };
            for block in 0..config.stages[stage] {
                let index = config.stages[..stage].iter().sum::<usize>() + block;
                let keys = if config.global_att_blocks.contains(&index) {
                    tokens
                } else {
                    config.window_spec[stage].pow(2)
                };
                sum += 12.0 * linear::cost(tokens, width, width).flops + attention::cost(tokens, keys, 1, width).flops;
            }
            sum += linear::cost(tokens, d, width).flops;
        }
        sum + 6.0 * linear::cost(p, d, d).flops + attention::cost(p, p, 1, d).flops
    }

    /// Operations of one lane's step: memory attention over `conditioning` and six recent slices, mask decoder, memory encoder.
    pub fn step_flops(&self, conditioning: usize) -> f64 {
        let config = &self.config;
        let (d, m, side) = (config.d_model, config.mem_dim, config.grid());
        let p = side * side;
        let recent = config.num_maskmem - 1;
        let pointers = (conditioning + config.max_obj_ptrs_in_encoder - 1) * config.pointer_tokens();
        let layers = config.memory_attention_layers as f64;
        let cross = |slices| memory_attention::cost(side, d, m, config.num_maskmem, slices, pointers).flops;
        let hidden = self.memory_attention.hidden();
        let itself = 5.0 * linear::cost(p, d, d).flops + attention::cost(p, p, 1, d).flops;
        let after = linear::cost(p, d, m).flops + 2.0 * linear::cost(p, hidden, d).flops;
        let attend = (layers - 1.0) * (itself + cross(conditioning + recent)) + cross(recent) + layers * after;
        let decode = 8.0 * linear::cost(p, d, d).flops;
        let encode = 2.0 * (8.0 * linear::cost(p, d, d).flops + depthwise::cost(p, d).flops) + 4.0 * linear::cost(p, d, d).flops;
        attend + decode + encode
    }

    /// Bytes kept per encoded query slice: features of three levels, layer 1's start, the memory part, the shared attention state.
    pub fn bytes_per_query_slice(&self) -> usize {
        let p = self.config.grid().pow(2);
        4 * (7 * p * self.config.d_model + self.memory_attention.state_len())
    }

    /// Bytes of working memory while `lanes` lanes step and a slice is encoded: buffers of both are kept for the next time. The encoder's largest are the first two
    /// blocks' (26 times the first map, counted from their shapes).
    pub fn working_bytes(&self, lanes: usize) -> usize {
        let (p, d) = (self.config.grid().pow(2), self.config.d_model);
        let step = lanes * (p * (6 * d + self.memory_attention.hidden()) + 40 * p * d / 8 + self.config.image_size.pow(2) * 3);
        let encode = 16 * p * self.config.embed_dim * 26;
        4 * (step + encode)
    }

    /// Bytes of working memory per lane of a step on a CUDA device, against so many conditioning slices. Memory attention takes most: the features and queries [P, d],
    /// its output [P, M], the pointers' keys and values, and what it asks for itself.
    pub fn cuda_step_bytes(&self, conditioning: usize) -> usize {
        let config = &self.config;
        let (p, d, m) = (config.grid().pow(2), config.d_model, config.mem_dim);
        let pointers = (conditioning + config.max_obj_ptrs_in_encoder - 1) * config.pointer_tokens();
        let slices = conditioning + config.num_maskmem - 1;
        2 * (p * (2 * d + m) + 2 * pointers * m) + self.memory_attention.scratch_bytes(slices, pointers)
    }

    /// Bytes of working memory per slice that is encoded on a CUDA device: in the second block rows, q, k, v, shortcut and the pooled maps make 14 first maps.
    pub fn cuda_encode_bytes(&self) -> usize {
        2 * 16 * self.config.grid().pow(2) * self.config.embed_dim * 14
    }
}
