//! What is kept of every slice of a volume: on the device, or spilled to host memory when that is too small.

use crate::device::Device;
use crate::ops::rows;
use crate::tensor::{Bits, Tensor};
use anyhow::{Context, Result};
use std::ops::Deref;

/// A tensor [rows, width] for every slice.
pub struct Store {
    place: Place,
    rows: usize,
    width: usize,
}

enum Place {
    Device(Tensor),
    Host(Device, Vec<Option<Bits>>),
}

impl Store {
    /// Room for `slices` slices; `spilled` keeps them in host memory.
    ///
    /// # Errors
    /// When the device's budget has no room for them.
    pub fn new(device: &Device, slices: usize, [rows, width]: [usize; 2], spilled: bool) -> Result<Self> {
        let place = if spilled {
            Place::Host(device.clone(), (0..slices).map(|_| None).collect())
        } else {
            Place::Device(Tensor::empty(device, &[slices * rows, width])?)
        };
        Ok(Self { place, rows, width })
    }

    /// Keeps the rows of consecutive slices from `first` on.
    ///
    /// # Errors
    /// Those of a CUDA device.
    pub fn put(&mut self, first: usize, slices: &Tensor) -> Result<()> {
        match &mut self.place {
            Place::Device(all) => rows::put(all, first * self.rows, slices),
            Place::Host(_, all) => {
                let bits = slices.bits()?;
                let kept = bits.split(slices.rows() / self.rows);
                all[first..].iter_mut().zip(kept).for_each(|(to, bits)| *to = Some(bits));
                Ok(())
            }
        }
    }

    /// The rows of these slices, [slices * rows, width].
    ///
    /// # Errors
    /// When the device's budget has no room for them.
    pub fn gather(&self, slices: &[usize]) -> Result<Tensor> {
        match &self.place {
            Place::Device(all) => rows::gather(all, self.rows, slices),
            Place::Host(device, all) => {
                let bits = slices
                    .iter()
                    .map(|&slice| all[slice].as_ref().context("a slice that was not encoded"));
                let bits = Bits::join(bits.collect::<Result<Vec<_>>>()?);
                bits.tensor(device, &[slices.len() * self.rows, self.width])
            }
        }
    }
}

/// A kept tensor in use.
pub enum Opened<'a> {
    /// It is kept on the device.
    There(&'a Tensor),
    /// It was brought to the device.
    Brought(Tensor),
}

impl Deref for Opened<'_> {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        match self {
            Self::There(tensor) => tensor,
            Self::Brought(tensor) => tensor,
        }
    }
}

/// A tensor that is seldom needed: on the CPU and when it is spilled, its values stand in host memory as bf16.
pub struct Kept {
    place: KeptPlace,
    shape: Vec<usize>,
    device: Device,
}

enum KeptPlace {
    Device(Tensor),
    Host(Bits),
}

impl Kept {
    /// Keeps a tensor of values that bf16 holds exactly; `spilled` moves it to host memory.
    ///
    /// # Errors
    /// Those of a CUDA device.
    pub fn new(tensor: Tensor, spilled: bool) -> Result<Self> {
        let (shape, device) = (tensor.shape().to_vec(), tensor.device().clone());
        let place = if spilled || device.cuda().is_none() {
            KeptPlace::Host(tensor.bits()?)
        } else {
            KeptPlace::Device(tensor)
        };
        Ok(Self { place, shape, device })
    }

    /// The tensor, on the device for as long as the result lives.
    ///
    /// # Errors
    /// When the device's budget has no room for it.
    pub fn open(&self) -> Result<Opened<'_>> {
        Ok(match &self.place {
            KeptPlace::Device(tensor) => Opened::There(tensor),
            KeptPlace::Host(bits) => Opened::Brought(bits.tensor(&self.device, &self.shape)?),
        })
    }

    /// Bytes of host and device memory.
    pub fn bytes(&self) -> usize {
        2 * self.shape.iter().product::<usize>()
    }
}
