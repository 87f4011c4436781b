//! The driver does a run's steps in their order, as far as this process has them to do: it writes each into the one journal, goes on where an earlier run stopped, and shares
//! the steps with other processes that work in the same folder.

use crate::cohort::hashes::FileHashes;
use crate::cohort::journal::{Cost, Event, Fingerprint, Journal, Status};
use crate::cohort::presence::{Claim, OthersAtWork, is_any_claimed, is_busy, is_claimed};
use crate::cohort::runner::Exit;
use crate::messages::Level;
use crate::ssl::agreement::Agreement;
use crate::ssl::places::read_made;
use crate::ssl::settings::Origin;
use crate::ssl::status::is_lost;
use crate::ssl::steps::{Known, Step};
use crate::ssl::work::Work;
use crate::{atomic_file, bad_input, clock, error, machine, messages, note, stop};
use anyhow::{Error, Result, anyhow};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Time between two looks at what other processes do.
const LOOK: Duration = Duration::from_millis(500);

/// A run in work.
pub struct Driver<'a> {
    work: &'a Work<'a>,
    journal: Journal,
    hashes: FileHashes,
    /// Steps that were done, or found to be done, by this process.
    done: BTreeSet<Step>,
    failed: BTreeSet<Step>,
    /// Steps of which other processes have the last cases.
    left_to_others: BTreeSet<Step>,
    /// The first error that kept a step from being done.
    error: Option<Error>,
    /// Whether cases failed that others do without.
    some_failed: bool,
}

/// What became of a step.
enum Outcome {
    Done,
    Elsewhere,
    Failed,
}

/// Refuses a step that a run by these settings never has, before anything is written.
///
/// # Errors
/// A round, fold, case or comparison with test labels that there is not.
pub fn check_step(work: &Work<'_>, step: &Step) -> Result<()> {
    let most = Known {
        has_test: !work.test.is_empty(),
        rounds: work.settings.rounds,
        settled: f64::INFINITY,
        ..Known::default()
    };
    refuse_unknown(work, &most.expecting(work.unlabelled().count()), step)
}

fn refuse_unknown(work: &Work<'_>, known: &Known, step: &Step) -> Result<()> {
    let is_case = matches!(step, Step::LabelCase(case) if work.unlabelled().any(|name| name == case));
    if !is_case && !known.steps().contains(step) {
        bad_input!("--only-step {step}: this run has no such step; hpc-seg status lists them");
    }
    Ok(())
}

impl<'a> Driver<'a> {
    /// Enters the output folder, and writes the settings with their origins there.
    ///
    /// # Errors
    /// A folder that cannot be written to, others in it that work by other settings.
    pub fn new(work: &'a Work<'a>, origins: &BTreeMap<String, Origin>) -> Result<Self> {
        let mut journal = Journal::open(work.places.out())?;
        if journal.presence().is_alone() {
            atomic_file::remove_leftovers_below(work.places.out());
        }
        journal.presence().let_others_in(&serde_json::to_string(&work.settings)?)?;
        let mut driver = Self {
            work,
            hashes: journal.history().hashes(),
            journal,
            done: BTreeSet::new(),
            failed: BTreeSet::new(),
            left_to_others: BTreeSet::new(),
            error: None,
            some_failed: false,
        };
        // A command that is refused leaves the settings of the one before.
        driver.refuse_other_volumes()?;
        work.settings.write(work.places.out(), origins)?;
        Ok(driver)
    }

    /// Does all steps that are not done, but for those of other processes, which it waits for.
    ///
    /// # Errors
    /// A stop; a full disk; what is for the user to mend; in the end, the first error that kept a step from being done.
    pub fn all(&mut self) -> Result<Exit> {
        loop {
            self.work.stop.check()?;
            let known = self.known()?;
            let (done, left): (Vec<Step>, Vec<Step>) = known.steps().into_iter().partition(|step| self.done.contains(step));
            if left.is_empty() {
                return Ok(self.exit());
            }
            let is_ready = |step: &Step| !self.failed.contains(step) && known.needs(step).iter().all(|needed| done.contains(needed));
            let ready: Vec<Step> = left.into_iter().filter(is_ready).collect();
            if ready.is_empty() {
                return Err(self.failure());
            }
            let mut is_waiting = true;
            for step in &ready {
                is_waiting = matches!(self.attempt(step)?, Outcome::Elsewhere);
                if !is_waiting {
                    break; // what is ready may be another now
                }
            }
            if is_waiting {
                sleep(LOOK);
            }
        }
    }

    fn failure(&mut self) -> Error {
        self.error.take().unwrap_or_else(|| anyhow!("no step of the run can be done"))
    }

