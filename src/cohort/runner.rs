//! The runner has a cohort's cases worked on, by one worker or several: skips the finished ones, keeps going past those that fail, stops when asked to.
//! Other processes may work on the same cohort into the same folder; each case is one's only.

mod folder;

use crate::cohort::failed;
use crate::cohort::hashes::FileHashes;
use crate::cohort::journal::{Event, Fingerprint, Journal, Status, loss};
use crate::cohort::presence::Claim;
use crate::cohort::settings::hash_of;
use crate::messages::{self, Level, Progress};
use crate::stop::{self, Stop};
use crate::volume::files_of;
use crate::{atomic_file, note, panics, warning};
use anyhow::{Context, Error, Result, anyhow};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};

pub use folder::outlook;

/// One case to work on.
#[derive(Clone, Debug)]
pub struct Task<T> {
    /// The case's name.
    pub name: String,
    /// The files its result depends on, by the part they play (`image`, `case_03 labels`).
    pub inputs: Vec<(String, PathBuf)>,
    /// The files it will have written when it is done, relative to the output folder.
    pub outputs: Vec<PathBuf>,
    /// Files that it writes with other options, and that must not stay beside results of another attempt; relative to the output folder.
    pub unwanted: Vec<PathBuf>,
    /// Whatever else the work needs to know.
    pub payload: T,
}

impl<T> Task<T> {
    /// What its result depends on now.
    fn fingerprint(&self, conditions: &Conditions, hashes: &mut FileHashes) -> Result<Fingerprint> {
        let inputs = self.inputs.iter().map(|(role, path)| Ok((role.clone(), hashes.of(path)?)));
        let (weights, settings) = (conditions.weights_sha256.clone(), conditions.settings.clone());
        let fingerprint = Fingerprint::new(inputs.collect::<Result<BTreeMap<_, _>>>()?, weights, settings)?;
        Ok(Fingerprint {
            device: conditions.device.clone(),
            ..fingerprint
        })
    }

    /// Its files in the output folder.
    fn outputs_in(&self, out: &Path) -> Vec<PathBuf> {
        self.outputs.iter().map(|path| out.join(path)).collect()
    }
}

/// What the results of all cases depend on, besides their files.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// SHA-256 of the weights.
    pub weights_sha256: String,
    /// The settings, as a JSON object.
    pub settings: Value,
    /// The kind of device, such as `cpu` or `cuda`: what is rounded otherwise should not be made for one cohort without anybody knowing.
    pub device: String,
}

/// What the work on a case has to say when it is done.
#[derive(Clone, Debug, Default)]
pub struct CaseOutcome {
    /// A few words for the log: `liver 812 ml`.
    pub line: String,
    /// Things the user should look at.
    pub warnings: Vec<String>,
}

/// What became of the cases.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// Worked on and finished.
    pub done: Vec<String>,
    /// Finished before.
    pub skipped: Vec<String>,
    /// Failed in this run, with their errors.
    pub failed: Vec<(String, String)>,
    /// Whether a signal ended the run.
    pub stopped: bool,
    /// Not begun, or interrupted, because of the signal.
    pub open: Vec<String>,
    /// In work by other processes.
    pub elsewhere: Vec<String>,
}

/// How a command ended, when it did not fail as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything is done.
    Done,
    /// Done, but some cases failed; they are listed in `failed.csv`.
    SomeFailed,
    /// Done, but for cases that other processes work on; and whether some of the others failed.
    Elsewhere(bool),
    /// Stopped on a signal; the same command goes on.
    Stopped,
}

impl Exit {
    /// The process's exit code.
    pub fn code(self) -> i32 {
        match self {
            Exit::Done | Exit::Elsewhere(false) => 0,
            Exit::SomeFailed | Exit::Elsewhere(true) => 3,
            Exit::Stopped => crate::cohort::signals::EXIT_STOPPED,
        }
    }
}

impl Summary {
    /// How the run ended.
    pub fn exit(&self) -> Exit {
        match self {
            _ if self.stopped => Exit::Stopped,
            _ if !self.elsewhere.is_empty() => Exit::Elsewhere(!self.failed.is_empty()),
            _ if !self.failed.is_empty() => Exit::SomeFailed,
            _ => Exit::Done,
        }
    }

