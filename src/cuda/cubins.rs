//! Machine code of kernels for one architecture: from the cache on disk, else from the compiler.

use super::cache::KernelCache;
use super::driver::SHARED_BYTES_OF_SM_80;
use super::nvrtc::Nvrtc;
use super::sources::{self, HEADERS, Specialisation, specialisations};
use anyhow::Result;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;

/// The kernels' machine code.
pub struct Cubins {
    cache: KernelCache,
    architecture: String,
    shared_bytes: u32,
    compiler: Nvrtc,
    ahead: Once,
}

impl Cubins {
    /// For an architecture such as `sm_90`, whose blocks have that much shared memory; nothing is compiled yet.
    ///
    /// # Errors
    /// No compiler that makes code for it. Its version is part of what names a kernel in the cache, so that it is needed even where all are kept.
    pub fn new(cache: KernelCache, architecture: &str, shared_bytes: u32) -> Result<Self> {
        Ok(Self {
            cache,
            architecture: architecture.into(),
            shared_bytes,
            compiler: Nvrtc::load_for(architecture)?,
            ahead: Once::new(),
        })
    }

    /// Machine code of a kernel. When the first one is not in the cache, all that networks use are compiled on all cores: one by one, as a first run comes to them, 46 took
    /// 13 s on an H100's machine.
    ///
    /// # Errors
    /// What the compiler says.
    pub fn of(&self, kernel: &Specialisation) -> Result<Vec<u8>> {
        if !self.cache.has(&self.key(kernel)) {
            self.ahead.call_once(|| self.compile_ahead());
        }
        self.compiled(kernel)
    }

    /// Where a kernel's machine code comes from, and the remedy should the driver not take it.
    pub fn origin(&self, kernel: &Specialisation) -> String {
        let (major, minor) = self.compiler.version();
        format!(
            "the kernel {}, by NVRTC {major}.{minor}; where the driver is older than that (nvidia-smi says which CUDA it knows), pip install nvidia-cuda-nvrtc-cu12",
            kernel.name
        )
    }

    /// What the machine code depends on.
    fn key(&self, kernel: &Specialisation) -> String {
        let version = format!("{:?}", self.compiler.version());
        let options = kernel.options(&self.architecture).join(" ");
        let headers = HEADERS.iter().flat_map(|(name, text)| [*name, *text]);
        let parts: Vec<&str> = [version.as_str(), &options, kernel.source].into_iter().chain(headers).collect();
        KernelCache::key(&parts)
    }

    fn compiled(&self, kernel: &Specialisation) -> Result<Vec<u8>> {
        let compile = || Ok(self.compiler.compile(kernel, &self.architecture)?.cubin);
        self.cache.get_or_build(&self.key(kernel), compile)
    }

    /// Fills the cache. A kernel that does not compile says so when it is asked for.
    fn compile_ahead(&self) {
        // One of several GPUs' workers at a time: what it compiled, the others find in the cache.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let kernels: Vec<&Specialisation> = specialisations()
            .iter()
            .filter(|kernel| networks_use(kernel, self.shared_bytes))
            .collect();
        let (next, threads) = (AtomicUsize::new(0), thread::available_parallelism().map_or(1, usize::from));
        // Threads of their own, not the pool's: a pool's thread that waits here could be given work that wants this very kernel.
        thread::scope(|scope| {
            for _ in 0..threads.min(kernels.len()) {
                scope.spawn(|| {
                    while let Some(kernel) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let _ = self.compiled(kernel);
                    }
                });
            }
        });
    }
}

/// Whether the networks use it on a device whose blocks have that much shared memory: not those for any width, which serve networks that are not published, the tests'
/// probe, and of two kernels for more and for less shared memory the other one.
fn networks_use(kernel: &Specialisation, shared_bytes: u32) -> bool {
    if kernel.name.ends_with("_any") || kernel.name == "ptx_probe" {
        return false;
    }
    match shared_bytes < SHARED_BYTES_OF_SM_80 {
        true => sources::specialisation(&format!("{}_small", kernel.name)).is_err(),
        false => !kernel.name.ends_with("_small"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_kernels_for_more_and_for_less_shared_memory_a_device_gets_its_own() {
        let used = |name: &str, kib: u32| networks_use(sources::specialisation(name).unwrap(), kib << 10);
        for (name, on_rtx, on_a100) in [
            ("norm_8x1", true, true),
            ("memory_attention_64", false, true),
            ("memory_attention_64_small", true, false),
            ("attention_256", false, true),
            ("attention_256_small", true, false),
            ("attention_256_any", false, false),
            ("ptx_probe", false, false),
        ] {
            assert_eq!([99, 163].map(|kib| used(name, kib)), [on_rtx, on_a100], "{name}");
        }
    }
}
