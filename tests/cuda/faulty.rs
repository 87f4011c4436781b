//! A driver that fails on demand, the n-th allocation, copy or launch, or has less shared memory, over any other driver.

use anyhow::{Result, ensure};
use hpc_seg::cuda::driver::{Arguments, DevicePointer, Driver, Limits, Memory, Shape};
use hpc_seg::cuda::failure::{DeviceLost, OutOfMemory};
use hpc_seg::cuda::graph::Graph;
use hpc_seg::cuda::transfer::{PinnedBuffer, Transfer};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This allocation, counted from 0, with [`OutOfMemory`]; those after it succeed.
    Allocation(usize),
    /// This allocation, with [`OutOfMemory`], and from the next launch on everything, with [`DeviceLost`].
    AllocationThenAll(usize),
    /// This copy in, out or within, with [`DeviceLost`], and everything after it.
    Copy(usize),
    /// This launch, with [`DeviceLost`], and everything after it.
    Launch(usize),
    /// This launch, and everything after it, with an error that is not known to end a context.
    Unknown(usize),
    /// Nothing: to count what there is.
    None,
}

pub struct Faulty {
    below: Arc<dyn Driver>,
    fault: Fault,
    shared_bytes: u32,
    allocations: AtomicUsize,
    held: AtomicUsize,
    copies: AtomicUsize,
    launches: AtomicUsize,
    is_lost: AtomicBool,
}

impl Faulty {
    pub fn over(below: Arc<dyn Driver>, fault: Fault) -> Self {
        Self {
            shared_bytes: below.limits().shared_bytes,
            below,
            fault,
            allocations: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            copies: AtomicUsize::new(0),
            launches: AtomicUsize::new(0),
            is_lost: AtomicBool::new(false),
        }
    }

    /// Without faults, in the place of a device whose blocks have this much shared memory.
    pub fn with_shared_bytes(below: Arc<dyn Driver>, shared_bytes: u32) -> Self {
        Self {
            shared_bytes,
            ..Self::over(below, Fault::None)
        }
    }

    /// Allocations, copies and launches asked for so far.
    pub fn asked(&self) -> (usize, usize, usize) {
        let now = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        (now(&self.allocations), now(&self.copies), now(&self.launches))
    }

    /// Allocations not given back yet.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    fn alive(&self) -> Result<()> {
        if self.is_lost.load(Ordering::SeqCst) {
            ensure!(!matches!(self.fault, Fault::Unknown(_)), "the driver says what nobody has heard of");
            let reason = "it was lost before, as a test asked".into();
            return Err(DeviceLost { reason }.into());
        }
        Ok(())
    }

    /// Counts one more; loses the device at the one that the test chose.
    fn step(&self, count: &AtomicUsize, fault: impl Fn(usize) -> Fault) -> Result<()> {
        let now = fault(count.fetch_add(1, Ordering::SeqCst));
        let is_after_memory = matches!(self.fault, Fault::AllocationThenAll(at) if matches!(now, Fault::Launch(_)) && self.allocations.load(Ordering::SeqCst) > at);
        if now == self.fault || is_after_memory || matches!(self.fault, Fault::Unknown(at) if now == Fault::Launch(at)) {
            self.is_lost.store(true, Ordering::SeqCst);
        }
        self.alive()
    }
}

impl Driver for Faulty {
    fn kind(&self) -> String {
        self.below.kind()
    }

    fn limits(&self) -> Limits {
        Limits {
            shared_bytes: self.shared_bytes,
            ..self.below.limits()
        }
    }

    fn memory(&self) -> Result<Memory> {
        self.below.memory()
    }

    fn allocate(&self, bytes: usize) -> Result<DevicePointer> {
        self.alive()?;
        let number = self.allocations.fetch_add(1, Ordering::SeqCst);
        if [Fault::Allocation(number), Fault::AllocationThenAll(number)].contains(&self.fault) {
            return Err(OutOfMemory {
                asked: bytes,
                live: 0,
                budget: 0,
                buffers: 0,
                largest_gap: 0,
            }
            .into());
        }
        let pointer = self.below.allocate(bytes)?;
        self.held.fetch_add(1, Ordering::SeqCst);
        Ok(pointer)
    }

    fn free(&self, pointer: DevicePointer) {
        self.below.free(pointer);
        self.held.fetch_sub(1, Ordering::SeqCst);
    }

    fn copy_in(&self, to: DevicePointer, from: &[u8]) -> Result<()> {
        self.step(&self.copies, Fault::Copy)?;
        self.below.copy_in(to, from)
    }

    fn copy_out(&self, to: &mut [u8], from: DevicePointer) -> Result<()> {
        self.step(&self.copies, Fault::Copy)?;
        self.below.copy_out(to, from)
    }

    fn copy_within(&self, to: DevicePointer, from: DevicePointer, bytes: usize) -> Result<()> {
        self.step(&self.copies, Fault::Copy)?;
        self.below.copy_within(to, from, bytes)
    }

    fn clear(&self, at: DevicePointer, bytes: usize) -> Result<()> {
        self.step(&self.copies, Fault::Copy)?;
        self.below.clear(at, bytes)
    }

    fn launch(&self, entry: &str, shape: Shape, arguments: Arguments) -> Result<()> {
        self.step(&self.launches, Fault::Launch)?;
        self.below.launch(entry, shape, arguments)
    }

    fn synchronise(&self) -> Result<()> {
        self.alive()?;
        self.below.synchronise()
    }

    fn pinned(&self, bytes: usize) -> Result<PinnedBuffer> {
        self.below.pinned(bytes)
    }

    fn upload(&self, to: DevicePointer, from: PinnedBuffer, bytes: usize) -> Result<Transfer> {
        self.step(&self.copies, Fault::Copy)?;
        self.below.upload(to, from, bytes)
    }

    fn download(&self, to: PinnedBuffer, from: DevicePointer, bytes: usize) -> Result<Transfer> {
        self.step(&self.copies, Fault::Copy)?;
        self.below.download(to, from, bytes)
    }

    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        self.alive()?;
        self.below.capture(work)
    }

    fn replay(&self, graph: &Graph) -> Result<()> {
        self.step(&self.launches, Fault::Launch)?;
        self.below.replay(graph)
    }
}
