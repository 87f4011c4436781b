//! Weights: named tensors in a checkpoint file, and everything that happens to them before a network holds them.
//!
//! A [`Checkpoint`] is a table of dotted names with dtype and shape whose bytes are read when asked for; it comes from `.pt`/`.pth` (read as
//! data: nothing in the file is ever executed), `.safetensors`, or memory. A [`StrictLoader`] takes a network's tensors out of it and lists
//! at the end everything that did not fit. [`inventory`], [`convert`] and [`verify`] are what `hpc-seg weights` does.

mod checkpoint;
mod convert;
mod dtype;
mod formula;
mod inventory;
mod manifest;
mod mapped;
mod nearest;
pub mod pickle;
mod strict;
mod torch;
mod torch_writer;
mod writer;

pub use checkpoint::{Checkpoint, Format};
pub use convert::{Precision, convert};
pub use dtype::Dtype;
pub use formula::{formula_checkpoint, formula_tensor, read_tensor_list};
pub use inventory::{Inventory, TensorEntry, inventory};
pub use manifest::{Manifest, ManifestEntry, Verdict, Verification, demo_network, verify};
pub use strict::StrictLoader;
pub use torch_writer::write_torch;
pub use writer::write_safetensors;

/// The names nearest to `wanted` among `candidates`, best first, at most three; empty when nothing is close. For messages about dotted
/// names: whole segments (`mask_decoder`) that are missing, extra or respelt cost little.
pub fn nearest_names<'a>(wanted: &str, candidates: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    nearest::nearest(wanted, candidates)
}
