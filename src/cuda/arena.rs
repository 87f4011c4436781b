//! The arena: all device memory this program uses, counted, under a budget that is never exceeded.
//!
//! One allocation of the whole budget is divided here by first fit, so that nothing is asked of the driver while work is under way. Under the emulator every
//! buffer is an allocation of its own instead ([`Arena::separate`]), for the checker to see its bounds; the count is the same.

use super::driver::{DevicePointer, Driver, Limits};
use super::failure::OutOfMemory;
use super::transfer::{PinnedBuffer, Transfer};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Buffers begin at multiples of this, so that every access may be 16 bytes wide.
const ALIGNMENT: usize = 256;

/// Device memory under a budget; cheap to clone.
#[derive(Clone)]
pub struct Arena(Arc<Inner>);

struct Inner {
    driver: Arc<dyn Driver>,
    budget: usize,
    /// The one allocation; none if buffers are separate.
    base: Option<DevicePointer>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    free: BTreeMap<usize, usize>, // offset -> length; neighbours are always joined
    live: usize,
    peak: usize,
    buffers: usize,
}

/// Bytes in buffers, rounded up as they occupy the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ArenaUse {
    pub budget: usize,
    pub live: usize,
    pub peak: usize,
    pub buffers: usize,
}

/// A piece of the arena, given back when it is dropped.
pub struct Buffer {
    arena: Arena,
    pointer: DevicePointer,
    bytes: usize,
    offset: usize,
    length: usize,
}

impl Arena {
    /// An arena of `budget` bytes, allocated at once.
    ///
    /// # Errors
    /// When the device has not that much.
    pub fn new(driver: Arc<dyn Driver>, budget: usize) -> Result<Self> {
        let budget = budget / ALIGNMENT * ALIGNMENT;
        ensure!(
            budget > 0,
            "an arena of less than {ALIGNMENT} bytes holds nothing; give it a larger budget"
        );
        let base = driver.allocate(budget).with_context(|| {
            format!("the device has no {budget} bytes left for the arena; lower its budget, or end other programs on the device")
        })?;
        Ok(Self::with(driver, budget, Some(base)))
    }

    /// An arena that counts the same, whose buffers are allocations of their own.
    pub fn separate(driver: Arc<dyn Driver>, budget: usize) -> Self {
        Self::with(driver, budget / ALIGNMENT * ALIGNMENT, None)
    }

