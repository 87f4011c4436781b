//! TFFS: training-free few-shot pseudo-labels (Algorithm 2).

pub mod intensity;
pub mod prepare;
