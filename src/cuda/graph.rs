//! Graphs: launches recorded once, with their arguments, and started again by a single call, which spares the cost of each.
//!
//! No step of TFFS uses them: it launches about 150 kernels (10 lanes, counted on the null driver), at some microseconds of the host each, and memory attention alone
//! takes 3 ms of it (H200), so that the host is ahead but for the first few after the one result that it waits for. A recorded step would need its buffers at the
//! same addresses every time.

use super::driver::{Arguments, DevicePointer, Driver, Shape};
use anyhow::{Result, ensure};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Work recorded by [`Driver::capture`], for [`Driver::replay`] on the driver that made it. Addresses in it are as they were: the buffers must still be there.
pub struct Graph(pub(super) Recorded);

pub(super) enum Recorded {
    /// One by one, by drivers without graphs of their own.
    Steps(Vec<Step>),
    /// By the CUDA driver.
    Cuda(super::gpu::CudaGraph),
}

/// One recorded call.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Launch(String, Shape, Arguments),
    CopyWithin(DevicePointer, DevicePointer, usize),
}

/// The recording of a driver without graphs of its own.
#[derive(Default)]
pub(super) struct Recorder(Mutex<Option<Vec<Step>>>);

impl Recorder {
    fn steps(&self) -> MutexGuard<'_, Option<Vec<Step>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the step if work is being captured; it must not run then.
    pub fn takes(&self, step: impl FnOnce() -> Step) -> bool {
        match self.steps().as_mut() {
            Some(steps) => {
                steps.push(step());
                true
            }
            None => false,
        }
    }

    /// Refuses what cannot be part of a graph.
    pub fn refuse(&self, what: &str) -> Result<()> {
        ensure!(self.steps().is_none(), "{}", refusal(what));
        Ok(())
    }

    pub fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        self.refuse("another capture")?;
        *self.steps() = Some(Vec::new());
        let ended = work();
        let steps = self.steps().take().unwrap_or_default();
        ended.map(|()| Graph(Recorded::Steps(steps)))
    }
}

/// Why a call is not allowed while work is captured.
pub(super) fn refusal(what: &str) -> String {
    format!("{what} cannot be part of a graph; do it before the capture. This is a fault of the program, please report it")
}

/// Runs the recorded steps on `driver` one by one.
pub(super) fn replay_steps(driver: &dyn Driver, graph: &Graph) -> Result<()> {
    let Recorded::Steps(steps) = &graph.0 else {
        anyhow::bail!("a graph of another driver; this is a fault of the program, please report it");
    };
    steps.iter().try_for_each(|step| match step {
        Step::Launch(entry, shape, arguments) => driver.launch(entry, *shape, arguments.clone()),
        Step::CopyWithin(to, from, bytes) => driver.copy_within(*to, *from, *bytes),
    })
}

impl Graph {
    /// Recorded steps, where the driver tells.
    pub fn steps(&self) -> Option<usize> {
        match &self.0 {
            Recorded::Steps(steps) => Some(steps.len()),
            Recorded::Cuda(_) => None,
        }
    }
}