    /// One line for the end of the log of a run in `out`.
    pub fn line(&self, out: &Path) -> String {
        let start = if self.stopped {
            "stopped by a signal, the same command goes on: "
        } else {
            ""
        };
        let mut parts = vec![format!("{start}{} done", self.done.len())];
        let failed = format!("failed (see {})", out.join("failed.csv").display());
        let counts = [
            (self.skipped.len(), "were finished before"),
            (self.failed.len(), &failed),
            (self.open.len(), "left open"),
            (self.elsewhere.len(), "in work by another hpc-seg"),
        ];
        parts.extend(
            counts
                .iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, what)| format!("{count} {what}")),
        );
        parts.join(", ")
    }
}

/// What a worker made of a case.
pub enum Worked {
    /// Everything, files included.
    Done(CaseOutcome),
    /// All but what this does: it needs no worker, and runs beside the worker's next case.
    Left(Box<dyn FnOnce() -> Result<CaseOutcome> + Send>),
}

/// Works on cases, one after the other: a device, usually.
pub trait Worker<T>: Send {
    /// Works on a case. `next` will probably come after it, so its reading may begin. Should call [`Stop::check`] after every step and pass its
    /// error on, and name its stages to the [`Progress`].
    ///
    /// # Errors
    /// Whatever keeps this case from being done; the next one is taken all the same, if it [can](Worker::is_able).
    fn work(&mut self, task: &Task<T>, next: Option<&Task<T>>, stop: &Stop, progress: &Progress) -> Result<Worked>;

    /// Whether it can take a further case after one that failed. One that cannot leaves the rest to the others.
    fn is_able(&self) -> bool {
        true
    }
}

impl<T, F: FnMut(&Task<T>, &Stop, &Progress) -> Result<CaseOutcome> + Send> Worker<T> for F {
    fn work(&mut self, task: &Task<T>, _: Option<&Task<T>>, stop: &Stop, progress: &Progress) -> Result<Worked> {
        self(task, stop, progress).map(Worked::Done)
    }
}

/// Has every task worked on that is not finished yet; a worker takes the next one when it is free. `out` must have been
/// [prepared](crate::cohort::output::prepare) and `journal` be its own.
///
/// Errors and panics of a case are written to `failed.csv`, and the next case is taken.
///
/// # Errors
/// When a file would be overwritten that this program did not write, when the disk is full, when the journal cannot be written, or when cases are left and no worker can take one.
pub fn run<T: Sync>(
    out: &Path,
    journal: &mut Journal,
    tasks: &[Task<T>],
    conditions: &Conditions,
    stop: &Stop,
    workers: Vec<impl Worker<T>>,
) -> Result<Summary> {
    folder::refuse_foreign_files(out, journal, tasks)?;
    folder::clean_up(out, journal, tasks);
    // What failed before comes last: a case that takes its device or its process along does so when the others are done.
    let mut order: Vec<usize> = (0..tasks.len()).collect();
    order.sort_by_key(|&index| journal.history().was_in_vain(&tasks[index].name));
    let of_others = journal.history().count_of_other_devices(&conditions.device);
    if of_others > 0 {
        warning!(
            "{of_others} finished cases in {} were made on another kind of device than {}, which rounds otherwise; choose the same --device, or another --out, if all are to be alike",
            out.display(),
            conditions.device
        );
    }
    let works_by = hash_of(&json!([conditions.weights_sha256, conditions.settings, conditions.device]))?;
    journal.presence().let_others_in(&works_by)?;
    let run = Run {
        out,
        tasks,
        order,
        conditions,
        stop,
        has_several: workers.len() > 1,
        able: AtomicUsize::new(workers.len()),
        next: AtomicUsize::new(0),
        later: Mutex::default(),
        state: Mutex::new(State {
            hashes: journal.history().hashes(),
            journal,
            summary: Summary::default(),
            fatal: None,
        }),
    };
    thread::scope(|scope| {
        for mut worker in workers {
            let run = &run;
            scope.spawn(move || run.serve(&mut worker, scope));
        }
    });
    run.summary()
}

/// A run, as its workers share it.
struct Run<'a, T> {
    out: &'a Path,
    tasks: &'a [Task<T>],
    /// Tasks, by their index, in the order in which they are taken.
    order: Vec<usize>,
    conditions: &'a Conditions,
    stop: &'a Stop,
    has_several: bool,
    /// Workers that can take a further case.
    able: AtomicUsize,
    /// The first of the order that nobody has taken.
    next: AtomicUsize,
    /// Tasks that others had when it was their turn; looked at again in the end, should their process have been killed.
    later: Mutex<Vec<usize>>,
    state: Mutex<State<'a>>,
}

struct State<'a> {
    journal: &'a mut Journal,
    hashes: FileHashes,
    summary: Summary,
    /// What ended the run.
    fatal: Option<Error>,
}

