//! A file that is there is whole: it is written under a temporary name in the same folder, flushed to the disk, and renamed.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

use crate::bad_input;

/// Temporary names start like this, so that what a killed process left behind can be told from results.
pub const TEMPORARY_PREFIX: &str = ".hpc-seg-";

/// Writes `path` through `fill`. Either the file is there afterwards, complete and on the disk, or nothing changed; a file of that name is
/// replaced. The usual permissions (umask) apply.
///
/// # Errors
/// A folder that is missing or cannot be written to (the user's to mend); a full disk; what `fill` returns.
pub fn write_atomically(path: &Path, fill: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>) -> Result<()> {
    let shown = path.display();
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        bad_input!(
            "{shown}: cannot be written, {} is no folder; create it or choose another place",
            folder.display()
        );
    }
    if path.is_dir() {
        bad_input!("{shown}: cannot be written, a folder has that name; remove it or choose another place");
    }
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX).suffix(".part");
    #[cfg(unix)]
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o666); // the umask takes away from it, as for any new file
    #[cfg(unix)]
    builder.permissions(open);
    let file = match builder.tempfile_in(folder) {
        Ok(file) => file,
        Err(e) => bad_input!(
            "{shown}: cannot be written, {} takes no files ({e}); check its permissions or choose another place",
            folder.display()
        ),
    };
    let disk = || format!("{shown}: could not be written (is the disk full?)");
    let mut writer = BufWriter::with_capacity(1 << 16, file.as_file());
    fill(&mut writer).and_then(|()| writer.flush()).with_context(disk)?;
    drop(writer);
    file.as_file().sync_all().with_context(disk)?;
    file.persist(path).map_err(|e| e.error).with_context(disk)?;
    // The rename is on the disk once the folder is; some file systems cannot flush folders, and then nothing more can be done.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}
