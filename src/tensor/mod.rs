//! A tensor: contiguous storage on a device, with a shape. Channels stand last, always.
//!
//! On the CPU values are f32. On a CUDA device they are bf16 ([`Tensor::empty`]), or f32 where that precision would show ([`Tensor::empty_f32`]: logits, scores,
//! unfinished softmax sums).

mod bits;
mod parameter;

pub use bits::{Bits, Carrier, Sent};
pub use parameter::Parameter;

use crate::cuda::arena::Buffer;
use crate::device::Device;
use anyhow::Result;
use half::bf16;
use half::slice::HalfFloatSliceExt;
use std::fmt;

/// Contiguous values of a shape of up to five axes.
pub struct Tensor {
    storage: Storage,
    shape: [usize; 5],
    rank: usize,
    device: Device,
}

enum Storage {
    Host(Vec<f32>),
    Cuda(Buffer, Dtype),
}

/// How a CUDA device stores a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Dtype {
    Bf16,
    F32,
}

impl Dtype {
    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

impl Tensor {
    /// A tensor of unspecified content (a reused buffer): every op writes its whole output.
    ///
    /// # Errors
    /// When the device's budget has no room for it.
    pub fn empty(device: &Device, shape: &[usize]) -> Result<Self> {
        Self::of(device, shape, Dtype::Bf16)
    }

    /// The same in f32 on every device.
    ///
    /// # Errors
    /// As [`Tensor::empty`].
    pub fn empty_f32(device: &Device, shape: &[usize]) -> Result<Self> {
        Self::of(device, shape, Dtype::F32)
    }

    /// A tensor like `empty` or `empty_f32`, whose values are stored as `dtype` on a CUDA device.
    ///
    /// # Errors
    /// As [`Tensor::empty`].
    pub fn of(device: &Device, shape: &[usize], dtype: Dtype) -> Result<Self> {
        let len = shape.iter().product::<usize>();
        let storage = match device.cuda() {
            None => Storage::Host(device.take(len)),
            Some(cuda) => Storage::Cuda(cuda.arena.buffer(len * dtype.bytes())?, dtype),
        };
        Ok(Self::with(storage, device, shape))
    }

    fn with(storage: Storage, device: &Device, shape: &[usize]) -> Self {
        let mut all = [1; 5];
        all[..shape.len()].copy_from_slice(shape);
        Self {
            storage,
            shape: all,
            rank: shape.len(),
            device: device.clone(),
        }
    }

    /// A tensor holding a copy of `values`, of which there must be as many as the shape says; rounded to bf16 on a CUDA device.
    ///
    /// # Errors
    /// As [`Tensor::empty`], and of the copy.
    pub fn from_slice(device: &Device, shape: &[usize], values: &[f32]) -> Result<Self> {
        Self::filled(device, shape, values, Dtype::Bf16)
    }

    /// The same in f32 on every device.
    ///
    /// # Errors
    /// As [`Tensor::from_slice`].
    pub fn from_slice_f32(device: &Device, shape: &[usize], values: &[f32]) -> Result<Self> {
        Self::filled(device, shape, values, Dtype::F32)
    }

    fn filled(device: &Device, shape: &[usize], values: &[f32], dtype: Dtype) -> Result<Self> {
        let mut out = Self::of(device, shape, dtype)?;
        assert_eq!(out.len(), values.len(), "values for a tensor of {shape:?}");
        match &mut out.storage {
            Storage::Host(data) => data.copy_from_slice(values),
            Storage::Cuda(buffer, dtype) => upload(buffer, *dtype, values)?,
        }
        Ok(out)
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// As [`Tensor::empty`].
    pub fn zeros(device: &Device, shape: &[usize]) -> Result<Self> {
        let mut out = Self::empty(device, shape)?;
        match &mut out.storage {
            Storage::Host(data) => data.fill(0.0),
            Storage::Cuda(buffer, _) => buffer.clear()?,
        }
        Ok(out)
    }

    /// A copy.
    ///
    /// # Errors
    /// As [`Tensor::empty`].
    pub fn copy(&self) -> Result<Self> {
        let mut out = Self::of(&self.device, self.shape(), self.dtype())?;
        match (&mut out.storage, &self.storage) {
            (Storage::Host(to), Storage::Host(from)) => to.copy_from_slice(from),
            (Storage::Cuda(to, dtype), Storage::Cuda(from, _)) => to.copy_from(0, from, 0, self.len() * dtype.bytes())?,
            _ => unreachable!("both are on one device"),
        }
        Ok(out)
    }

    /// The axes' lengths.
    pub fn shape(&self) -> &[usize] {
        &self.shape[..self.rank]
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The length of the last axis.
    pub fn width(&self) -> usize {
        self.shape[self.rank.max(1) - 1]
    }

    /// Number of rows, that is of values over the last axis.
    pub fn rows(&self) -> usize {
        self.len().checked_div(self.width()).unwrap_or(0)
    }

    /// The same values under another shape.
    pub fn reshaped(mut self, shape: &[usize]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), self.len(), "a reshape keeps the number of values");
        self.shape = [1; 5];
        self.shape[..shape.len()].copy_from_slice(shape);
        self.rank = shape.len();
        self
    }

    /// The device it lives on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// How a CUDA device stores its values; f32 on the CPU.
    pub fn dtype(&self) -> Dtype {
        match &self.storage {
            Storage::Host(_) => Dtype::F32,
            Storage::Cuda(_, dtype) => *dtype,
        }
    }

    /// The values of a tensor on the CPU; asking for another's is a fault of the program.
    pub fn values(&self) -> &[f32] {
        match &self.storage {
            Storage::Host(data) => data,
            Storage::Cuda(..) => panic!("{self:?} is on {}", self.device.kind()),
        }
    }

    /// The values of a tensor on the CPU, to be changed.
    pub fn values_mut(&mut self) -> &mut [f32] {
        match &mut self.storage {
            Storage::Host(data) => data,
            Storage::Cuda(..) => panic!("a tensor on {} has no values here", self.device.kind()),
        }
    }

    /// The memory of a tensor on a CUDA device; asking for another's is a fault of the program.
    pub fn buffer(&self) -> &Buffer {
        match &self.storage {
            Storage::Cuda(buffer, _) => buffer,
            Storage::Host(_) => panic!("{self:?} is on the CPU"),
        }
    }

    /// The values, wherever they are; waits for what makes them.
    ///
    /// # Errors
    /// Those of the work that makes them, on a CUDA device.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        match &self.storage {
            Storage::Host(data) => Ok(data.clone()),
            Storage::Cuda(buffer, Dtype::F32) => Ok(bytemuck::pod_collect_to_vec(&buffer.to_vec()?[..4 * self.len()])),
            Storage::Cuda(_, Dtype::Bf16) => Ok(self.bits()?.values()),
        }
    }
}

/// Puts values into device memory.
fn upload(buffer: &Buffer, dtype: Dtype, values: &[f32]) -> Result<()> {
    match dtype {
        Dtype::F32 => buffer.copy_in(bytemuck::cast_slice(values)),
        Dtype::Bf16 => {
            let mut halves = vec![bf16::ZERO; values.len()];
            halves.convert_from_f32_slice(values);
            buffer.copy_in(bytemuck::cast_slice(&halves))
        }
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        if let Storage::Host(data) = &mut self.storage {
            self.device.give_back(std::mem::take(data));
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor {:?}", self.shape())
    }
}
