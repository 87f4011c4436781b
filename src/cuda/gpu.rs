//! A GPU as a driver, through cudarc's raw bindings; the only file that names cudarc. Its library is loaded at run time and asked for before anything else, since
//! cudarc panics where it is missing.
//!
//! Not yet run on a GPU: this step of the runtime was checked through the emulator and by compiling.

use super::cache::KernelCache;
use super::driver::{Arguments, DevicePointer, Driver, Limits, Shape};
use super::nvrtc::Nvrtc;
use super::sources::{self, HEADERS, Specialisation};
use anyhow::{Context, Result, bail, ensure};
use cudarc::driver::sys;
use std::collections::BTreeMap;
use std::ffi::{CString, c_int};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The oldest driver whose calls are used: CUDA 12.0.
const OLDEST_DRIVER: i32 = 12000;

/// An open GPU with the kernels loaded so far.
pub struct Gpu {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    architecture: String,
    limits: Limits,
    cache: KernelCache,
    nvrtc: OnceLock<Nvrtc>,
    loaded: Mutex<BTreeMap<&'static str, Loaded>>,
}

#[derive(Clone, Copy)]
struct Loaded {
    module: sys::CUmodule,
    function: sys::CUfunction,
}

// SAFETY: handles of the driver API may be used from any thread; every call makes the context current first.
unsafe impl Send for Gpu {}
// SAFETY: as above, and what changes is behind a mutex.
unsafe impl Sync for Gpu {}

/// A driver call's answer as a result.
fn done(status: sys::CUresult, what: &str) -> Result<()> {
    match status {
        sys::CUresult::CUDA_SUCCESS => Ok(()),
        error => bail!("{what}: the CUDA driver says {error:?}"),
    }
}

/// Whether this machine has a CUDA driver; if not, why not and what to do.
///
/// # Errors
/// That there is none, that it is too old, or that it does not start.
pub fn check_driver() -> Result<()> {
    // SAFETY: it only tries to load the library.
    let present = unsafe { sys::is_culib_present() };
    ensure!(
        present,
        "this machine has no CUDA driver (libcuda.so.1); install NVIDIA's driver, or use --device cpu"
    );
    let mut version = 0;
    // SAFETY: a plain call with a place for its answer; the library is there.
    done(unsafe { sys::cuDriverGetVersion(&raw mut version) }, "asking for the version")?;
    check_version(version)?;
    // SAFETY: no arguments.
    done(unsafe { sys::cuInit(0) }, "starting").context("the CUDA driver does not start; see nvidia-smi, or use --device cpu")
}

fn check_version(version: i32) -> Result<()> {
    let spoken = |version: i32| format!("{}.{}", version / 1000, version % 1000 / 10);
    ensure!(
        version >= OLDEST_DRIVER,
        "the CUDA driver is too old: it knows CUDA {}, at least {} is needed; update NVIDIA's driver, or use --device cpu",
        spoken(version),
        spoken(OLDEST_DRIVER)
    );
    Ok(())
}

impl Gpu {
    /// Opens the GPU of this number. Kernels are compiled or taken from `cache` when they are first launched.
    ///
    /// # Errors
    /// No driver, no such GPU, a GPU older than sm_80, and what the driver says.
    pub fn open(number: u32, cache: KernelCache) -> Result<Self> {
        check_driver()?;
        let (mut count, mut device, mut context) = (0, 0, std::ptr::null_mut());
        // SAFETY: places for the answers; the device is one of those counted.
        unsafe {
            done(sys::cuDeviceGetCount(&raw mut count), "counting GPUs")?;
            let number = c_int::try_from(number).ok().filter(|number| *number < count);
            let number =
                number.with_context(|| format!("this machine has {count} GPUs, counted from 0; use --device cuda:N with another N"))?;
            done(sys::cuDeviceGet(&raw mut device, number), "opening the GPU")?;
        }
        use sys::CUdevice_attribute_enum as Attribute;
        let major = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        ensure!(
            major >= 8,
            "GPU {number} is sm_{major}{minor}; the kernels need sm_80 (A100) or newer; use --device cpu"
        );
        let limits = Limits {
            threads: attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
            shared_bytes: attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            multiprocessors: attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        };
        // SAFETY: a place for the answer; what is retained is released by Drop, of which the value below takes charge at once.
        let status = unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, device) };
        done(status, "making a context")?;
        let mut gpu = Self {
            device,
            context,
            stream: std::ptr::null_mut(),
            architecture: format!("sm_{major}{minor}"),
            limits,
            cache,
            nvrtc: OnceLock::new(),
            loaded: Mutex::default(),
        };
        gpu.make_current()?;
        let non_blocking = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: a place for the answer; the context is current.
        done(unsafe { sys::cuStreamCreate(&raw mut gpu.stream, non_blocking) }, "making a stream")?;
        Ok(gpu)
    }

    fn make_current(&self) -> Result<()> {
        // SAFETY: the context is retained as long as `self` lives.
        done(unsafe { sys::cuCtxSetCurrent(self.context) }, "choosing the GPU")
    }

    /// The compiler, loaded when it is first needed.
    fn compiler(&self) -> Result<&Nvrtc> {
        match self.nvrtc.get() {
            Some(found) => Ok(found),
            None => Nvrtc::load().map(|found| self.nvrtc.get_or_init(|| found)),
        }
    }

    /// Machine code of a kernel for this GPU, from the cache or the compiler, whose version is part of the key.
    fn cubin(&self, kernel: &Specialisation) -> Result<Vec<u8>> {
        let compiler = self.compiler()?;
        let version = format!("{:?}", compiler.version());
        let options = kernel.options(&self.architecture).join(" ");
        let headers = HEADERS.iter().flat_map(|(name, text)| [*name, *text]);
        let parts: Vec<&str> = [version.as_str(), &options, kernel.source].into_iter().chain(headers).collect();
        let compile = || Ok(compiler.compile(kernel, &self.architecture)?.cubin);
        self.cache.get_or_build(&KernelCache::key(&parts), compile)
    }

    fn function(&self, entry: &str) -> Result<sys::CUfunction> {
        let kernel = sources::specialisation(entry)?;
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = loaded.get(kernel.name) {
            return Ok(found.function);
        }
        let cubin = self.cubin(kernel)?;
        let name = CString::new(kernel.name)?;
        let (mut module, mut function) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the CUBIN is whole (the compiler's, or checked by its digest) and the name ends with zero.
        unsafe {
            done(sys::cuModuleLoadData(&raw mut module, cubin.as_ptr().cast()), "loading")?;
            done(
                sys::cuModuleGetFunction(&raw mut function, module, name.as_ptr()),
                "finding the entry point",
            )?;
        }
        loaded.insert(kernel.name, Loaded { module, function });
        Ok(function)
    }
}

