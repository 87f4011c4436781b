//! A GPU as a driver, through cudarc's raw bindings, which only this file and those below it name. CUDA's library is loaded at run time and asked for before
//! anything else, since cudarc panics where it is missing.

mod context;
mod library;
mod staging;
mod streams;

pub use library::{GpuInfo, check_driver, devices, is_driver_installed};
pub(super) use streams::CudaGraph;

use super::cache::KernelCache;
use super::cubins::Cubins;
use super::driver::{Arguments, DevicePointer, Driver, Limits, Memory, Shape};
use super::failure::OutOfMemory;
use super::graph::{Graph, Recorded, refusal};
use super::sources;
use super::transfer::{PinnedBuffer, Transfer, check_host};
use anyhow::{Context as _, Result, bail, ensure};
use context::Context;
use cudarc::driver::sys;
use library::done;
use staging::Ring;
use std::collections::BTreeMap;
use std::ffi::{CString, c_int};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use streams::{PinnedHost, Streams};

/// The most a context of ours takes of a GPU. What else is taken when it is opened belongs to other programs.
const CONTEXT_BYTES: usize = 1 << 30;

/// Copies to the GPU up to this are not waited for.
const STAGED_BYTES: usize = 1 << 20;
/// Of pageable memory up to this the driver takes a copy before a call returns; before it takes more, it may wait for the stream.
const ASIDE_BYTES: usize = 64 << 10;
/// Pinned memory that they go through, many of them before it is full.
const RING_BYTES: usize = 8 << 20;
/// In such pieces a GPU's memory is given to code.
const CODE_BYTES: usize = 2 << 20;

/// An open GPU with the kernels loaded so far.
pub struct Gpu {
    context: Arc<Context>,
    streams: Arc<Streams>,
    cubins: Cubins,
    loaded: Mutex<BTreeMap<&'static str, Loaded>>,
    allocations: Mutex<BTreeMap<u64, usize>>,
    /// What copies go through that the driver does not copy aside, or not at once; none without memory for it.
    ring: Mutex<Option<Ring<PinnedHost>>>,
    /// Bytes the context took when it was opened, at most.
    context_bytes: usize,
    capturing: AtomicBool,
}

#[derive(Clone, Copy)]
struct Loaded {
    module: sys::CUmodule,
    function: sys::CUfunction,
    bytes: usize,
    /// Dynamic shared memory that its launches may ask for.
    shared_bytes: u32,
}

/// What a kernel may ask for without being allowed more; CUDA C++ Programming Guide, "Shared Memory".
const SHARED_BYTES_OF_ALL: u32 = 48 << 10;

// SAFETY: handles of the driver API may be used from any thread; every call makes the context current first.
unsafe impl Send for Gpu {}
// SAFETY: as above, and what changes is behind a mutex.
unsafe impl Sync for Gpu {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    /// Opens the GPU of this number. Kernels are compiled or taken from `cache` when they are first launched.
    ///
    /// # Errors
    /// No driver, no such GPU, one that the kernels do not fit, no compiler for them, and what the driver says.
    pub fn open(number: u32, cache: KernelCache) -> Result<Self> {
        Self::open_part(number, cache, None)
    }

    /// Opens the GPU of this number with about so many of its multiprocessors, to try what a smaller one does; its memory stays as fast as it is.
    ///
    /// # Errors
    /// As [`Gpu::open`], and where the driver cannot set multiprocessors apart.
    pub fn open_part(number: u32, cache: KernelCache, multiprocessors: Option<u32>) -> Result<Self> {
        let context = Arc::new(Context::open(number, multiprocessors)?);
        let streams = Arc::new(Streams::new(&context)?);
        let (free, total) = context.free_and_total()?;
        let ring = PinnedHost::new(&context, RING_BYTES).ok().map(Ring::new);
        Ok(Self {
            cubins: Cubins::new(cache, &context.info.architecture, context.info.limits.shared_bytes)?,
            context,
            streams,
            loaded: Mutex::default(),
            allocations: Mutex::default(),
            ring: Mutex::new(ring),
            context_bytes: (total - free).min(CONTEXT_BYTES),
            capturing: AtomicBool::new(false),
        })
    }

    /// What it is; the multiprocessors are those it was opened with.
    pub fn info(&self) -> &GpuInfo {
        &self.context.info
    }

    /// A kernel, loaded and allowed this much dynamic shared memory. What it is allowed only grows, so that a launch by another thread keeps its own.
    fn function(&self, entry: &str, shared_bytes: u32) -> Result<sys::CUfunction> {
        let mut loaded = lock(&self.loaded);
        if !loaded.contains_key(entry) {
            let (name, kernel) = self.load(entry)?;
            loaded.insert(name, kernel);
        }
        let Some(kernel) = loaded.get_mut(entry) else {
            bail!("the kernel {entry} is not loaded; this is a fault of the program, please report it");
        };
        if shared_bytes > kernel.shared_bytes {
            let most = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is loaded.
            let status = unsafe { sys::cuFuncSetAttribute(kernel.function, most, c_int::try_from(shared_bytes)?) };
            done(status, "asking for shared memory")?;
            kernel.shared_bytes = shared_bytes;
        }
        Ok(kernel.function)
    }

