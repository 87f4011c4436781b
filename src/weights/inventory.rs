//! What a checkpoint holds, as a table and as JSON.

use super::checkpoint::{Checkpoint, Format};
use super::dtype::{Dtype, element_count, shape_text};
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// One tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorEntry {
    /// Dotted name.
    pub name: String,
    /// Stored element type.
    pub dtype: Dtype,
    /// Shape; empty for a scalar.
    pub shape: Vec<usize>,
}

/// Everything a checkpoint says about itself without its values being read.
#[derive(Clone, Debug, Serialize)]
pub struct Inventory {
    /// The file.
    pub path: String,
    /// Its format.
    pub format: Format,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
    /// Elements of all tensors together.
    pub parameters: u64,
    /// Safetensors metadata (`config`, `source`, ...).
    pub metadata: BTreeMap<String, String>,
    /// Entries of the state dict that are no tensors: name and Python type.
    pub objects: BTreeMap<String, String>,
    /// The tensors, sorted by name.
    pub tensors: Vec<TensorEntry>,
}

/// Takes stock of a `.pt`, `.pth` or `.safetensors` file.
///
/// # Errors
/// As [`Checkpoint::open`].
pub fn inventory(path: &Path) -> Result<Inventory> {
    let checkpoint = Checkpoint::open(path)?;
    let bytes = std::fs::metadata(path)
        .with_context(|| format!("{}: cannot read the file's length", path.display()))?
        .len();
    let entry = |name: &str| {
        let (dtype, shape) = (checkpoint.dtype(name)?, checkpoint.shape(name)?.to_vec());
        Some(TensorEntry {
            name: name.to_owned(),
            dtype,
            shape,
        })
    };
    let tensors: Vec<TensorEntry> = checkpoint.names().filter_map(entry).collect();
    Ok(Inventory {
        path: path.display().to_string(),
        format: checkpoint.format(),
        bytes,
        sha256: checkpoint.sha256()?,
        parameters: tensors
            .iter()
            .map(|t| element_count(&t.shape).unwrap_or(0) as u64)
            .fold(0, u64::saturating_add),
        metadata: checkpoint.all_metadata().clone(),
        objects: checkpoint
            .objects()
            .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
            .collect(),
        tensors,
    })
}

/// A name of a file that may come from anywhere, without what a terminal would take for commands.
fn plain(text: &str) -> String {
    let letter = |letter: char| match letter.is_control() {
        true => letter.escape_default().to_string(),
        false => letter.to_string(),
    };
    text.chars().map(letter).collect()
}

impl fmt::Display for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "file        {}", self.path)?;
        writeln!(f, "format      {}, {} bytes", self.format.name(), self.bytes)?;
        writeln!(f, "sha256      {}", self.sha256)?;
        writeln!(f, "tensors     {}, {} parameters", self.tensors.len(), self.parameters)?;
        for (key, value) in &self.metadata {
            writeln!(f, "metadata    {} = {}", plain(key), plain(value))?;
        }
        for (name, kind) in &self.objects {
            writeln!(f, "not tensor  {}: {}", plain(name), plain(kind))?;
        }
        let width = self.tensors.iter().map(|t| t.name.len()).max().unwrap_or(0).min(100);
        for tensor in &self.tensors {
            write!(
                f,
                "\n{:width$}  {:4}  {}",
                plain(&tensor.name),
                tensor.dtype,
                shape_text(&tensor.shape)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_send_no_commands_to_a_terminal() {
        assert_eq!(plain("\u{1b}[31mevil\n\u{7}ü"), "\\u{1b}[31mevil\\n\\u{7}ü");
    }
}
