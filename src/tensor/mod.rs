//! A tensor: contiguous f32 storage on a device, with a shape. Channels stand last, always.

use crate::device::Device;
use std::fmt;

/// Contiguous f32 values of a shape of up to four axes.
pub struct Tensor {
    data: Vec<f32>,
    shape: [usize; 4],
    rank: usize,
    device: Device,
}

impl Tensor {
    /// A tensor of unspecified content (a reused buffer): every op writes its whole output.
    pub fn empty(device: &Device, shape: &[usize]) -> Self {
        let mut all = [1; 4];
        all[..shape.len()].copy_from_slice(shape);
        Self {
            data: device.take(all.iter().product()),
            shape: all,
            rank: shape.len(),
            device: device.clone(),
        }
    }

    /// A tensor of zeros.
    pub fn zeros(device: &Device, shape: &[usize]) -> Self {
        let mut out = Self::empty(device, shape);
        out.data.fill(0.0);
        out
    }

    /// A tensor holding a copy of `values`, of which there must be as many as the shape says.
    pub fn from_slice(device: &Device, shape: &[usize], values: &[f32]) -> Self {
        let mut out = Self::empty(device, shape);
        out.data.copy_from_slice(values);
        out
    }

    /// The axes' lengths.
    pub fn shape(&self) -> &[usize] {
        &self.shape[..self.rank]
    }

    /// The length of the last axis.
    pub fn width(&self) -> usize {
        self.shape[self.rank.max(1) - 1]
    }

    /// Number of rows, that is of values over the last axis.
    pub fn rows(&self) -> usize {
        self.data.len().checked_div(self.width()).unwrap_or(0)
    }

    /// The same values under another shape.
    pub fn reshaped(mut self, shape: &[usize]) -> Self {
        assert_eq!(
            shape.iter().product::<usize>(),
            self.data.len(),
            "a reshape keeps the number of values"
        );
        self.shape = [1; 4];
        self.shape[..shape.len()].copy_from_slice(shape);
        self.rank = shape.len();
        self
    }

    /// The device it lives on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The values, on the host.
    pub fn values(&self) -> &[f32] {
        &self.data
    }

    /// The values, to be changed.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }
}

impl Clone for Tensor {
    fn clone(&self) -> Self {
        Self::from_slice(&self.device, self.shape(), &self.data)
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        self.device.give_back(std::mem::take(&mut self.data));
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor {:?}", self.shape())
    }
}
