//! Conversion of any readable checkpoint to safetensors.

use super::checkpoint::Checkpoint;
use super::dtype::Dtype;
use super::writer::{Planned, write_stream};
use crate::bad_input;
use anyhow::Result;
use half::f16;
use std::path::Path;

/// What floating-point tensors become on conversion; integers and booleans stay what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// 16-bit floats, IEEE half precision; values beyond its range are refused.
    F16,
    /// 16-bit floats with f32's range.
    Bf16,
    /// As stored.
    Keep,
}

impl Precision {
    fn target(self, stored: Dtype) -> Dtype {
        match self {
            _ if !stored.is_float() => stored,
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::BF16,
            Self::Keep => stored,
        }
    }
}

/// Converts the checkpoint `src` to safetensors at `dst`, atomically, one tensor in memory at a time. Names are sorted, metadata is kept
/// (`config` among it) and gains `source` (file name) and `source_sha256`; an earlier `source` becomes `original_source`. Same input, same
/// bytes.
///
/// # Errors
/// An unreadable source, a value that f16 cannot hold, a destination that is not called `.safetensors` or cannot be written.
pub fn convert(src: &Path, dst: &Path, precision: Precision) -> Result<()> {
    if dst.extension().is_none_or(|extension| extension != "safetensors") {
        bad_input!(
            "{}: the converted file is safetensors; give it a name that ends in .safetensors",
            dst.display()
        );
    }
    let checkpoint = Checkpoint::open(src)?;
    let mut metadata = checkpoint.all_metadata().clone();
    if let Some(earlier) = metadata.remove("source") {
        metadata.entry("original_source".to_owned()).or_insert(earlier);
    }
    let file_name = src.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    metadata.insert("source".to_owned(), file_name);
    metadata.insert("source_sha256".to_owned(), checkpoint.sha256()?);
    let plan: Vec<Planned> = checkpoint
        .names()
        .filter_map(|name| planned(&checkpoint, name, precision))
        .collect();
    write_stream(dst, &plan, &metadata, |index| converted(&checkpoint, &plan[index]))
}

fn planned(checkpoint: &Checkpoint, name: &str, precision: Precision) -> Option<Planned> {
    let dtype = precision.target(checkpoint.dtype(name)?);
    Some(Planned {
        name: name.to_owned(),
        dtype,
        shape: checkpoint.shape(name)?.to_vec(),
    })
}

fn converted(checkpoint: &Checkpoint, planned: &Planned) -> Result<Vec<u8>> {
    let name = &planned.name;
    if checkpoint.dtype(name) == Some(planned.dtype) {
        return Ok(checkpoint.raw(name)?.into_owned());
    }
    let values = checkpoint.f32(name)?;
    if planned.dtype == Dtype::F16
        && let Some(value) = values.iter().find(|v| v.is_finite() && f16::from_f32(**v).is_infinite())
    {
        bad_input!(
            "{}: {name} holds {value}, which f16 cannot; convert to bf16 or f32",
            checkpoint.path().display()
        );
    }
    match planned.dtype.encode(&values) {
        Some(bytes) => Ok(bytes),
        None => bad_input!("{}: {name} cannot be converted to {}", checkpoint.path().display(), planned.dtype),
    }
}
