//! How processes share an output folder: who is at work in it, and on what. All of it is file locks below `OUT/.claims`, which the system gives back
//! when a process ends, however it ends; so nothing has to be cleaned up after one that was killed, on this machine or another.

use crate::error::InputError;
use crate::{machine, note};
use anyhow::{Context, Error, Result};
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

const FOLDER: &str = ".claims";
/// Locked by whoever enters or leaves, so that one does at a time; one that is alone keeps it locked, and others wait.
const DOOR: &str = "door";
/// Shared by all who are here; says what they work by.
const PRESENT: &str = "present";
/// Between two looks whether the door is free.
const LOOK: Duration = Duration::from_millis(5);
/// After which it is said that this process waits; one that leaves waits no longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// That others are at work in a folder by other conditions.
#[derive(Debug)]
pub struct OthersAtWork;

impl fmt::Display for OthersAtWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the folder is in use")
    }
}

/// That this process works in a folder. While it is alone, others wait for it to [let them in](Presence::let_others_in).
#[derive(Debug)]
pub struct Presence {
    folder: PathBuf,
    /// While it is alone.
    door: Option<File>,
    /// None where the file system knows no locks.
    present: Option<File>,
}

/// That this process works on something; until it is dropped, nobody else does.
#[derive(Debug)]
pub struct Claim {
    file: Option<File>,
    path: PathBuf,
}

enum Locked {
    Mine(File),
    Elsewhere,
    Unknown,
}

impl Presence {
    /// Enters the output folder `out`.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn enter(out: &Path) -> Result<Self> {
        let folder = out.join(FOLDER);
        let Some(door) = open_door(&folder, None)? else {
            return Ok(Self {
                folder,
                door: None,
                present: None,
            });
        };
        let present = open(&folder.join(PRESENT))?;
        let is_alone = present.try_lock().is_ok();
        let is_known = present.lock_shared().is_ok();
        Ok(Self {
            folder,
            door: (is_alone && is_known).then_some(door),
            present: is_known.then_some(present),
        })
    }

    /// Whether nobody else is here for certain, so that what a killed process left behind may be removed.
    pub fn is_alone(&self) -> bool {
        self.door.is_some()
    }

    /// Whether it is up to this process to write what all who work here share: not if another one has, who let this one in.
    pub fn is_first(&self) -> bool {
        self.is_alone() || self.present.is_none()
    }

    /// Says what this process works by, and lets others in that work by the same.
    ///
    /// # Errors
    /// Others who are here and work by something else.
    pub fn let_others_in(&mut self, conditions: &str) -> Result<()> {
        let Some(file) = &mut self.present else { return Ok(()) };
        let place = || format!("cannot share {}", self.folder.display());
        file.seek(SeekFrom::Start(0)).with_context(place)?;
        if self.door.is_some() {
            file.set_len(0)
                .and_then(|()| file.write_all(conditions.as_bytes()))
                .with_context(place)?;
            self.door = None;
            return Ok(());
        }
        let mut theirs = String::new();
        file.read_to_string(&mut theirs).with_context(place)?;
        if theirs != conditions {
            let text = format!(
                "another hpc-seg is at work in {} with other settings, weights or kind of device; wait for it, or choose another --out",
                self.folder.parent().unwrap_or(&self.folder).display()
            );
            return Err(Error::new(InputError::new(text)).context(OthersAtWork));
        }
        Ok(())
    }

    /// Claims what is called `name`; none if another process, or another part of this one, has it.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn claim(&self, name: &str) -> Result<Option<Claim>> {
        let path = lock_path(&self.folder, name);
        Ok(match lock(&path)? {
            Locked::Mine(file) => Some(Claim { file: Some(file), path }),
            Locked::Elsewhere => None,
            Locked::Unknown => Some(Claim { file: None, path }),
        })
    }
}

