//! The network on a GPU, where there is one.

use super::bf16::stages;
use crate::support::gpu::on_the_gpu;

#[test]
fn stages_are_as_near_pytorch_as_bf16_allows() {
    on_the_gpu(|device| [1, 10, 39].into_iter().for_each(|seed| stages(device, seed)));
}
