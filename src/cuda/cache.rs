//! Compiled kernels on disk, so that only the first start of a machine compiles. Keyed by content: another source, header, option, compiler or architecture is
//! another file. Files are written whole or not at all, so processes may share the folder; one that is damaged is made again; one that cannot be written is
//! made again by the next start, which fails nothing.

use crate::{atomic_file, sha256, warning};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, fs};

/// First line of a file; the second is the digest of what follows.
const HEAD: &str = "hpc-seg cubin 1\n";

/// A folder of compiled kernels.
pub struct KernelCache {
    folder: PathBuf,
    has_warned: AtomicBool,
}

impl KernelCache {
    /// In this folder, which is made when it is first written to.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.into(),
            has_warned: AtomicBool::new(false),
        }
    }

    /// `$XDG_CACHE_HOME/hpc-seg/kernels`, `.cache/hpc-seg/kernels` in the home folder (`$HOME`, else as the system knows it), or, of a user without one, a
    /// folder for temporary files, which others may have put files into.
    pub fn default_folder() -> PathBuf {
        let absolute = |folder: Option<PathBuf>| folder.filter(|path| path.is_absolute());
        let root = absolute(env::var_os("XDG_CACHE_HOME").map(PathBuf::from));
        let root = root.or_else(|| absolute(env::home_dir()).map(|home| home.join(".cache")));
        root.unwrap_or_else(env::temp_dir).join("hpc-seg").join("kernels")
    }

    /// The name of the file for these parts of a key. No two lists of parts have the same.
    pub fn key(parts: &[&str]) -> String {
        let parts: String = parts.iter().map(|part| format!("{} {part}\n", part.len())).collect();
        sha256::of_bytes(&[parts.as_bytes()])
    }

    /// Whether something is kept under `key`, damaged or not.
    pub fn has(&self, key: &str) -> bool {
        self.path(key).exists()
    }

    /// The content kept under `key`, or else what `build` makes, which is kept.
    ///
    /// # Errors
    /// Those of `build` only.
    pub fn get_or_build(&self, key: &str, build: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
        let path = self.path(key);
        if let Some(content) = fs::read(&path).ok().and_then(checked) {
            return Ok(content);
        }
        let content = build()?;
        if let Err(error) = self.write(&path, &content)
            && !self.has_warned.swap(true, Ordering::Relaxed)
        {
            warning!(
                "compiled kernels cannot be kept, each start compiles anew; free space there, or name another folder by --kernel-cache: {error:#}"
            );
        }
        Ok(content)
    }

    /// Where the content of `key` is kept.
    pub fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.cubin"))
    }

    fn write(&self, path: &Path, content: &[u8]) -> Result<()> {
        fs::create_dir_all(&self.folder)?;
        let head = format!("{HEAD}{}\n", sha256::of_bytes(&[content]));
        atomic_file::write_bytes(path, &[head.as_bytes(), content].concat())
    }
}

/// The content of a file, if it is all there and unchanged.
fn checked(file: Vec<u8>) -> Option<Vec<u8>> {
    let rest = file.strip_prefix(HEAD.as_bytes())?;
    let (digest, content) = (rest.get(..64)?, rest.get(65..)?);
    (rest[64] == b'\n' && sha256::of_bytes(&[content]).as_bytes() == digest).then(|| content.to_vec())
}