    /// Does one step alone.
    ///
    /// # Errors
    /// A step that there is not, or that needs others first; what keeps it from being done.
    pub fn only(&mut self, step: &Step) -> Result<Exit> {
        let done = self
            .journal
            .history()
            .latest()
            .iter()
            .filter(|(_, entry)| entry.event == Event::Done);
        let done = done.filter_map(|(name, _)| name.parse().ok());
        self.done = done.filter(|step| !is_lost(&self.work.places, step)).collect();
        let known = self.known()?;
        refuse_unknown(self.work, &known, step)?;
        let missing: Vec<String> = known
            .needs(step)
            .iter()
            .filter(|needed| !self.done.contains(needed))
            .map(Step::to_string)
            .collect();
        if !missing.is_empty() {
            bad_input!("--only-step {step}: needs {} to be done first", missing.join(", "));
        }
        // Who gives one step after the other is told of changes too.
        if !matches!(step, Step::Label | Step::LabelCase(_) | Step::Plan) {
            [Step::Label, Step::Plan]
                .iter()
                .try_for_each(|step| self.refuse_to_train_anew(step))?;
        }
        self.done.remove(step);
        match self.attempt(step)? {
            Outcome::Done => Ok(self.exit()),
            Outcome::Elsewhere => {
                note!("{step}: another hpc-seg works on it");
                Ok(Exit::Elsewhere(self.some_failed))
            }
            Outcome::Failed => Err(self.failure()),
        }
    }

    fn exit(&self) -> Exit {
        if self.some_failed { Exit::SomeFailed } else { Exit::Done }
    }

    /// What is known now of the steps there are.
    ///
    /// # Errors
    /// Files of steps that are done and cannot be read.
    pub fn known(&self) -> Result<Known> {
        let (work, settings) = (self.work, &self.work.settings);
        let mut known = Known {
            has_test: !work.test.is_empty(),
            rounds: settings.rounds,
            settled: settings.settled,
            ..Known::default()
        };
        if self.done.contains(&Step::Label) {
            known.folds = work.folds()?.len();
        }
        for round in (1..=settings.rounds).take_while(|round| self.done.contains(&Step::Relabel(*round))) {
            let agreement: Agreement = read_made(&work.places.agreement(round))?;
            known.agreements.push(agreement.mean_dice);
        }
        Ok(known)
    }

    /// Other labels or another plan would throw away what was trained on those before. To say so is no failure of the step: what is there stays valid.
    fn refuse_to_train_anew(&mut self, step: &Step) -> Result<()> {
        if self.work.redo || !self.work.places.plans().is_file() {
            return Ok(());
        }
        self.journal.refresh()?;
        let (fingerprint, outputs) = self.fingerprint(step)?;
        match self.journal.history().status(&step.to_string(), &fingerprint, &outputs) {
            Status::Changed(changes) => bad_input!(
                "the networks were planned for other volumes, labels or settings ({}); give --redo to label and train anew, or choose another --out",
                changes.join("; ")
            ),
            _ => Ok(()),
        }
    }

    /// Refuses volumes that are not those which the run was begun with, before any of them is labelled.
    fn refuse_other_volumes(&mut self) -> Result<()> {
        if !self.work.redo && self.work.places.folds().is_file() {
            self.work.check_who_takes_part()?;
        }
        self.refuse_to_train_anew(&Step::Label)
    }

    /// Does a step, unless it is done or another process has it.
    fn attempt(&mut self, step: &Step) -> Result<Outcome> {
        match step {
            Step::Label => self.refuse_other_volumes()?,
            Step::Plan => self.refuse_to_train_anew(step)?,
            _ => {}
        }
        match self.do_step(step) {
            Ok(outcome) => {
                if matches!(outcome, Outcome::Done) {
                    self.done.insert(step.clone());
                }
                Ok(outcome)
            }
            // On another kind of device: they do it alone.
            Err(error) if error.is::<OthersAtWork>() => {
                self.left_to_others.insert(step.clone());
                Ok(Outcome::Elsewhere)
            }
            Err(error) if stop::is_stopped(&error) => {
                self.say_ended(step, Event::Stopped, "")?;
                Err(error)
            }
            Err(error) => {
                let text = format!("{error:#}").replace(['\n', '\r'], " ");
                let written = self.say_ended(step, Event::Failed, &text);
                if atomic_file::is_disk_full(&error) || error::is_input_error(&error) {
                    return Err(error);
                }
                written?;
                messages::say(Level::Error, format_args!("{step} failed: {text}; what does not need it goes on"));
                self.failed.insert(step.clone());
                self.error
                    .get_or_insert(error.context(format!("{step} failed; the same command tries it again")));
                Ok(Outcome::Failed)
            }
        }
    }

    /// Of a step that was only looked at again, what it came to before still holds.
    fn say_ended(&mut self, step: &Step, event: Event, text: &str) -> Result<()> {
        self.journal.refresh()?;
        let name = step.to_string();
        match self.journal.history().latest().get(&name) {
            Some(entry) if entry.event == Event::Done => Ok(()),
            _ => self.journal.append(&name, event, None, text),
        }
    }

    fn do_step(&mut self, step: &Step) -> Result<Outcome> {
        match self.work.places.shared(step) {
            Some(folder) => self.do_shared(step, &folder),
            None => self.do_alone(step),
        }
    }

