//! Machine code of kernels for one architecture: from the cache on disk, else from the compiler.

use super::cache::KernelCache;
use super::nvrtc::Nvrtc;
use super::sources::{HEADERS, Specialisation, specialisations};
use anyhow::Result;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Once, OnceLock};
use std::thread;

/// The kernels' machine code.
pub struct Cubins {
    cache: KernelCache,
    architecture: String,
    nvrtc: OnceLock<Nvrtc>,
    ahead: Once,
}

impl Cubins {
    /// For an architecture such as `sm_90`; nothing is compiled yet.
    pub fn new(cache: KernelCache, architecture: &str) -> Self {
        Self {
            cache,
            architecture: architecture.into(),
            nvrtc: OnceLock::new(),
            ahead: Once::new(),
        }
    }

    /// Machine code of a kernel. When the first one is not in the cache, all that networks use are compiled on all cores: one by one, as a first run comes to them, 46 took
    /// 13 s on an H100's machine.
    ///
    /// # Errors
    /// No compiler, and what it says.
    pub fn of(&self, kernel: &Specialisation) -> Result<Vec<u8>> {
        let compiler = self.compiler()?;
        if !self.cache.has(&self.key(compiler, kernel)) {
            self.ahead.call_once(|| self.compile_ahead(compiler));
        }
        self.compiled(compiler, kernel)
    }

    /// The compiler, loaded when it is first needed.
    fn compiler(&self) -> Result<&Nvrtc> {
        match self.nvrtc.get() {
            Some(found) => Ok(found),
            None => Nvrtc::load().map(|found| self.nvrtc.get_or_init(|| found)),
        }
    }

    /// What the machine code depends on.
    fn key(&self, compiler: &Nvrtc, kernel: &Specialisation) -> String {
        let version = format!("{:?}", compiler.version());
        let options = kernel.options(&self.architecture).join(" ");
        let headers = HEADERS.iter().flat_map(|(name, text)| [*name, *text]);
        let parts: Vec<&str> = [version.as_str(), &options, kernel.source].into_iter().chain(headers).collect();
        KernelCache::key(&parts)
    }

    fn compiled(&self, compiler: &Nvrtc, kernel: &Specialisation) -> Result<Vec<u8>> {
        let compile = || Ok(compiler.compile(kernel, &self.architecture)?.cubin);
        self.cache.get_or_build(&self.key(compiler, kernel), compile)
    }

    /// Fills the cache. A kernel that does not compile says so when it is asked for.
    fn compile_ahead(&self, compiler: &Nvrtc) {
        // Those for any width serve networks that are not published; the probe is the tests'.
        let wanted = |kernel: &&Specialisation| !kernel.name.ends_with("_any") && kernel.name != "ptx_probe";
        let kernels: Vec<&Specialisation> = specialisations().iter().filter(wanted).collect();
        let (next, threads) = (AtomicUsize::new(0), thread::available_parallelism().map_or(1, usize::from));
        // Threads of their own, not the pool's: a pool's thread that waits here could be given work that wants this very kernel.
        thread::scope(|scope| {
            for _ in 0..threads.min(kernels.len()) {
                scope.spawn(|| {
                    while let Some(kernel) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let _ = self.compiled(compiler, kernel);
                    }
                });
            }
        });
    }
}
