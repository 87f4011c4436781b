//! The emulated device.

use hpc_seg::cuda::arena::Arena;
use hpc_seg::cuda::driver::Driver;
use hpc_seg::cuda::emulator::{Emulator, Schedule};
use hpc_seg::cuda::launch::Runtime;
use hpc_seg::device::{Cuda, Device};
use std::sync::Arc;

/// With a gibibyte of memory; threads and copies run in this order.
pub fn device(schedule: Schedule) -> Device {
    let driver: Arc<dyn Driver> = Arc::new(Emulator::new(schedule).unwrap());
    let arena = Arena::separate(driver.clone(), 1 << 30);
    let runtime = Runtime::new(driver);
    Device::on_cuda(Cuda { runtime, arena }, 1).unwrap()
}
