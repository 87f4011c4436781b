//! Copies that run beside the kernels: from and to host memory that the device reads by itself (pinned), each on a stream of its own.
//!
//! A transfer takes its host buffer and gives it back when it is done, so nobody touches one that is under way. On the device's side the order is the caller's:
//! a transfer starts after everything launched before it; launches after it do not wait for it, unless [`Transfer::join`] asks them to.

use anyhow::{Result, ensure};
use std::fmt;
use std::ops::{Deref, DerefMut};

/// Host memory of a driver's making.
pub trait HostMemory: Send {
    /// Its bytes.
    fn bytes(&self) -> &[u8];

    /// Its bytes, to be written.
    fn bytes_mut(&mut self) -> &mut [u8];
}

impl HostMemory for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }
}

/// Host memory that copies run from and to beside the kernels; given back when it is dropped.
pub struct PinnedBuffer(Box<dyn HostMemory>);

impl PinnedBuffer {
    pub(super) fn new(memory: impl HostMemory + 'static) -> Self {
        Self(Box::new(memory))
    }
}

impl Deref for PinnedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl DerefMut for PinnedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }
}

impl fmt::Debug for PinnedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pinned bytes", self.len())
    }
}

/// A copy under way, as a driver knows it.
pub trait Pending: Send {
    /// Kernels launched from now on start after the copy.
    ///
    /// # Errors
    /// Of the driver.
    fn join(&mut self, host: &mut PinnedBuffer) -> Result<()>;

    /// Returns when the copy is done; called once more than needed it does nothing.
    ///
    /// # Errors
    /// Of the driver, and those of kernels launched before.
    fn wait(&mut self, host: &mut PinnedBuffer) -> Result<()>;
}

/// A copy under way.
#[must_use = "a transfer that is dropped is waited for"]
pub struct Transfer {
    host: Option<PinnedBuffer>,
    pending: Box<dyn Pending>,
}

impl Transfer {
    pub(super) fn new(host: PinnedBuffer, pending: impl Pending + 'static) -> Self {
        Self {
            host: Some(host),
            pending: Box::new(pending),
        }
    }

    /// Kernels launched from now on start after this copy; the host does not wait. Needed before the first launch that reads what is uploaded, or that
    /// overwrites what is downloaded.
    ///
    /// # Errors
    /// Of the driver.
    pub fn join(&mut self) -> Result<()> {
        match &mut self.host {
            Some(host) => self.pending.join(host),
            None => Ok(()),
        }
    }

    /// Waits until the copy is done, and gives the host's buffer back.
    ///
    /// # Errors
    /// Of the driver, and those of kernels launched before.
    pub fn wait(mut self) -> Result<PinnedBuffer> {
        let mut host = self.host.take();
        let waited = host.as_mut().map_or(Ok(()), |host| self.pending.wait(host));
        // There always is one: only this call takes it, and it takes `self` too.
        waited.and(host.ok_or_else(|| anyhow::anyhow!("a transfer was waited for twice")))
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if let Some(host) = &mut self.host {
            // The memory must not go before the copy is done; who drops a transfer does not care how it ended.
            let _ = self.pending.wait(host);
        }
    }
}

/// Refuses a copy beyond a host buffer.
pub(super) fn check_host(host: &PinnedBuffer, bytes: usize) -> Result<()> {
    ensure!(bytes <= host.len(), "{bytes} bytes in a pinned buffer of {}", host.len());
    Ok(())
}
