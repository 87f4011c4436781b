//! `normalise`: stored voxels of slices to what the network reads, numbers from 0 to 255 at its size.
//!
//! Contract, per voxel: v = f32(stored slope + intercept); y = f32((clip(v, lower, upper) - min) / (max - min) 255), and 0 where max <= min, or where v is 0 and
//! zeros are kept; in f64 until it is rounded. A slice of the network's size is copied as it is; any other is truncated to 8 bits and resized as Pillow does
//! ([`BicubicU8Plan`]). Voxels [N, H, W], little-endian; y [N, S, S, 1]. Source: specs/tffs.md, "Intensities" and "Size".
//!
//! Who reads the slices, ahead of the network, [prepares](Normalise::prepare) each: for the CPU that is all (2.2 ms of a core per slice of 320 x 320, EPYC); a CUDA
//! device is sent the stored voxels, 0.2 MB instead of 0.5, and does it there.

use super::Cost;
use super::resize_u8::BicubicU8Plan;
use crate::cuda::arena::Buffer;
use crate::cuda::normalise::{self as kernel, MOST_COLUMNS, Taps};
pub use crate::cuda::normalise::{Map, Voxel};
use crate::device::{Cuda, Device};
use crate::tensor::{Carrier, Tensor};
use anyhow::{Result, bail, ensure};

/// What becomes of a stored voxel.
#[inline]
pub fn mapped(stored: f64, map: &Map) -> f32 {
    let range = map.max - map.min;
    if range <= 0.0 {
        return 0.0;
    }
    let value = f64::from((stored * map.slope + map.intercept) as f32);
    // Chosen, not branched on: 2.2 ms a slice of 320 x 320 instead of 2.6 (EPYC).
    let raised = if value < map.lower { map.lower } else { value };
    let clipped = if raised > map.upper { map.upper } else { raised };
    let number = ((clipped - map.min) / range * 255.0) as f32;
    if map.keep_zeros & (value == 0.0) { 0.0 } else { number }
}

/// A slice on its way to the network.
pub enum Slice {
    /// [H, W] voxels as they are stored.
    Stored(Vec<u8>),
    /// [S, S] numbers.
    Ready(Vec<f32>),
}

/// How slices of one volume become what a network reads.
#[derive(Clone, Debug)]
pub struct Normalise {
    voxel: Voxel,
    map: Map,
    resize: BicubicU8Plan,
    on_device: bool,
}

impl Normalise {
    /// For slices of `plane` = (H, W) and a network of `size` S on this device.
    ///
    /// # Errors
    /// A size of zero, or above 2^24.
    pub fn new(device: &Device, voxel: Voxel, map: Map, plane: (usize, usize), size: usize) -> Result<Self> {
        Ok(Self {
            voxel,
            map,
            resize: BicubicU8Plan::new(plane, (size, size))?,
            on_device: device.cuda().is_some() && plane.1 <= MOST_COLUMNS,
        })
    }

    /// What is done to a slice ahead of the network, by any thread: `stored` [H, W] voxels.
    ///
    /// # Errors
    /// A slice of another size.
    pub fn prepare(&self, stored: Vec<u8>) -> Result<Slice> {
        let (h, w) = self.resize.input();
        ensure!(
            stored.len() == h * w * self.voxel.bytes(),
            "normalise: {} bytes for slices of {h} x {w} {:?}",
            stored.len(),
            self.voxel
        );
        Ok(match self.on_device {
            true => Slice::Stored(stored),
            false => Slice::Ready(self.numbers(&stored)?),
        })
    }

    /// [S, S] of [H, W] stored voxels.
    fn numbers(&self, stored: &[u8]) -> Result<Vec<f32>> {
        let (plan, (h, w)) = (&self.resize, self.resize.output());
        if plan.input() == plan.output() {
            return Ok(self.mapped(stored, |value| value));
        }
        // Truncated, as numpy does it: what is mapped lies within 0 and 255.
        let bytes = self.mapped(stored, |value| value as u8);
        let (mut between, mut resized) = (vec![0; plan.scratch_len()], vec![0; h * w]);
        plan.resize(&bytes, &mut between, &mut resized)?;
        Ok(resized.into_iter().map(f32::from).collect())
    }

    fn mapped<T>(&self, stored: &[u8], of: impl Fn(f32) -> T) -> Vec<T> {
        fn each<const W: usize, T>(stored: &[u8], read: impl Fn([u8; W]) -> f64, of: impl Fn(f64) -> T) -> Vec<T> {
            stored.as_chunks::<W>().0.iter().map(|voxel| of(read(*voxel))).collect()
        }
        let map = self.map;
        let of = |stored| of(mapped(stored, &map));
        match self.voxel {
            Voxel::I16 => each(stored, |voxel| f64::from(i16::from_le_bytes(voxel)), of),
            Voxel::U8 => each(stored, |[voxel]| f64::from(voxel), of),
            Voxel::F32 => each(stored, |voxel| f64::from(f32::from_le_bytes(voxel)), of),
        }
    }
}

/// Brings the slices of one volume to the device, batch after batch.
pub struct Batches {
    device: Device,
    normalise: Normalise,
    tables: Option<Tables>,
    carrier: Carrier,
}

/// What the kernels read beside voxels.
struct Tables {
    map: Buffer,
    taps: Taps,
}

