//! The waist: one file per fused op. Networks are written over these functions; nothing above them names a device.
//!
//! An op file reads: contract, public function with its checks, the CPU's side, cost, cases. Its table of cases drives the conformance test and the benches. Shapes that do not fit are a fault of the calling network, not of any input, and
//! are asserted; inputs are checked where they enter (weights, volumes).

use crate::cuda::arena::Buffer;
use crate::device::Cuda;
use crate::tensor::Tensor;
use anyhow::{Context, Result};

pub mod attention;
pub mod average_pool;
pub mod components;
pub mod conv;
pub mod conv3d;
pub mod depthwise;
pub mod ensemble;
pub mod instance_norm;
pub mod linear;
pub mod mask_product;
pub mod max_pool;
pub mod memory_attention;
pub mod memory_mask;
pub mod nearest_add;
pub mod norm;
pub mod normalise;
pub mod normed_conv3d;
pub mod prompt_mask;
pub mod residual;
pub mod resize;
pub mod resize_nearest;
pub mod resize_u8;
pub mod rope;
pub mod rows;
pub mod take;
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

/// Pixels of a plan's input planes, of which `x` has all that are chosen.
fn plane_len(op: &str, x: &Tensor, chosen: &[usize], plan: &resize::ResizePlan) -> usize {
    let (height, width) = plan.input();
    let planes = x.len() / (height * width);
    assert!(
        x.len() == planes * height * width && chosen.iter().all(|&plane| plane < planes),
        "{op}: planes {chosen:?} of {height} x {width} in {x:?}"
    );
    height * width
}

/// Numbers as a list of ints on the device.
fn list(cuda: &Cuda, numbers: impl Iterator<Item = usize>) -> Result<Buffer> {
    let numbers = numbers.map(i32::try_from).collect::<Result<Vec<i32>, _>>();
    let numbers = numbers.context("a list of numbers beyond what a kernel can count")?;
    cuda.arena.filled(bytemuck::cast_slice(&numbers))
}
