//! Preprocessed cases on disk: `CASE.json` says what they are, `CASE.data` holds the arrays, little-endian and flat, so that training maps them and reads only what it cuts out.
//!
//! `CASE.data` begins with 64 bytes of magic and 64 of the arrays' SHA-256 in hexadecimal, which `CASE.json` repeats: the two belong together or the case is refused. Then follow the
//! image f32 [D, H, W, C], labels i16 [D, H, W] (padded to 4 bytes), of pseudo-labelled cases how uncertain the labels are, f32 [D, H, W], and the foreground locations u32 [n, 3] of
//! one key after the other.

use super::case::CaseView;
use super::crop::Box3;
use crate::{atomic_file, bad_input, sha256};
use anyhow::{Context, Result};
use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 64] = b"hpc-seg preprocessed case, version 1, little-endian            \n";
/// Magic and hash.
const PREFIX: usize = 128;

/// What `CASE.json` says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Voxels of the arrays along (a0, a1, a2).
    pub shape: [usize; 3],
    /// Image channels C.
    pub channels: usize,
    /// Where the case was and what was cut off.
    pub properties: Properties,
    /// Keys of the foreground locations, and how many there are.
    pub locations: Vec<(Vec<i16>, usize)>,
    /// Whether there is a map of uncertainty.
    #[serde(default)]
    pub has_uncertainty: bool,
    /// SHA-256 of the arrays.
    pub sha256: String,
}

/// What is needed to bring a prediction back to the file's grid; axes are those after `transpose_forward`, but for `spacing`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Properties {
    /// Of the file along z, y, x.
    pub spacing: [f64; 3],
    /// Sizes of the whole volume.
    pub shape_before_cropping: [usize; 3],
    /// What was kept of it.
    pub bbox_used_for_cropping: Box3,
    /// Sizes of what was kept.
    pub shape_after_cropping_and_before_resampling: [usize; 3],
}

/// A preprocessed case in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocessed {
    /// Voxels along (a0, a1, a2).
    pub shape: [usize; 3],
    /// [D, H, W, C].
    pub image: Vec<f32>,
    /// [D, H, W].
    pub label: Vec<i16>,
    /// Of pseudo-labelled cases, [D, H, W], from 0 to 1.
    pub uncertainty: Option<Vec<f32>>,
    /// By key.
    pub locations: Vec<(Vec<i16>, Vec<[u32; 3]>)>,
    /// What happened to it.
    pub properties: Properties,
}

impl Preprocessed {
    /// What a person should know of it: channels in which nothing can be seen, a spacing that leaves a single voxel.
    pub fn warnings(&self) -> Vec<String> {
        let before = self.properties.shape_after_cropping_and_before_resampling;
        if self.label.len() == 1 && before != self.shape {
            let [a, b, c] = self.properties.spacing;
            return vec![format!(
                "is a single voxel at the plan's spacing; its own is {a} x {b} x {c} mm: check the header's units"
            )];
        }
        let channels = self.image.len() / self.shape.iter().product::<usize>().max(1);
        let is_constant = |channel: &usize| {
            let mut values = self.image.iter().skip(*channel).step_by(channels);
            let first = values.next();
            values.all(|value| Some(value) == first)
        };
        (0..channels)
            .filter(is_constant)
            .map(|channel| format!("channel {channel} has one value everywhere: nothing can be segmented by it"))
            .collect()
    }

    /// Its arrays as bytes, in the order of the file.
    fn parts(&self) -> Vec<&[u8]> {
        let padding: &[u8] = &[0; 2][..2 * (self.label.len() % 2)];
        let mut parts = vec![bytemuck::cast_slice(&self.image), bytemuck::cast_slice(&self.label), padding];
        parts.extend(self.uncertainty.iter().map(|map| bytemuck::cast_slice(map)));
        parts.extend(self.locations.iter().map(|(_, at)| bytemuck::cast_slice(at)));
        parts
    }

    /// Writes `FOLDER/NAME.data`, then `FOLDER/NAME.json`, each atomically.
    ///
    /// # Errors
    /// A folder that takes no files, a full disk.
    pub fn write(&self, folder: &Path, name: &str) -> Result<()> {
        let parts = self.parts();
        let header = Header {
            shape: self.shape,
            channels: self.image.len() / self.label.len().max(1),
            properties: self.properties.clone(),
            locations: self.locations.iter().map(|(key, at)| (key.clone(), at.len())).collect(),
            has_uncertainty: self.uncertainty.is_some(),
            sha256: sha256::of_bytes(&parts),
        };
        atomic_file::write_with(&folder.join(format!("{name}.data")), |file| {
            file.write_all(MAGIC)?;
            file.write_all(header.sha256.as_bytes())?;
            parts.iter().try_for_each(|part| file.write_all(part))?;
            Ok(())
        })?;
        let json = serde_json::to_string_pretty(&header)? + "\n";
        atomic_file::write_bytes(&folder.join(format!("{name}.json")), json.as_bytes())
    }
}

