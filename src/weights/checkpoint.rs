//! A checkpoint: names, dtypes and shapes of stored tensors; their bytes are read when asked for.

use super::dtype::{Dtype, element_count, shape_text};
use super::mapped::{self, Bytes};
use super::torch;
use crate::{bad_input, sha256};
use anyhow::{Context, Result};
use serde::Serialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Prefixes that training wrappers put before every name.
const WRAPPER_PREFIXES: [&str; 3] = ["module.", "model.", "_orig_mod."];

/// What a checkpoint was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Format {
    /// `torch.save` of PyTorch 1.6 or later: a zip archive around a pickle.
    #[serde(rename = "torch")]
    Torch,
    /// `torch.save` before PyTorch 1.6: pickles in a row.
    #[serde(rename = "torch (legacy)")]
    TorchLegacy,
    /// `.safetensors`.
    #[serde(rename = "safetensors")]
    Safetensors,
    /// Built by this program, never a file.
    #[serde(rename = "memory")]
    Memory,
}

impl Format {
    /// The name for tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Torch => "torch",
            Self::TorchLegacy => "torch (legacy)",
            Self::Safetensors => "safetensors",
            Self::Memory => "memory",
        }
    }
}

/// Where the bytes of a tensor are.
pub(super) enum Data {
    /// In a torch file; gathered from its storage on reading.
    Torch(pytorch_reader::Tensor),
    /// A range of [`Checkpoint::bytes`].
    Range(usize, usize),
    /// Here.
    Values(Vec<f32>),
}

pub(super) struct Entry {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) data: Data,
}

/// Named tensors, read lazily. Names are the state dict's, without a prefix that all of them share with a training wrapper (`module.`).
pub struct Checkpoint {
    path: PathBuf,
    format: Format,
    entries: BTreeMap<String, Entry>,
    /// Things stored among the weights that are no tensors: name and Python type. They are kept as names only.
    objects: BTreeMap<String, String>,
    metadata: BTreeMap<String, String>,
    bytes: Bytes,
    sha256: OnceLock<String>,
}

