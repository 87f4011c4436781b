//! Devices that run out of memory, or fail, at any moment; and the null driver, which only counts and checks.

use super::faulty::{Fault, Faulty};
use anyhow::{Context, Result};
use hpc_seg::cuda::arena::Arena;
use hpc_seg::cuda::card::Card;
use hpc_seg::cuda::driver::{Arguments, Driver, Shape};
use hpc_seg::cuda::failure::{DeviceLost, OutOfMemory};
use hpc_seg::cuda::launch::{Runtime, Work};
use hpc_seg::cuda::norm::Norm;
use hpc_seg::cuda::null::NullDriver;
use std::sync::Arc;

fn null() -> Arc<NullDriver> {
    Arc::new(NullDriver::new(Card::named("a100-1g.10gb").unwrap()))
}

/// A little work: two norms, one after the other.
fn work(driver: Arc<dyn Driver>) -> Result<Vec<u8>> {
    let arena = Arena::separate(driver.clone(), 1 << 20);
    let runtime = Runtime::new(driver);
    let norm = Norm {
        rows: 3,
        channels: 24,
        eps: 1e-6,
        gelu: false,
    };
    let (gamma, beta) = (arena.filled(&[0; 96])?, arena.filled(&[0; 96])?);
    let (x, y) = (arena.filled(&[0; 144])?, arena.buffer(144)?);
    norm.launch(&runtime, &x, &gamma, &beta, &y).context("the first norm")?;
    norm.launch(&runtime, &y, &gamma, &beta, &x).context("the second norm")?;
    x.to_vec().context("the result")
}

#[test]
fn a_failure_at_every_step_in_turn_is_told_by_its_type_and_leaks_nothing() {
    let whole = Arc::new(Faulty::over(null(), Fault::None));
    assert_eq!(work(whole.clone()).unwrap(), [0; 144]);
    let (allocations, copies, launches) = whole.asked();
    assert_eq!((allocations, copies, launches, whole.held()), (4, 4, 2, 0));
    let below = null();
    let faults = (0..allocations).map(Fault::Allocation).chain((0..copies).map(Fault::Copy));
    for fault in faults.chain((0..launches).map(Fault::Launch)) {
        let faulty = Arc::new(Faulty::over(below.clone(), fault));
        let error = work(faulty.clone()).expect_err("it fails").context("case 1");
        let is_memory = matches!(fault, Fault::Allocation(_));
        assert_eq!(error.downcast_ref::<OutOfMemory>().is_some(), is_memory, "{fault:?}: {error:#}");
        assert_eq!(error.downcast_ref::<DeviceLost>().is_some(), !is_memory, "{fault:?}: {error:#}");
        assert_eq!((faulty.held(), below.counts().held), (0, 0), "{fault:?}");
        assert_eq!(faulty.synchronise().is_err(), !is_memory, "a lost device stays lost");
    }
}

#[test]
fn the_null_driver_counts_what_it_is_asked_to_do() {
    let driver = null();
    work(driver.clone()).unwrap();
    let counts = driver.counts();
    assert_eq!((counts.allocations, counts.held, counts.live), (4, 0, 0));
    assert_eq!(
        (counts.peak, counts.bytes_in, counts.bytes_out),
        (96 + 96 + 144 + 144, 96 + 96 + 144, 144)
    );
    assert_eq!(counts.launches.values().sum::<usize>(), 2, "{:?}", counts.launches);
    assert_eq!(
        (driver.kind().as_str(), driver.limits().multiprocessors),
        ("null a100-1g.10gb sm_80", 14)
    );
}

#[test]
fn the_null_driver_has_the_memory_of_its_card() {
    let error = Arena::new(null(), 10 << 30).err().unwrap();
    let memory = error.downcast_ref::<OutOfMemory>().unwrap();
    assert_eq!((memory.asked, memory.live, memory.budget), (10 << 30, 0, 19 << 29));
    assert!(format!("{error:#}").contains("10737418240 bytes"), "{error:#}");
    assert!(Arena::new(null(), 9 << 30).is_ok());
}

#[test]
fn the_arenas_own_refusal_has_the_type_too() {
    let arena = Arena::new(null(), 1024).unwrap();
    let held = arena.buffer(512).unwrap();
    let error = arena.buffer(1024).err().unwrap().context("case 1");
    let memory = error.downcast_ref::<OutOfMemory>().unwrap();
    assert_eq!(
        (memory.asked, memory.live, memory.budget, memory.largest_gap),
        (1024, 512, 1024, 512)
    );
    drop(held);
}

#[test]
fn the_null_driver_refuses_what_a_gpu_would_refuse_or_never_forgive() {
    let driver = null();
    let runtime = Runtime::new(driver.clone());
    let arena = Arena::separate(driver.clone(), 4096);
    let buffer = arena.buffer(256).unwrap();
    let shape = |threads| Shape {
        blocks: [1, 1, 1],
        threads,
        shared_bytes: 0,
    };
    let arguments = || {
        let pointers = Arguments::new().pointer(buffer.pointer()).pointer(buffer.pointer());
        pointers.int(1).int(1).int(1).int(0).int(1)
    };
    let launch = |threads, arguments| driver.launch("max_pool_1", shape(threads), arguments);
    launch(128, arguments()).unwrap();
    assert!(launch(2048, arguments()).unwrap_err().to_string().contains("may have 1024 threads"));
    assert!(
        launch(128, Arguments::new())
            .unwrap_err()
            .to_string()
            .contains("arguments of [] bytes")
    );
    assert!(driver.launch("max_pool_0", shape(128), arguments()).is_err());
    let (foreign, pointer) = (arguments(), buffer.pointer());
    drop(buffer);
    let error = runtime
        .launch("max_pool_1", shape(128), foreign, "rows 1", Work::default())
        .unwrap_err();
    assert!(format!("{error:#}").contains("not inside an allocation"), "{error:#}");
    assert!(driver.copy_in(pointer, &[0]).is_err(), "it was given back");
    assert!(driver.copy_out(&mut [0], pointer).is_err());
    assert!(driver.copy_within(pointer, pointer, 1).is_err());
    let buffer = arena.buffer(256).unwrap();
    assert!(driver.copy_in(buffer.pointer(), &[0; 256]).is_ok());
    assert!(driver.copy_in(buffer.pointer(), &[0; 257]).is_err(), "past its end");
    assert_ne!(buffer.pointer(), pointer, "addresses are given once");
}

#[cfg(feature = "emu-check")]
#[test]
fn a_failed_kernel_of_the_emulator_is_a_lost_device() {
    let bench = super::conformance::Bench::all().next().unwrap();
    let buffer = bench.bf16(&[0.0; 8]);
    let arguments = Arguments::new().pointer(buffer.pointer()).pointer(buffer.pointer());
    let arguments = arguments.int(1 << 20).int(1 << 10).int(1 << 10).int(0).int(1);
    let shape = Shape {
        blocks: [1, 1, 1],
        threads: 256,
        shared_bytes: 0,
    };
    let error = bench
        .runtime
        .launch("max_pool_1", shape, arguments, "too much", Work::default())
        .unwrap_err();
    assert!(error.downcast_ref::<DeviceLost>().is_some(), "{error:#}");
}
