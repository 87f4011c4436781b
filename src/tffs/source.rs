//! Volumes as the network sees them: slices at S x S in 0..255, masks as prompts.

use super::intensity::{Intensity, Window};
use super::prepare::MaskPlan;
use crate::bad_input;
use crate::device::Device;
use crate::ops::normalise::{Batches, Normalise, Slice, Voxel};
use crate::stop::Stop;
use crate::tensor::Tensor;
use crate::volume::{AxisMap, Datatype, ReadAhead, Volume};
use anyhow::{Context, Result, ensure};
use rayon::prelude::*;
use std::sync::Arc;

/// An image volume, its view and its intensity map.
pub struct Image {
    /// The voxels.
    pub volume: Arc<Volume>,
    /// How its array is seen: slices first.
    pub axes: AxisMap,
    /// The map to 0..255.
    pub intensity: Intensity,
}

impl Image {
    /// Measures the intensities of a volume.
    ///
    /// # Errors
    /// NaN or infinite voxels, a window without width; the file is named.
    pub fn new(volume: Arc<Volume>, axes: AxisMap, window: Option<Window>) -> Result<Self> {
        let dims = axes.permute(volume.dims());
        let intensity = Intensity::measure(dims, window, &|z, out| volume.slice_into(&axes, z, out)).with_context(|| {
            format!(
                "{}: unusable intensities; repair the volume or leave it out",
                volume.path().display()
            )
        })?;
        Ok(Self { volume, axes, intensity })
    }

    /// [slices, rows, columns].
    pub fn dims(&self) -> [usize; 3] {
        self.axes.permute(self.volume.dims())
    }

    /// (H, W) of a slice.
    pub fn plane(&self) -> (usize, usize) {
        let [_, h, w] = self.dims();
        (h, w)
    }

    /// The slices `wanted`, in that order, at S x S on the device; read by a thread of their own, `depth` ahead, until `stop`.
    ///
    /// # Errors
    /// Slices too large to plan; no room for tables, no thread.
    pub fn slices(&self, wanted: Vec<usize>, depth: usize, (device, size): (&Device, usize), stop: &Stop) -> Result<Slices> {
        let (voxel, scale) = match (self.volume.header().datatype(), self.volume.header().scale()) {
            (Datatype::I16, scale) => (Some(Voxel::I16), scale),
            (Datatype::U8, scale) => (Some(Voxel::U8), scale),
            (Datatype::F32, scale) => (Some(Voxel::F32), scale),
            _ => (None, None),
        };
        let map = self.intensity.map(scale.unwrap_or((1.0, 0.0)));
        let normalise = Normalise::new(device, voxel.unwrap_or(Voxel::F32), map, self.plane(), size)?;
        let batches = Batches::new(device, normalise.clone())?;
        let (volume, axes, stop, (h, w)) = (Arc::clone(&self.volume), self.axes, stop.clone(), self.plane());
        let ahead = ReadAhead::new(wanted, depth, move |z| {
            stop.check()?;
            let stored = match voxel {
                Some(_) => volume.stored_slice(&axes, z)?,
                None => {
                    let mut values = vec![0.0; h * w];
                    volume.slice_into(&axes, z, &mut values)?;
                    values.into_iter().flat_map(f32::to_le_bytes).collect()
                }
            };
            normalise.prepare(stored)
        })?;
        Ok(Slices { ahead, batches })
    }
}

/// Slices of an image on their way to the network.
pub struct Slices {
    ahead: ReadAhead<Slice>,
    batches: Batches,
}

impl Slices {
    /// The next `count`, [count, S, S, 1].
    ///
    /// # Errors
    /// [`Stopped`](crate::stop::Stopped); fewer slices than that; those of a CUDA device.
    pub fn next(&mut self, count: usize) -> Result<Tensor> {
        let slices = self
            .ahead
            .by_ref()
            .take(count)
            .map(|(_, slice)| slice)
            .collect::<Result<Vec<_>>>()?;
        ensure!(slices.len() == count, "{} slices are left where {count} are wanted", slices.len());
        self.batches.bring(&slices)
    }
}

/// A label volume of the same grid as its image.
pub struct Labels {
    /// The voxels.
    pub volume: Arc<Volume>,
    /// The image's view.
    pub axes: AxisMap,
}

impl Labels {
    /// Classes that occur, ascending, background left out.
    ///
    /// # Errors
    /// Values that are no whole numbers or above 255.
    pub fn classes(&self) -> Result<Vec<u8>> {
        let seen = self.seen()?;
        Ok((1..=255u8)
            .filter(|&class| seen.iter().any(|seen| seen[usize::from(class)]))
            .collect())
    }

    /// Which slices show each of `classes`.
    ///
    /// # Errors
    /// As [`classes`](Self::classes).
    pub fn shown(&self, classes: &[u8]) -> Result<Vec<Vec<bool>>> {
        let seen = self.seen()?;
        let of_class = |&class: &u8| seen.iter().map(|seen| seen[usize::from(class)]).collect();
        Ok(classes.iter().map(of_class).collect())
    }

    /// The labels that each slice shows.
    fn seen(&self) -> Result<Vec<[bool; 256]>> {
        let [n, h, w] = self.axes.permute(self.volume.dims());
        let of_slice = |slice: &mut Vec<u16>, z| {
            self.volume.label_slice_into(&self.axes, z, slice)?;
            let mut seen = [false; 256];
            for &label in slice.iter() {
                match seen.get_mut(usize::from(label)) {
                    Some(entry) => *entry = true,
                    None => bad_input!("{}: label {label} is above 255; renumber the classes", self.volume.path().display()),
                }
            }
            Ok(seen)
        };
        // All, so that of several complaints it is always the first that is made.
        let all: Vec<Result<_>> = (0..n).into_par_iter().map_init(|| vec![0; h * w], of_slice).collect();
        all.into_iter().collect()
    }

    /// Prompts of one class for queries of `plane` and a network of `size`: for each slice, the mask at S x S if the slice counts as labelled.
    ///
    /// # Errors
    /// As [`classes`](Self::classes).
    pub fn prompts(&self, class: u8, plane: (usize, usize), size: usize) -> Result<Vec<Option<Vec<u8>>>> {
        let [n, h, w] = self.axes.permute(self.volume.dims());
        let plan = MaskPlan::new((h, w), plane, size)?;
        let buffers = || (vec![0u16; h * w], vec![0u8; h * w], vec![0u8; plane.0 * plane.1], Vec::new());
        let of_slice = |(labels, mask, nearest, scratch): &mut (Vec<u16>, Vec<u8>, Vec<u8>, Vec<f32>), z| {
            self.volume.label_slice_into(&self.axes, z, labels)?;
            for (out, &label) in mask.iter_mut().zip(&*labels) {
                *out = u8::from(label == u16::from(class));
            }
            let mut square = vec![0u8; size * size];
            let labelled = plan.prepare(mask, 1, nearest, &mut square, scratch)?;
            Ok(labelled.then_some(square))
        };
        let all: Vec<Result<_>> = (0..n).into_par_iter().map_init(buffers, of_slice).collect();
        all.into_iter().collect()
    }
}

/// A labelled case.
pub struct Labelled {
    /// Its name.
    pub case: String,
    /// The image.
    pub image: Image,
    /// Its labels.
    pub labels: Labels,
}
