//! Hand-made NIfTI files: field places as in nifti1.h and nifti2.h, written down here a second time, independently of the product.

use std::io::Write;
use std::path::{Path, PathBuf};

use hpc_seg::volume::Datatype;

#[derive(Clone)]
pub struct Made {
    pub version: u8,
    pub big: bool,
    pub pair: bool,
    pub datatype: Datatype,
    pub dim: Vec<i64>, // without the leading count
    pub pixdim: [f64; 8],
    pub units: u8,
    pub vox_offset: Option<f64>,
    pub scale: (f64, f64),
    pub sform: Option<[f64; 12]>,
    pub qform: Option<[f64; 6]>,
    pub values: Vec<f64>,
}

impl Made {
    /// A 3 x 4 x 5 volume with values 0, 1, 2, ... and an oblique sform.
    pub fn new(version: u8, big: bool, datatype: Datatype) -> Self {
        Self {
            version,
            big,
            pair: false,
            datatype,
            dim: vec![3, 4, 5],
            pixdim: [1.0, 0.75, 0.8125, 3.0, 2.5, 0.0, 0.0, 0.0],
            units: 2,
            vox_offset: None,
            scale: (0.0, 0.0),
            sform: Some([-0.75, 0.0625, 0.0, 90.5, 0.0, -0.8125, 0.125, 126.25, 0.0, 0.0, 3.0, -72.0]),
            qform: None,
            values: (0..60).map(f64::from).collect(),
        }
    }

    pub fn header_size(&self) -> usize {
        if self.version == 1 { 348 } else { 540 }
    }

    pub fn header(&self) -> Vec<u8> {
        let (one, offset) = (
            self.version == 1,
            self.vox_offset
                .unwrap_or(if self.pair { 0.0 } else { self.header_size() as f64 + 4.0 }),
        );
        let mut out = Out {
            bytes: vec![0; self.header_size()],
            big: self.big,
        };
        out.int(0, 4, self.header_size() as i64);
        let kind = if self.pair { b'i' } else { b'+' };
        let (dim_at, dim_width, real) = if one { (40, 2, 4) } else { (16, 8, 8) };
        out.int(dim_at, dim_width, self.dim.len() as i64);
        for (i, &n) in self.dim.iter().enumerate() {
            out.int(dim_at + (i + 1) * dim_width, dim_width, n);
        }
        let width = self.datatype.width() as i64;
        out.int(if one { 70 } else { 12 }, 2, i64::from(self.datatype.code()));
        out.int(if one { 72 } else { 14 }, 2, 8 * width);
        for (i, &v) in self.pixdim.iter().enumerate() {
            out.real(if one { 76 } else { 104 } + i * real, real, v);
        }
        if one {
            out.bytes[344..348].copy_from_slice(&[b'n', kind, b'1', 0]);
            out.real(108, 4, offset);
            out.bytes[123] = self.units;
            out.bytes[39] = 0b11_01_10; // dim_info
            out.real(136, 4, 1.5); // toffset
        } else {
            out.bytes[4..12].copy_from_slice(&[b'n', kind, b'2', 0, 13, 10, 26, 10]);
            out.int(168, 8, offset as i64);
            out.int(500, 4, i64::from(self.units));
            out.bytes[524] = 0b11_01_10;
            out.real(216, 8, 1.5);
        }
        out.real(if one { 112 } else { 176 }, real, self.scale.0);
        out.real(if one { 116 } else { 184 }, real, self.scale.1);
        out.real(if one { 124 } else { 192 }, real, 250.0); // cal_max
        out.real(if one { 128 } else { 200 }, real, -3.0); // cal_min
        out.real(if one { 56 } else { 80 }, real, 4.0); // intent_p1
        out.int(if one { 68 } else { 504 }, if one { 2 } else { 4 }, 5); // intent_code: f statistic
        let (name_at, descrip_at) = if one { (328, 148) } else { (508, 240) };
        out.bytes[name_at..name_at + 5].copy_from_slice(b"stats");
        out.bytes[descrip_at..descrip_at + 12].copy_from_slice(b"scanner 1234");
        let (codes_at, code_width) = if one { (252, 2) } else { (344, 4) };
        let (quatern_at, srow_at) = if one { (256, 280) } else { (352, 400) };
        if let Some(numbers) = self.qform {
            out.int(codes_at, code_width, 1);
            for (i, v) in numbers.into_iter().enumerate() {
                out.real(quatern_at + i * real, real, v);
            }
        }
        if let Some(numbers) = self.sform {
            out.int(codes_at + code_width, code_width, 2);
            for (i, v) in numbers.into_iter().enumerate() {
                out.real(srow_at + i * real, real, v);
            }
        }
        out.bytes
    }

    pub fn voxels(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &value in &self.values {
            let mut voxel = match self.datatype {
                Datatype::U8 => (value as u8).to_le_bytes().to_vec(),
                Datatype::I8 => (value as i8).to_le_bytes().to_vec(),
                Datatype::I16 => (value as i16).to_le_bytes().to_vec(),
                Datatype::U16 => (value as u16).to_le_bytes().to_vec(),
                Datatype::I32 => (value as i32).to_le_bytes().to_vec(),
                Datatype::U32 => (value as u32).to_le_bytes().to_vec(),
                Datatype::I64 => (value as i64).to_le_bytes().to_vec(),
                Datatype::U64 => (value as u64).to_le_bytes().to_vec(),
                Datatype::F32 => (value as f32).to_le_bytes().to_vec(),
                Datatype::F64 => value.to_le_bytes().to_vec(),
            };
            if self.big {
                voxel.reverse();
            }
            bytes.extend(voxel);
        }
        bytes
    }

    /// Header, extension flag, voxels.
    pub fn file(&self) -> Vec<u8> {
        [self.header(), vec![0; 4], self.voxels()].concat()
    }

    pub fn save(&self, folder: &Path, name: &str) -> PathBuf {
        save(folder, name, &self.file())
    }
}

struct Out {
    bytes: Vec<u8>,
    big: bool,
}

impl Out {
    fn put(&mut self, at: usize, mut bytes: Vec<u8>) {
        if self.big {
            bytes.reverse();
        }
        self.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
    }

    fn int(&mut self, at: usize, width: usize, value: i64) {
        self.put(at, value.to_le_bytes()[..width].to_vec());
    }

    fn real(&mut self, at: usize, width: usize, value: f64) {
        self.put(
            at,
            if width == 4 {
                (value as f32).to_le_bytes().to_vec()
            } else {
                value.to_le_bytes().to_vec()
            },
        );
    }
}

pub fn save(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// One gzip member.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
