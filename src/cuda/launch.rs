//! The one launch function: what is asked is checked, then launched, and traced under `HPC_SEG_TRACE=2`.

use super::driver::{Arguments, Driver, Limits, Shape};
use super::graph::Graph;
use super::sources;
use crate::note;
use anyhow::{Context, Result, ensure};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A driver with checked launches.
#[derive(Clone)]
pub struct Runtime {
    driver: Arc<dyn Driver>,
    traced: bool,
    /// While launches are recorded there is nothing to time.
    capturing: Arc<AtomicBool>,
}

/// Work of one launch, for its trace row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Work {
    pub flops: f64,
    pub bytes: f64,
}

impl Runtime {
    /// Over this driver; traced if `HPC_SEG_TRACE` is 2 or more.
    pub fn new(driver: Arc<dyn Driver>) -> Self {
        let level = std::env::var("HPC_SEG_TRACE")
            .ok()
            .and_then(|level| level.parse().ok())
            .unwrap_or(0);
        Self {
            driver,
            traced: level >= 2,
            capturing: Arc::default(),
        }
    }

    /// The driver below.
    pub fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }

    /// Launches the kernel `entry`. `problem` names its shapes, for errors and the trace: `rows 10 channels 96`.
    ///
    /// # Errors
    /// An unknown kernel, arguments that are not the kernel's, a shape beyond the device, and what the driver says; with kernel and shapes.
    pub fn launch(&self, entry: &str, shape: Shape, arguments: Arguments, problem: &str, work: Work) -> Result<()> {
        let parameters = &sources::specialisation(entry)?.parameters;
        check_arguments(parameters, &arguments).with_context(|| format!("kernel {entry} ({problem})"))?;
        fits(shape, self.driver.limits()).with_context(|| format!("kernel {entry} ({problem}) cannot be launched"))?;
        if !self.traced || self.capturing.load(Ordering::Relaxed) {
            return self.started(entry, shape, arguments, problem);
        }
        self.driver.synchronise()?;
        let start = Instant::now();
        self.started(entry, shape, arguments, problem)?;
        self.driver
            .synchronise()
            .with_context(|| format!("kernel {entry} ({problem}) failed"))?;
        let seconds = start.elapsed().as_secs_f64().max(1e-9);
        note!("{}", trace_row(entry, problem, seconds, work));
        Ok(())
    }

    /// Records the launches of `work` instead of running them; see [`Driver::capture`].
    ///
    /// # Errors
    /// Those of [`Driver::capture`].
    pub fn capture(&self, mut work: impl FnMut() -> Result<()>) -> Result<Graph> {
        self.capturing.store(true, Ordering::Relaxed);
        let graph = self.driver.capture(&mut work);
        self.capturing.store(false, Ordering::Relaxed);
        graph.context("recording a graph of launches")
    }

    /// Starts recorded launches again; `name` is what they are called in errors and in the trace, where they are one row.
    ///
    /// # Errors
    /// Those of [`Driver::replay`].
    pub fn replay(&self, graph: &Graph, name: &str, work: Work) -> Result<()> {
        let failed = || format!("graph {name} failed");
        if !self.traced {
            return self.driver.replay(graph).with_context(failed);
        }
        self.driver.synchronise()?;
        let start = Instant::now();
        self.driver
            .replay(graph)
            .and_then(|()| self.driver.synchronise())
            .with_context(failed)?;
        note!("{}", trace_row("graph", name, start.elapsed().as_secs_f64().max(1e-9), work));
        Ok(())
    }

    fn started(&self, entry: &str, shape: Shape, arguments: Arguments, problem: &str) -> Result<()> {
        self.driver
            .launch(entry, shape, arguments)
            .with_context(|| format!("kernel {entry} ({problem}) failed, {shape}"))
    }
}

/// Whether arguments have the sizes of a kernel's parameters.
pub(super) fn check_arguments(parameters: &[usize], arguments: &Arguments) -> Result<()> {
    let sizes = arguments.sizes();
    ensure!(sizes == parameters, "arguments of {sizes:?} bytes for parameters of {parameters:?}");
    Ok(())
}

/// Whether a device of these limits takes a launch of this shape.
pub(super) fn fits(shape: Shape, limits: Limits) -> Result<()> {
    let [x, y, z] = shape.blocks;
    ensure!(x > 0 && y > 0 && z > 0 && shape.threads > 0, "{shape}: nothing to do");
    // CUDA Programming Guide, "Technical Specifications per Compute Capability": the same for all.
    ensure!(
        x <= 0x7fff_ffff && y <= 65535 && z <= 65535,
        "{shape}: the grid may be 2147483647 x 65535 x 65535"
    );
    ensure!(
        shape.threads <= limits.threads,
        "{shape}: a block may have {} threads",
        limits.threads
    );
    ensure!(
        shape.shared_bytes <= limits.shared_bytes,
        "{shape}: a block may have {} bytes",
        limits.shared_bytes
    );
    Ok(())
}

fn trace_row(entry: &str, problem: &str, seconds: f64, work: Work) -> String {
    let (gflops, gigabytes) = (work.flops / seconds / 1e9, work.bytes / seconds / 1e9);
    format!(
        "trace {entry:<18} {:>10.3} ms {gflops:>9.1} GFLOP/s {gigabytes:>8.1} GB/s  {problem}",
        seconds * 1e3
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_beyond_the_device_is_refused_with_numbers() {
        let limits = Limits {
            threads: 1024,
            shared_bytes: 1000,
            multiprocessors: 1,
        };
        let shape = Shape {
            blocks: [1, 1, 1],
            threads: 128,
            shared_bytes: 1000,
        };
        let complaint = |shape| fits(shape, limits).unwrap_err().to_string();
        assert!(fits(shape, limits).is_ok());
        assert!(
            complaint(Shape {
                blocks: [1, 65536, 1],
                ..shape
            })
            .contains("1 x 65536 x 1 blocks")
        );
        assert!(
            complaint(Shape {
                blocks: [0, 1, 1],
                ..shape
            })
            .contains("nothing to do")
        );
        assert!(complaint(Shape { threads: 1025, ..shape }).contains("may have 1024 threads"));
        assert!(
            complaint(Shape {
                shared_bytes: 1001,
                ..shape
            })
            .contains("may have 1000 bytes")
        );
    }

    #[test]
    fn a_trace_row_has_time_and_rates() {
        let row = trace_row("norm_8x1", "rows 2 channels 8", 0.5, Work { flops: 1e9, bytes: 3e9 });
        assert_eq!(
            row,
            "trace norm_8x1              500.000 ms       2.0 GFLOP/s      6.0 GB/s  rows 2 channels 8"
        );
    }
}
