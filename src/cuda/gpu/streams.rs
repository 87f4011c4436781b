//! What runs in the order of streams: the streams, pinned memory, transfers with the events that order them, and graphs.

use super::context::Context;
use super::library::done;
use crate::cuda::transfer::{HostMemory, Pending, PinnedBuffer};
use anyhow::Result;
use cudarc::driver::sys;
use std::ffi::c_void;
use std::sync::Arc;

/// Kernels run on one stream; copies in and out beside them on one each.
pub struct Streams {
    pub compute: sys::CUstream,
    pub copy_in: sys::CUstream,
    pub copy_out: sys::CUstream,
    context: Arc<Context>,
}

// SAFETY: handles of the driver API may be used from any thread.
unsafe impl Send for Streams {}
// SAFETY: as above; nothing in it changes.
unsafe impl Sync for Streams {}

impl Streams {
    pub fn new(context: &Arc<Context>) -> Result<Self> {
        let mut streams = Self {
            compute: std::ptr::null_mut(),
            copy_in: std::ptr::null_mut(),
            copy_out: std::ptr::null_mut(),
            context: context.clone(),
        };
        context.make_current()?;
        let non_blocking = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
        for stream in [&mut streams.compute, &mut streams.copy_in, &mut streams.copy_out] {
            // SAFETY: a place for the answer; the context is current.
            done(unsafe { sys::cuStreamCreate(stream, non_blocking) }, "making a stream")?;
        }
        Ok(streams)
    }

    fn all(&self) -> [sys::CUstream; 3] {
        [self.copy_in, self.compute, self.copy_out]
    }

    pub fn synchronise(&self) -> Result<()> {
        self.all().into_iter().try_for_each(|stream| self.wait_for(stream))
    }

    /// Waits for one of these streams.
    pub fn wait_for(&self, stream: sys::CUstream) -> Result<()> {
        self.context.make_current()?;
        // SAFETY: the streams live as long as `self`.
        done(unsafe { sys::cuStreamSynchronize(stream) }, "waiting for the GPU")
    }

    /// An event after what `stream` has been given so far.
    fn event(&self, stream: sys::CUstream) -> Result<Event> {
        let mut event = Event {
            handle: std::ptr::null_mut(),
            context: self.context.clone(),
        };
        let untimed = sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: a place for the answer; stream and event live.
        unsafe {
            done(sys::cuEventCreate(&raw mut event.handle, untimed), "making an event")?;
            done(sys::cuEventRecord(event.handle, stream), "marking a moment")?;
        }
        Ok(event)
    }

    /// Starts `copy` on `stream`, after what the compute stream has been given so far.
    fn beside(self: &Arc<Self>, stream: sys::CUstream, copy: impl FnOnce() -> sys::CUresult) -> Result<CudaTransfer> {
        self.context.make_current()?;
        let before = self.event(self.compute)?;
        // SAFETY: stream and event live; the event may be destroyed when the wait is queued.
        done(unsafe { sys::cuStreamWaitEvent(stream, before.handle, 0) }, "ordering streams")?;
        done(copy(), "starting a copy")?;
        // Should no event be had, the copy must be waited for here: who gets the error gives its memory back.
        let event = self.event(stream).inspect_err(|_| drop(self.synchronise()))?;
        Ok(CudaTransfer {
            event,
            streams: self.clone(),
        })
    }

    pub fn upload(self: &Arc<Self>, to: u64, from: &PinnedBuffer, bytes: usize) -> Result<CudaTransfer> {
        let stream = self.copy_in;
        // SAFETY: the transfer keeps the host's buffer until its event; arenas give out pointers to as many bytes.
        self.beside(stream, || unsafe {
            sys::cuMemcpyHtoDAsync_v2(to, from.as_ptr().cast(), bytes, stream)
        })
    }

