//! The waist: one file per fused op. Networks are written over these functions; nothing above them names a device.
//!
//! An op file reads: contract, public function with its checks, the CPU's side, cost, cases. Its table of cases drives the conformance test and the benches. Shapes that do not fit are a fault of the calling network, not of any input, and
//! are asserted; inputs are checked where they enter (weights, volumes).

pub mod attention;
pub mod conv;
pub mod depthwise;
pub mod ensemble;
pub mod linear;
pub mod mask_product;
pub mod max_pool;
pub mod memory_attention;
pub mod memory_mask;
pub mod nearest_add;
pub mod norm;
pub mod resize;
pub mod resize_nearest;
pub mod resize_u8;
pub mod rope;
pub mod upscale;

/// Floating-point operations and bytes moved, at least, by one call of an op.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Cost {
    pub flops: f64,
    pub bytes: f64,
}

/// Whether a case of that name stands for a place in the network ("stage.place"), which the benches measure; the others are awkward sizes for the tests.
pub fn in_network(name: &str) -> bool {
    name.contains('.')
}