    /// The command of such a step knows for itself which cases are done and unchanged.
    fn do_shared(&mut self, step: &Step, folder: &Path) -> Result<Outcome> {
        let (name, work) = (step.to_string(), self.work);
        let is_others = is_busy(folder) || is_claimed(work.places.out(), &name);
        if self.left_to_others.contains(step) && is_others {
            return Ok(Outcome::Elsewhere);
        }
        let part = self.journal.presence().take_part(&name)?;
        // What a test depends on is there only when its cases are segmented.
        let before = match step {
            Step::Test(_) => None,
            _ => Some(self.fingerprint(step)?),
        };
        if self.journal.start_unless_done(&name)? {
            self.announce(step)?;
        }
        let begun = begin();
        let exit = work.perform(step, self.known()?.last_round())?;
        drop(part);
        self.some_failed |= matches!(exit, Exit::SomeFailed | Exit::Elsewhere(true));
        let claim = match exit {
            Exit::Done | Exit::SomeFailed => self.journal.presence().claim(&name)?,
            Exit::Elsewhere(_) | Exit::Stopped => None,
        };
        match claim {
            Some(claim) => self.close(step, begun, before, claim),
            None => {
                self.journal.append_with(&name, Event::Shared, None, Some(cost_since(begun)), "")?;
                self.left_to_others.insert(step.clone());
                Ok(Outcome::Elsewhere)
            }
        }
    }

    fn do_alone(&mut self, step: &Step) -> Result<Outcome> {
        let name = step.to_string();
        let Some(claim) = self.journal.presence().claim(&name)? else {
            return Ok(Outcome::Elsewhere);
        };
        self.journal.refresh()?;
        let before = self.fingerprint(step)?;
        match self.journal.history().status(&name, &before.0, &before.1) {
            Status::Finished => return Ok(Outcome::Done),
            Status::Changed(changes) => note!("{name}: done again, because {}", changes.join("; ")),
            Status::Open => {}
        }
        self.announce(step)?;
        self.journal.append(&name, Event::Started, None, "")?;
        let begun = begin();
        self.work.perform(step, self.known()?.last_round())?;
        self.close(step, begun, Some(before), claim)
    }

    /// Tells that a step begins.
    fn announce(&self, step: &Step) -> Result<()> {
        let known = self.known()?.expecting(self.work.unlabelled().count());
        let steps = known.steps();
        let place = steps.iter().position(|one| one == step);
        let place = place.map_or(String::new(), |at| format!("[{} of {}] ", at + 1, steps.len()));
        note!("{place}{step}: {}", known.what(step));
        Ok(())
    }

    /// What ends a step, and its entry in the journal, unless that is there already. `before` is what it depended on when it began.
    fn close(&mut self, step: &Step, begun: Instant, before: Option<(Fingerprint, Vec<PathBuf>)>, claim: Claim) -> Result<Outcome> {
        let (name, work) = (step.to_string(), self.work);
        self.journal.refresh()?;
        if *step == Step::Label {
            // Nobody must change who takes part while others plan or train.
            let plan = self.journal.presence().claim(&Step::Plan.to_string())?;
            let is_free = plan.is_some() && !is_any_claimed(work.places.out(), "round_");
            let is_planned = self.journal.history().knows(&Step::Plan.to_string());
            work.after_label(is_free && (work.redo || !is_planned))?;
        }
        let (fingerprint, outputs) = match before {
            Some(before) => before,
            None => self.fingerprint(step)?,
        };
        if self.journal.history().status(&name, &fingerprint, &outputs) != Status::Finished {
            if let Step::Test(round) = step {
                work.score(*round)?;
            }
            let mut cost = cost_since(begun);
            if let Step::Train(round, fold) = step {
                cost.seconds = cost.seconds.max(work.places.trained_seconds(*round, *fold));
            }
            let mut of_work = "";
            if let Some(others) = self.journal.history().shared(&name) {
                cost = cost.with(others);
                of_work = " of work, by several processes";
            }
            self.journal.append_with(&name, Event::Done, Some(fingerprint), Some(cost), "")?;
            let memory = cost
                .peak_memory_bytes
                .map_or(String::new(), |bytes| format!(", {} MiB at most", bytes >> 20));
            note!("{name}: done in {}{of_work}{memory}", clock::spoken(cost.seconds));
        }
        if let Step::Test(round) = step {
            self.some_failed |= work.not_compared(*round)? > 0;
        }
        drop(claim);
        Ok(Outcome::Done)
    }

    /// What a step's result depends on, and the files that it leaves.
    fn fingerprint(&mut self, step: &Step) -> Result<(Fingerprint, Vec<PathBuf>)> {
        let depends = self.work.depends(step, self.known()?.last_round())?;
        let inputs = depends.files.into_iter().map(|(role, path)| Ok((role, self.hashes.of(&path)?)));
        let inputs = inputs.collect::<Result<BTreeMap<_, _>>>()?;
        Ok((Fingerprint::new(inputs, String::new(), depends.settings)?, depends.outputs))
    }
}

/// What this process put into a step.
fn cost_since(begun: Instant) -> Cost {
    Cost {
        seconds: (begun.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
        peak_memory_bytes: machine::peak_memory_bytes(),
    }
}

/// From when on a step's seconds and memory count.
fn begin() -> Instant {
    machine::forget_peak_memory();
    Instant::now()
}
