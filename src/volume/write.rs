//! Writing: voxels beside the geometry of the volume they belong to, bit for bit.

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail};

use super::datatype::Datatype;
use super::deflate::write_gzip;
use super::header::Header;
use super::label_names::extension_bytes;
use crate::atomic_file;
use crate::bad_input;

/// Voxels to be written, in stored order (x fastest, then y, z, and classes slowest). The variant is the type in the file.
#[derive(Clone, Copy, Debug)]
pub enum Voxels<'a> {
    /// masks
    U8(&'a [u8]),
    /// masks with labels beyond 255
    U16(&'a [u16]),
    /// images
    I16(&'a [i16]),
    /// images
    I32(&'a [i32]),
    /// maps, images
    F32(&'a [f32]),
}

impl<'a> Voxels<'a> {
    /// The type in the file.
    pub fn datatype(&self) -> Datatype {
        match self {
            Self::U8(_) => Datatype::U8,
            Self::U16(_) => Datatype::U16,
            Self::I16(_) => Datatype::I16,
            Self::I32(_) => Datatype::I32,
            Self::F32(_) => Datatype::F32,
        }
    }

    /// How many voxels.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::U16(v) => v.len(),
            Self::I16(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::F32(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes in the file: little-endian, so on the machines this runs on the voxels themselves.
    pub(crate) fn little_endian(&self) -> Cow<'a, [u8]> {
        let bytes: &'a [u8] = match *self {
            Self::U8(v) => v,
            Self::U16(v) => bytemuck::cast_slice(v),
            Self::I16(v) => bytemuck::cast_slice(v),
            Self::I32(v) => bytemuck::cast_slice(v),
            Self::F32(v) => bytemuck::cast_slice(v),
        };
        if cfg!(target_endian = "little") {
            return Cow::Borrowed(bytes);
        }
        let mut bytes = bytes.to_vec();
        for voxel in bytes.chunks_exact_mut(self.datatype().width()) {
            voxel.reverse();
        }
        Cow::Owned(bytes)
    }
}

/// Whether `path` ends like a file that can be written: `.nii` or `.nii.gz`, in any case.
pub fn is_volume_name(path: &Path) -> bool {
    ending(path).is_some()
}

/// Whether a case of this name can have files called after it: in one folder, on any system, not hidden.
pub fn is_safe_name(name: &str) -> bool {
    let is_letter_safe = |letter: char| !letter.is_control() && !"/\\".contains(letter);
    !name.is_empty() && !name.starts_with('.') && name.len() <= 200 && name.chars().all(is_letter_safe)
}

/// `Some(compressed)` of a volume's name.
fn ending(path: &Path) -> Option<bool> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    if name.ends_with(".nii.gz") {
        Some(true)
    } else {
        name.ends_with(".nii").then_some(false)
    }
}

/// Writes a single NIfTI file, `.nii` or (compressed) `.nii.gz` by its name, atomically.
///
/// sform, qform, their codes, pixdim, units and version are the bytes of `like` (byte order apart, which is always little-endian); sizes,
/// type, scaling (1, 0), display range (0, 0), intent (none) and description are set to what the file holds. `voxels` have the sizes of
/// `like`, times `classes` if that is given, which becomes the slowest, fourth axis. `labels` (value, name) are kept in a header extension.
///
/// The bytes depend on the arguments alone: not on time, threads, or the source's byte order.
///
/// # Errors
/// A name with another ending, a place that cannot be written to, voxels that are not as many as the sizes say.
pub fn write(path: &Path, like: &Header, voxels: Voxels<'_>, classes: Option<usize>, labels: &[(u16, String)]) -> Result<()> {
    let Some(compressed) = ending(path) else {
        bad_input!(
            "{}: a volume is written as .nii or .nii.gz; give the file one of these endings",
            path.display()
        );
    };
    let [x, y, z] = like.dims();
    let count = [x, y, z, classes.unwrap_or(1)].iter().try_fold(1_usize, |n, &m| n.checked_mul(m));
    if count != Some(voxels.len()) {
        bail!(
            "{}: {} voxels are not {x} x {y} x {z} times {} classes",
            path.display(),
            voxels.len(),
            classes.unwrap_or(1)
        );
    }
    let extensions = extension_bytes(labels);
    // NIfTI-1 keeps the voxels' place in single precision, exact up to here; so much smaller are real tables that it holds for both versions.
    if extensions.len() > 1 << 23 {
        bad_input!(
            "{}: the names of the labels take {} bytes, at most 8 MiB fit; shorten them",
            path.display(),
            extensions.len()
        );
    }
    let header = like.for_writing(voxels.datatype(), classes, extensions.len())?;
    let bytes = voxels.little_endian();
    atomic_file::write_with(path, |out| {
        if compressed {
            return Ok(write_gzip(&[&[header, extensions].concat(), &bytes], out)?);
        }
        out.write_all(&header)?;
        out.write_all(&extensions)?;
        Ok(out.write_all(&bytes)?)
    })
}
