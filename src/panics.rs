//! A panic is a bug of ours: it becomes an error with its place in the source, never a backtrace in the user's terminal.

use anyhow::{Result, anyhow};
use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, PoisonError};

/// Where the last panic happened; written by the hook, on whatever thread panicked, and taken by [`catch`].
static LAST_PLACE: Mutex<Option<String>> = Mutex::new(None);

/// Replaces the standard report on stderr by a note of the place, which [`catch`] puts into its error.
pub fn install_hook() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(|at| format!("{}:{}", at.file(), at.line()));
        *LAST_PLACE.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }));
}

/// Runs `work` and turns a panic in it (or in a rayon task it waits for) into an error.
///
/// # Errors
/// What `work` returns, or the panic's message and, under [`install_hook`], its place.
pub fn catch<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(payload) => {
            let place = LAST_PLACE.lock().unwrap_or_else(PoisonError::into_inner).take();
            let place = place.map(|at| format!(" at {at}")).unwrap_or_default();
            Err(anyhow!(
                "internal error{place}: {}. This is a bug in hpc-seg {}: please report it with this line",
                message_of(payload.as_ref()),
                env!("CARGO_PKG_VERSION")
            ))
        }
    }
}

fn message_of(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_with_its_message() {
        let error = catch::<()>(|| panic!("index {} of 3", 4)).unwrap_err();
        assert!(error.to_string().contains("index 4 of 3"), "{error}");
        assert_eq!(catch(|| Ok(7)).unwrap(), 7);
    }
}
