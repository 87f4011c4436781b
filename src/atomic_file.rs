//! A file that is there whole or not at all: written under a temporary name in the same folder, flushed to disk, then renamed.

use crate::bad_input;
use anyhow::{Context, Result};
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// How the temporary names begin; what a killed process left behind is found by it ([`remove_leftovers`]).
pub const TEMPORARY_PREFIX: &str = ".hpc-seg-";

/// Writes `bytes` to `path`; see [`write_with`].
///
/// # Errors
/// As [`write_with`].
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| Ok(file.write_all(bytes)?))
}

/// Writes `bytes` to a `path` that the user named for it: into the file that a link points at, and straight into what is no file of its own, such as a pipe or `/dev/stdout`.
///
/// # Errors
/// As [`write_with`].
pub fn write_named(path: &Path, bytes: &[u8]) -> Result<()> {
    let is_descriptor = ["/dev/stdout", "/dev/stderr", "/dev/fd", "/proc"]
        .iter()
        .any(|place| path.starts_with(place));
    let is_pipe = fs::metadata(path).is_ok_and(|target| !target.is_file() && !target.is_dir());
    let leads_nowhere = path.is_symlink() && !path.exists();
    if !(is_descriptor || is_pipe || leads_nowhere) {
        return write_bytes(&behind_links(path), bytes);
    }
    // At its end: what was written to it before stays.
    let file = File::options().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(bytes))
        .with_context(|| format!("{}: could not be written", path.display()))
}

/// The file that a link the user named points at; `path` itself where it is none, or points nowhere.
pub fn behind_links(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Lets `fill` write the content of `path`, which afterwards holds either all of it or what it held before; on an error nothing stays behind.
///
/// # Errors
/// A folder that is missing or takes no files (the user's to mend); a full disk; what `fill` returns. The message names the file.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut BufWriter<&File>) -> Result<()>) -> Result<()> {
    let shown = path.display();
    let folder = folder_of(path);
    if !folder.is_dir() {
        bad_input!(
            "{shown}: cannot be written, {} is no folder; create it or choose another place",
            folder.display()
        );
    }
    if path.is_dir() {
        bad_input!("{shown}: cannot be written, a folder has that name; remove it or choose another place");
    }
    let disk = || format!("{shown}: could not be written");
    let temporary = match temporary_in(folder).and_then(|file| held(file, folder)) {
        Ok(file) => file,
        // A full disk is told by its kind, which must stay visible.
        Err(error) if is_full(&error) => return Err(error).with_context(disk),
        Err(error) => bad_input!(
            "{shown}: cannot be written, {} takes no files ({error}); check its permissions or choose another place",
            folder.display()
        ),
    };
    let mut buffer = BufWriter::with_capacity(1 << 18, temporary.as_file());
    fill(&mut buffer).and_then(|()| Ok(buffer.flush()?)).with_context(disk)?;
    drop(buffer);
    temporary.as_file().sync_all().with_context(disk)?;
    temporary.persist(path).map_err(|failure| failure.error).with_context(disk)?;
    // The rename itself reaches the disk with the folder. Some network file systems refuse to open folders; the data is safe there anyway.
    if let Ok(handle) = File::open(folder) {
        let _ = handle.sync_all();
    }
    Ok(())
}

/// Creates the user's output folder, and makes sure that files can be written there.
///
/// # Errors
/// When it cannot be created, is read-only or full.
pub fn create_output(folder: &Path) -> Result<()> {
    if let Err(error) = fs::create_dir_all(folder).and_then(|()| probe(folder)) {
        bad_input!(
            "cannot write to the output folder {}: {error}. Choose another --out, or mend its permissions or space",
            folder.display()
        );
    }
    Ok(())
}

/// Makes sure that files can be written into `folder`, by writing one and removing it.
///
/// # Errors
/// When the folder is missing, read-only or full.
pub fn probe(folder: &Path) -> io::Result<()> {
    let mut temporary = temporary_in(folder)?;
    temporary.write_all(b"hpc-seg asks whether this folder can be written to\n")?;
    temporary.as_file().sync_all()
}

/// Removes the temporary files that a killed process left in `folder`, and says how many there were. Files that a process is writing are let be, where the file system
/// knows locks.
pub fn remove_leftovers(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let is_leftover = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX);
    entries
        .flatten()
        .filter(|entry| is_leftover(entry) && remove_unless_held(&entry.path()))
        .count()
}

/// The same in `folder` and all folders below it, but not through links.
pub fn remove_leftovers_below(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let below: usize = folders.map(|entry| remove_leftovers_below(&entry.path())).sum();
    below + remove_leftovers(folder)
}

