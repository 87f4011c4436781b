//! Safetensors files: mapped bytes and their header.

use super::checkpoint::{Data, Entry};
use super::dtype::{Dtype, element_count};
use crate::bad_input;
use anyhow::{Context, Result};
use memmap2::Mmap;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// Bytes of a whole file, if a checkpoint needs them.
pub(super) enum Bytes {
    None,
    Memory(Cow<'static, [u8]>),
    Mapped(Mmap),
}

impl Bytes {
    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::None => &[],
            Self::Memory(bytes) => bytes,
            Self::Mapped(map) => map,
        }
    }
}

/// Eight bytes of header length, then JSON; or no other format's beginning in a file of that name.
pub(super) fn looks_like_safetensors(head: &[u8], named_so: bool) -> bool {
    !head.starts_with(b"PK") && (named_so || head.get(8) == Some(&b'{'))
}

pub(super) fn map_or_read(path: &Path, file: &File) -> Result<Bytes> {
    // SAFETY: the mapping is read-only and private to this process. Another process that truncates the file while it is mapped would end
    // this one with SIGBUS; `Checkpoint::open` says so. All values in the mapping are read as plain bytes, any content is valid.
    if let Ok(map) = unsafe { Mmap::map(file) } {
        return Ok(Bytes::Mapped(map));
    }
    let bytes = std::fs::read(path).with_context(|| format!("{}: cannot read the file", path.display()))?;
    Ok(Bytes::Memory(Cow::Owned(bytes)))
}

/// Tensors and metadata of a safetensors file; every tensor is checked to lie within `bytes`. `path` is for messages.
pub(super) fn read_header(path: &Path, bytes: &[u8]) -> Result<(BTreeMap<String, Entry>, BTreeMap<String, String>)> {
    let shown = path.display();
    let (header_len, header) = match safetensors::SafeTensors::read_metadata(bytes) {
        Ok(read) => read,
        Err(error) => bad_input!("{shown}: damaged or incomplete safetensors file ({error}); copy or download it again"),
    };
    let base = header_len.saturating_add(8);
    let mut entries = BTreeMap::new();
    for (name, info) in header.tensors() {
        let Some(dtype) = Dtype::from_safetensors(info.dtype) else {
            bad_input!(
                "{shown}: tensor {name} has the unsupported dtype {:?}; save it as f32, f16 or bf16",
                info.dtype
            );
        };
        let (start, end) = (info.data_offsets.0.saturating_add(base), info.data_offsets.1.saturating_add(base));
        let fits = element_count(&info.shape).and_then(|n| n.checked_mul(dtype.size())) == end.checked_sub(start);
        if !fits || end > bytes.len() {
            bad_input!("{shown}: tensor {name} lies outside the file; copy or download it again");
        }
        entries.insert(
            name,
            Entry {
                dtype,
                shape: info.shape.clone(),
                data: Data::Range(start, end),
            },
        );
    }
    let metadata = header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    Ok((entries, metadata))
}