impl Checkpoint {
    /// Opens a `.pt`, `.pth` or `.safetensors` file, told apart by content. In torch files the state dict may lie under `model`,
    /// `state_dict`, `model_state_dict` or `network_weights`, or at top level. Nothing in the file is executed.
    ///
    /// Safetensors files are memory-mapped: do not truncate one while it is in use. Where mapping fails, the file is read instead.
    ///
    /// # Errors
    /// A file that is missing, damaged, of another format, or holds no tensors.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) => bad_input!("{shown}: cannot open the weights file: {error}; check the path and its permissions"),
        };
        let info = file.metadata().with_context(|| format!("{shown}: cannot read the file's length"))?;
        if !info.is_file() {
            bad_input!("{shown}: not a file; give a .pt, .pth or .safetensors checkpoint");
        }
        let mut head = Vec::new();
        let head_len = file.by_ref().take(torch::HEAD_BYTES).read_to_end(&mut head);
        head_len.with_context(|| format!("{shown}: cannot read the file"))?;
        let named_so = path.extension().is_some_and(|extension| extension == "safetensors");
        if mapped::looks_like_safetensors(&head, named_so) {
            let bytes = mapped::map_or_read(path, &file)?;
            return Self::from_safetensors(path.to_owned(), bytes);
        }
        let read = torch::read(path, &head, info.len())?;
        Self::assemble(path.to_owned(), read.format, read.entries, read.objects, read.metadata, Bytes::None)
    }

    /// A safetensors file already in memory (for instance [`super::demo_network`]); `name` stands for the path in messages.
    ///
    /// # Errors
    /// Bytes that are no safetensors file.
    pub fn from_bytes(name: &str, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self> {
        Self::from_safetensors(PathBuf::from(name), Bytes::Memory(bytes.into()))
    }

    /// A checkpoint from (name, shape, values), for tests and benches; `name` stands for the path in messages.
    ///
    /// # Errors
    /// Values whose number is not the product of the shape, or a name given twice.
    pub fn from_tensors(name: &str, tensors: Vec<(String, Vec<usize>, Vec<f32>)>) -> Result<Self> {
        let mut entries = BTreeMap::new();
        for (tensor, shape, values) in tensors {
            if element_count(&shape) != Some(values.len()) {
                bad_input!(
                    "{name}: tensor {tensor} has {} values, its shape {} asks for another number",
                    values.len(),
                    shape_text(&shape)
                );
            }
            let entry = Entry {
                dtype: Dtype::F32,
                shape,
                data: Data::Values(values),
            };
            if entries.insert(tensor.clone(), entry).is_some() {
                bad_input!("{name}: tensor {tensor} is given twice");
            }
        }
        Self::assemble(
            PathBuf::from(name),
            Format::Memory,
            entries,
            BTreeMap::new(),
            BTreeMap::new(),
            Bytes::None,
        )
    }

    fn from_safetensors(path: PathBuf, bytes: Bytes) -> Result<Self> {
        let (entries, metadata) = mapped::read_header(&path, bytes.as_slice())?;
        Self::assemble(path, Format::Safetensors, entries, BTreeMap::new(), metadata, bytes)
    }

    fn assemble(
        path: PathBuf,
        format: Format,
        entries: BTreeMap<String, Entry>,
        objects: BTreeMap<String, String>,
        metadata: BTreeMap<String, String>,
        bytes: Bytes,
    ) -> Result<Self> {
        if entries.is_empty() {
            let shown = path.display();
            let instead = objects
                .iter()
                .next()
                .map_or(String::new(), |(name, kind)| format!(" ({name} is a {kind}, not a tensor)"));
            bad_input!(
                "{shown}: holds no tensors{instead}; give a checkpoint whose state dict is under `model`, `state_dict` or at top level"
            );
        }
        let (entries, objects) = strip_wrapper_prefixes(entries, objects);
        Ok(Self {
            path,
            format,
            entries,
            objects,
            metadata,
            bytes,
            sha256: OnceLock::new(),
        })
    }

    /// The file, or the name given to a checkpoint in memory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it was read from.
    pub fn format(&self) -> Format {
        self.format
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether a tensor of this name exists.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Shape of a tensor; empty for a scalar.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// Stored element type of a tensor.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.entries.get(name).map(|entry| entry.dtype)
    }

    /// What lies among the weights without being a tensor: name and Python type (never executed, never built).
    pub fn objects(&self) -> impl Iterator<Item = (&str, &str)> {
        self.objects.iter().map(|(name, kind)| (name.as_str(), kind.as_str()))
    }

    /// Python type of the thing called `name`, if it is there but is no tensor.
    pub fn object(&self, name: &str) -> Option<&str> {
        self.objects.get(name).map(String::as_str)
    }

    /// A value of the safetensors metadata, for instance `config`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// All metadata, sorted by key.
    pub fn all_metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The values of a tensor as f32, in C order. Every call reads them again.
    ///
    /// # Errors
    /// An unknown name, or a file that cannot be read there.
    pub fn f32(&self, name: &str) -> Result<Vec<f32>> {
        let entry = self.entry(name)?;
        if let Data::Values(values) = &entry.data {
            return Ok(values.clone());
        }
        Ok(entry.dtype.to_f32(&self.raw(name)?))
    }

    /// The stored bytes of a tensor, little-endian, in C order.
    ///
    /// # Errors
    /// An unknown name, or a file that cannot be read there.
    pub fn raw(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let entry = self.entry(name)?;
        match &entry.data {
            Data::Values(values) => Ok(Cow::Borrowed(bytemuck::cast_slice(values))),
            Data::Range(start, end) => match self.bytes.as_slice().get(*start..*end) {
                Some(bytes) => Ok(Cow::Borrowed(bytes)),
                None => bad_input!(
                    "{}: tensor {name} lies outside the file; copy or download it again",
                    self.path.display()
                ),
            },
            Data::Torch(tensor) => match tensor.read() {
                Ok(bytes) => Ok(Cow::Owned(bytes)),
                Err(error) => bad_input!("{}: tensor {name}: {error}; copy or download the file again", self.path.display()),
            },
        }
    }

    /// SHA-256 of the file in hexadecimal; of names, shapes and values for a checkpoint in memory. Computed once.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn sha256(&self) -> Result<String> {
        if let Some(known) = self.sha256.get() {
            return Ok(known.clone());
        }
        let digest = match (&self.format, &self.bytes) {
            (Format::Memory, _) => {
                let mut parts = Vec::with_capacity(2 * self.entries.len());
                for (name, entry) in &self.entries {
                    parts.push(Cow::from(format!("{name} {}\n", shape_text(&entry.shape)).into_bytes()));
                    parts.push(self.raw(name)?);
                }
                sha256::of_bytes(&parts.iter().map(AsRef::as_ref).collect::<Vec<&[u8]>>())
            }
            (_, Bytes::None) => sha256::of_file(&self.path)?,
            (_, bytes) => sha256::of_bytes(&[bytes.as_slice()]),
        };
        Ok(self.sha256.get_or_init(|| digest).clone())
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        match self.entries.get(name) {
            Some(entry) => Ok(entry),
            None => {
                let nearest = super::nearest_names(name, self.names()).join(", ");
                let hint = if nearest.is_empty() {
                    String::new()
                } else {
                    format!("; nearest: {nearest}")
                };
                bad_input!("{}: no tensor {name}{hint}", self.path.display())
            }
        }
    }
}

/// Removes wrapper prefixes that every name has, outermost first (`module.model.x` becomes `x`).
fn strip_wrapper_prefixes(
    mut entries: BTreeMap<String, Entry>,
    mut objects: BTreeMap<String, String>,
) -> (BTreeMap<String, Entry>, BTreeMap<String, String>) {
    while let Some(prefix) = WRAPPER_PREFIXES
        .iter()
        .find(|p| entries.keys().all(|name| name.len() > p.len() && name.starts_with(**p)))
    {
        entries = entries
            .into_iter()
            .map(|(name, entry)| (name[prefix.len()..].to_owned(), entry))
            .collect();
        objects = objects
            .into_iter()
            .map(|(name, kind)| (name.strip_prefix(prefix).unwrap_or(&name).to_owned(), kind))
            .collect();
    }
    (entries, objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(names: &[&str]) -> Checkpoint {
        Checkpoint::from_tensors("memory", names.iter().map(|n| (n.to_string(), vec![1], vec![1.0])).collect()).unwrap()
    }

    #[test]
    fn a_prefix_is_removed_only_when_every_name_has_it() {
        assert_eq!(one(&["module.model.a", "module.model.b"]).names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(one(&["module.a", "b"]).names().collect::<Vec<_>>(), ["b", "module.a"]);
    }

    #[test]
    fn the_hash_in_memory_depends_on_name_shape_and_values() {
        let a = one(&["a"]).sha256().unwrap();
        assert_eq!(a, one(&["a"]).sha256().unwrap());
        assert_ne!(a, one(&["b"]).sha256().unwrap());
    }
}
