//! Values as bf16 in host memory: half the size of f32, and what a CUDA device's tensors hold.

use super::{Dtype, Storage, Tensor};
use crate::device::Device;
use anyhow::Result;
use half::bf16;
use half::slice::HalfFloatSliceExt;

/// Values as bf16.
pub struct Bits(Vec<bf16>);

impl Tensor {
    /// The values as bf16: rounded, unless bf16 is how the device stores them.
    ///
    /// # Errors
    /// Those of the work that makes them, on a CUDA device.
    pub fn bits(&self) -> Result<Bits> {
        if let Storage::Cuda(buffer, Dtype::Bf16) = &self.storage {
            return Ok(Bits(bytemuck::pod_collect_to_vec(&buffer.to_vec()?[..2 * self.len()])));
        }
        let values = self.to_vec()?;
        let mut bits = vec![bf16::ZERO; values.len()];
        bits.convert_from_f32_slice(&values);
        Ok(Bits(bits))
    }
}

impl Bits {
    /// A tensor of these values.
    ///
    /// # Errors
    /// When the device's budget has no room for it.
    pub fn tensor(&self, device: &Device, shape: &[usize]) -> Result<Tensor> {
        let mut out = Tensor::empty(device, shape)?;
        assert_eq!(out.len(), self.0.len(), "values for a tensor of {shape:?}");
        match &mut out.storage {
            Storage::Host(data) => self.0.convert_to_f32_slice(data),
            Storage::Cuda(buffer, _) => buffer.copy_in(bytemuck::cast_slice(&self.0))?,
        }
        Ok(out)
    }

    /// The values.
    pub fn values(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.0.len()];
        self.0.convert_to_f32_slice(&mut values);
        values
    }

    /// As many equal parts.
    pub fn split(&self, parts: usize) -> impl Iterator<Item = Bits> {
        self.0
            .chunks_exact((self.0.len() / parts.max(1)).max(1))
            .map(|part| Bits(part.to_vec()))
    }

    /// One after the other.
    pub fn join(parts: Vec<&Bits>) -> Bits {
        Bits(parts.into_iter().flat_map(|part| part.0.iter().copied()).collect())
    }
}
