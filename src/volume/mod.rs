//! A volume is one three-dimensional image or label map in a NIfTI file: its geometry, and its voxels, read slice by slice where they lie.

mod datatype;
mod deflate;
mod geometry;
mod header;
mod inflate;
mod label_names;
mod layout;
mod open;
mod orientation;
pub mod phantom;
mod read_ahead;
mod storage;
mod write;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub use datatype::Datatype;
use datatype::{Row, decode_row};
pub use geometry::{Affine, AffineSource, Geometry};
pub use header::{Header, Version};
pub use open::files_of;
pub use orientation::{AxisMap, Orientation};
pub use read_ahead::ReadAhead;
pub use storage::ReadOptions;
use storage::Storage;
pub use write::{Voxels, is_safe_name, is_volume_name, write};

use crate::{bad_input, sha256};

/// How far from a whole number a stored label may lie: scaling by a slope, and interpolation that copied values, leave such dust.
const LABEL_DUST: f64 = 1e-3;

/// An open volume: one channel of a file. Cheap to share between threads behind an [`Arc`](std::sync::Arc).
#[derive(Debug)]
pub struct Volume {
    path: PathBuf,
    files: Vec<PathBuf>,
    header: Header,
    storage: Storage, // the channel's voxels as stored: x fastest, header.datatype()
    reading: Duration,
}