/// Whose a case is.
enum Begun {
    /// This run's, until the claim is dropped.
    Mine(Claim, Fingerprint),
    /// Nobody's: it is finished already.
    Finished,
    /// Another process's.
    Elsewhere,
}

impl<'a, T: Sync> Run<'a, T> {
    /// A worker's day. What it leaves of a case is done beside the next one, and is over before the one after that begins.
    fn serve<'scope>(&'scope self, worker: &mut impl Worker<T>, scope: &'scope Scope<'scope, '_>) {
        let mut behind: Option<ScopedJoinHandle<'scope, ()>> = None;
        while let Some((index, task, is_last_chance)) = self.take() {
            let (claim, fingerprint) = match panics::catch(|| self.begin(task)) {
                Ok(Begun::Mine(claim, fingerprint)) => (claim, fingerprint),
                Ok(Begun::Finished) => continue,
                Ok(Begun::Elsewhere) if is_last_chance => {
                    self.state().summary.elsewhere.push(task.name.clone());
                    continue;
                }
                Ok(Begun::Elsewhere) => {
                    self.later.lock().unwrap_or_else(PoisonError::into_inner).push(index);
                    continue;
                }
                Err(error) => {
                    self.failed(task, "start", error);
                    continue;
                }
            };
            let label = format!("{} ({} of {})", task.name, index + 1, self.tasks.len());
            let progress = if self.has_several {
                Progress::lines(label)
            } else {
                Progress::new(label)
            };
            let next = self.order.get(self.next.load(Ordering::Relaxed)).map(|&index| &self.tasks[index]);
            let worked = panics::catch(|| worker.work(task, next, self.stop, &progress));
            let stage = progress.current_stage();
            drop(progress); // clears the bar before anything is said
            if let Some(before) = behind.take() {
                drop(before.join()); // panics of the work are errors of its case already
            }
            match worked {
                Ok(Worked::Done(outcome)) => self.end(task, fingerprint, &stage, Ok(outcome)),
                Ok(Worked::Left(finish)) => {
                    behind = Some(scope.spawn(move || {
                        self.end(task, fingerprint, "writing", panics::catch(finish));
                        drop(claim);
                    }));
                }
                Err(error) => {
                    self.end(task, fingerprint, &stage, Err(error));
                    if !worker.is_able() {
                        return self.retire();
                    }
                }
            }
        }
    }

    /// A worker takes no further case. Without any, the run is over, unless what is left was finished before.
    fn retire(&self) {
        let is_last = self.able.fetch_sub(1, Ordering::Relaxed) == 1;
        if !is_last || self.stop.is_requested() {
            return;
        }
        let from = self.next.load(Ordering::Relaxed).min(self.order.len());
        let left = self.order[from..]
            .iter()
            .filter(|&&index| !self.is_finished(&self.tasks[index]))
            .count();
        if left > 0 {
            let reason = anyhow!(
                "{left} cases are left, and no device can go on in this process; the same command, given once more, goes on with them; what failed comes last"
            );
            self.state().fatal.get_or_insert(reason);
        }
    }

    /// The next task, unless the run is over; and whether it is the last time that it is taken.
    fn take(&self) -> Option<(usize, &Task<T>, bool)> {
        if self.stop.is_requested() || self.state().fatal.is_some() {
            return None;
        }
        if let Some(&index) = self.order.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            return Some((index, &self.tasks[index], false));
        }
        let index = self.later.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        Some((index, &self.tasks[index], true))
    }

    /// Claims a case, and writes down that work on it begins and what its result will depend on.
    fn begin(&self, task: &Task<T>) -> Result<Begun> {
        let mut state = self.state();
        let Some(claim) = state.journal.presence().claim(&task.name)? else {
            return Ok(Begun::Elsewhere);
        };
        state.journal.refresh()?;
        let fingerprint = task.fingerprint(self.conditions, &mut state.hashes)?;
        let outputs = task.outputs_in(self.out);
        match state.journal.history().status(&task.name, &fingerprint, &outputs) {
            Status::Finished => {
                state.journal.append(&task.name, Event::Skipped, None, "")?;
                note!("{}: finished before, skipped", task.name);
                state.journal.exclusively(|_| failed::remove(self.out, &task.name))?;
                state.summary.skipped.push(task.name.clone());
                return Ok(Begun::Finished);
            }
            Status::Changed(changes) => note!("{}: done again, because {}", task.name, changes.join("; ")),
            Status::Open => {}
        }
        let is_known = state.journal.history().knows(&task.name);
        state.journal.append(&task.name, Event::Started, None, "")?;
        // Files of an earlier attempt would pass for results of this one if it failed half-way.
        let unwanted = task.unwanted.iter().map(|path| self.out.join(path));
        let old = outputs
            .into_iter()
            .chain(unwanted.filter(|_| is_known))
            .filter(|path| path.exists());
        for path in old.flat_map(|path| files_of(&path).unwrap_or(vec![path])) {
            fs::remove_file(&path).with_context(|| format!("cannot replace {}", path.display()))?;
        }
        Ok(Begun::Mine(claim, fingerprint))
    }

    /// Whether a case was finished before; one whose inputs cannot be read was not.
    fn is_finished(&self, task: &Task<T>) -> bool {
        let mut state = self.state();
        let fingerprint = task.fingerprint(self.conditions, &mut state.hashes);
        let outputs = task.outputs_in(self.out);
        fingerprint.is_ok_and(|now| state.journal.history().status(&task.name, &now, &outputs) == Status::Finished)
    }

    /// Writes down what became of a case.
    fn end(&self, task: &Task<T>, fingerprint: Fingerprint, stage: &str, outcome: Result<CaseOutcome>) {
        let done = outcome.and_then(|outcome| {
            if let Some(missing) = task.outputs_in(self.out).iter().find(|path| loss(path).is_some()) {
                return Err(anyhow!("internal error: {} was not written", missing.display()));
            }
            Ok(outcome)
        });
        match done {
            Ok(outcome) => {
                let mut state = self.state();
                let written = state.journal.append(&task.name, Event::Done, Some(fingerprint), "");
                let listed = |journal: &mut Journal| journal.exclusively(|_| failed::remove(self.out, &task.name));
                if let Err(error) = written.and_then(|()| listed(state.journal)) {
                    drop(state);
                    return self.failed(task, stage, error);
                }
                outcome.warnings.iter().for_each(|text| warning!("{}: {text}", task.name));
                note!("{}: done. {}", task.name, outcome.line);
                state.summary.done.push(task.name.clone());
            }
            Err(error) => self.failed(task, stage, error),
        }
    }

    /// Writes down that a case was stopped, or failed, or that the run cannot go on.
    fn failed(&self, task: &Task<T>, stage: &str, error: Error) {
        let mut state = self.state();
        let state = &mut *state;
        let name = &task.name;
        let written = if stop::is_stopped(&error) {
            self.stop.request(1); // also when the error came from elsewhere: nobody takes another task
            state.summary.open.push(name.clone());
            state.summary.stopped = true;
            state.journal.append(name, Event::Stopped, None, "")
        } else if atomic_file::is_disk_full(&error) {
            Err(error.context(format!(
                "no space is left for {}; free some and give the same command again to go on",
                self.out.display()
            )))
        } else {
            let text = one_line(&error);
            let stage = if stage.is_empty() { "start" } else { stage };
            messages::say(Level::Error, format_args!("{name} failed ({stage}): {text}"));
            state.summary.failed.push((name.clone(), text.clone()));
            let listed = state.journal.append(name, Event::Failed, None, &format!("{stage}: {text}"));
            listed.and_then(|()| state.journal.exclusively(|_| failed::add(self.out, name, stage, &text)))
        };
        if let Err(error) = written {
            state.fatal.get_or_insert(error);
        }
    }

    fn state(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What became of the cases, in their order.
    fn summary(self) -> Result<Summary> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = state.fatal {
            return Err(error);
        }
        let mut summary = state.summary;
        let later = self.later.into_inner().unwrap_or_else(PoisonError::into_inner);
        summary.elsewhere.extend(later.into_iter().map(|at| self.tasks[at].name.clone()));
        let left = self.order.iter().skip(self.next.into_inner());
        if self.stop.is_requested() && left.len() > 0 {
            summary.stopped = true;
            summary.open.extend(left.map(|&at| self.tasks[at].name.clone()));
        }
        let place: HashMap<&str, usize> = self.tasks.iter().enumerate().map(|(at, task)| (&*task.name, at)).collect();
        let lists = [&mut summary.done, &mut summary.skipped, &mut summary.open, &mut summary.elsewhere];
        lists.into_iter().for_each(|list| list.sort_by_key(|name| place.get(&**name)));
        summary.failed.sort_by_key(|(name, _)| place.get(&**name));
        Ok(summary)
    }
}

/// An error and its causes in one line, for tables.
fn one_line(error: &Error) -> String {
    format!("{error:#}").replace(['\n', '\r'], " ")
}
