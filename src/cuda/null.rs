//! The null driver: a device that counts and checks, and calculates nothing. The memory plan and the whole schedule run on it within seconds, for cards that are
//! not there. What is copied out is zero.

use super::card::Card;
use super::driver::{Arguments, DevicePointer, Driver, Limits, Memory, Shape};
use super::failure::OutOfMemory;
use super::graph::{self, Graph, Recorder, Step};
use super::transfer::{Pending, PinnedBuffer, Transfer, check_host};
use super::{launch, sources};
use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Addresses begin here, and are never given twice, so that the use of memory given back is noticed.
const FIRST_ADDRESS: u64 = 1 << 40;
/// Allocations are aligned to this, and as far apart at least.
const ALIGNMENT: u64 = 256;

/// A device without arithmetic.
pub struct NullDriver {
    card: Card,
    state: Mutex<State>,
    recorder: Recorder,
}

/// What a null driver was asked to do so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NullCounts {
    /// Allocations made.
    pub allocations: usize,
    /// Allocations not given back yet.
    pub held: usize,
    /// Bytes in them.
    pub live: usize,
    /// The most bytes there ever were at once.
    pub peak: usize,
    /// Bytes copied to the device.
    pub bytes_in: usize,
    /// Bytes copied from the device.
    pub bytes_out: usize,
    /// Bytes copied within the device.
    pub bytes_within: usize,
    /// Launches of each kernel.
    pub launches: BTreeMap<String, usize>,
}

#[derive(Default)]
struct State {
    next: u64,
    allocations: BTreeMap<u64, usize>,
    counts: NullCounts,
}

impl State {
    /// Refuses what does not lie inside one live allocation.
    fn check_inside(&self, what: &str, address: u64, bytes: usize) -> Result<()> {
        let before = self.allocations.range(..=address).next_back();
        let inside = before.is_some_and(|(start, length)| (address - start).saturating_add(bytes as u64) <= *length as u64);
        ensure!(
            inside,
            "{what} of {bytes} bytes at {address:#x}: not inside an allocation; this is a fault of the program, please report it"
        );
        Ok(())
    }
}

impl NullDriver {
    /// In the place of this card.
    pub fn new(card: Card) -> Self {
        Self {
            card,
            state: Mutex::default(),
            recorder: Recorder::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was asked of it so far.
    pub fn counts(&self) -> NullCounts {
        self.state().counts.clone()
    }
}

/// A transfer of nothing.
struct Done;

impl Pending for Done {
    fn join(&mut self, _host: &mut PinnedBuffer) -> Result<()> {
        Ok(())
    }

    fn wait(&mut self, _host: &mut PinnedBuffer) -> Result<()> {
        Ok(())
    }
}

impl Driver for NullDriver {
    fn kind(&self) -> String {
        format!("null {} {}", self.card.name, self.card.architecture)
    }

    fn limits(&self) -> Limits {
        self.card.limits()
    }

    fn memory(&self) -> Result<Memory> {
        let own = self.state().counts.live;
        Ok(Memory {
            total: self.card.memory,
            free: self.card.memory - own,
            own,
            is_hosts: false,
        })
    }

    fn allocate(&self, bytes: usize) -> Result<DevicePointer> {
        self.recorder.refuse("an allocation")?;
        let mut state = self.state();
        let live = state.counts.live;
        if bytes > self.card.memory - live {
            return Err(OutOfMemory::of_device(bytes, live, self.card.memory).into());
        }
        let address = FIRST_ADDRESS + state.next;
        state.next += (bytes as u64 / ALIGNMENT + 2) * ALIGNMENT;
        state.allocations.insert(address, bytes);
        let counts = &mut state.counts;
        counts.allocations += 1;
        counts.held += 1;
        counts.live += bytes;
        counts.peak = counts.peak.max(counts.live);
        Ok(DevicePointer::from_raw(address))
    }

    fn free(&self, pointer: DevicePointer) {
        let mut state = self.state();
        if let Some(bytes) = state.allocations.remove(&pointer.raw()) {
            state.counts.held -= 1;
            state.counts.live -= bytes;
        }
    }

    fn copy_in(&self, to: DevicePointer, from: &[u8]) -> Result<()> {
        self.recorder.refuse("a copy to the device")?;
        let mut state = self.state();
        state.check_inside("copy", to.raw(), from.len())?;
        state.counts.bytes_in += from.len();
        Ok(())
    }

    fn copy_out(&self, to: &mut [u8], from: DevicePointer) -> Result<()> {
        self.recorder.refuse("a copy from the device")?;
        let mut state = self.state();
        state.check_inside("copy", from.raw(), to.len())?;
        state.counts.bytes_out += to.len();
        to.fill(0);
        Ok(())
    }

    fn copy_within(&self, to: DevicePointer, from: DevicePointer, bytes: usize) -> Result<()> {
        let mut state = self.state();
        state.check_inside("copy", to.raw(), bytes)?;
        state.check_inside("copy", from.raw(), bytes)?;
        if !self.recorder.takes(|| Step::CopyWithin(to, from, bytes)) {
            state.counts.bytes_within += bytes;
        }
        Ok(())
    }

    fn clear(&self, at: DevicePointer, bytes: usize) -> Result<()> {
        self.recorder.refuse("clearing memory")?;
        self.state().check_inside("clearing", at.raw(), bytes)
    }

    fn launch(&self, entry: &str, shape: Shape, arguments: Arguments) -> Result<()> {
        let parameters = &sources::specialisation(entry)?.parameters;
        launch::check_arguments(parameters, &arguments)?;
        launch::fits(shape, self.limits())?;
        let mut state = self.state();
        // Parameters of eight bytes are pointers, as `sources` reads them.
        for address in arguments.addresses().filter(|address| *address != 0) {
            state.check_inside("argument", address, 1)?;
        }
        if !self.recorder.takes(|| Step::Launch(entry.into(), shape, arguments)) {
            *state.counts.launches.entry(entry.into()).or_default() += 1;
        }
        Ok(())
    }

    fn synchronise(&self) -> Result<()> {
        self.recorder.refuse("waiting")
    }

    fn pinned(&self, bytes: usize) -> Result<PinnedBuffer> {
        // Of zeros that the system hands out when they are first touched: a plan may ask for more than this machine has.
        Ok(PinnedBuffer::new(vec![0; bytes]))
    }

    fn upload(&self, to: DevicePointer, from: PinnedBuffer, bytes: usize) -> Result<Transfer> {
        check_host(&from, bytes)?;
        self.recorder.refuse("a copy to the device")?;
        let mut state = self.state();
        state.check_inside("copy", to.raw(), bytes)?;
        state.counts.bytes_in += bytes;
        Ok(Transfer::new(from, Done))
    }

    fn download(&self, mut to: PinnedBuffer, from: DevicePointer, bytes: usize) -> Result<Transfer> {
        check_host(&to, bytes)?;
        self.copy_out(&mut to[..bytes], from)?;
        Ok(Transfer::new(to, Done))
    }

    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        self.recorder.capture(work)
    }

    fn replay(&self, graph: &Graph) -> Result<()> {
        graph::replay_steps(self, graph)
    }
}