    fn with(driver: Arc<dyn Driver>, budget: usize, base: Option<DevicePointer>) -> Self {
        let state = State {
            free: BTreeMap::from([(0, budget)]),
            ..State::default()
        };
        Self(Arc::new(Inner {
            driver,
            budget,
            base,
            state: Mutex::new(state),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer of this many bytes with undefined content.
    ///
    /// # Errors
    /// [`OutOfMemory`] when it would exceed the budget, or no gap is large enough; with the numbers.
    pub fn buffer(&self, bytes: usize) -> Result<Buffer> {
        self.place(bytes, false)
    }

    /// The same at the far end, where it does not part the memory of those that come and go while it stays.
    ///
    /// # Errors
    /// As [`Arena::buffer`].
    pub fn buffer_at_the_end(&self, bytes: usize) -> Result<Buffer> {
        self.place(bytes, true)
    }

    fn place(&self, bytes: usize, at_the_end: bool) -> Result<Buffer> {
        let Some(length) = bytes.max(1).checked_next_multiple_of(ALIGNMENT) else {
            bail!("a buffer of {bytes} bytes is beyond any device");
        };
        let offset = self.state().take(length, at_the_end, self.0.budget)?;
        let pointer = match self.0.base {
            Some(base) => base.offset(offset),
            None => self
                .0
                .driver
                .allocate(bytes)
                .inspect_err(|_| self.state().give_back(offset, length))?,
        };
        Ok(Buffer {
            arena: self.clone(),
            pointer,
            bytes,
            offset,
            length,
        })
    }

    /// A buffer with this content.
    ///
    /// # Errors
    /// As [`Arena::buffer`], and of the driver.
    pub fn filled(&self, content: &[u8]) -> Result<Buffer> {
        let buffer = self.buffer(content.len())?;
        buffer.copy_in(content)?;
        Ok(buffer)
    }

    /// Limits of launches on its device.
    pub fn limits(&self) -> Limits {
        self.0.driver.limits()
    }

    /// From now on the peak is that of what follows.
    pub fn forget_peak(&self) {
        let mut state = self.state();
        state.peak = state.live;
    }

    /// What is counted so far.
    pub fn usage(&self) -> ArenaUse {
        let state = self.state();
        ArenaUse {
            budget: self.0.budget,
            live: state.live,
            peak: state.peak,
            buffers: state.buffers,
        }
    }
}

impl State {
    fn take(&mut self, length: usize, at_the_end: bool, budget: usize) -> Result<usize> {
        let mut gaps = self.free.iter().filter(|(_, free)| **free >= length);
        let found = if at_the_end { gaps.next_back() } else { gaps.next() };
        let found = found.map(|(offset, free)| (*offset, *free));
        let Some((offset, free)) = found else {
            let largest = self.free.values().max().copied().unwrap_or(0);
            return Err(OutOfMemory {
                asked: length,
                live: self.live,
                budget,
                buffers: self.buffers,
                largest_gap: largest,
            }
            .into());
        };
        self.free.remove(&offset);
        if free > length {
            self.free.insert(if at_the_end { offset } else { offset + length }, free - length);
        }
        self.live += length;
        self.peak = self.peak.max(self.live);
        self.buffers += 1;
        Ok(if at_the_end { offset + free - length } else { offset })
    }

    fn give_back(&mut self, offset: usize, length: usize) {
        self.live -= length;
        self.buffers -= 1;
        let (mut start, mut end) = (offset, offset + length);
        if let Some((before, free)) = self.free.range(..offset).next_back().map(|(at, free)| (*at, *free))
            && before + free == offset
        {
            self.free.remove(&before);
            start = before;
        }
        if let Some(free) = self.free.remove(&end) {
            end += free;
        }
        self.free.insert(start, end - start);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(base) = self.base {
            self.driver.free(base);
        }
    }
}

impl Buffer {
    /// Bytes asked for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where it begins on the device.
    pub fn pointer(&self) -> DevicePointer {
        self.pointer
    }

    /// Copies `content` to the beginning of the buffer.
    ///
    /// # Errors
    /// When it is longer than the buffer; of the driver.
    pub fn copy_in(&self, content: &[u8]) -> Result<()> {
        self.check_length(content.len())?;
        self.arena.0.driver.copy_in(self.pointer, content)
    }

    /// Starts a copy of the first `bytes` of `from` to the beginning of the buffer, beside the kernels; see [`Transfer`]. The buffer must outlive it.
    ///
    /// # Errors
    /// When it is longer than the buffer; of the driver.
    pub fn upload(&self, from: PinnedBuffer, bytes: usize) -> Result<Transfer> {
        self.check_length(bytes)?;
        self.arena.0.driver.upload(self.pointer, from, bytes)
    }

    /// Starts a copy of the first `bytes` of the buffer to the beginning of `to`, beside the kernels; see [`Transfer`]. The buffer must outlive it.
    ///
    /// # Errors
    /// When it is longer than the buffer; of the driver.
    pub fn download(&self, to: PinnedBuffer, bytes: usize) -> Result<Transfer> {
        self.check_length(bytes)?;
        self.arena.0.driver.download(to, self.pointer, bytes)
    }

    fn check_length(&self, bytes: usize) -> Result<()> {
        ensure!(
            bytes <= self.bytes,
            "{bytes} bytes do not fit into a device buffer of {}",
            self.bytes
        );
        Ok(())
    }

    /// Copies `bytes` bytes from offset `from_at` of another buffer of the device to offset `at` of this one; in the order of launches, without waiting.
    ///
    /// # Errors
    /// A range outside its buffer; of the driver.
    pub fn copy_from(&self, at: usize, from: &Buffer, from_at: usize, bytes: usize) -> Result<()> {
        let inside = |at: usize, buffer: &Buffer| at.checked_add(bytes).is_some_and(|end| end <= buffer.bytes);
        ensure!(
            inside(at, self) && inside(from_at, from),
            "copy of {bytes} bytes from {from_at} of a device buffer of {} to {at} of one of {}",
            from.bytes,
            self.bytes
        );
        if bytes == 0 {
            return Ok(());
        }
        self.arena
            .0
            .driver
            .copy_within(self.pointer.offset(at), from.pointer.offset(from_at), bytes)
    }

    /// Fills it with zeros, in the order of launches.
    ///
    /// # Errors
    /// Of the driver.
    pub fn clear(&self) -> Result<()> {
        self.arena.0.driver.clear(self.pointer, self.bytes)
    }

    /// The whole content, after all work launched so far.
    ///
    /// # Errors
    /// Of the driver, and those of kernels launched before.
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        let mut content = vec![0; self.bytes];
        self.arena.0.driver.copy_out(&mut content, self.pointer)?;
        Ok(content)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.arena.0.base.is_none() {
            self.arena.0.driver.free(self.pointer);
        }
        self.arena.state().give_back(self.offset, self.length);
    }
}