    pub fn download(self: &Arc<Self>, to: &mut PinnedBuffer, from: u64, bytes: usize) -> Result<CudaTransfer> {
        let stream = self.copy_out;
        // SAFETY: as above.
        self.beside(stream, || unsafe {
            sys::cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from, bytes, stream)
        })
    }

    /// Records what `work` gives the compute stream.
    pub fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<CudaGraph> {
        self.context.make_current()?;
        // Relaxed: kernels that are launched for the first time are loaded meanwhile.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream lives.
        done(unsafe { sys::cuStreamBeginCapture_v2(self.compute, mode) }, "starting to record")?;
        let worked = work();
        let mut graph = std::ptr::null_mut();
        // SAFETY: a place for the answer. It must be called whatever became of the work, for the stream to run again.
        let ended = done(unsafe { sys::cuStreamEndCapture(self.compute, &raw mut graph) }, "ending to record");
        let mut recorded = CudaGraph {
            graph,
            executable: std::ptr::null_mut(),
            context: self.context.clone(),
        };
        worked.and(ended)?;
        // SAFETY: a place for the answer; the graph lives.
        let status = unsafe { sys::cuGraphInstantiateWithFlags(&raw mut recorded.executable, recorded.graph, 0) };
        done(status, "making a graph")?;
        Ok(recorded)
    }

    pub fn replay(&self, graph: &CudaGraph) -> Result<()> {
        self.context.make_current()?;
        // SAFETY: graph and stream live.
        done(unsafe { sys::cuGraphLaunch(graph.executable, self.compute) }, "starting a graph")
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        if self.context.make_current().is_err() {
            return;
        }
        for stream in self.all().into_iter().filter(|stream| !stream.is_null()) {
            // SAFETY: made once by this value and not used again; failures leave nothing to be done.
            unsafe {
                let _ = sys::cuStreamSynchronize(stream);
                let _ = sys::cuStreamDestroy_v2(stream);
            }
        }
    }
}

struct Event {
    handle: sys::CUevent,
    context: Arc<Context>,
}

impl Drop for Event {
    fn drop(&mut self) {
        if !self.handle.is_null() && self.context.make_current().is_ok() {
            // SAFETY: made once and not used again; the driver keeps it as long as somebody waits.
            let _ = unsafe { sys::cuEventDestroy_v2(self.handle) };
        }
    }
}

/// A copy on a stream of its own, up to its event.
pub struct CudaTransfer {
    event: Event,
    streams: Arc<Streams>,
}

// SAFETY: handles of the driver API may be used from any thread.
unsafe impl Send for CudaTransfer {}

impl Pending for CudaTransfer {
    fn join(&mut self, _host: &mut PinnedBuffer) -> Result<()> {
        self.streams.context.make_current()?;
        // SAFETY: stream and event live.
        done(
            unsafe { sys::cuStreamWaitEvent(self.streams.compute, self.event.handle, 0) },
            "ordering streams",
        )
    }

    fn wait(&mut self, _host: &mut PinnedBuffer) -> Result<()> {
        self.streams.context.make_current()?;
        // SAFETY: the event lives.
        done(unsafe { sys::cuEventSynchronize(self.event.handle) }, "waiting for a copy")
    }
}

/// Page-locked memory of the driver.
pub struct PinnedHost {
    address: *mut u8,
    bytes: usize,
    context: Arc<Context>,
}

// SAFETY: the memory is owned by this value alone.
unsafe impl Send for PinnedHost {}

impl PinnedHost {
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<Self> {
        context.make_current()?;
        let mut address: *mut c_void = std::ptr::null_mut();
        // SAFETY: a place for the answer, which is at least one byte.
        let status = unsafe { sys::cuMemHostAlloc(&raw mut address, bytes.max(1), sys::CU_MEMHOSTALLOC_PORTABLE) };
        done(status, "allocating pinned memory of the host")?;
        // SAFETY: the driver gave as many bytes; they are given a value, as they will be read through references.
        unsafe { std::ptr::write_bytes(address.cast::<u8>(), 0, bytes) };
        Ok(Self {
            address: address.cast(),
            bytes,
            context: context.clone(),
        })
    }
}

impl HostMemory for PinnedHost {
    fn bytes(&self) -> &[u8] {
        // SAFETY: owned, and written at the beginning.
        unsafe { std::slice::from_raw_parts(self.address, self.bytes) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.address, self.bytes) }
    }
}

impl Drop for PinnedHost {
    fn drop(&mut self) {
        if self.context.make_current().is_ok() {
            // SAFETY: allocated once and not used again.
            let _ = unsafe { sys::cuMemFreeHost(self.address.cast()) };
        }
    }
}

/// A recorded graph, ready to be started.
pub struct CudaGraph {
    graph: sys::CUgraph,
    executable: sys::CUgraphExec,
    context: Arc<Context>,
}

// SAFETY: handles of the driver API may be used from any thread.
unsafe impl Send for CudaGraph {}
// SAFETY: as above; nothing in it changes.
unsafe impl Sync for CudaGraph {}

impl CudaGraph {
    /// Whether it was recorded in this context.
    pub fn belongs_to(&self, context: &Arc<Context>) -> bool {
        Arc::ptr_eq(&self.context, context)
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        if self.context.make_current().is_err() {
            return;
        }
        // SAFETY: each was made once and is not used again; failures leave nothing to be done.
        unsafe {
            if !self.executable.is_null() {
                let _ = sys::cuGraphExecDestroy(self.executable);
            }
            if !self.graph.is_null() {
                let _ = sys::cuGraphDestroy(self.graph);
            }
        }
    }
}