impl Presence {
    /// Lets others know that this process is one of those that work on what is called `name`.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn take_part(&self, name: &str) -> Result<Option<Claim>> {
        self.claim(&format!("{name}@{}", machine::process()))
    }
}

impl Drop for Presence {
    /// The last one out takes the locks' folder away.
    fn drop(&mut self) {
        if let Some(present) = &self.present {
            let path = self.folder.join(PRESENT);
            // If somebody removed the folder, it must not come back; if it came back, it is another's.
            if !is_still(present, &path) {
                return;
            }
            if self.door.is_none() {
                self.door = open_door(&self.folder, Some(PATIENCE)).ok().flatten();
            }
            if self.door.is_none() || !is_still(present, &path) || present.try_lock().is_err() {
                return;
            }
        }
        // Locks of killed processes; the door last: whoever waits there finds out by `is_still`.
        locks(&self.folder).for_each(|path| drop(fs::remove_file(path)));
        for name in [PRESENT, DOOR] {
            let _ = fs::remove_file(self.folder.join(name));
        }
        let _ = fs::remove_dir(&self.folder);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // While it is locked: whoever opened it before finds out by `is_still`.
        let _ = fs::remove_file(&self.path);
        self.file.take();
    }
}

fn lock_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{}.lock", name.replace(['/', '\\'], "-")))
}

/// Whether someone in `out` works on what is called `name`, alone or as one of several ([`Presence::take_part`]), as far as can be told.
pub fn is_claimed(out: &Path, name: &str) -> bool {
    let folder = out.join(FOLDER);
    let part = lock_path(&folder, &format!("{name}@"));
    let part = part.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let parts = locks(&folder).filter(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&part)));
    is_locked(&lock_path(&folder, name)) || parts.into_iter().any(|path| is_locked(&path))
}

/// Whether someone in `out` works on anything whose name begins so.
pub fn is_any_claimed(out: &Path, beginning: &str) -> bool {
    let begins = |path: &PathBuf| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(beginning));
    locks(&out.join(FOLDER)).filter(begins).any(|path| is_locked(&path))
}

fn locks(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|ending| ending == "lock"))
}

/// Whether someone in `out` works on anything, as far as can be told.
pub fn is_busy(out: &Path) -> bool {
    is_any_claimed(out, "")
}

fn is_locked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Waits for the door of a folder of locks, at most so long, and locks it; none where the file system knows no locks, or it was too long.
fn open_door(folder: &Path, longest: Option<Duration>) -> Result<Option<File>> {
    let (path, begun) = (folder.join(DOOR), Instant::now());
    let mut is_said = false;
    loop {
        let file = open(&path)?;
        match file.try_lock() {
            Ok(()) if is_still(&file, &path) => return Ok(Some(file)),
            Ok(()) => continue,
            Err(TryLockError::WouldBlock) => {}
            // Not every network file system knows locks; everything works without them, for one process at a time.
            Err(TryLockError::Error(_)) => return Ok(None),
        }
        if longest.is_some_and(|longest| begun.elapsed() > longest) {
            return Ok(None);
        }
        if !is_said && begun.elapsed() > PATIENCE {
            note!("waiting for another hpc-seg that begins in {}", folder.display());
            is_said = true;
        }
        thread::sleep(LOOK);
    }
}

/// Locks a file that its owner removes.
fn lock(path: &Path) -> Result<Locked> {
    loop {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) if is_still(&file, path) => return Ok(Locked::Mine(file)),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Locked::Elsewhere),
            Err(TryLockError::Error(_)) => return Ok(Locked::Unknown),
        }
    }
}

/// Opens or creates a file in a folder that the last one out removes.
fn open(path: &Path) -> Result<File> {
    let folder = path.parent().unwrap_or(path);
    loop {
        let opened = fs::create_dir_all(folder).and_then(|()| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).open(path)
        });
        match opened {
            Ok(file) => return Ok(file),
            // The folder went away in between: its last user left.
            Err(error) if error.kind() == ErrorKind::NotFound && folder.parent().is_some_and(Path::is_dir) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
        }
    }
}

