//! A header is the 348 (NIfTI-1) or 540 (NIfTI-2) bytes that say how voxels lie in a file and in the patient. It is kept as bytes, in
//! little-endian order, so that what a written file takes over from its source it takes over bit for bit.

use std::path::Path;

use anyhow::Result;

use super::datatype::{Datatype, unreadable_type_name};
use super::geometry::{self, Affine, Geometry};
use super::layout::{self, Layout, VERSION_1, VERSION_2};
use crate::bad_input;

/// The version of the NIfTI format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// NIfTI-1
    One,
    /// NIfTI-2
    Two,
}

impl Version {
    pub(crate) fn layout(self) -> &'static Layout {
        match self {
            Self::One => &VERSION_1,
            Self::Two => &VERSION_2,
        }
    }
}

/// The checked header of one file. Everything in it is possible (sizes positive, products within 63 bits); whether the file is as long as
/// the header says is checked where the voxels are read.
#[derive(Clone, Debug)]
pub struct Header {
    version: Version,
    big_endian: bool,
    single_file: bool,
    bytes: Vec<u8>,
    datatype: Datatype,
    dims: [usize; 3],
    channels: usize,
    vox_offset: u64,
    scale: Option<(f64, f64)>,
    geometry: Geometry,
}

impl Header {
    /// Reads the header of a file (`.nii`, `.nii.gz`, or either half of a `.hdr`/`.img` pair).
    ///
    /// # Errors
    /// A file that cannot be read, and those of [`Header::parse`].
    pub fn read(path: &Path) -> Result<Self> {
        super::open::header(path)
    }

