//! Torch files (`.pt`, `.pth`) as data.
//!
//! The pickle inside is read by the crate `pytorch-reader`, an interpreter that knows how to rebuild tensors and dictionaries and keeps any
//! other object as its type's name: nothing in the file is executed. What it leaves open is decided here: which state dict is meant, which
//! containers are refused, and that no tensor or entry may claim more bytes than the file has.

use super::checkpoint::{Data, Entry, Format};
use super::dtype::Dtype;
use crate::bad_input;
use anyhow::Result;
use pytorch_reader::{FileFormat, PickleValue, PytorchReader};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;
use zip::ZipArchive;

/// Bytes at the start of a file that tell its format.
pub(super) const HEAD_BYTES: u64 = 512;

/// Where published checkpoints keep the state dict, in the order of preference.
const STATE_DICT_KEYS: [&str; 4] = ["model", "state_dict", "model_state_dict", NNUNET_KEY];
/// nnU-Net's.
const NNUNET_KEY: &str = "network_weights";

const RESAVE: &str = "re-save it in PyTorch with torch.save(model.state_dict(), FILE)";

pub(super) struct TorchFile {
    pub(super) format: Format,
    pub(super) entries: BTreeMap<String, Entry>,
    /// Entries of the state dict that are no tensors: name and Python type.
    pub(super) objects: BTreeMap<String, String>,
    /// What nnU-Net keeps beside its state dict, as far as it is text, a number, or a list of numbers (as JSON).
    pub(super) metadata: BTreeMap<String, String>,
}

/// Reads names, dtypes and shapes. `head` is the beginning of the file, `file_len` its length in bytes.
pub(super) fn read(path: &Path, head: &[u8], file_len: u64) -> Result<TorchFile> {
    let shown = path.display();
    if head.is_empty() {
        bad_input!("{shown}: the file is empty; copy or download it again");
    }
    if head.starts_with(b"version https://git-lfs") {
        bad_input!("{shown}: a Git LFS pointer, not the weights themselves; fetch them with `git lfs pull`");
    }
    if head.get(257..262) == Some(b"ustar") {
        bad_input!("{shown}: a tar archive (PyTorch before 0.1.10?); {RESAVE}");
    }
    if head.starts_with(b"PK") {
        check_archive(path, file_len)?;
    }
    let tree = match PytorchReader::read_pickle_data(path, None) {
        Ok(tree) => tree,
        Err(error) => bad_input!("{shown}: not a readable PyTorch checkpoint ({error}); copy or download it again, or {RESAVE}"),
    };
    let (key, values, beside) = choose_state_dict(path, tree)?;
    let opened = match key {
        Some(key) => PytorchReader::with_top_level_key(path, key),
        None => PytorchReader::new(path),
    };
    let reader = match opened {
        Ok(reader) => reader,
        Err(error) => bad_input!("{shown}: not a readable PyTorch checkpoint ({error}); copy or download it again, or {RESAVE}"),
    };
    let format = match reader.metadata().format_type {
        FileFormat::Legacy => Format::TorchLegacy,
        _ => Format::Torch,
    };
    let mut entries = BTreeMap::new();
    for (name, tensor) in reader.into_tensors() {
        // An expanded view repeats few stored values; a hostile one claims terabytes. Real weights take their own bytes in the file.
        if tensor.byte_len() as u64 > file_len {
            bad_input!(
                "{shown}: tensor {name} claims {} bytes, the file has {file_len}; save it with .contiguous(), or {RESAVE}",
                tensor.byte_len()
            );
        }
        let entry = Entry {
            dtype: Dtype::from_torch(tensor.dtype()),
            shape: tensor.shape().to_vec(),
            data: Data::Torch(tensor),
        };
        entries.insert(name, entry);
    }
    let mut objects = BTreeMap::new();
    collect_objects("", &values, &mut objects);
    objects.retain(|name, _| !entries.contains_key(name));
    let metadata = match key {
        Some(NNUNET_KEY) => beside
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), plain(value)?)))
            .collect(),
        _ => BTreeMap::new(),
    };
    Ok(TorchFile {
        format,
        entries,
        objects,
        metadata,
    })
}

