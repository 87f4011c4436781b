//! The network on the emulated device; seed 10 is the GPU's alone, to save time.

use super::bf16::stages;
use crate::support::emulated::device;
use hpc_seg::cuda::emulator::Schedule;

fn on_the_emulator(seed: u64) {
    stages(&device(Schedule::ALL[0]), seed);
}

#[test]
fn stages_are_as_near_pytorch_as_bf16_allows_seed_1() {
    on_the_emulator(1);
}

#[test]
fn stages_are_as_near_pytorch_as_bf16_allows_where_slices_are_judged_empty() {
    on_the_emulator(39);
}
