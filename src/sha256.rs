//! SHA-256 in lower-case hexadecimal, of bytes and of files.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The digest of `bytes`.
pub fn of_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The digest of a file's content, read in blocks.
///
/// # Errors
/// When the file cannot be read.
pub fn of_file(path: &Path) -> Result<String> {
    let reading = || format!("cannot read {} to take its SHA-256", path.display());
    let mut file = File::open(path).with_context(reading)?;
    let mut hasher = Sha256::new();
    let mut block = vec![0_u8; 1 << 18];
    loop {
        match file.read(&mut block).with_context(reading)? {
            0 => return Ok(hex(&hasher.finalize())),
            length => hasher.update(&block[..length]),
        }
    }
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
        assert_eq!(of_bytes(b"abc"), expected);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("abc"), "abc").unwrap();
        assert_eq!(of_file(&folder.path().join("abc")).unwrap(), expected);
    }
}