    /// Checks a header. `bytes` starts with it and may be longer; `path` is for messages.
    ///
    /// # Errors
    /// Bytes that are not NIfTI, and NIfTI headers that no file can fulfil (sizes, type, offset, spacing, scaling).
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let path = path.display();
        if bytes.len() < 4 {
            bad_input!(
                "{path}: only {} bytes, too short for a NIfTI header; the file is cut off: copy or export it again",
                bytes.len()
            );
        }
        let first = [bytes[0], bytes[1], bytes[2], bytes[3]];
        let (version, big_endian) = match (u32::from_le_bytes(first), u32::from_be_bytes(first)) {
            (348, _) => (Version::One, false),
            (_, 348) => (Version::One, true),
            (540, _) => (Version::Two, false),
            (_, 540) => (Version::Two, true),
            _ => bad_input!("{path}: not a NIfTI file{}", foreign_format(bytes)),
        };
        let layout = version.layout();
        if bytes.len() < layout.size {
            bad_input!(
                "{path}: ends inside the header ({} of {} bytes); copy or export it again",
                bytes.len(),
                layout.size
            );
        }
        let mut bytes = bytes[..layout.size].to_vec();
        if big_endian {
            layout.swap_bytes(&mut bytes);
        }
        let magic = &bytes[layout.magic_at..layout.magic_at + layout.magic_single.len()];
        let single_file = magic == layout.magic_single;
        if !single_file && magic != layout.magic_pair {
            bad_input!(
                "{path}: no NIfTI magic in the header (found {:?}); if this is ANALYZE 7.5, whose orientation is undefined, convert it to NIfTI first",
                String::from_utf8_lossy(magic)
            );
        }
        let path = path.to_string();
        let (dims, channels) = sizes(&bytes, layout, &path)?;
        let datatype = voxel_type(&bytes, layout, &path)?;
        let all_bytes = [dims[0], dims[1], dims[2], channels, datatype.width()]
            .iter()
            .try_fold(1_i64, |n, &m| n.checked_mul(m as i64));
        if all_bytes.is_none() {
            bad_input!(
                "{path}: the header claims {} voxels, more than any file can hold; the header is damaged",
                product_text(dims, channels)
            );
        }
        Ok(Self {
            vox_offset: voxel_offset(&bytes, layout, single_file, &path)?,
            scale: scaling(&bytes, layout, &path)?,
            geometry: geometry::from_header(&bytes, layout, dims, &path)?,
            version,
            big_endian,
            single_file,
            bytes,
            datatype,
            dims,
            channels,
        })
    }

    /// A new NIfTI-1 header (NIfTI-2 if an axis is longer than 32767) for u8 voxels: `dims` (x, y, z), `affine` from voxel indices to mm
    /// (R, A, S). Spacing is the length of the affine's columns; sform (code 1) is the affine, qform (code 1) is set when it can express it.
    ///
    /// # Errors
    /// Zero-size axes; an affine that is not finite or not invertible.
    pub fn new(dims: [usize; 3], affine: &Affine) -> Result<Self> {
        let version = if dims.iter().all(|&n| n <= i16::MAX as usize) {
            Version::One
        } else {
            Version::Two
        };
        let layout = version.layout();
        let mut bytes = vec![0_u8; layout.size];
        bytes[..4].copy_from_slice(&(layout.size as u32).to_le_bytes());
        bytes[layout.magic_at..layout.magic_at + layout.magic_single.len()].copy_from_slice(layout.magic_single);
        if version == Version::One {
            bytes[38] = b'r'; // `regular`, which ANALYZE readers look for
        }
        for (i, n) in [3, dims[0], dims[1], dims[2], 1, 1, 1, 1].into_iter().enumerate() {
            layout::set_int(&mut bytes, layout.dim, i, n as i64);
        }
        layout::set_int(&mut bytes, layout.datatype, 0, Datatype::U8.code().into());
        layout::set_int(&mut bytes, layout.bitpix, 0, 8);
        layout::set_int(&mut bytes, layout.xyzt_units, 0, 2); // mm
        geometry::into_header(&mut bytes, layout, affine)?;
        Self::parse(&bytes, Path::new("a new volume"))
    }

    /// The version of the format.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether the file this was read from stores its numbers, voxels included, most significant byte first.
    pub fn is_big_endian(&self) -> bool {
        self.big_endian
    }

    /// Whether header and voxels are in one file (else a `.hdr`/`.img` pair).
    pub fn is_single_file(&self) -> bool {
        self.single_file
    }

    /// The header in little-endian order: 348 or 540 bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What a stored voxel is.
    pub fn datatype(&self) -> Datatype {
        self.datatype
    }

    /// Sizes (x, y, z) as stored, x fastest; missing axes are 1.
    pub fn dims(&self) -> [usize; 3] {
        self.dims
    }

    /// Product of the sizes after the third axis: 1 for a plain volume.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Bytes of one channel's voxels.
    pub fn channel_bytes(&self) -> u64 {
        self.dims.iter().map(|&n| n as u64).product::<u64>() * self.datatype.width() as u64
    }

    /// Where the voxels start in their file.
    pub fn vox_offset(&self) -> u64 {
        self.vox_offset
    }

    /// Slope and intercept that turn stored into real values; `None` if the header asks for no scaling (slope 0 or NaN).
    pub fn scale(&self) -> Option<(f64, f64)> {
        self.scale
    }

    /// Where the voxels lie in the patient.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The header of a single file with this geometry that holds voxels of `datatype`, unscaled, and a fourth axis if `classes` is given.
    /// sform, qform, codes, pixdim, units, time fields and version are the bytes of this header; intent, display range and description are reset.
    /// `extensions`: bytes that stand between header and voxels, the four bytes of the extension flag included.
    ///
    /// # Errors
    /// `classes` of zero, or more than the format's version can count.
    pub(crate) fn for_writing(&self, datatype: Datatype, classes: Option<usize>, extensions: usize) -> Result<Vec<u8>> {
        let layout = self.version.layout();
        let mut bytes = self.bytes.clone();
        let limit = if self.version == Version::One {
            i16::MAX as usize
        } else {
            i64::MAX as usize
        };
        if let Some(n) = classes.filter(|&n| n == 0 || n > limit) {
            bad_input!("a file cannot hold {n} classes: give 1 to {limit}");
        }
        let source_rank = layout::int(&bytes, layout.dim, 0);
        let rank = if classes.is_some() { 4 } else { source_rank.min(3) };
        for (i, n) in [
            rank as usize,
            self.dims[0],
            self.dims[1],
            self.dims[2],
            classes.unwrap_or(1),
            1,
            1,
            1,
        ]
        .into_iter()
        .enumerate()
        {
            layout::set_int(&mut bytes, layout.dim, i, n as i64);
        }
        let class_step = layout::float(&bytes, layout.pixdim, 4);
        if classes.is_some() && !(class_step.is_finite() && class_step > 0.0) {
            layout::set_float(&mut bytes, layout.pixdim, 4, 1.0); // ITK refuses a spacing of zero on an axis that exists
        }
        layout::set_int(&mut bytes, layout.datatype, 0, datatype.code().into());
        layout::set_int(&mut bytes, layout.bitpix, 0, 8 * datatype.width() as i64);
        let vox_offset = layout.size + extensions;
        if layout.vox_offset_is_float {
            layout::set_float(&mut bytes, layout.vox_offset, 0, vox_offset as f64);
        } else {
            layout::set_int(&mut bytes, layout.vox_offset, 0, vox_offset as i64);
        }
        layout::set_float(&mut bytes, layout.scl_slope, 0, 1.0);
        for field in [layout.scl_inter, layout.cal_max, layout.cal_min] {
            layout::set_float(&mut bytes, field, 0, 0.0);
        }
        for i in 0..3 {
            layout::set_float(&mut bytes, layout.intent_p, i, 0.0);
        }
        layout::set_int(&mut bytes, layout.intent_code, 0, 0);
        for (at, length, text) in [
            (layout.intent_name_at, 16, ""),
            (layout.aux_file_at, 24, ""),
            (layout.descrip_at, 80, "hpc-seg"),
        ] {
            bytes[at..at + length].fill(0);
            bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
        }
        bytes[layout.magic_at..layout.magic_at + layout.magic_single.len()].copy_from_slice(layout.magic_single);
        Ok(bytes)
    }
}