/// Whether the path still leads to this very file, and not to a newer one of its name or to none.
fn is_still(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let there = fs::metadata(path).map(identity);
        file.metadata()
            .is_ok_and(|ours| ours.nlink() > 0 && there.is_ok_and(|there| there == identity(ours)))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.is_file()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn one_has_a_thing_until_it_lets_go() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = Presence::enter(folder.path()).unwrap();
        assert!(first.is_alone());
        first.let_others_in("same").unwrap();
        let mut second = Presence::enter(folder.path()).unwrap();
        assert!(!second.is_alone());
        second.let_others_in("same").unwrap();
        let claim = first.claim("round_1/fold_0").unwrap().unwrap();
        assert!(is_claimed(folder.path(), "round_1/fold_0") && !is_claimed(folder.path(), "round_1/fold_1"));
        assert!(is_busy(folder.path()) && is_any_claimed(folder.path(), "round_") && !is_any_claimed(folder.path(), "plan"));
        assert!(second.claim("round_1/fold_0").unwrap().is_none());
        drop(claim);
        assert!(!is_claimed(folder.path(), "round_1/fold_0") && !is_busy(folder.path()));
        assert!(second.claim("round_1/fold_0").unwrap().is_some());
        let part = first.take_part("label").unwrap();
        assert!(part.is_some() && is_claimed(folder.path(), "label") && !is_claimed(folder.path(), "lab"));
        assert!(second.claim("label").unwrap().is_some(), "to take part is not to have it");
        drop(part);
        assert!(!is_claimed(folder.path(), "label"));
        drop(first);
        assert!(folder.path().join(FOLDER).is_dir(), "the other is still here");
        drop(second);
        assert!(!folder.path().join(FOLDER).exists());
        let last = Presence::enter(&folder.path().join("out")).unwrap();
        fs::remove_dir_all(folder.path().join("out")).unwrap();
        drop(last);
        assert!(!folder.path().join("out").exists(), "a folder that was removed came back");
        let old = Presence::enter(folder.path()).unwrap();
        fs::remove_dir_all(folder.path().join(FOLDER)).unwrap();
        let new = Presence::enter(folder.path()).unwrap();
        drop(old);
        assert!(folder.path().join(FOLDER).join(PRESENT).is_file(), "another's folder was removed");
        drop(new);
    }

    #[test]
    fn others_must_work_by_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = Presence::enter(folder.path()).unwrap();
        first.let_others_in("these settings").unwrap();
        let error = Presence::enter(folder.path()).unwrap().let_others_in("others").unwrap_err();
        assert!(error.is::<OthersAtWork>());
        let error = format!("{error:#}");
        assert!(
            error.contains("another hpc-seg is at work in") && error.contains("with other settings"),
            "{error}"
        );
    }

    #[test]
    fn who_waited_for_one_that_was_killed_is_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut killed = Presence::enter(folder.path()).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| Presence::enter(folder.path()).unwrap());
            thread::sleep(Duration::from_millis(50));
            assert!(!waiting.is_finished());
            // The system closes its files; nothing of its own runs any more.
            let files = (killed.present.take(), killed.door.take());
            std::mem::forget(killed);
            drop(files);
            let mut next = waiting.join().unwrap();
            assert!(next.is_alone());
            next.let_others_in("settings").unwrap();
            assert!(!Presence::enter(folder.path()).unwrap().is_alone());
        });
    }

    #[test]
    fn nothing_is_claimed_twice_however_many_come_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let inside = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let mut presence = Presence::enter(folder.path()).unwrap();
                        presence.let_others_in("").unwrap();
                        if let Some(claim) = presence.claim("it").unwrap() {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            thread::yield_now();
                            inside.fetch_sub(1, Ordering::SeqCst);
                            drop(claim);
                        }
                    }
                });
            }
        });
    }
}