    fn load(&self, entry: &str) -> Result<(&'static str, Loaded)> {
        let kernel = sources::specialisation(entry)?;
        let cubin = self.cubins.of(kernel)?;
        let name = CString::new(kernel.name)?;
        let (mut module, mut function) = (std::ptr::null_mut(), std::ptr::null_mut());
        let (before, _) = self.context.free_and_total()?;
        // SAFETY: the CUBIN is whole (the compiler's, or checked by its digest).
        let status = unsafe { sys::cuModuleLoadData(&raw mut module, cubin.as_ptr().cast()) };
        self.done_within_memory(status, cubin.len(), "loading")
            .with_context(|| self.cubins.origin(kernel))?;
        // SAFETY: the module is loaded and the name ends with zero.
        let status = unsafe { sys::cuModuleGetFunction(&raw mut function, module, name.as_ptr()) };
        done(status, "finding the entry point")?;
        let (after, _) = self.context.free_and_total()?;
        // What another program takes meanwhile is not this kernel's.
        let most = cubin.len().next_multiple_of(CODE_BYTES) + CODE_BYTES;
        let bytes = before.saturating_sub(after).clamp(cubin.len(), most);
        let loaded = Loaded {
            module,
            function,
            bytes,
            shared_bytes: SHARED_BYTES_OF_ALL,
        };
        Ok((kernel.name, loaded))
    }

    /// The answer of a call that takes `bytes` of the device's memory.
    fn done_within_memory(&self, status: sys::CUresult, bytes: usize, what: &str) -> Result<()> {
        if status == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            let (free, total) = self.context.free_and_total()?;
            return Err(OutOfMemory::of_device(bytes, total - free, total).into());
        }
        done(status, what)
    }

    /// Makes the context current, for something that cannot be part of a graph.
    fn outside_graphs(&self, what: &str) -> Result<()> {
        ensure!(!self.capturing.load(Ordering::Relaxed), "{}", refusal(what));
        self.context.make_current()
    }
}

impl Driver for Gpu {
    fn kind(&self) -> String {
        format!("cuda {}", self.context.info.architecture)
    }

    fn limits(&self) -> Limits {
        self.context.info.limits
    }

    fn memory(&self) -> Result<Memory> {
        let (free, total) = self.context.free_and_total()?;
        let modules: usize = lock(&self.loaded).values().map(|kernel| kernel.bytes).sum();
        let allocated: usize = lock(&self.allocations).values().sum();
        Ok(Memory {
            total,
            free,
            own: self.context_bytes + modules + allocated,
            is_hosts: self.context.info.has_hosts_memory,
        })
    }

