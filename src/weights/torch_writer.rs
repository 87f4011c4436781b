//! Writing torch files: a zip archive, not compressed, of a pickle and one entry per storage, as `torch.save` of PyTorch 1.6 and later makes it.

use super::pickle::{Value, encode};
use crate::atomic_file;
use anyhow::Result;
use std::io::Write;
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

/// Entries begin at multiples of this, as PyTorch's do, so that the file can be mapped.
const ALIGNMENT: u16 = 64;

/// Writes `root` to `path`, atomically; its tensors refer to `storages` by number. The same content gives the same bytes.
///
/// # Errors
/// A place that cannot be written.
pub fn write_torch(path: &Path, root: &Value, storages: &[&[f32]]) -> Result<()> {
    atomic_file::write_with(path, |out| {
        let mut archive = ZipWriter::new(out);
        let mut entry = |name: &str, bytes: &[u8]| -> Result<()> {
            let options = SimpleFileOptions::default()
                .compression_method(CompressionMethod::Stored)
                .last_modified_time(DateTime::default())
                .large_file(bytes.len() > u32::MAX as usize)
                .with_alignment(ALIGNMENT);
            archive.start_file(format!("archive/{name}"), options)?;
            Ok(archive.write_all(bytes)?)
        };
        entry("data.pkl", &encode(root))?;
        entry("byteorder", b"little")?;
        for (number, values) in storages.iter().enumerate() {
            entry(&format!("data/{number}"), &little_endian(values))?;
        }
        entry("version", b"3\n")?;
        archive.finish()?;
        Ok(())
    })
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
