//! The one outlet: stdout is data, stderr is talk. Nothing else in the program prints.
//!
//! A closed pipe fails nothing: when stderr is closed, talk is lost and the work goes on; when the reader of stdout has gone
//! (`hpc-seg info | head -1`), the rest of the data is dropped.

use crate::clock;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The [`Talk`] in force, as its number.
static TALK: AtomicU8 = AtomicU8::new(Talk::All as u8);
/// The bar on the terminal, if there is one, which steps aside while a line is written.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// What is being done; silenced by `--quiet`.
    Note,
    /// Something the user should look at; the work goes on.
    Warning,
    /// Something did not work.
    Error,
}

impl Level {
    fn prefix(self) -> &'static str {
        match self {
            Level::Note => "",
            Level::Warning => "warning: ",
            Level::Error => "error: ",
        }
    }
}

/// Says a note on stderr, formatted like `format!`.
#[macro_export]
macro_rules! note {
    ($($arg:tt)*) => { $crate::messages::say($crate::messages::Level::Note, format_args!($($arg)*)) };
}

/// Says a warning on stderr, formatted like `format!`. It should say what to do.
#[macro_export]
macro_rules! warning {
    ($($arg:tt)*) => { $crate::messages::say($crate::messages::Level::Warning, format_args!($($arg)*)) };
}

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Talk {
    /// Nothing at all: for tests and for programs that use the library.
    Nothing,
    /// Warnings and errors: `--quiet`.
    Troubles,
    /// Notes and progress too.
    All,
}

/// Chooses how much is said from now on, by all threads.
pub fn set_talk(talk: Talk) {
    TALK.store(talk as u8, Ordering::Relaxed);
}

/// Whether lines of this level are shown.
pub fn is_heard(level: Level) -> bool {
    let least = if level == Level::Note { Talk::All } else { Talk::Troubles };
    TALK.load(Ordering::Relaxed) >= least as u8
}

/// One line of talk on stderr; see the macros [`note!`](crate::note) and [`warning!`](crate::warning).
pub fn say(level: Level, line: fmt::Arguments<'_>) {
    if is_heard(level) {
        write_talk(&format!("{}{line}\n", level.prefix()));
    }
}

/// Talk that brings its own form, such as a usage error with its hints.
pub fn say_as_is(text: &str) {
    write_talk(text);
}

/// An error and its causes on stderr: `error: ...`, then a line `  because: ...` per cause.
pub fn report(error: &anyhow::Error) {
    write_talk(&chain_text(error));
}

/// Whether what commands say to stdout goes to stderr instead: for a command that runs others and has an answer of its own.
static DATA_IS_TALK: AtomicBool = AtomicBool::new(false);

/// Lets `work` run with its [data] on stderr, as notes.
pub fn with_data_as_talk<T>(work: impl FnOnce() -> T) -> T {
    DATA_IS_TALK.store(true, Ordering::Relaxed);
    let result = work();
    DATA_IS_TALK.store(false, Ordering::Relaxed);
    result
}

/// Writes text to stdout and flushes it. When whoever read stdout has gone, the text is dropped: they had what they wanted.
///
/// # Errors
/// When stdout cannot be written to for another reason, such as a full disk.
pub fn data(text: &str) -> anyhow::Result<()> {
    if DATA_IS_TALK.load(Ordering::Relaxed) {
        if is_heard(Level::Note) {
            write_talk(text);
        }
        return Ok(());
    }
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("cannot write to standard output; free space there, or direct it elsewhere"))
        }
        _ => Ok(()),
    }
}

