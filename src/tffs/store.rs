//! What is kept of every slice of a volume: on the device, or spilled to host memory when that is too small.

use crate::device::Device;
use crate::ops::rows;
use crate::tensor::{Bits, Carrier, Sent, Tensor};
use anyhow::{Context, Result};
use std::cell::RefCell;
use std::ops::Deref;

/// A tensor [rows, width] for every slice.
pub struct Store {
    place: Place,
    rows: usize,
    width: usize,
}

enum Place {
    Device(Tensor),
    Host(Spilled),
}

/// Tensors in host memory. A lane takes 12 P d bytes of the query a step (3.1 MB at full size, 0.2 GB for 64 lanes): some 8 ms over PCIe 4. So what the
/// [next step needs](Store::expect) is put together while memory attention runs, and copied beside the decoder and what follows it.
struct Spilled {
    device: Device,
    slices: Vec<Option<Bits>>,
    /// What the next step asks for.
    ahead: RefCell<Option<(Vec<usize>, Sent)>>,
    carrier: Carrier,
}

impl Store {
    /// Room for `slices` slices; `spilled` keeps them in host memory.
    ///
    /// # Errors
    /// When the device's budget has no room for them.
    pub fn new(device: &Device, slices: usize, [rows, width]: [usize; 2], spilled: bool) -> Result<Self> {
        let place = if spilled {
            Place::Host(Spilled {
                device: device.clone(),
                slices: (0..slices).map(|_| None).collect(),
                ahead: RefCell::default(),
                carrier: Carrier::default(),
            })
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
            Place::Host(spilled) => {
                let bits = slices.bits()?;
                let kept = bits.split(slices.rows() / self.rows);
                spilled.slices[first..].iter_mut().zip(kept).for_each(|(to, bits)| *to = Some(bits));
                Ok(())
            }
        }
    }

    /// The rows of these slices, [slices * rows, width], which are not [expected](Store::expect) any more.
    ///
    /// # Errors
    /// When the device's budget has no room for them.
    pub fn gather(&self, slices: &[usize]) -> Result<Tensor> {
        match &self.place {
            Place::Device(all) => rows::gather(all, self.rows, slices),
            Place::Host(spilled) => match spilled.ahead.take().filter(|(sent, _)| sent == slices) {
                Some((_, sent)) => spilled.carrier.arrive(sent),
                None => Bits::join(&spilled.of(slices)?).tensor(&spilled.device, &self.shape(slices)),
            },
        }
    }

    /// The same of slices that stay expected, if they are.
    ///
    /// # Errors
    /// When the device's budget has no room for them.
    pub fn peek(&self, slices: &[usize]) -> Result<Tensor> {
        if let Place::Host(spilled) = &self.place
            && let Some((sent, on_its_way)) = &mut *spilled.ahead.borrow_mut()
        {
            let place = |slice| sent.iter().position(|one| one == slice);
            if let Some(places) = slices.iter().map(place).collect::<Option<Vec<_>>>() {
                return rows::gather(on_its_way.arrived()?, self.rows, &places);
            }
        }
        self.gather(slices)
    }

    /// Starts to bring these slices to a CUDA device, if they are not there, for the [`gather`](Store::gather) that will ask for them. It runs beside the work launched after.
    ///
    /// # Errors
    /// When the device's budget has no room for them.
    pub fn expect(&self, slices: &[usize]) -> Result<()> {
        let Place::Host(spilled) = &self.place else { return Ok(()) };
        // What nobody asked for.
        drop(spilled.ahead.take());
        if slices.is_empty() {
            return Ok(());
        }
        let sent = spilled.carrier.send(&spilled.of(slices)?, &spilled.device, &self.shape(slices))?;
        spilled.ahead.replace(sent.map(|sent| (slices.to_vec(), sent)));
        Ok(())
    }

    fn shape(&self, slices: &[usize]) -> [usize; 2] {
        [slices.len() * self.rows, self.width]
    }
}

impl Spilled {
    fn of(&self, slices: &[usize]) -> Result<Vec<&Bits>> {
        let all = slices.iter().map(|&slice| self.slices[slice].as_ref());
        all.map(|bits| bits.context("a slice that was not encoded")).collect()
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

/// A tensor that is seldom needed: on the CPU and when it is spilled, its values stand in host memory as bf16. A support's tokens (10 MB of 80 slices at full size, 1 ms) are
/// brought once for all steps of a group of lanes, which take seconds: to copy them ahead would gain nothing.
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
