//! The two failures of a device that callers answer otherwise than by giving up: too little memory (try again with a smaller plan) and a lost device (open it
//! again). Both are found in an `anyhow::Error` by `downcast_ref`, whatever contexts were put around them.

use std::error::Error;
use std::fmt;

/// Memory was asked for that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub asked: usize,
    /// Bytes in use.
    pub live: usize,
    /// Bytes there are: the arena's budget, or the device's memory.
    pub budget: usize,
    /// Buffers that hold the live bytes; 0 where that is not known.
    pub buffers: usize,
    /// The longest stretch that is free.
    pub largest_gap: usize,
}

impl OutOfMemory {
    /// The device itself has no more; who holds what is not known, it may be other programs.
    pub(super) fn of_device(asked: usize, live: usize, memory: usize) -> Self {
        Self {
            asked,
            live,
            budget: memory,
            buffers: 0,
            largest_gap: memory - live,
        }
    }
}

/// A kernel failed or the device is gone; nothing launched on it since can be trusted, and it takes no more work until it is opened again. After some faults CUDA wants a new process for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceLost {
    /// What the driver says.
    pub reason: String,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            asked,
            live,
            budget,
            buffers,
            largest_gap,
        } = self;
        write!(f, "device memory: {asked} bytes asked, {live} of {budget} in use")?;
        match buffers {
            0 => write!(f, ", perhaps by other programs; end those, or give the device less to do at once"),
            _ => write!(
                f,
                " by {buffers} buffers, largest gap {largest_gap}; raise the budget, or give the device less to do at once"
            ),
        }
    }
}

impl fmt::Display for DeviceLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the device failed: {}; it must be opened again. If it happens again, please report it",
            self.reason
        )
    }
}

impl Error for OutOfMemory {}
impl Error for DeviceLost {}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn both_failures_are_found_below_contexts() {
        let memory = OutOfMemory {
            asked: 3,
            live: 2,
            budget: 4,
            buffers: 1,
            largest_gap: 2,
        };
        let error = Err::<(), _>(memory.clone()).context("inner").context("outer").unwrap_err();
        assert_eq!(error.downcast_ref::<OutOfMemory>(), Some(&memory));
        assert!(error.downcast_ref::<DeviceLost>().is_none());
        let lost = DeviceLost { reason: "no power".into() };
        let error = Err::<(), _>(lost.clone()).context("inner").context("outer").unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&lost));
        assert!(format!("{error:#}").contains("no power"));
    }
}