/// `512 x 512 x 40`, with the channels if there are several.
pub(crate) fn product_text(dims: [usize; 3], channels: usize) -> String {
    let [x, y, z] = dims;
    if channels == 1 {
        format!("{x} x {y} x {z}")
    } else {
        format!("{x} x {y} x {z} x {channels}")
    }
}

fn foreign_format(bytes: &[u8]) -> &'static str {
    match bytes {
        [b'N', b'R', b'R', b'D', ..] => " but NRRD; convert it to .nii.gz first",
        [b'P', b'K', 3, 4, ..] => " but a zip archive; unpack it first",
        [0x89, b'P', b'N', b'G', ..] => " but a PNG picture; give the volume as .nii or .nii.gz",
        _ if bytes.get(128..132) == Some(b"DICM") => " but DICOM; convert the series to .nii.gz first, for example with dcm2niix",
        _ => " (its first number is neither 348 nor 540); give a .nii, .nii.gz or .hdr/.img file",
    }
}

fn sizes(bytes: &[u8], layout: &Layout, path: &str) -> Result<([usize; 3], usize)> {
    let rank = layout::int(bytes, layout.dim, 0);
    if !(1..=7).contains(&rank) {
        bad_input!("{path}: the header claims {rank} axes (dim[0]), possible are 1 to 7; the header is damaged: export the file again");
    }
    let mut dims = [1_usize; 3];
    let mut channels = 1_usize;
    for axis in 1..=rank as usize {
        // Beyond space, an axis of size 0 is one that was never set, as ITK takes it.
        let n = match layout::int(bytes, layout.dim, axis) {
            unset if axis > 3 && unset < 1 => 1,
            n => n,
        };
        if n < 1 {
            bad_input!("{path}: axis {axis} has size {n}; every axis needs at least one voxel: export the file again");
        }
        let Ok(n) = usize::try_from(n) else {
            bad_input!("{path}: axis {axis} has size {n}, more than this machine can address");
        };
        if axis <= 3 {
            dims[axis - 1] = n;
        } else {
            let Some(product) = channels.checked_mul(n) else {
                bad_input!("{path}: the header claims more channels than any file can hold; the header is damaged");
            };
            channels = product;
        }
    }
    Ok((dims, channels))
}

fn voxel_type(bytes: &[u8], layout: &Layout, path: &str) -> Result<Datatype> {
    let code = layout::int(bytes, layout.datatype, 0);
    let Some(datatype) = Datatype::from_code(code) else {
        bad_input!(
            "{path}: voxel type {code} ({}) cannot be read; convert the file to an integer or float type of at most 64 bits",
            unreadable_type_name(code)
        );
    };
    Ok(datatype)
}

fn voxel_offset(bytes: &[u8], layout: &Layout, single_file: bool, path: &str) -> Result<u64> {
    let offset = if layout.vox_offset_is_float {
        layout::float(bytes, layout.vox_offset, 0)
    } else {
        layout::int(bytes, layout.vox_offset, 0) as f64
    };
    // 2^53: beyond it floats are not whole numbers any more, and no file is that long.
    if !(0.0..=9.007_199_254_740_992e15).contains(&offset) || offset.fract() != 0.0 {
        bad_input!(
            "{path}: the voxels are said to start at byte {offset} (vox_offset), which is no place in a file; the header is damaged"
        );
    }
    let least = layout.size as u64;
    match offset as u64 {
        0 if single_file => Ok(least + 4), // written by some tools; they mean "right after the header and its extension flag"
        offset if single_file && offset < least => {
            bad_input!("{path}: the voxels are said to start at byte {offset} (vox_offset), inside the header; the header is damaged")
        }
        offset => Ok(offset),
    }
}

fn scaling(bytes: &[u8], layout: &Layout, path: &str) -> Result<Option<(f64, f64)>> {
    let slope = layout::float(bytes, layout.scl_slope, 0);
    let inter = layout::float(bytes, layout.scl_inter, 0);
    if slope == 0.0 || !slope.is_finite() {
        return Ok(None);
    }
    if !inter.is_finite() {
        bad_input!("{path}: the header scales voxels by {slope} and adds {inter} (scl_inter); set scl_inter to 0 or export the file again");
    }
    Ok((slope != 1.0 || inter != 0.0).then_some((slope, inter)))
}
