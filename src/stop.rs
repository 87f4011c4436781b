//! The wish to stop, checked between steps: set by a signal (or a test), read by everything that works for long.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A flag shared by all who work on one run; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    signal: Arc<AtomicUsize>, // number of the signal that asked; 0: go on
}

impl Stop {
    /// A flag that nobody has set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everyone to stop, as the signal of this number would (at least 1).
    pub fn request(&self, signal: usize) {
        self.signal.store(signal.max(1), Ordering::SeqCst);
    }

    /// The number of the signal that asked to stop.
    pub fn signal(&self) -> Option<usize> {
        Some(self.signal.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }

    /// Whether someone asked to stop.
    pub fn is_requested(&self) -> bool {
        self.signal.load(Ordering::SeqCst) != 0
    }

    /// For the end of every step: an error of type [`Stopped`] once someone asked to stop.
    pub fn check(&self) -> anyhow::Result<()> {
        match self.signal.load(Ordering::SeqCst) {
            0 => Ok(()),
            signal => Err(anyhow::Error::new(Stopped { signal })),
        }
    }

    /// The cell behind the flag, for a signal handler to write the signal's number into.
    pub fn cell(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.signal)
    }
}

/// The error of work that was asked to stop: no failure, and the same command goes on where it stopped.
#[derive(Debug)]
pub struct Stopped {
    /// The signal's number.
    pub signal: usize,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stopped by signal {}; give the same command again to go on", self.signal)
    }
}

impl std::error::Error for Stopped {}

/// Whether `error` (or anything it wraps) is a [`Stopped`].
pub fn is_stopped(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<Stopped>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_request_reaches_every_clone_and_shows_through_context() {
        let stop = Stop::new();
        let clone = stop.clone();
        assert!(clone.check().is_ok());
        stop.request(15);
        let error = clone.check().context("tracking").unwrap_err();
        assert!(is_stopped(&error));
        assert!(!is_stopped(&anyhow::anyhow!("stopped")));
    }
}
