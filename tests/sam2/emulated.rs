//! The network on the emulated device.

use super::bf16::stages;
use hpc_seg::cuda::arena::Arena;
use hpc_seg::cuda::driver::Driver;
use hpc_seg::cuda::emulator::{Emulator, Schedule};
use hpc_seg::cuda::launch::Runtime;
use hpc_seg::device::{Cuda, Device};
use std::sync::Arc;

fn on_the_emulator(seed: u64) {
    let driver: Arc<dyn Driver> = Arc::new(Emulator::new(Schedule::ALL[0]).unwrap());
    let arena = Arena::separate(driver.clone(), 1 << 30);
    let runtime = Runtime::new(driver);
    stages(&Device::on_cuda(Cuda { runtime, arena }, 1).unwrap(), seed);
}

#[test]
fn stages_are_as_near_pytorch_as_bf16_allows_seed_1() {
    on_the_emulator(1);
}

#[test]
fn stages_are_as_near_pytorch_as_bf16_allows_seed_10() {
    on_the_emulator(10);
}

#[test]
fn stages_are_as_near_pytorch_as_bf16_allows_where_slices_are_judged_empty() {
    on_the_emulator(39);
}
