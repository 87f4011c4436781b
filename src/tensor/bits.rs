//! Values as bf16 in host memory: half the size of f32, and what a CUDA device's tensors hold.

use super::{Dtype, Storage, Tensor};
use crate::cuda::arena::Buffer;
use crate::cuda::transfer::Transfer;
use crate::device::{Cuda, Device};
use anyhow::Result;
use half::bf16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use std::cell::RefCell;

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
        Ok(Bits::rounded(&self.to_vec()?))
    }
}

impl Bits {
    fn rounded(values: &[f32]) -> Self {
        let mut bits = vec![bf16::ZERO; values.len()];
        bits.convert_from_f32_slice(values);
        Self(bits)
    }

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
    pub fn join(parts: &[&Bits]) -> Bits {
        Bits(parts.iter().flat_map(|part| part.0.iter().copied()).collect())
    }
}

/// A tensor that is on its way to a CUDA device.
pub struct Sent {
    // First, so that it is waited for before the tensor's memory is given back.
    transfer: Transfer,
    tensor: Tensor,
}

impl Sent {
    /// The tensor, for work that is launched from now on.
    ///
    /// # Errors
    /// Of the driver.
    pub fn arrived(&mut self) -> Result<&Tensor> {
        self.transfer.join()?;
        Ok(&self.tensor)
    }
}

/// Brings values to a CUDA device beside its kernels, one tensor after the other.
#[derive(Default)]
pub struct Carrier {
    /// The transfer that arrived last: its host memory serves the next.
    last: RefCell<Option<Transfer>>,
}

impl Carrier {
    /// Starts to bring `parts`, one after the other, to a tensor; the copy runs after what was launched before, and beside what is launched after. None on the CPU, and where
    /// memory is too short for it.
    ///
    /// # Errors
    /// Of the driver.
    pub fn send(&self, parts: &[&Bits], device: &Device, shape: &[usize]) -> Result<Option<Sent>> {
        let Some(cuda) = device.cuda() else { return Ok(None) };
        let bytes = 2 * shape.iter().product::<usize>();
        let parts: Vec<&[u8]> = parts.iter().map(|part| bytemuck::cast_slice(&part.0)).collect();
        assert_eq!(
            parts.iter().map(|part| part.len()).sum::<usize>(),
            bytes,
            "values for a tensor of {shape:?}"
        );
        Ok(self.start(&parts, cuda)?.map(|(buffer, transfer)| Sent {
            transfer,
            tensor: Tensor::with(Storage::Cuda(buffer, Dtype::Bf16), device, shape),
        }))
    }

    /// Starts to bring parts of equal length. The transfer comes last, so that it is waited for before the memory is given back.
    fn start(&self, parts: &[&[u8]], cuda: &Cuda) -> Result<Option<(Buffer, Transfer)>> {
        let each = parts.first().map_or(0, |part| part.len());
        assert!(parts.iter().all(|part| part.len() == each), "parts of different lengths");
        let bytes = each * parts.len();
        let before = self.last.take().map(Transfer::wait).transpose()?;
        let pinned = before
            .filter(|pinned| pinned.len() >= bytes)
            .or_else(|| cuda.runtime.driver().pinned(bytes).ok());
        // A buffer may stay over work that takes and gives back much: at the end, where it is in nobody's way.
        let (Some(mut pinned), Ok(buffer)) = (pinned, cuda.arena.buffer_at_the_end(bytes)) else {
            return Ok(None);
        };
        let to = pinned[..bytes].par_chunks_exact_mut(each.max(1));
        to.zip(parts).for_each(|(to, part)| to.copy_from_slice(part));
        let transfer = buffer.upload(pinned, bytes)?;
        Ok(Some((buffer, transfer)))
    }

    /// The tensor of a [`Carrier::send`], for good.
    ///
    /// # Errors
    /// Of the driver.
    pub fn arrive(&self, mut sent: Sent) -> Result<Tensor> {
        sent.arrived()?;
        self.last.replace(Some(sent.transfer));
        Ok(sent.tensor)
    }

    /// Memory of a CUDA device with `parts` of equal length, one after the other, for work that is launched from now on. If there is memory for that, the host waits
    /// at most for the work before the one call of this that came before.
    ///
    /// # Errors
    /// When the device's budget has no room for it; of the driver.
    pub fn bring(&self, parts: &[&[u8]], cuda: &Cuda) -> Result<Buffer> {
        match self.start(parts, cuda)? {
            Some((buffer, mut transfer)) => {
                transfer.join()?;
                self.last.replace(Some(transfer));
                Ok(buffer)
            }
            None => cuda.arena.filled(&parts.concat()),
        }
    }
}
