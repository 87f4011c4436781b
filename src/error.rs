//! What went wrong, in the one distinction that matters to a caller: the input (exit code 2) or the work (exit code 1).

use std::fmt;

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
