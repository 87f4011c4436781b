//! TensorBoard's event files: scalars by step, as records of protocol buffers.
//!
//! A record is its length (u64), a masked CRC-32C of the length, the message, and a masked CRC-32C of that; little-endian (TensorFlow, `record_writer.cc`). A message is an
//! `Event`: wall time (field 1, double), step (field 2), and a file version (field 3) or a summary (field 5) of values: tag (field 1), scalar (field 2, float).

use anyhow::{Context, Result};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// An event file that grows.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// A new file at `path`; TensorBoard looks for names that hold `tfevents`. What was there is replaced.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(path: &Path, seconds: f64) -> Result<Self> {
        let mut options = OpenOptions::new();
        let file = options
            .create(true)
            .write(true)
            .truncate(true)
            .open(path)
            .with_context(|| format!("{}: cannot be created", path.display()))?;
        let mut events = Self {
            path: path.to_path_buf(),
            file,
        };
        let version = bytes(3, b"brain.Event:2");
        events.append(&[double(1, seconds), version].concat())?;
        Ok(events)
    }

    /// Adds scalars of one step; `seconds` since 1970. A scalar that is no number is left out.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn scalars<'a>(&mut self, step: u64, seconds: f64, scalars: impl IntoIterator<Item = (&'a str, f32)>) -> Result<()> {
        let values = scalars.into_iter().filter(|(_, value)| !value.is_nan());
        let summary: Vec<u8> = values
            .flat_map(|(tag, value)| bytes(1, &[bytes(1, tag.as_bytes()), float(2, value)].concat()))
            .collect();
        self.append(&[double(1, seconds), key(2, 0), varint(step), bytes(5, &summary)].concat())
    }

    fn append(&mut self, message: &[u8]) -> Result<()> {
        let length = (message.len() as u64).to_le_bytes();
        let record = [&length[..], &masked_crc(&length), message, &masked_crc(message)].concat();
        // In one call, so that a reader sees whole records.
        self.file
            .write_all(&record)
            .with_context(|| format!("{}: cannot be written", self.path.display()))
    }
}

/// CRC-32C, rotated and shifted by a constant so that a checksum of data with checksums is sound.
fn masked_crc(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// Field number and wire type.
fn key(field: u8, wire: u8) -> Vec<u8> {
    vec![field << 3 | wire]
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn bytes(field: u8, content: &[u8]) -> Vec<u8> {
    [&key(field, 2)[..], &varint(content.len() as u64), content].concat()
}

fn double(field: u8, value: f64) -> Vec<u8> {
    [&key(field, 1)[..], &value.to_le_bytes()].concat()
}

fn float(field: u8, value: f32) -> Vec<u8> {
    [&key(field, 5)[..], &value.to_le_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_those_that_tensorflow_writes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.out.tfevents.1");
        let mut events = EventFile::create(&path, 1.5).unwrap();
        events.scalars(300, 2.0, [("loss", 0.5), ("dice", f32::NAN)]).unwrap();
        let written = std::fs::read(&path).unwrap();
        // By TensorBoard 2.21's own RecordWriter.
        let expected = "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c\
                        1b000000000000001a0d9e1309000000000000004010ac022a0d0a0b0a046c6f7373150000003fdfc52b60";
        assert_eq!(hex(&written), expected);
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
