//! Where tensors live and ops run: the CPU, with its threads and a pool of buffers that counts every byte, or a CUDA device with its arena.

pub mod open;

use crate::cuda::arena::Arena;
pub use crate::cuda::failure::{DeviceLost, OutOfMemory};
use crate::cuda::launch::Runtime;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A compute device; cheap to clone.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

/// A CUDA device: launches, and memory under a budget.
pub struct Cuda {
    /// Launches kernels.
    pub runtime: Runtime,
    /// Gives memory.
    pub arena: Arena,
}

struct Inner {
    cuda: Option<Cuda>,
    threads: Arc<rayon::ThreadPool>,
    /// Returned buffers by length: a step that repeats finds its buffers here and allocates nothing.
    free: Mutex<BTreeMap<usize, Vec<Vec<f32>>>>,
    live: AtomicUsize,
    peak: AtomicUsize,
    allocations: AtomicUsize,
}

/// Bytes in tensors: now, at most so far, and how many buffers were ever taken from the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct MemoryUse {
    pub live: usize,
    pub peak: usize,
    pub allocations: usize,
}

impl Device {
    /// The CPU with this many threads; 0 means as many as the process may use.
    ///
    /// # Errors
    /// When the threads cannot be started.
    pub fn cpu(threads: usize) -> Result<Self> {
        Self::with(None, threads)
    }

    /// A CUDA device, with this many threads of the CPU beside it; 0 means as many as the process may use.
    ///
    /// # Errors
    /// When the threads cannot be started.
    pub fn on_cuda(cuda: Cuda, threads: usize) -> Result<Self> {
        Self::with(Some(cuda), threads)
    }

    fn with(cuda: Option<Cuda>, threads: usize) -> Result<Self> {
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("hpc-seg-{i}"))
            .build()
            .context("cannot start worker threads; lower --threads or the load of this machine")?;
        Ok(Self(Arc::new(Inner {
            cuda,
            threads: Arc::new(threads),
            free: Mutex::new(BTreeMap::new()),
            live: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            allocations: AtomicUsize::new(0),
        })))
    }

    /// Runs `work` with this device's threads as the current pool.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.0.threads.install(work)
    }

    /// The CUDA device, if it is one.
    pub fn cuda(&self) -> Option<&Cuda> {
        self.0.cuda.as_ref()
    }

    /// The kind of device, on which the bytes of results depend: `cpu avx512`, `cuda sm_80`.
    pub fn kind(&self) -> String {
        match &self.0.cuda {
            Some(cuda) => cuda.runtime.driver().kind(),
            None => format!("cpu {}", crate::cpu::simd::level().name()),
        }
    }

    /// Waits until all work is done; on the CPU it is.
    ///
    /// # Errors
    /// Those of kernels launched before.
    pub fn synchronise(&self) -> Result<()> {
        self.0.cuda.as_ref().map_or(Ok(()), |cuda| cuda.runtime.driver().synchronise())
    }

    /// Its threads of the CPU, which outlive it where work goes on that needs nothing else of it.
    pub fn pool(&self) -> Arc<rayon::ThreadPool> {
        Arc::clone(&self.0.threads)
    }

    /// Worker threads.
    pub fn threads(&self) -> usize {
        self.0.threads.current_num_threads()
    }

    /// What is counted so far.
    pub fn memory(&self) -> MemoryUse {
        if let Some(cuda) = &self.0.cuda {
            let used = cuda.arena.usage();
            return MemoryUse {
                live: used.live,
                peak: used.peak,
                allocations: 1,
            };
        }
        MemoryUse {
            live: self.0.live.load(Ordering::Relaxed),
            peak: self.0.peak.load(Ordering::Relaxed),
            allocations: self.0.allocations.load(Ordering::Relaxed),
        }
    }

    /// Bytes of the buffers that tensors use or that wait for another tensor of their length.
    pub fn held(&self) -> usize {
        let free = self.0.free.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting: usize = free.iter().map(|(floats, buffers)| 4 * floats * buffers.len()).sum();
        self.memory().live + waiting
    }

    /// Gives pooled buffers back to the system, after a phase whose sizes will not come again.
    pub fn trim(&self) {
        self.0.free.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn take(&self, len: usize) -> Vec<f32> {
        let found = self
            .0
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_mut(&len)
            .and_then(Vec::pop);
        let live = self.0.live.fetch_add(len * 4, Ordering::Relaxed) + len * 4;
        self.0.peak.fetch_max(live, Ordering::Relaxed);
        found.unwrap_or_else(|| {
            self.0.allocations.fetch_add(1, Ordering::Relaxed);
            vec![0.0; len]
        })
    }

    pub(crate) fn give_back(&self, buffer: Vec<f32>) {
        self.0.live.fetch_sub(buffer.len() * 4, Ordering::Relaxed);
        self.0
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(buffer.len())
            .or_default()
            .push(buffer);
    }
}
