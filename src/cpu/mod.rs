//! The processor's side of the ops: vectors, the blocked matrix product, attention tiles. Nothing above `ops` may name this module.

pub mod attention;
pub mod conv3d;
pub mod gemm;
pub mod math;
pub mod memory_attention;
pub mod scratch;
pub mod simd;
pub mod winograd;
