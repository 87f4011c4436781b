//! Volumes as the network sees them: slices at S x S in 0..255, masks as prompts.

use super::intensity::{Intensity, Window};
use super::prepare::{MaskPlan, SlicePlan};
use crate::bad_input;
use crate::volume::{AxisMap, Volume};
use anyhow::{Context, Result};
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
        let intensity = Intensity::measure(dims, window, &mut |z, out| volume.slice_into(&axes, z, out)).with_context(|| {
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

    /// A reader of slices at S x S: `out` [S, S].
    ///
    /// # Errors
    /// Slices too large to plan.
    pub fn reader(&self, size: usize) -> Result<impl FnMut(usize, &mut [f32]) -> Result<()> + Send + use<>> {
        let (h, w) = self.plane();
        let plan = SlicePlan::new((h, w), size)?;
        let (volume, axes, intensity) = (Arc::clone(&self.volume), self.axes, self.intensity);
        let (mut raw, mut scratch) = (vec![0.0; h * w], Vec::new());
        Ok(move |z: usize, out: &mut [f32]| {
            volume.slice_into(&axes, z, &mut raw)?;
            intensity.apply(&mut raw);
            plan.prepare(&raw, &mut scratch, out)
        })
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
        let [n, h, w] = self.axes.permute(self.volume.dims());
        let mut seen = [false; 256];
        let mut slice = vec![0u16; h * w];
        for z in 0..n {
            self.volume.label_slice_into(&self.axes, z, &mut slice)?;
            for &label in &slice {
                match seen.get_mut(usize::from(label)) {
                    Some(entry) => *entry = true,
                    None => bad_input!("{}: label {label} is above 255; renumber the classes", self.volume.path().display()),
                }
            }
        }
        Ok((1..=255u8).filter(|&class| seen[usize::from(class)]).collect())
    }

    /// Slices that show each of `classes`.
    ///
    /// # Errors
    /// As [`classes`](Self::classes).
    pub fn slices_per_class(&self, classes: &[u8]) -> Result<Vec<usize>> {
        let [n, h, w] = self.axes.permute(self.volume.dims());
        let (mut counts, mut slice) = (vec![0; classes.len()], vec![0u16; h * w]);
        for z in 0..n {
            self.volume.label_slice_into(&self.axes, z, &mut slice)?;
            for (count, &class) in counts.iter_mut().zip(classes) {
                *count += usize::from(slice.contains(&u16::from(class)));
            }
        }
        Ok(counts)
    }

    /// Prompts of one class for queries of `plane` and a network of `size`: for each slice, the mask at S x S if the slice counts as labelled.
    ///
    /// # Errors
    /// As [`classes`](Self::classes).
    pub fn prompts(&self, class: u8, plane: (usize, usize), size: usize) -> Result<Vec<Option<Vec<u8>>>> {
        let [n, h, w] = self.axes.permute(self.volume.dims());
        let plan = MaskPlan::new((h, w), plane, size)?;
        let (mut labels, mut mask) = (vec![0u16; h * w], vec![0u8; h * w]);
        let (mut nearest, mut scratch) = (vec![0u8; plane.0 * plane.1], Vec::new());
        (0..n)
            .map(|z| {
                self.volume.label_slice_into(&self.axes, z, &mut labels)?;
                for (out, &label) in mask.iter_mut().zip(&labels) {
                    *out = u8::from(label == u16::from(class));
                }
                let mut square = vec![0u8; size * size];
                let labelled = plan.prepare(&mask, 1, &mut nearest, &mut square, &mut scratch)?;
                Ok(labelled.then_some(square))
            })
            .collect()
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
