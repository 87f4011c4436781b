//! The driver: the small seam between this program and whatever runs its kernels, a GPU ([`super::gpu`]) or the emulator of the tests.

use super::graph::Graph;
use super::transfer::{PinnedBuffer, Transfer};
use anyhow::Result;
use std::fmt;

/// An address on the device. Only a driver makes one; it is checked by the driver at copies, and by [`super::arena`] for launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevicePointer(u64);

impl DevicePointer {
    pub(super) fn from_raw(address: u64) -> Self {
        Self(address)
    }

    pub(super) fn raw(self) -> u64 {
        self.0
    }

    pub(super) fn offset(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// Bytes of shared memory that a block may have on sm_80; CUDA C++ Programming Guide, "Compute Capabilities".
pub const SHARED_BYTES_OF_SM_80: u32 = 163 << 10;
/// The same on cards for graphics, sm_86, sm_89 and sm_120: the least that kernels are there for.
pub const LEAST_SHARED_BYTES: u32 = 99 << 10;

/// How a kernel is launched: blocks of the grid, threads of a block, bytes of dynamic shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Shape {
    pub blocks: [u32; 3],
    pub threads: u32,
    pub shared_bytes: u32,
}

/// What one launch may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Limits {
    pub threads: u32,
    pub shared_bytes: u32,
    pub multiprocessors: u32,
}

/// Memory of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All there is.
    pub total: usize,
    /// What can still be allocated.
    pub free: usize,
    /// What this process has of it at most: context, modules, allocations. Other processes have the rest.
    pub own: usize,
    /// Whether it is the host's memory too, as where CPU and GPU are one chip.
    pub is_hosts: bool,
}

/// The arguments of a kernel in their order, by value.
#[derive(Clone, Debug, Default)]
pub struct Arguments {
    values: Vec<u64>, // each in the first bytes of its word
    sizes: Vec<usize>,
}

impl Arguments {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A pointer to device memory.
    pub fn pointer(self, pointer: DevicePointer) -> Self {
        self.word(pointer.0, 8)
    }

    /// A pointer, or null.
    pub fn optional(self, pointer: Option<DevicePointer>) -> Self {
        self.word(pointer.map_or(0, |pointer| pointer.0), 8)
    }

    /// An `int`.
    pub fn int(self, value: i32) -> Self {
        self.word(u64::from(value.cast_unsigned()), 4)
    }

    /// A `float`.
    pub fn float(self, value: f32) -> Self {
        self.word(u64::from(value.to_bits()), 4)
    }

    fn word(mut self, value: u64, size: usize) -> Self {
        // The low half of a word must come first in memory, where the kernel's four-byte parameters are read.
        self.values.push(value.to_le());
        self.sizes.push(size);
        self
    }

    /// Bytes of each.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes
    }

    /// Those of eight bytes: addresses, as kernels have no other parameters of that size.
    pub(super) fn addresses(&self) -> impl Iterator<Item = u64> {
        let both = self.values.iter().zip(&self.sizes);
        both.filter(|(_, size)| **size == 8).map(|(value, _)| u64::from_le(*value))
    }

    /// Pointers to the values, as the driver wants them; good as long as `self` stays where it is.
    pub(super) fn pointers(&mut self) -> Vec<*mut std::ffi::c_void> {
        self.values.iter_mut().map(|value| std::ptr::from_mut(value).cast()).collect()
    }
}

/// Runs kernels: a GPU, the emulator, or nothing ([`super::null`]). A kernel that fails makes the error [`super::failure::DeviceLost`] here or in a later call. Work is in the order of the calls; nothing but [`Driver::copy_out`] and [`Driver::synchronise`] waits for it.
pub trait Driver: Send + Sync {
    /// The kind of device, on which the bytes of results depend, such as `cuda sm_80`.
    fn kind(&self) -> String;

    /// Memory now.
    ///
    /// # Errors
    /// Of the driver.
    fn memory(&self) -> Result<Memory>;

    /// Limits of a launch.
    fn limits(&self) -> Limits;

    /// Memory of this many bytes, aligned to 256; its content is undefined.
    ///
    /// # Errors
    /// [`super::failure::OutOfMemory`] when there is none left.
    fn allocate(&self, bytes: usize) -> Result<DevicePointer>;

    /// Gives memory back. Kernels that use it must have been waited for or stand before this call.
    fn free(&self, pointer: DevicePointer);

    /// Copies to the device.
    ///
    /// # Errors
    /// Of the driver.
    fn copy_in(&self, to: DevicePointer, from: &[u8]) -> Result<()>;

    /// Waits for all launches, then copies from the device.
    ///
    /// # Errors
    /// Of the driver, and those of kernels launched before.
    fn copy_out(&self, to: &mut [u8], from: DevicePointer) -> Result<()>;

    /// Copies within the device, in the order of the launches, without waiting; the ranges do not overlap.
    ///
    /// # Errors
    /// Of the driver.
    fn copy_within(&self, to: DevicePointer, from: DevicePointer, bytes: usize) -> Result<()>;

    /// Sets bytes to zero, in the order of the launches, without waiting.
    ///
    /// # Errors
    /// Of the driver.
    fn clear(&self, at: DevicePointer, bytes: usize) -> Result<()>;

    /// Starts a kernel; use [`super::launch::Runtime::launch`], which checks first.
    ///
    /// # Errors
    /// Of the driver.
    fn launch(&self, entry: &str, shape: Shape, arguments: Arguments) -> Result<()>;

    /// Waits until all work is done, transfers included.
    ///
    /// # Errors
    /// Those of kernels launched before.
    fn synchronise(&self) -> Result<()>;

    /// Host memory for [`Driver::upload`] and [`Driver::download`]; its content is some bytes or other.
    ///
    /// # Errors
    /// When there is none left.
    fn pinned(&self, bytes: usize) -> Result<PinnedBuffer>;

    /// Starts a copy of the first `bytes` of `from` to the device, after all work launched so far and beside what is launched later; see [`Transfer`].
    ///
    /// # Errors
    /// Of the driver.
    fn upload(&self, to: DevicePointer, from: PinnedBuffer, bytes: usize) -> Result<Transfer>;

    /// Starts a copy from the device to the first `bytes` of `to`, after all work launched so far and beside what is launched later; see [`Transfer`].
    ///
    /// # Errors
    /// Of the driver.
    fn download(&self, to: PinnedBuffer, from: DevicePointer, bytes: usize) -> Result<Transfer>;

    /// Records the launches and copies within the device that `work` makes, instead of running them. It makes no others meanwhile, and nor does another thread.
    ///
    /// # Errors
    /// Those of `work`, what cannot be recorded, and of the driver; then nothing is recorded, and the driver goes on as before.
    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Graph>;

    /// Starts recorded work again.
    ///
    /// # Errors
    /// Of the driver.
    fn replay(&self, graph: &Graph) -> Result<()>;
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.blocks;
        write!(
            f,
            "{x} x {y} x {z} blocks of {} threads with {} bytes of shared memory",
            self.threads, self.shared_bytes
        )
    }
}
