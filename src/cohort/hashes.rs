//! Hashes of input files, taken once: a file whose path, size and time of change are those of an earlier hash is not read again.

use crate::volume::files_of;
use crate::{bad_input, sha256};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// A file as it was when it was hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashedFile {
    /// Where it was; the same content elsewhere counts as unchanged.
    pub path: PathBuf,
    /// Its length, of both halves for `.hdr` and `.img`.
    pub bytes: u64,
    /// When it was last changed, in nanoseconds since 1970.
    pub modified_ns: u64,
    /// SHA-256 of its content.
    pub sha256: String,
}

/// The hashes known so far.
#[derive(Debug, Default)]
pub struct FileHashes {
    known: HashMap<PathBuf, HashedFile>,
}

impl FileHashes {
    /// Takes over a hash from an earlier run.
    pub fn remember(&mut self, file: &HashedFile) {
        self.known.insert(file.path.clone(), file.clone());
    }

    /// The hash of a file; of `.hdr`, together with the `.img` beside it.
    ///
    /// # Errors
    /// When the file cannot be read, or is half of a pair.
    pub fn of(&mut self, path: &Path) -> Result<HashedFile> {
        let halves = files_of(path)?;
        let (mut bytes, mut modified_ns) = (0_u64, 0_u64);
        for half in &halves {
            let metadata = fs::metadata(half).with_context(|| format!("cannot read {}", half.display()))?;
            if !metadata.is_file() {
                bad_input!("{}: is no regular file; give a .nii, .nii.gz or .hdr/.img file", half.display());
            }
            let since_1970 = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            bytes = bytes.saturating_add(metadata.len());
            modified_ns = modified_ns.max(since_1970.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)));
        }
        if let Some(known) = self
            .known
            .get(path)
            .filter(|known| (known.bytes, known.modified_ns) == (bytes, modified_ns))
        {
            return Ok(known.clone());
        }
        let digests = halves.iter().map(|half| sha256::of_file(half)).collect::<Result<Vec<String>>>()?;
        let sha256 = if let [digest] = &digests[..] {
            digest.clone()
        } else {
            sha256::of_bytes(&[digests.concat().as_bytes()])
        };
        let file = HashedFile {
            path: path.to_path_buf(),
            bytes,
            modified_ns,
            sha256,
        };
        self.remember(&file);
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_only_after_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.nii");
        fs::write(&path, "one").unwrap();
        let mut hashes = FileHashes::default();
        let first = hashes.of(&path).unwrap();
        assert_eq!(first.sha256, sha256::of_bytes(&[b"one"]));
        hashes.remember(&HashedFile {
            sha256: "remembered".into(),
            ..first.clone()
        });
        assert_eq!(hashes.of(&path).unwrap().sha256, "remembered");
        fs::write(&path, "three").unwrap();
        assert_eq!(hashes.of(&path).unwrap().sha256, sha256::of_bytes(&[b"three"]));
    }

    #[test]
    fn both_halves_of_a_pair_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.hdr");
        fs::write(&path, "head").unwrap();
        assert!(format!("{:#}", FileHashes::default().of(&path).unwrap_err()).contains("a.img"));
        fs::write(folder.path().join("a.img"), "voxels").unwrap();
        let before = FileHashes::default().of(&path).unwrap().sha256;
        fs::write(folder.path().join("a.img"), "others").unwrap();
        assert_ne!(FileHashes::default().of(&path).unwrap().sha256, before);
    }
}