fn attribute(device: sys::CUdevice, which: sys::CUdevice_attribute_enum) -> Result<u32> {
    let mut value = 0;
    // SAFETY: a place for the answer; the device is one the driver gave.
    let status = unsafe { sys::cuDeviceGetAttribute(&raw mut value, which, device) };
    done(status, "asking for an attribute")?;
    Ok(u32::try_from(value)?)
}

impl Driver for Gpu {
    fn kind(&self) -> String {
        format!("cuda {}", self.architecture)
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn allocate(&self, bytes: usize) -> Result<DevicePointer> {
        self.make_current()?;
        let mut address = 0;
        // SAFETY: a place for the answer.
        done(unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes) }, "allocating")?;
        Ok(DevicePointer::from_raw(address))
    }

    fn free(&self, pointer: DevicePointer) {
        if self.make_current().is_ok() {
            // SAFETY: it came from `allocate`; the call waits for the work that uses it. Its failure leaves nothing to be done.
            let _ = unsafe { sys::cuMemFree_v2(pointer.raw()) };
        }
    }

    fn copy_in(&self, to: DevicePointer, from: &[u8]) -> Result<()> {
        self.make_current()?;
        // SAFETY: arenas give out pointers to as many bytes; pageable memory is read before the call returns.
        let status = unsafe { sys::cuMemcpyHtoDAsync_v2(to.raw(), from.as_ptr().cast(), from.len(), self.stream) };
        done(status, "copying to the GPU")
    }

    fn copy_out(&self, to: &mut [u8], from: DevicePointer) -> Result<()> {
        self.make_current()?;
        // SAFETY: as above; the stream is waited for before `to` is given back.
        let status = unsafe { sys::cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from.raw(), to.len(), self.stream) };
        done(status, "copying from the GPU")?;
        self.synchronise()
    }

    fn launch(&self, entry: &str, shape: Shape, mut arguments: Arguments) -> Result<()> {
        self.make_current()?;
        let function = self.function(entry)?;
        let most = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let [x, y, z] = shape.blocks;
        let mut pointers = arguments.pointers();
        // SAFETY: `Runtime::launch` compared the arguments with the kernel's parameters; they outlive the call, which copies them.
        unsafe {
            if shape.shared_bytes > 48 << 10 {
                done(
                    sys::cuFuncSetAttribute(function, most, c_int::try_from(shape.shared_bytes)?),
                    "asking for shared memory",
                )?;
            }
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
                self.stream,
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            );
            done(status, "launching")
        }
    }

    fn synchronise(&self) -> Result<()> {
        self.make_current()?;
        // SAFETY: the stream lives as long as `self`.
        done(unsafe { sys::cuStreamSynchronize(self.stream) }, "waiting for the GPU")
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.make_current().is_err() {
            return;
        }
        let loaded = self.loaded.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: each was made once by this value and is not used again; failures leave nothing to be done.
        unsafe {
            if !self.stream.is_null() {
                let _ = sys::cuStreamSynchronize(self.stream);
            }
            for kernel in loaded.values() {
                let _ = sys::cuModuleUnload(kernel.module);
            }
            if !self.stream.is_null() {
                let _ = sys::cuStreamDestroy_v2(self.stream);
            }
            let _ = sys::cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_driver_is_refused_with_both_versions() {
        let message = check_version(11080).unwrap_err().to_string();
        assert!(
            message.contains("knows CUDA 11.8, at least 12.0") && message.contains("--device cpu"),
            "{message}"
        );
        assert!(check_version(12000).is_ok());
    }

    #[test]
    fn the_absence_of_a_driver_is_an_answer_and_no_panic() {
        // SAFETY: it only tries to load the library.
        let present = unsafe { sys::is_culib_present() };
        let folder = tempfile::tempdir().unwrap();
        match Gpu::open(0, KernelCache::new(folder.path())) {
            Ok(gpu) => assert!(present && gpu.kind().starts_with("cuda sm_")),
            Err(error) if !present => assert!(format!("{error:#}").contains("no CUDA driver (libcuda.so.1)"), "{error:#}"),
            Err(error) => assert!(!format!("{error:#}").is_empty()),
        }
    }
}
