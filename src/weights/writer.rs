//! Writing safetensors: tensor by tensor, with the same bytes for the same content.
//!
//! The `safetensors` crate wants all tensors at once and writes metadata in the order of a hash map; here one tensor is in memory at a time
//! and metadata is sorted. The crate reads the result (the tests let it).

use super::dtype::{Dtype, element_count};
use crate::{atomic_file, bad_input};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// A tensor to come: name, dtype, shape.
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
}

/// Writes f32 tensors (name, shape, values) and metadata to `path`, atomically: under a temporary name first, flushed, then renamed.
///
/// # Errors
/// Values whose number is not the product of the shape, or a place that cannot be written.
pub fn write_safetensors<V: AsRef<[f32]>>(
    path: &Path,
    tensors: &[(String, Vec<usize>, V)],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let plan: Vec<Planned> = tensors
        .iter()
        .map(|(name, shape, _)| Planned {
            name: name.clone(),
            dtype: Dtype::F32,
            shape: shape.clone(),
        })
        .collect();
    write_stream(path, &plan, metadata, |index| {
        Ok(bytemuck::cast_slice(tensors[index].2.as_ref()).to_vec())
    })
}

/// Writes planned tensors, whose little-endian bytes `bytes_of` makes one at a time, in the order of the plan.
pub(super) fn write_stream(
    path: &Path,
    plan: &[Planned],
    metadata: &BTreeMap<String, String>,
    mut bytes_of: impl FnMut(usize) -> Result<Vec<u8>>,
) -> Result<()> {
    let (header, sizes) = header(path, plan, metadata)?;
    atomic_file::write_with(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for (index, (planned, size)) in plan.iter().zip(sizes).enumerate() {
            let bytes = bytes_of(index)?;
            if bytes.len() != size {
                bad_input!(
                    "tensor {} has {} bytes, its shape asks for {size}; nothing was written",
                    planned.name,
                    bytes.len()
                );
            }
            out.write_all(&bytes)?;
        }
        Ok(())
    })
}

/// The JSON header, padded with spaces to a multiple of 8 so that tensor data starts aligned, and the size of each tensor in bytes.
fn header(path: &Path, plan: &[Planned], metadata: &BTreeMap<String, String>) -> Result<(Vec<u8>, Vec<usize>)> {
    let mut json = serde_json::Map::new();
    if !metadata.is_empty() {
        json.insert("__metadata__".to_owned(), serde_json::json!(metadata));
    }
    let (mut start, mut sizes) = (0usize, Vec::with_capacity(plan.len()));
    for planned in plan {
        let size = element_count(&planned.shape).and_then(|n| n.checked_mul(planned.dtype.size()));
        let Some((size, end)) = size.and_then(|size| Some((size, start.checked_add(size)?))) else {
            bad_input!("{}: tensor {} is too large to be written", path.display(), planned.name);
        };
        let entry = serde_json::json!({"dtype": planned.dtype.name(), "shape": planned.shape, "data_offsets": [start, end]});
        if json.insert(planned.name.clone(), entry).is_some() {
            bad_input!("{}: tensor {} is given twice; nothing was written", path.display(), planned.name);
        }
        start = end;
        sizes.push(size);
    }
    let mut header = serde_json::to_vec(&json).context("cannot encode the safetensors header")?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok((header, sizes))
}
