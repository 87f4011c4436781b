//! Digests of files, for the journal: what a result was made from.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// SHA-256 of the files' bytes, one after the other, in lower-case hex; read in pieces.
///
/// # Errors
/// A file that cannot be read.
pub fn sha256_of_files<P: AsRef<Path>>(files: &[P]) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut piece = vec![0_u8; 1 << 17];
    for path in files {
        let path = path.as_ref();
        let unreadable = || format!("{}: cannot be read", path.display());
        let mut file = File::open(path).with_context(unreadable)?;
        loop {
            match file.read(&mut piece).with_context(unreadable)? {
                0 => break,
                n => hasher.update(&piece[..n]),
            }
        }
    }
    Ok(hex(&hasher.finalize()))
}

/// SHA-256 of these bytes, one part after the other, in lower-case hex.
pub fn sha256_of_bytes(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hex(&hasher.finalize())
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}