impl Batches {
    /// # Errors
    /// When the device's budget has no room for the tables.
    pub fn new(device: &Device, normalise: Normalise) -> Result<Self> {
        let tables = match device.cuda() {
            Some(cuda) if normalise.on_device => Some(Tables {
                map: cuda.arena.filled(&normalise.map.to_bytes())?,
                taps: Taps::upload(&cuda.arena, &normalise.resize.tables())?,
            }),
            _ => None,
        };
        Ok(Self {
            device: device.clone(),
            normalise,
            tables,
            carrier: Carrier::default(),
        })
    }

    /// y [N, S, S, 1] of N slices that were [prepared](Normalise::prepare). On a CUDA device the copy follows what was launched before, and the host
    /// goes on, if there is memory for that.
    ///
    /// # Errors
    /// When the device's budget has no room for it; those of the device.
    pub fn bring(&self, slices: &[Slice]) -> Result<Tensor> {
        let size = self.normalise.resize.output().0;
        let shape = [slices.len(), size, size, 1];
        let (mut stored, mut ready) = (Vec::new(), Vec::new());
        for slice in slices {
            match slice {
                Slice::Stored(voxels) => stored.push(voxels.as_slice()),
                Slice::Ready(numbers) => ready.extend_from_slice(numbers),
            }
        }
        match (self.device.cuda(), &self.tables) {
            (Some(cuda), Some(tables)) if ready.is_empty() => self.launch(cuda, tables, &stored, &shape),
            _ if stored.is_empty() => Tensor::from_slice(&self.device, &shape, &ready),
            _ => bail!("normalise: slices that were prepared for another device"),
        }
    }

    fn launch(&self, cuda: &Cuda, tables: &Tables, stored: &[&[u8]], shape: &[usize]) -> Result<Tensor> {
        let (height, width) = self.normalise.resize.input();
        let problem = kernel::Normalise {
            voxel: self.normalise.voxel,
            slices: stored.len(),
            height,
            width,
            size: shape[1],
            start: 0,
            slice_step: (height * width).cast_signed(),
            row_step: width.cast_signed(),
            column_step: 1,
        };
        let y = Tensor::empty(&self.device, shape)?;
        let scratch = cuda.arena.buffer(problem.scratch_bytes())?;
        let raw = self.carrier.bring(stored, cuda)?;
        problem.launch(&cuda.runtime, &raw, &tables.map, &tables.taps, &scratch, y.buffer())?;
        Ok(y)
    }
}

/// Bytes of a CUDA device that [`Batches::bring`] takes, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bringing {
    /// Per slice: voxels, the pass along rows, and y.
    pub slice: usize,
    /// For all: the map, and the taps of both axes.
    pub tables: usize,
}

impl Bringing {
    /// For slices of `plane` = (H, W) and a network of `size` S.
    pub fn of((height, width): (usize, usize), size: usize) -> Self {
        // Cubic weights reach two pixels to either side, and as many times further as an axis shrinks.
        let table = |input: usize| {
            if input == size {
                0
            } else {
                4 * size * (3 + (4 * input).div_ceil(size.max(1)).max(4))
            }
        };
        let buffer = |bytes: usize| bytes.next_multiple_of(256);
        Self {
            slice: buffer(height * width * Voxel::F32.bytes()) + buffer(height * size) + buffer(2 * size * size),
            tables: buffer(Map::BYTES) + buffer(table(height)) + buffer(table(width)),
        }
    }

    /// What is enough for either.
    pub fn max(self, other: Self) -> Self {
        Self {
            slice: self.slice.max(other.slice),
            tables: self.tables.max(other.tables),
        }
    }
}

/// Cost of a slice.
pub fn cost(voxel: Voxel, resize: &BicubicU8Plan) -> Cost {
    let (h, w) = resize.input();
    let (s, _) = resize.output();
    let resized = resize.cost();
    Cost {
        flops: 6.0 * (h * w) as f64 + resized.flops,
        bytes: (h * w * voxel.bytes() + 4 * s * s) as f64 + if resize.input() == resize.output() { 0.0 } else { resized.bytes },
    }
}

/// N slices [H, W] to [S, S].
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Case {
    pub name: &'static str,
    pub voxel: Voxel,
    pub items: usize,
    pub input: (usize, usize),
    pub size: usize,
}

/// The op's table: awkward sizes (whole, both axes, one axis, up, down, one pixel, more columns than threads), then the method's (see [`super::in_network`]).
pub fn cases() -> Vec<Case> {
    use Voxel::{F32, I16, U8};
    [
        ("whole, primes", I16, 2, (7, 7), 7),
        ("whole, vectors", U8, 2, (16, 16), 16),
        ("one pixel to more", F32, 1, (1, 1), 5),
        ("more to one pixel", I16, 1, (7, 5), 1),
        ("up", I16, 3, (13, 17), 32),
        ("across alone", U8, 2, (16, 9), 16),
        ("down alone", F32, 2, (9, 16), 16),
        ("threads + 11 columns", I16, 1, (40, 139), 24),
        ("threads + 3 rows made", U8, 1, (11, 5), 131),
        ("tail of a vector", F32, 2, (21, 23), 13),
        ("tffs.care", I16, 8, (320, 320), 512),
        ("tffs.ct", I16, 8, (512, 512), 512),
    ]
    .map(|(name, voxel, items, input, size)| Case {
        name,
        voxel,
        items,
        input,
        size,
    })
    .to_vec()
}