/// Refuses zip archives that are no checkpoints, and entries that would grow beyond the file when inflated (torch.save does not compress).
fn check_archive(path: &Path, file_len: u64) -> Result<()> {
    let shown = path.display();
    let archive = File::open(path).map_err(zip::result::ZipError::from).and_then(ZipArchive::new);
    let mut archive = match archive {
        Ok(archive) => archive,
        Err(error) => bad_input!("{shown}: damaged or incomplete zip archive ({error}); copy or download it again"),
    };
    let (mut has_pickle, mut is_script) = (false, false);
    for index in 0..archive.len() {
        let entry = match archive.by_index_raw(index) {
            Ok(entry) => entry,
            Err(error) => bad_input!("{shown}: damaged zip archive ({error}); copy or download it again"),
        };
        let name = String::from_utf8_lossy(entry.name_raw());
        if entry.size() > file_len {
            bad_input!(
                "{shown}: entry {name} claims {} bytes, the file has {file_len}; {RESAVE}",
                entry.size()
            );
        }
        has_pickle |= name == "data.pkl" || name.ends_with("/data.pkl");
        is_script |= name == "constants.pkl" || name.ends_with("/constants.pkl") || name.contains("/code/__torch__");
    }
    if is_script {
        bad_input!("{shown}: a TorchScript program, not a checkpoint of weights; load it in PyTorch with torch.jit.load and {RESAVE}");
    }
    if !has_pickle {
        bad_input!("{shown}: a zip archive without data.pkl, so no PyTorch checkpoint; give a .pt, .pth or .safetensors file");
    }
    Ok(())
}

/// A value as text: itself, or JSON of whole numbers.
fn plain(value: &PickleValue) -> Option<String> {
    match value {
        PickleValue::String(text) => Some(text.clone()),
        PickleValue::Int(number) => Some(number.to_string()),
        PickleValue::List(values) => {
            let numbers: Option<Vec<String>> = values
                .iter()
                .map(|value| match value {
                    PickleValue::Int(number) => Some(number.to_string()),
                    _ => None,
                })
                .collect();
            Some(format!("[{}]", numbers?.join(",")))
        }
        _ => None,
    }
}

/// The key of the state dict (none: top level), its values, and what lies beside it.
fn choose_state_dict(path: &Path, tree: PickleValue) -> Result<(Option<&'static str>, PickleValue, HashMap<String, PickleValue>)> {
    let PickleValue::Dict(mut top) = tree else {
        return Ok((None, tree, HashMap::new()));
    };
    for key in STATE_DICT_KEYS {
        match top.get(key) {
            Some(PickleValue::Dict(_)) => {
                let values = top.remove(key).unwrap_or(PickleValue::None);
                return Ok((Some(key), values, top));
            }
            Some(PickleValue::Unsupported(kind)) if kind != "torch.Tensor" => {
                bad_input!(
                    "{}: `{key}` should be the state dict but is a Python object ({kind}), which is never executed; {RESAVE}",
                    path.display()
                );
            }
            _ => {}
        }
    }
    Ok((None, PickleValue::Dict(top), HashMap::new()))
}

/// Lists what is not a tensor, by dotted name. `tree` is at most as deep as the reader allows (1000 levels).
fn collect_objects(prefix: &str, tree: &PickleValue, out: &mut BTreeMap<String, String>) {
    let PickleValue::Dict(values) = tree else { return };
    for (key, value) in values {
        let name = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        let kind = match value {
            PickleValue::Dict(_) => {
                collect_objects(&name, value, out);
                continue;
            }
            PickleValue::Unsupported(kind) => kind.as_str(),
            PickleValue::None => "None",
            PickleValue::Bool(_) => "bool",
            PickleValue::Int(_) => "int",
            PickleValue::Float(_) => "float",
            PickleValue::String(_) => "str",
            PickleValue::List(_) => "list",
            PickleValue::Bytes(_) => "bytes",
        };
        out.insert(name, kind.to_owned());
    }
}
