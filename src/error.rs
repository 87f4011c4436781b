//! What went wrong, in the one distinction that matters to a caller: the input (exit code 2) or the work (exit code 1).

use std::{fmt, io};

/// An error the user can mend: a bad option, a broken file, a missing tensor. Its text names the file and the remedy.
#[derive(Debug)]
pub struct InputError(String);

impl InputError {
    /// An input error with this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InputError {}

/// Returns early with an [`InputError`] formatted like `format!`.
#[macro_export]
macro_rules! bad_input {
    ($($arg:tt)*) => {
        return Err(::anyhow::Error::new($crate::error::InputError::new(format!($($arg)*))))
    };
}

/// Whether `error` (or anything it wraps) is an [`InputError`].
pub fn is_input_error(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<InputError>())
}

/// What to do about an error of the operating system whose text does not say so itself.
pub fn remedy(error: &anyhow::Error) -> Option<&'static str> {
    const ROOM: &str = "make room there and give the same command again";
    const RIGHTS: &str = "this user may not do that there: change the permissions, or choose another folder";
    let cause = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>())?;
    let remedy = match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ROOM,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => RIGHTS,
        _ => return None,
    };
    let is_said = format!("{error:#}").contains("the same command again");
    (!is_said).then_some(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn full_disks_and_folders_of_others_have_a_remedy_that_is_told_once() {
        let failed = |kind: io::ErrorKind, context: &'static str| Err::<(), _>(io::Error::from(kind)).context(context).unwrap_err();
        let full = failed(io::ErrorKind::StorageFull, "a.pth: could not be written");
        assert!(remedy(&full).unwrap().contains("make room"));
        assert_eq!(
            remedy(&failed(io::ErrorKind::StorageFull, "free some and give the same command again")),
            None
        );
        assert!(
            remedy(&failed(io::ErrorKind::PermissionDenied, "a"))
                .unwrap()
                .contains("permissions")
        );
        assert_eq!(remedy(&failed(io::ErrorKind::NotFound, "a")), None);
    }
}