/// Writes `value` to stdout as indented JSON and a newline.
///
/// # Errors
/// As [`data`].
pub fn data_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    data(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// What [`report`] writes.
fn chain_text(error: &anyhow::Error) -> String {
    let causes = error.chain().skip(1).map(|cause| format!("  because: {cause}\n"));
    format!("{}{error}\n{}", Level::Error.prefix(), causes.collect::<String>())
}

fn write_talk(text: &str) {
    // A closed stderr is nobody's failure: the result is dropped on purpose.
    let write = || drop(io::stderr().lock().write_all(text.as_bytes()));
    match &*lock(&BAR) {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shows how far one case is: a bar on a terminal, one dated line now and then elsewhere (logs of batch jobs), nothing under `--quiet`.
///
/// The work is divided into named stages, whose seconds it also keeps. It may be advanced from several threads.
pub struct Progress {
    label: String,
    shown: Shown,
    stages: Mutex<Stages>,
}

#[derive(PartialEq)]
enum Shown {
    Nothing,
    Lines,
    Bar,
}

struct Stages {
    finished: Vec<(String, f64)>, // name, seconds; in order of their first start
    name: String,
    done: u64,
    total: u64,
    started: Instant,
    lines: LineClock,
}

impl Progress {
    /// For the work called `label`, such as `case_07 (3 of 12)`.
    pub fn new(label: impl Into<String>) -> Self {
        let shown = match (is_heard(Level::Note), io::stderr().is_terminal()) {
            (false, _) => Shown::Nothing,
            (true, true) => Shown::Bar,
            (true, false) => Shown::Lines,
        };
        Self::with(label.into(), shown)
    }

    /// The same in dated lines only, on a terminal too: for several cases at once.
    pub fn lines(label: impl Into<String>) -> Self {
        let shown = if is_heard(Level::Note) { Shown::Lines } else { Shown::Nothing };
        Self::with(label.into(), shown)
    }

    /// Keeps stages and seconds, and shows nothing.
    pub fn silent() -> Self {
        Self::with(String::new(), Shown::Nothing)
    }

    fn with(label: String, shown: Shown) -> Self {
        let (finished, lines) = (Vec::new(), LineClock::default());
        let stages = Stages {
            finished,
            name: String::new(),
            done: 0,
            total: 0,
            started: Instant::now(),
            lines,
        };
        Self {
            label,
            shown,
            stages: Mutex::new(stages),
        }
    }

    /// Ends the stage before and starts the stage `name` of `total` steps (0: unknown).
    pub fn stage(&self, name: &str, total: u64) {
        let mut stages = lock(&self.stages);
        stages.close();
        *stages = Stages {
            finished: std::mem::take(&mut stages.finished),
            name: name.to_string(),
            done: 0,
            total,
            started: Instant::now(),
            lines: LineClock::default(),
        };
        if self.shown == Shown::Bar {
            let bar = new_bar(total).with_message(format!("{}: {name}", self.label));
            if let Some(before) = lock(&BAR).replace(bar) {
                before.finish_and_clear();
            }
        }
    }

    /// Counts `steps` more steps of the current stage as done.
    pub fn advance(&self, steps: u64) {
        let mut stages = lock(&self.stages);
        stages.done += steps;
        let (elapsed, fraction) = (stages.started.elapsed(), stages.fraction());
        match self.shown {
            Shown::Lines if stages.lines.is_due(elapsed, fraction) => write_talk(&stages.line(&self.label)),
            Shown::Bar => {
                if let Some(bar) = &*lock(&BAR) {
                    bar.set_position(stages.done);
                }
            }
            Shown::Lines | Shown::Nothing => {}
        }
    }

    /// The name of the stage that runs now, or ran last; empty before the first.
    pub fn current_stage(&self) -> String {
        lock(&self.stages).name.clone()
    }

    /// Seconds per stage so far, in the order of their first start; a stage that ran several times counts once, with the sum.
    pub fn seconds_per_stage(&self) -> Vec<(String, f64)> {
        let mut stages = lock(&self.stages);
        stages.close();
        stages.started = Instant::now();
        stages.finished.clone()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let (Shown::Bar, Some(bar)) = (&self.shown, lock(&BAR).take()) {
            bar.finish_and_clear();
        }
    }
}

impl Stages {
    fn close(&mut self) {
        let seconds = self.started.elapsed().as_secs_f64();
        match self.finished.iter_mut().find(|(name, _)| *name == self.name) {
            Some((_, sum)) => *sum += seconds,
            None if self.name.is_empty() => {}
            None => self.finished.push((self.name.clone(), seconds)),
        }
    }

    fn fraction(&self) -> f64 {
        if self.total == 0 {
            0.0
        } else {
            (self.done as f64 / self.total as f64).min(1.0)
        }
    }

    fn line(&self, label: &str) -> String {
        let (seconds, fraction) = (self.started.elapsed().as_secs_f64(), self.fraction());
        let left = match fraction {
            0.0 | 1.0 => String::new(),
            _ => format!(", about {} left", clock::spoken(seconds / fraction - seconds)),
        };
        let (name, done, total, percent) = (&self.name, self.done, self.total, (100.0 * fraction).floor());
        format!(
            "{} {label}: {name} {done} of {total} ({percent} %) after {}{left}\n",
            clock::now(),
            clock::spoken(seconds)
        )
    }
}

fn new_bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} {elapsed}, {eta} left");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "))
}