impl Volume {
    /// Opens `path` (`.nii`, `.nii.gz`, or either half of a `.hdr`/`.img` pair), channel 0, as the environment says ([`ReadOptions`]).
    ///
    /// # Errors
    /// A file that is not there, not NIfTI, damaged, or shorter or much longer than its header claims.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_channel(path, 0)
    }

    /// Opens one channel (counted from 0 over all axes after the third) of a file.
    ///
    /// # Errors
    /// As [`Volume::open`]; a channel the file does not have.
    pub fn open_channel(path: &Path, channel: usize) -> Result<Self> {
        Self::open_with(path, channel, &ReadOptions::from_env()?)
    }

    /// Opens one channel with these options.
    ///
    /// # Errors
    /// As [`Volume::open_channel`].
    pub fn open_with(path: &Path, channel: usize, options: &ReadOptions) -> Result<Self> {
        let loaded = open::load(path, channel, options)?;
        Ok(Self {
            path: path.to_path_buf(),
            files: loaded.files,
            header: loaded.header,
            storage: loaded.storage,
            reading: loaded.reading,
        })
    }

    /// A volume that is in no file: `voxels` with the geometry of `like`. `name` stands for the path in messages.
    ///
    /// # Errors
    /// Voxels that are not as many as `like` says.
    pub fn in_memory(name: &str, like: &Header, voxels: Voxels<'_>) -> Result<Self> {
        let header = Header::parse(&like.for_writing(voxels.datatype(), None, 4)?, Path::new(name))?;
        let bytes = voxels.little_endian().into_owned();
        if bytes.len() as u64 != header.channel_bytes() {
            bail!("{name}: {} voxels are not a volume of {:?}", voxels.len(), header.dims());
        }
        Ok(Self {
            path: PathBuf::from(name),
            files: Vec::new(),
            header,
            storage: Storage::Owned(bytes),
            reading: Duration::ZERO,
        })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the voxels lie in the patient.
    pub fn geometry(&self) -> &Geometry {
        self.header.geometry()
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Sizes (x, y, z) as stored, x fastest.
    pub fn dims(&self) -> [usize; 3] {
        self.header.dims()
    }

    /// How many channels the file has.
    pub fn channels(&self) -> usize {
        self.header.channels()
    }

    /// Bytes of memory this volume holds of its own; 0 if its voxels are mapped.
    pub fn resident_bytes(&self) -> usize {
        match &self.storage {
            Storage::Mapped(_) => 0,
            Storage::Owned(bytes) => bytes.len(),
        }
    }

    /// What reading the file took of opening it, without decompression; nothing if its voxels are mapped, which are read when they are looked at.
    pub fn reading(&self) -> Duration {
        self.reading
    }

    /// SHA-256 of the file as it lies on the disk (of a pair: header file, then image file), in lower-case hex.
    ///
    /// # Errors
    /// The file cannot be read any more.
    pub fn sha256(&self) -> Result<String> {
        if self.files.is_empty() {
            Ok(sha256::of_bytes(&[self.header.bytes(), &self.storage]))
        } else {
            sha256::of_files(&self.files)
        }
    }

    /// Reads slice `index` of the view `axes` into `out`, [rows, columns], slope and intercept applied (in f64, then rounded).
    ///
    /// # Errors
    /// An index or a length of `out` that does not fit the view.
    pub fn slice_into(&self, axes: &AxisMap, index: usize, out: &mut [f32]) -> Result<()> {
        let (slope, inter) = self.header.scale().unwrap_or((1.0, 0.0));
        let scaled = self.header.scale().is_some();
        self.each_voxel(axes, index, out.len(), |i, stored| {
            out[i] = if scaled { (stored * slope + inter) as f32 } else { stored as f32 };
        })
    }

    /// Slice `index` of the view as it is stored, [rows, columns] little-endian numbers of the header's type; slope and intercept are not applied.
    ///
    /// # Errors
    /// An index that does not fit the view.
    pub fn stored_slice(&self, axes: &AxisMap, index: usize) -> Result<Vec<u8>> {
        let [_, rows, columns] = axes.permute(self.dims());
        let width = self.header.datatype().width();
        let mut stored = Vec::with_capacity(rows * columns * width);
        for row in self.rows(axes, index, rows * columns)? {
            if row.step == 1 {
                stored.extend_from_slice(&self.storage[row.start * width..][..row.count * width]);
                continue;
            }
            let mut at = row.start;
            for _ in 0..row.count {
                stored.extend_from_slice(&self.storage[at * width..][..width]);
                at = at.wrapping_add_signed(row.step);
            }
        }
        if self.header.is_big_endian() {
            stored.chunks_exact_mut(width).for_each(<[u8]>::reverse);
        }
        Ok(stored)
    }

    /// Reads slice `index` of a label map into `out`, [rows, columns]. Any stored type will do as long as the values, scaled, are whole
    /// numbers (to 1e-3) from 0 to 65535.
    ///
    /// # Errors
    /// As [`Volume::slice_into`]; a voxel that is no label, with its value and place.
    pub fn label_slice_into(&self, axes: &AxisMap, index: usize, out: &mut [u16]) -> Result<()> {
        let (slope, inter) = self.header.scale().unwrap_or((1.0, 0.0));
        let mut wrong = None;
        self.each_voxel(axes, index, out.len(), |i, stored| {
            let value = stored * slope + inter;
            let label = value.round();
            if (value - label).abs() <= LABEL_DUST && (0.0..=65535.0).contains(&label) {
                out[i] = label as u16;
            } else if wrong.is_none() {
                wrong = Some((i, value));
            }
        })?;
        if let Some((i, value)) = wrong {
            let columns = axes.permute(self.dims())[2];
            let voxel = axes.stored_index(self.dims(), [index, i / columns, i % columns]);
            bad_input!(
                "{}: voxel {voxel:?} (x, y, z from 0) has the value {value}, which is no label; a label map holds whole numbers from 0 to 65535: is this an image?",
                self.path.display()
            );
        }
        Ok(())
    }

    /// All voxels as [slices, rows, columns] of the view, scaled.
    ///
    /// # Errors
    /// No memory for them.
    pub fn voxels_f32(&self, axes: &AxisMap) -> Result<Vec<f32>> {
        let mut voxels = self.room(0.0_f32)?;
        let [_, rows, columns] = axes.permute(self.dims());
        for (index, slice) in voxels.chunks_exact_mut(rows * columns).enumerate() {
            self.slice_into(axes, index, slice)?;
        }
        Ok(voxels)
    }

    /// All labels as [slices, rows, columns] of the view.
    ///
    /// # Errors
    /// As [`Volume::label_slice_into`]; no memory for them.
    pub fn labels(&self, axes: &AxisMap) -> Result<Vec<u16>> {
        let mut labels = self.room(0_u16)?;
        let [_, rows, columns] = axes.permute(self.dims());
        for (index, slice) in labels.chunks_exact_mut(rows * columns).enumerate() {
            self.label_slice_into(axes, index, slice)?;
        }
        Ok(labels)
    }

    /// The same as 8-bit numbers, in the file's own axes.
    ///
    /// # Errors
    /// As [`Volume::labels`]; a label above 255.
    pub fn labels_u8(&self) -> Result<Vec<u8>> {
        let labels = self.labels(&AxisMap::default())?;
        let labels: Result<Vec<u8>, _> = labels.into_iter().map(u8::try_from).collect();
        labels.with_context(|| format!("{}: has labels above 255", self.path().display()))
    }

    /// Stored index (x, y, z) and value of the first voxel that is NaN or infinite, in stored order; `None` if there is none.
    ///
    /// # Errors
    /// None that a volume that could be opened gives.
    pub fn first_non_finite(&self) -> Result<Option<([usize; 3], f32)>> {
        let axes = AxisMap::default();
        let [columns, rows, slices] = self.dims();
        if !self.header.datatype().is_float() && self.header.scale().is_none() {
            return Ok(None);
        }
        let mut slice = vec![0.0_f32; columns * rows];
        for z in 0..slices {
            self.slice_into(&axes, z, &mut slice)?;
            if let Some(i) = slice.iter().position(|v| !v.is_finite()) {
                return Ok(Some(([i % columns, i / columns, z], slice[i])));
            }
        }
        Ok(None)
    }

    /// Smallest and largest finite value, scaled; `None` if no voxel is finite.
    ///
    /// # Errors
    /// None that a volume that could be opened gives.
    pub fn range(&self) -> Result<Option<(f32, f32)>> {
        let axes = AxisMap::default();
        let [columns, rows, slices] = self.dims();
        let mut slice = vec![0.0_f32; columns * rows];
        let mut range: Option<(f32, f32)> = None;
        for z in 0..slices {
            self.slice_into(&axes, z, &mut slice)?;
            for &v in slice.iter().filter(|v| v.is_finite()) {
                range = Some(range.map_or((v, v), |(low, high)| (low.min(v), high.max(v))));
            }
        }
        Ok(range)
    }

    /// Calls `sink(i, stored value)` for voxel `i` of [rows, columns] of a slice.
    fn each_voxel(&self, axes: &AxisMap, index: usize, length: usize, mut sink: impl FnMut(usize, f64)) -> Result<()> {
        let (datatype, big_endian) = (self.header.datatype(), self.header.is_big_endian());
        for (number, row) in self.rows(axes, index, length)?.enumerate() {
            let first = number * row.count;
            decode_row(&self.storage, datatype, big_endian, row, |i, value| sink(first + i, value));
        }
        Ok(())
    }

    /// Where the rows of a slice of `length` voxels lie.
    fn rows(&self, axes: &AxisMap, index: usize, length: usize) -> Result<impl Iterator<Item = Row> + use<>> {
        let [slices, rows, columns] = axes.permute(self.dims());
        if index >= slices || length != rows * columns {
            bail!(
                "{}: slice {index} of {length} pixels asked of {slices} slices of {rows} x {columns}",
                self.path.display()
            );
        }
        let (start, [slice_step, row_step, step]) = axes.walk(self.dims());
        Ok((0..rows).map(move |row| Row {
            start: start.wrapping_add_signed(index as isize * slice_step + row as isize * row_step),
            step,
            count: columns,
        }))
    }

    /// An array with a place per voxel; a volume may be mapped that is larger than memory.
    fn room<T: Clone>(&self, zero: T) -> Result<Vec<T>> {
        let count = self.storage.len() / self.header.datatype().width();
        let mut array = Vec::new();
        if array.try_reserve_exact(count).is_err() {
            bail!("{}: no memory for {count} voxels; give the program more", self.path.display());
        }
        array.resize(count, zero);
        Ok(array)
    }
}
