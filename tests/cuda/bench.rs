//! `bench --ops` on a device whose kernels do nothing: every op can be set up and launched at the network's sizes.

use hpc_seg::bench::entries::entries;
use hpc_seg::cuda::arena::Arena;
use hpc_seg::cuda::card::Card;
use hpc_seg::cuda::driver::Driver;
use hpc_seg::cuda::launch::Runtime;
use hpc_seg::cuda::null::NullDriver;
use hpc_seg::device::{Cuda, Device};
use std::collections::BTreeSet;
use std::sync::Arc;

#[test]
fn every_op_is_launched_at_the_networks_sizes() {
    let driver: Arc<dyn Driver> = Arc::new(NullDriver::new(Card::named("h100-80gb").unwrap()));
    let arena = Arena::new(driver.clone(), 8 << 30).unwrap();
    let runtime = Runtime::new(driver);
    let device = Device::on_cuda(Cuda { runtime, arena }, 0).unwrap();
    let mut ops = BTreeSet::new();
    for entry in entries(&device) {
        let called = (entry.prepare)().and_then(|mut call| device.install(&mut call));
        called.unwrap_or_else(|error| panic!("{} at {}: {error:#}", entry.op, entry.case));
        ops.insert(entry.op);
    }
    for op in [
        "linear",
        "attention",
        "memory_attention",
        "ensemble",
        "take",
        "components",
        "fill_holes",
        "gather",
        "put_slots",
    ] {
        assert!(ops.contains(op), "{op} is not measured");
    }
    assert_eq!(device.memory().live, 0, "something is left behind");
}