/// Locks a new temporary file, so that nobody takes it for a leftover; another one if somebody did before it was locked.
fn held(mut temporary: NamedTempFile, folder: &Path) -> io::Result<NamedTempFile> {
    // Without locks, files are removed only by a process that is alone for all it knows.
    while temporary.as_file().lock().is_ok() && !temporary.path().exists() {
        temporary = temporary_in(folder)?;
    }
    Ok(temporary)
}

fn remove_unless_held(path: &Path) -> bool {
    let file = File::options().write(true).open(path);
    let is_held = file
        .as_ref()
        .is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
    !is_held && fs::remove_file(path).is_ok()
}

/// Whether `error` comes from a full disk or an exhausted quota, which the next file would meet as well.
pub fn is_disk_full(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(is_full)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

fn temporary_in(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX);
    #[cfg(unix)]
    {
        // Without this the files would be readable by their owner only; results in a shared folder follow the umask like any others.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_failed_write_keeps_the_old_content_and_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mask.nii.gz");
        write_bytes(&path, b"old").unwrap();
        let error = write_with(&path, |file| {
            file.write_all(b"half of the new")?;
            anyhow::bail!("the network vanished")
        })
        .unwrap_err();
        assert!(
            format!("{error:#}").contains("mask.nii.gz: could not be written: the network vanished"),
            "{error:#}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["mask.nii.gz"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_and_pipes_that_the_user_named_stay_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let [real, link, pipe] = ["real.json", "link.json", "pipe"].map(|name| folder.path().join(name));
        fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        write_named(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink() && fs::read(&real).unwrap() == b"new");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        write_named(&pipe, b"through").unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        assert!(!fs::metadata(&pipe).unwrap().is_file());
        write_named(&folder.path().join("fresh.json"), b"1").unwrap();
        let (nowhere, target) = (folder.path().join("nowhere.json"), folder.path().join("target.json"));
        std::os::unix::fs::symlink(&target, &nowhere).unwrap();
        write_named(&nowhere, b"found").unwrap();
        assert!(nowhere.is_symlink() && fs::read(target).unwrap() == b"found");
        assert!(
            write_named(folder.path(), b"1")
                .unwrap_err()
                .to_string()
                .contains("a folder has that name")
        );
    }

    #[test]
    fn a_panic_while_writing_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mask.nii.gz");
        let _ = crate::panics::catch(|| write_with(&path, |_| panic!("made up")));
        assert!(names(folder.path()).is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn a_written_file_is_as_readable_as_any_other_new_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        write_bytes(&folder.path().join("ours"), b"1").unwrap();
        fs::write(folder.path().join("plain"), b"1").unwrap();
        assert_eq!(mode("ours"), mode("plain"));
    }

    #[test]
    fn a_missing_folder_is_named_and_leftovers_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gone/mask.nii.gz");
        assert!(write_bytes(&path, b"x").unwrap_err().to_string().contains("gone/mask.nii.gz"));
        assert!(probe(&folder.path().join("gone")).is_err());
        probe(folder.path()).unwrap();
        fs::write(folder.path().join(format!("{TEMPORARY_PREFIX}abc")), b"half").unwrap();
        fs::write(folder.path().join("mask.nii.gz"), b"whole").unwrap();
        assert_eq!(remove_leftovers(folder.path()), 1);
        assert_eq!(names(folder.path()), ["mask.nii.gz"]);
        let below = folder.path().join("rounds/round_1");
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join(format!("{TEMPORARY_PREFIX}abc")), b"half").unwrap();
        assert_eq!((remove_leftovers(folder.path()), remove_leftovers_below(folder.path())), (0, 1));
        assert!(names(&below).is_empty());
    }

    #[test]
    fn a_file_that_is_being_written_is_no_leftover() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mask.nii.gz");
        write_with(&path, |file| {
            file.write_all(b"whole")?;
            assert_eq!(remove_leftovers(folder.path()), 0);
            Ok(())
        })
        .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        // One that was taken for a leftover before it was locked.
        let lost = temporary_in(folder.path()).unwrap();
        assert_eq!(remove_leftovers(folder.path()), 1);
        let kept = held(lost, folder.path()).unwrap();
        assert!(kept.path().exists() && remove_leftovers(folder.path()) == 0);
    }

    #[test]
    fn a_full_disk_is_told_from_other_errors() {
        let full = anyhow::Error::new(io::Error::from(io::ErrorKind::StorageFull)).context("cannot write a.nii.gz");
        let denied = anyhow::Error::new(io::Error::from(io::ErrorKind::PermissionDenied)).context("cannot write a.nii.gz");
        assert!(is_disk_full(&full));
        assert!(!is_disk_full(&denied));
    }
}
