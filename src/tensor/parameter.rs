//! A layer's vectors: biases, factors, tables.

use crate::cuda::arena::Buffer;
use crate::device::Device;
use anyhow::Result;
use std::ops::Deref;

/// f32 values on the host, and a copy on the CUDA device if that is where the layer runs.
pub struct Parameter {
    values: Vec<f32>,
    buffer: Option<Buffer>,
}

impl Parameter {
    /// These values on this device.
    ///
    /// # Errors
    /// When the device's budget has no room for them.
    pub fn new(device: &Device, values: Vec<f32>) -> Result<Self> {
        let buffer = device
            .cuda()
            .map(|cuda| cuda.arena.filled(bytemuck::cast_slice(&values)))
            .transpose()?;
        Ok(Self { values, buffer })
    }

    /// The copy on the CUDA device; asking for one without is a fault of the program.
    pub fn buffer(&self) -> &Buffer {
        match &self.buffer {
            Some(buffer) => buffer,
            None => panic!("a parameter on the CPU"),
        }
    }
}

impl Deref for Parameter {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}
