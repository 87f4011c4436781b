//! SHA-256 in lower-case hexadecimal, of bytes and of files.

use crate::bad_input;
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The digest of `parts`, one after the other.
pub fn of_bytes(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hex(&hasher.finalize())
}

/// The digest of a file's content, read in blocks.
///
/// # Errors
/// When the file cannot be read.
pub fn of_file(path: &Path) -> Result<String> {
    of_files(&[path])
}

/// The digest of several files' contents, one after the other.
///
/// # Errors
/// When a file cannot be read.
pub fn of_files<P: AsRef<Path>>(paths: &[P]) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut block = vec![0_u8; 1 << 18];
    for path in paths {
        let path = path.as_ref();
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) => bad_input!(
                "{}: cannot open the file: {error}; check the path and its permissions",
                path.display()
            ),
        };
        loop {
            match file
                .read(&mut block)
                .with_context(|| format!("{}: cannot read the file", path.display()))?
            {
                0 => break,
                length => hasher.update(&block[..length]),
            }
        }
    }
    Ok(hex(&hasher.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_test_vector_holds_for_bytes_and_files() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"; // FIPS 180-2, "abc"
        assert_eq!(of_bytes(&[b"a", b"bc"]), expected);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("abc"), "abc").unwrap();
        assert_eq!(of_file(&folder.path().join("abc")).unwrap(), expected);
    }
}