/// When a dated line is due: after 5 s and 10 % more than at the last one, or after a minute.
#[derive(Default)]
struct LineClock {
    last: Duration,
    last_fraction: f64,
}

impl LineClock {
    fn is_due(&mut self, elapsed: Duration, fraction: f64) -> bool {
        let since = elapsed.saturating_sub(self.last);
        // The last step is shown only if the stage was long enough to have shown others.
        let finished = fraction >= 1.0 && self.last_fraction < 1.0 && elapsed >= Duration::from_secs(5);
        let grown = since >= Duration::from_secs(5) && fraction >= self.last_fraction + 0.1;
        let due = finished || grown || since >= Duration::from_secs(60);
        if due {
            (self.last, self.last_fraction) = (elapsed, fraction);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn an_error_is_told_with_its_causes_one_per_line() {
        let error = Err::<(), _>(anyhow::anyhow!("file ends early"))
            .context("cannot read a.nii.gz")
            .context("case a")
            .unwrap_err();
        assert_eq!(
            chain_text(&error),
            "error: case a\n  because: cannot read a.nii.gz\n  because: file ends early\n"
        );
    }

    #[test]
    fn lines_are_due_by_time_and_progress_together() {
        let mut lines = LineClock::default();
        let mut due = |seconds, fraction| lines.is_due(Duration::from_secs(seconds), fraction);
        assert!(!due(1, 0.5), "too early");
        assert!(due(5, 0.5));
        assert!(!due(9, 0.9), "too soon after the last line");
        assert!(!due(20, 0.55), "too little more");
        assert!(due(65, 0.55), "a minute of silence");
        assert!(due(66, 1.0), "the end of a long stage");
        assert!(!due(67, 1.0), "the end is told once");
        assert!(
            !LineClock::default().is_due(Duration::from_secs(1), 1.0),
            "a short stage says nothing"
        );
    }

    #[test]
    fn stages_are_timed_and_summed_by_name() {
        let progress = Progress::silent();
        assert_eq!(progress.current_stage(), "");
        for name in ["encode", "track", "encode"] {
            progress.stage(name, 2);
            progress.advance(1);
        }
        assert_eq!(progress.current_stage(), "encode");
        let names: Vec<String> = progress.seconds_per_stage().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["encode", "track"]);
    }

    #[test]
    fn a_line_tells_what_is_done_and_what_is_left() {
        let started = Instant::now().checked_sub(Duration::from_secs(30)).unwrap();
        let stages = Stages {
            finished: vec![],
            name: "tracking".into(),
            done: 30,
            total: 90,
            started,
            lines: LineClock::default(),
        };
        let line = stages.line("case_01 (1 of 2)");
        assert!(
            line.ends_with("Z case_01 (1 of 2): tracking 30 of 90 (33 %) after 30 s, about 1 min 00 s left\n"),
            "{line}"
        );
    }
}
