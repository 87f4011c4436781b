//! Element types of stored tensors, and their bytes as f32 and back.

use half::{bf16, f16};
use serde::Serialize;
use std::fmt;

// Checkpoints are little-endian and so is every machine this program runs on; the conversions below rely on it.
const _: () = assert!(cfg!(target_endian = "little"), "only little-endian machines are supported");

/// Element type of a tensor in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[allow(missing_docs)] // the names say it all
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    #[serde(rename = "BOOL")]
    Bool,
}

impl Dtype {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Whether elements are floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16)
    }

    /// The name safetensors headers use.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::I64 => "I64",
            Self::I32 => "I32",
            Self::I16 => "I16",
            Self::I8 => "I8",
            Self::U64 => "U64",
            Self::U32 => "U32",
            Self::U16 => "U16",
            Self::U8 => "U8",
            Self::Bool => "BOOL",
        }
    }

    /// The same type as the `safetensors` crate calls it; `None` for 4-, 6- and 8-bit floats and complex numbers.
    pub(crate) fn from_safetensors(dtype: safetensors::Dtype) -> Option<Self> {
        use safetensors::Dtype as S;
        Some(match dtype {
            S::F64 => Self::F64,
            S::F32 => Self::F32,
            S::F16 => Self::F16,
            S::BF16 => Self::BF16,
            S::I64 => Self::I64,
            S::I32 => Self::I32,
            S::I16 => Self::I16,
            S::I8 => Self::I8,
            S::U64 => Self::U64,
            S::U32 => Self::U32,
            S::U16 => Self::U16,
            S::U8 => Self::U8,
            S::BOOL => Self::Bool,
            _ => return None,
        })
    }

    /// The same type as the `pytorch-reader` crate calls it.
    pub(crate) fn from_torch(dtype: pytorch_reader::DType) -> Self {
        use pytorch_reader::DType as T;
        match dtype {
            T::F64 => Self::F64,
            T::F32 => Self::F32,
            T::F16 => Self::F16,
            T::BF16 => Self::BF16,
            T::I64 => Self::I64,
            T::I32 => Self::I32,
            T::I16 => Self::I16,
            T::I8 => Self::I8,
            T::U64 => Self::U64,
            T::U32 => Self::U32,
            T::U16 => Self::U16,
            T::U8 => Self::U8,
            T::Bool => Self::Bool,
        }
    }

    /// Little-endian `bytes` of this type as f32 (rounded to nearest even where f32 is narrower). No alignment is assumed; a tail shorter
    /// than one element is ignored.
    pub(crate) fn to_f32(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
            Self::F32 => each(bytes, f32::from_le_bytes),
            Self::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f32()),
            Self::BF16 => each(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Self::I64 => each(bytes, |b| i64::from_le_bytes(b) as f32),
            Self::I32 => each(bytes, |b| i32::from_le_bytes(b) as f32),
            Self::I16 => each(bytes, |b| f32::from(i16::from_le_bytes(b))),
            Self::I8 => each(bytes, |b| f32::from(i8::from_le_bytes(b))),
            Self::U64 => each(bytes, |b| u64::from_le_bytes(b) as f32),
            Self::U32 => each(bytes, |b| u32::from_le_bytes(b) as f32),
            Self::U16 => each(bytes, |b| f32::from(u16::from_le_bytes(b))),
            Self::U8 => each(bytes, |[b]| f32::from(b)),
            Self::Bool => each(bytes, |[b]| if b == 0 { 0.0 } else { 1.0 }),
        }
    }

    /// `values` as little-endian bytes of this floating-point type (rounded to nearest even). `None` for other types.
    pub(crate) fn encode(self, values: &[f32]) -> Option<Vec<u8>> {
        Some(match self {
            Self::F32 => bytemuck::cast_slice(values).to_vec(),
            Self::F64 => values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect(),
            Self::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            Self::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
            _ => return None,
        })
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

fn each<const N: usize>(bytes: &[u8], convert: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| convert(*chunk)).collect()
}

/// Elements of a tensor of this shape (1 for a scalar); `None` when the product does not fit.
pub(crate) fn element_count(shape: &[usize]) -> Option<usize> {
    // A zero axis makes the product zero whatever the others are, so it must not count as an overflow.
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1usize, |n, &axis| n.checked_mul(axis))
}

/// A shape as people write it: `[64, 256, 1, 1]`.
pub(crate) fn shape_text(shape: &[usize]) -> String {
    format!("{shape:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_becomes_f32() {
        assert_eq!(Dtype::F64.to_f32(&1.5f64.to_le_bytes()), [1.5]);
        assert_eq!(Dtype::F16.to_f32(&[0x00, 0x3c, 0x00, 0xc0]), [1.0, -2.0]);
        assert_eq!(Dtype::BF16.to_f32(&[0x80, 0x3f, 0x80, 0x7f]), [1.0, f32::INFINITY]);
        assert_eq!(Dtype::I64.to_f32(&(-3i64).to_le_bytes()), [-3.0]);
        assert_eq!(Dtype::U64.to_f32(&(1u64 << 40).to_le_bytes()), [1_099_511_627_776.0]);
        assert_eq!(Dtype::I32.to_f32(&(-7i32).to_le_bytes()), [-7.0]);
        assert_eq!(Dtype::U32.to_f32(&7u32.to_le_bytes()), [7.0]);
        assert_eq!(Dtype::I16.to_f32(&(-300i16).to_le_bytes()), [-300.0]);
        assert_eq!(Dtype::U16.to_f32(&65535u16.to_le_bytes()), [65535.0]);
        assert_eq!(Dtype::I8.to_f32(&[0xff]), [-1.0]);
        assert_eq!(Dtype::U8.to_f32(&[0xff]), [255.0]);
        assert_eq!(Dtype::Bool.to_f32(&[0, 1, 2]), [0.0, 1.0, 1.0]);
    }

    #[test]
    fn element_counts_overflow_to_none_but_zero_axes_do_not() {
        assert_eq!(element_count(&[]), Some(1));
        assert_eq!(element_count(&[usize::MAX, 2]), None);
        assert_eq!(element_count(&[usize::MAX, 2, 0]), Some(0));
    }
}
