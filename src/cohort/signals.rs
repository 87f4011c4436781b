//! Signals of people and schedulers: asked once, the program finishes the step at hand and stops; a second Ctrl-C ends it at once.

use crate::note;
use crate::stop::Stop;
use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Once, OnceLock};

/// The exit code of a run that was stopped and can be continued (`EX_TEMPFAIL`).
pub const EXIT_STOPPED: i32 = 75;

/// Lets SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 (Slurm's advance warning) set `stop`.
///
/// # Errors
/// When the system refuses to install a handler.
pub fn install(stop: &Stop) -> Result<()> {
    let installing = "cannot install the handlers that let a run stop cleanly";
    // Order matters: handlers run in the order of their registration, so the first Ctrl-C finds the flag unset and sets it.
    let interrupted = Arc::new(AtomicBool::new(false));
    flag::register_conditional_shutdown(SIGINT, EXIT_STOPPED, Arc::clone(&interrupted)).context(installing)?;
    flag::register(SIGINT, interrupted).context(installing)?;
    for signal in [SIGTERM, SIGINT, SIGUSR1] {
        flag::register_usize(signal, stop.cell(), signal as usize).context(installing)?;
    }
    // A command that another one runs must hear of a signal that came just before it began.
    static FIRST: OnceLock<Stop> = OnceLock::new();
    if let Some(signal) = FIRST.get_or_init(|| stop.clone()).signal() {
        stop.request(signal);
    }
    // Of several commands in one process each has its flag; one line says it for all.
    static SAYS: Once = Once::new();
    let mut says = Ok(());
    SAYS.call_once(|| says = say_when_asked());
    says.context(installing)
}

/// A handler must not print, so a thread waits for the signals as well and says what happens now. It lives as long as the process.
fn say_when_asked() -> std::io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGUSR1])?;
    let wait = move || {
        for signal in signals.forever() {
            note!("signal {signal}: stopping after the step at hand; Ctrl-C ends the program at once");
        }
    };
    std::thread::Builder::new().name("signals".to_string()).spawn(wait).map(drop)
}
