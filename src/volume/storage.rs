//! Storage is where a volume's voxels are while it is open: mapped from a file, or owned.
//!
//! The rule. An uncompressed file is memory-mapped: slices come from the page cache as they are touched, and nothing is copied. A compressed
//! file is inflated once: into memory if its voxels take at most [`ReadOptions::inflate_limit`] bytes, else into an unlinked temporary file in
//! `$TMPDIR` which is then mapped (its space is free again when the volume is dropped, however the program ends). Where mapping fails, or
//! is switched off, the voxels are read into memory.
//!
//! The contract of a mapping: **nobody shortens the file while the volume is open**. The operating system answers a look at vanished pages
//! with SIGBUS. Where that may happen (inputs still being written, network folders in use by others), set `HPC_SEG_MMAP=0`. This program itself
//! never shortens a file: what it writes is renamed into place, and an open volume keeps the old one.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Deref;
use std::path::PathBuf;

use anyhow::Result;
use memmap2::{Mmap, MmapOptions};

use crate::bad_input;

/// How volumes are opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// Bytes of voxels up to which a compressed file is inflated into memory; larger ones go to a temporary file.
    /// Default 1 GiB; environment variable `HPC_SEG_INFLATE_LIMIT` (bytes, or with a unit: `512MiB`, `4GiB`).
    pub inflate_limit: u64,
    /// Whether files are memory-mapped. Default yes; `HPC_SEG_MMAP=0` switches it off.
    pub map_files: bool,
    /// Where the temporary files are made. Default `$TMPDIR`, else `/tmp`.
    pub temporary_folder: PathBuf,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            inflate_limit: 1 << 30,
            map_files: true,
            temporary_folder: std::env::temp_dir(),
        }
    }
}

impl ReadOptions {
    /// The defaults with what the environment variables change.
    ///
    /// # Errors
    /// A variable whose value cannot be understood.
    pub fn from_env() -> Result<Self> {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self::from_variables(set("HPC_SEG_INFLATE_LIMIT").as_deref(), set("HPC_SEG_MMAP").as_deref())
    }

    fn from_variables(inflate_limit: Option<&str>, mmap: Option<&str>) -> Result<Self> {
        let mut options = Self::default();
        if let Some(text) = inflate_limit {
            let Some(bytes) = parse_bytes(text) else {
                bad_input!("HPC_SEG_INFLATE_LIMIT={text}: give a number of bytes, or one with a unit, as in 512MiB or 4GiB");
            };
            options.inflate_limit = bytes;
        }
        options.map_files = match mmap {
            None | Some("1") => true,
            Some("0") => false,
            Some(text) => bad_input!("HPC_SEG_MMAP={text}: give 1 (map uncompressed files, the default) or 0 (read them)"),
        };
        Ok(options)
    }
}

fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// The bytes of one channel's voxels, as the file stores them.
#[derive(Debug)]
pub(crate) enum Storage {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Deref for Storage {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl Storage {
    /// `length` bytes of `file` from `offset`; the caller has checked that the file is that long.
    pub fn of_file(mut file: File, offset: u64, length: usize, options: &ReadOptions) -> io::Result<Self> {
        if options.map_files {
            // SAFETY: the map is only read, and the module's contract (said to the user among the README's limits) is
            // that nobody shortens the file meanwhile; bytes that change under us are numbers like any other, never lengths or indices.
            let map = unsafe { MmapOptions::new().offset(offset).len(length).map(&file) };
            if let Ok(map) = map {
                return Ok(Self::Mapped(map));
            }
        }
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length)?;
        let read = file.take(length as u64).read_to_end(&mut bytes)?;
        if read < length {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was read",
            ));
        }
        Ok(Self::Owned(bytes))
    }

    /// Exactly `length` bytes of a stream that cannot be mapped. `hint`: how much is likely to come, so that a header that claims much
    /// and a stream that brings little never cost more memory than a small multiple of what came.
    pub fn of_stream(stream: &mut impl Read, length: usize, hint: usize, options: &ReadOptions) -> io::Result<Self> {
        if length as u64 > options.inflate_limit {
            let mut file = tempfile::tempfile_in(&options.temporary_folder)?;
            let copied = io::copy(&mut stream.take(length as u64), &mut file)?;
            if copied < length as u64 {
                return Err(short(copied));
            }
            file.flush()?;
            // SAFETY: the file has no name, so no other process can reach it, and this one never writes to it again.
            return Ok(Self::Mapped(unsafe { MmapOptions::new().len(length).map(&file)? }));
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length.min(hint).max(length.min(1 << 16)))?;
        while bytes.len() < length {
            if bytes.len() == bytes.capacity() {
                bytes.try_reserve_exact(bytes.len().min(length - bytes.len()))?;
            }
            let room = bytes.capacity().min(length) - bytes.len();
            if stream.take(room as u64).read_to_end(&mut bytes)? == 0 {
                return Err(short(bytes.len() as u64));
            }
        }
        Ok(Self::Owned(bytes))
    }
}

/// A stream that ended properly, but before all voxels had come.
#[derive(Debug)]
pub(crate) struct ShortStream {
    pub came: u64,
}

impl std::fmt::Display for ShortStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "only {} bytes came", self.came)
    }
}

impl std::error::Error for ShortStream {}

fn short(came: u64) -> io::Error {
    io::Error::other(ShortStream { came })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_read_or_refused_with_the_remedy() {
        let options = ReadOptions::from_variables(Some("512MiB"), Some("0")).unwrap();
        assert_eq!((options.inflate_limit, options.map_files), (512 << 20, false));
        assert_eq!(ReadOptions::from_variables(None, None).unwrap(), ReadOptions::default());
        for wrong in ["", "MiB", "12 parsecs", "-1", "99999999999TiB"] {
            let error = ReadOptions::from_variables(Some(wrong), None).unwrap_err().to_string();
            assert!(error.contains("as in 512MiB"), "{error}");
        }
        assert!(ReadOptions::from_variables(None, Some("maybe")).is_err());
    }

    #[test]
    fn a_stream_that_brings_less_than_was_claimed_costs_no_more_than_it_brought() {
        let mut stream = &[7_u8; 1000][..];
        // No machine has 2^62 bytes: room for what was claimed would fail differently.
        let options = ReadOptions {
            inflate_limit: u64::MAX,
            ..ReadOptions::default()
        };
        let error = Storage::of_stream(&mut stream, 1 << 62, 1000, &options).unwrap_err();
        assert!(error.get_ref().is_some_and(|e| e.is::<ShortStream>()));
    }

    #[test]
    fn beyond_the_limit_a_stream_goes_to_a_mapped_temporary_file() {
        let bytes: Vec<u8> = (0..100_000).map(|i| (i % 251) as u8).collect();
        for (limit, mapped) in [(99_999, true), (100_000, false)] {
            let options = ReadOptions {
                inflate_limit: limit,
                ..ReadOptions::default()
            };
            let storage = Storage::of_stream(&mut &bytes[..], bytes.len(), 10, &options).unwrap();
            assert_eq!(matches!(storage, Storage::Mapped(_)), mapped);
            assert_eq!(&storage[..], &bytes[..]);
        }
    }
}