    fn allocate(&self, bytes: usize) -> Result<DevicePointer> {
        self.outside_graphs("an allocation")?;
        let mut address = 0;
        // SAFETY: a place for the answer. The driver refuses an allocation of nothing.
        let status = unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes.max(1)) };
        self.done_within_memory(status, bytes, "allocating")?;
        lock(&self.allocations).insert(address, bytes);
        Ok(DevicePointer::from_raw(address))
    }

    fn free(&self, pointer: DevicePointer) {
        lock(&self.allocations).remove(&pointer.raw());
        if self.context.make_current().is_ok() {
            // SAFETY: it came from `allocate`; the call waits for the work that uses it. Its failure leaves nothing to be done.
            let _ = unsafe { sys::cuMemFree_v2(pointer.raw()) };
        }
    }

    fn copy_in(&self, to: DevicePointer, from: &[u8]) -> Result<()> {
        self.outside_graphs("a copy to the device")?;
        let stream = self.streams.compute;
        let copy = |from: &[u8]| {
            // SAFETY: arenas give out pointers to as many bytes as they check; `from` is in the ring until its wait, or copied aside by the driver, or the copy is waited for.
            let status = unsafe { sys::cuMemcpyHtoDAsync_v2(to.raw(), from.as_ptr().cast(), from.len(), stream) };
            done(status, "copying to the GPU")
        };
        if from.len() <= STAGED_BYTES {
            // `from` may be gone after the call. Kernels go on meanwhile.
            let takes_copy = !self.context.info.reads_host_memory;
            if !(takes_copy && from.len() <= ASIDE_BYTES)
                && let Some(ring) = lock(&self.ring).as_mut()
            {
                return copy(ring.put(from, || self.streams.wait_for(stream))?);
            }
            if takes_copy {
                // `from` may be pinned, and would then be read later; pageable memory, as this is, the driver copies aside before the call returns.
                let pageable = from.to_vec();
                return copy(&pageable);
            }
        }
        copy(from)?;
        self.streams.wait_for(stream)
    }

    fn copy_out(&self, to: &mut [u8], from: DevicePointer) -> Result<()> {
        self.outside_graphs("a copy from the device")?;
        let stream = self.streams.compute;
        // SAFETY: arenas give out pointers to as many bytes as they check; the stream is waited for before `to` is given back.
        let status = unsafe { sys::cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from.raw(), to.len(), stream) };
        done(status, "copying from the GPU")?;
        self.streams.wait_for(stream)
    }

    fn copy_within(&self, to: DevicePointer, from: DevicePointer, bytes: usize) -> Result<()> {
        self.context.make_current()?;
        // SAFETY: arenas give out pointers to as many bytes; the stream keeps the order.
        let status = unsafe { sys::cuMemcpyDtoDAsync_v2(to.raw(), from.raw(), bytes, self.streams.compute) };
        done(status, "copying within the GPU")
    }

    fn clear(&self, at: DevicePointer, bytes: usize) -> Result<()> {
        self.context.make_current()?;
        // SAFETY: as above.
        let status = unsafe { sys::cuMemsetD8Async(at.raw(), 0, bytes, self.streams.compute) };
        done(status, "clearing memory of the GPU")
    }

    fn launch(&self, entry: &str, shape: Shape, mut arguments: Arguments) -> Result<()> {
        self.context.make_current()?;
        let function = self.function(entry, shape.shared_bytes)?;
        let [x, y, z] = shape.blocks;
        let mut pointers = arguments.pointers();
        // SAFETY: `Runtime::launch` compared the arguments with the kernel's parameters; they outlive the call, which copies them.
        unsafe {
            let (threads, shared) = (shape.threads, shape.shared_bytes);
            let status = sys::cuLaunchKernel(
                function,
                x,
                y,
                z,
                threads,
                1,
                1,
                shared,
                self.streams.compute,
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            );
            done(status, "launching")
        }
    }

    fn synchronise(&self) -> Result<()> {
        self.outside_graphs("waiting")?;
        self.streams.synchronise()
    }

    fn pinned(&self, bytes: usize) -> Result<PinnedBuffer> {
        self.outside_graphs("an allocation")?;
        PinnedHost::new(&self.context, bytes).map(PinnedBuffer::new)
    }

    fn upload(&self, to: DevicePointer, from: PinnedBuffer, bytes: usize) -> Result<Transfer> {
        check_host(&from, bytes)?;
        self.outside_graphs("a copy to the device")?;
        let pending = self.streams.upload(to.raw(), &from, bytes)?;
        Ok(Transfer::new(from, pending))
    }

    fn download(&self, mut to: PinnedBuffer, from: DevicePointer, bytes: usize) -> Result<Transfer> {
        check_host(&to, bytes)?;
        self.outside_graphs("a copy from the device")?;
        let pending = self.streams.download(&mut to, from.raw(), bytes)?;
        Ok(Transfer::new(to, pending))
    }

    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        self.outside_graphs("another capture")?;
        self.capturing.store(true, Ordering::Relaxed);
        let captured = self.streams.capture(work);
        self.capturing.store(false, Ordering::Relaxed);
        captured.map(|graph| Graph(Recorded::Cuda(graph)))
    }

    fn replay(&self, graph: &Graph) -> Result<()> {
        self.outside_graphs("another graph")?;
        match &graph.0 {
            Recorded::Cuda(graph) if graph.belongs_to(&self.context) => self.streams.replay(graph),
            _ => bail!("a graph of another driver; this is a fault of the program, please report it"),
        }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.context.make_current().is_err() {
            return;
        }
        // Waited for, whatever became of it: kernels may still run from the modules.
        let _ = self.streams.synchronise();
        for kernel in self.loaded.get_mut().unwrap_or_else(PoisonError::into_inner).values() {
            // SAFETY: each was loaded once and is not used again; failures leave nothing to be done.
            let _ = unsafe { sys::cuModuleUnload(kernel.module) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_absence_of_a_driver_is_an_answer_and_no_panic() {
        let present = is_driver_installed();
        let folder = tempfile::tempdir().unwrap();
        match Gpu::open(0, KernelCache::new(folder.path())) {
            Ok(gpu) => assert!(present && gpu.kind().starts_with("cuda sm_")),
            Err(error) if !present => assert!(format!("{error:#}").contains("no CUDA driver (libcuda.so.1)"), "{error:#}"),
            Err(error) => assert!(!format!("{error:#}").is_empty()),
        }
        assert_eq!(devices().is_ok(), check_driver().is_ok());
    }
}
