//! A disk that is full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What it holds.
const BYTES: usize = 2 << 20;

/// A small file system of its own, unmounted when this is dropped.
pub struct FullDisk {
    place: PathBuf,
}

impl FullDisk {
    /// Mounted over the folder `place`, with `left` bytes to spare; none, visibly, where no file system may be mounted.
    pub fn over(place: &Path, left: usize) -> Option<Self> {
        let size = format!("size={BYTES}");
        if !is_done(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(place)) {
            println!("skipped: a full disk (no tmpfs can be mounted here)");
            return None;
        }
        let disk = Self { place: place.into() };
        fs::write(disk.ballast(), vec![0; BYTES - left]).unwrap();
        Some(disk)
    }

    /// What fills it.
    fn ballast(&self) -> PathBuf {
        self.place.join("ballast")
    }

    /// Makes room.
    pub fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        is_done(Command::new("umount").arg(&self.place));
    }
}

fn is_done(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}