/// A case on disk, its arrays mapped.
#[derive(Debug)]
pub struct StoredCase {
    header: Header,
    map: Mmap,
}

impl StoredCase {
    /// Opens `FOLDER/NAME.json` and `FOLDER/NAME.data`. Nobody may shorten the file while it is open.
    ///
    /// # Errors
    /// Files that are missing, damaged, or of different attempts.
    pub fn open(folder: &Path, name: &str) -> Result<Self> {
        let paths = [format!("{name}.json"), format!("{name}.data")].map(|file| folder.join(file));
        let missing = |path: &PathBuf| format!("{}: cannot be read; run hpc-seg preprocess again", path.display());
        let text = fs::read_to_string(&paths[0]).with_context(|| missing(&paths[0]))?;
        let Ok(header) = serde_json::from_str::<Header>(&text) else {
            bad_input!("{}: is damaged; delete it and run hpc-seg preprocess again", paths[0].display());
        };
        let file = File::open(&paths[1]).with_context(|| missing(&paths[1]))?;
        // SAFETY: the mapping is read-only, and any bytes are valid values of its arrays. This program replaces such files by renaming and never shortens one; another that
        // did would end this process with SIGBUS, as the contract says.
        let map = unsafe { Mmap::map(&file) }.with_context(|| format!("{}: cannot be mapped", paths[1].display()))?;
        let fits = header.bytes().is_some_and(|bytes| bytes == map.len())
            && map.starts_with(MAGIC)
            && map.get(64..PREFIX) == Some(header.sha256.as_bytes());
        if !fits {
            bad_input!(
                "{}: is incomplete or not the one {} belongs to; delete both and run hpc-seg preprocess again",
                paths[1].display(),
                paths[0].display()
            );
        }
        Ok(Self { header, map })
    }

    /// What `CASE.json` says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The case in memory.
    pub fn to_memory(&self) -> Preprocessed {
        let view = self.view();
        Preprocessed {
            shape: view.shape,
            image: view.image.to_vec(),
            label: view.label.to_vec(),
            uncertainty: view.uncertainty.map(<[f32]>::to_vec),
            locations: view.locations.iter().map(|(key, at)| (key.clone(), at.to_vec())).collect(),
            properties: self.header.properties.clone(),
        }
    }

    /// Its arrays.
    pub fn view(&self) -> CaseView<'_> {
        let voxels: usize = self.header.shape.iter().product();
        let (image, rest) = self.map[PREFIX..].split_at(4 * voxels * self.header.channels);
        let (label, rest) = rest.split_at(2 * voxels);
        let rest = &rest[2 * (voxels % 2)..];
        let (uncertainty, mut rest) = rest.split_at(if self.header.has_uncertainty { 4 * voxels } else { 0 });
        let mut locations = Vec::with_capacity(self.header.locations.len());
        for (key, count) in &self.header.locations {
            let (at, left) = rest.split_at(12 * count);
            locations.push((key.clone(), bytemuck::cast_slice(at)));
            rest = left;
        }
        CaseView {
            shape: self.header.shape,
            channels: self.header.channels,
            image: bytemuck::cast_slice(image),
            label: bytemuck::cast_slice(label),
            uncertainty: self.header.has_uncertainty.then(|| bytemuck::cast_slice(uncertainty)),
            locations,
        }
    }
}

impl Header {
    /// Length of `CASE.data`; none if it is absurd.
    fn bytes(&self) -> Option<usize> {
        let voxels = self.shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))?;
        let image = voxels.checked_mul(self.channels)?.checked_mul(4)?;
        let label = voxels.checked_mul(2)?.checked_next_multiple_of(4)?;
        let locations = self
            .locations
            .iter()
            .try_fold(0usize, |sum, (_, count)| sum.checked_add(count.checked_mul(12)?))?;
        let uncertainty = if self.has_uncertainty { voxels.checked_mul(4)? } else { 0 };
        [image, label, uncertainty, locations]
            .into_iter()
            .try_fold(PREFIX, |sum, bytes| sum.checked_add(bytes))
    }
}
