//! What each step of a run does: a command of this program that a user could give too, or a few files put in their place.

use crate::cohort::discover::{Cohort, LabelledCase, UnlabelledCase, discover, is_same, test_cases};
use crate::cohort::groups::Grouping;
use crate::cohort::held_out;
use crate::cohort::postprocessing::{self, Postprocessing};
use crate::cohort::presence::is_any_claimed;
use crate::cohort::runner::Exit;
use crate::device::Device;
use crate::ssl::agreement::agreements;
use crate::ssl::folds::{FOLDS, folds};
use crate::ssl::places::{Places, read_made};
use crate::ssl::round::{Description, Member, write_dataset, write_if_changed, write_splits};
use crate::ssl::settings::{self, Settings};
use crate::ssl::steps::Step;
use crate::stop::Stop;
use crate::unet::dataset::check_one_channel;
use crate::unet::exchange::Fold;
use crate::unet::fingerprint;
use crate::unet::trainer::fold::Prepared;
use crate::unet::trainer::siblings::{forget_other_models, is_of_other_settings};
use crate::volume::{self, AxisMap, Header, Volume, Voxels};
use crate::{atomic_file, bad_input, note, warning};
use anyhow::{Context, Result};
use serde_json::json;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

/// `predict` knows the test cases by this ending.
pub(super) const ENDING: &str = ".nii.gz";

/// Names of a round's pseudo-labelled cases.
const PSEUDO_CASES: &str = "pseudo_cases.txt";

/// What runs a command line of this program: its words, and the option of `run` whose text they end with.
pub type Commands<'a> = dyn Fn(Vec<OsString>, (&str, &str)) -> Result<Exit> + 'a;

/// A run's settings and cases, and where it puts its files.
pub struct Work<'a> {
    /// The settings.
    pub settings: Settings,
    /// The output folder.
    pub places: Places,
    /// Whether folds that were begun by other settings are trained anew, and another plan is made where it has to be.
    pub redo: bool,
    /// Options of `pseudo-label` that choose the device.
    pub device_options: Vec<OsString>,
    /// Runs a command.
    pub commands: &'a Commands<'a>,
    /// Does this program's own arithmetic.
    pub device: &'a Device,
    /// The wish to stop.
    pub stop: &'a Stop,
    pub(super) cohort: Cohort,
    pub(super) test: Vec<LabelledCase>,
    /// Classes and kind of image.
    pub description: Description,
    pub(super) grouping: Grouping,
}

impl<'a> Work<'a> {
    /// Finds the cases.
    ///
    /// # Errors
    /// Folders without cases, labels that cannot be read, groups that make no sense.
    pub fn new(settings: Settings, out: &Path, commands: &'a Commands<'a>, device: &'a Device, stop: &'a Stop) -> Result<Self> {
        let cohort = discover(&settings.labelled, &settings.unlabelled, 0)?;
        let grouping = Grouping::of(settings.groups.as_deref(), settings.group_regex.as_deref())?;
        grouping.assign(&cohort)?;
        let (test, remarks) = settings.test.as_deref().map(test_cases).transpose()?.unwrap_or_default();
        let cases = cohort.labelled.iter().map(|case| &case.name);
        let cases = cases.chain(cohort.unlabelled.iter().map(|case| &case.name));
        let names: Vec<&str> = cases.chain(test.iter().map(|case| &case.name)).map(String::as_str).collect();
        let remarks = cohort.remarks.iter().cloned().chain(remarks).chain(grouping.remark(&names));
        remarks.for_each(|remark| warning!("{remark}"));
        let files = test.iter().flat_map(|case| [&case.image, &case.labels]);
        if let Some(file) = files.into_iter().find(|file| !file.to_string_lossy().ends_with(ENDING)) {
            bad_input!("{}: test cases have to be {ENDING} files; compress it (gzip)", file.display());
        }
        let images = cohort.labelled.iter().chain(&test).map(|case| &case.image);
        for image in images.chain(cohort.unlabelled.iter().map(|case| &case.image)) {
            // One that cannot be read fails by itself, in its turn.
            Header::read(image).map_or(Ok(()), |header| check_one_channel(image, &header))?;
        }
        if let Some(case) = test.iter().find(|case| grouping.group_of(&case.name).is_none()) {
            bad_input!(
                "the test case {} has no group; add it to --groups, or widen --group-regex",
                case.name
            );
        }
        let both = |case: &&LabelledCase| {
            cohort
                .unlabelled
                .iter()
                .any(|other| other.name == case.name || is_same(&other.image, &case.image))
        };
        let count = test.iter().filter(both).count();
        if count > 0 {
            warning!(
                "{count} of the test cases are unlabelled cases too: networks are trained on their images, if not on their references"
            );
        }
        let trained_on = cohort.labelled.iter().map(|case| &case.name);
        if let Some(name) = trained_on.into_iter().find(|name| test.iter().any(|case| case.name == **name)) {
            bad_input!("{name} is a labelled case and a test case; take it out of one of the folders");
        }
        Ok(Self {
            description: Description::of(&settings.labelled, most_label(&cohort)?)?,
            places: Places::new(out),
            redo: false,
            device_options: Vec::new(),
            commands,
            device,
            stop,
            cohort,
            test,
            grouping,
            settings,
        })
    }

    /// Names of the unlabelled cases.
    pub fn unlabelled(&self) -> impl Iterator<Item = &str> {
        self.cohort.unlabelled.iter().map(|case| case.name.as_str())
    }

    /// Runs a command of this program with an option's text at its end.
    pub(super) fn command(&self, mut words: Vec<OsString>, (option, more): (&str, &str)) -> Result<Exit> {
        self.stop.check()?;
        words.extend(settings::words(option, more)?);
        let exit = (self.commands)(words, (option, more))?;
        self.stop.check()?;
        Ok(exit)
    }

    /// Does a step; `last_round` is the last that is known.
    ///
    /// # Errors
    /// What keeps it from being done.
    pub fn perform(&self, step: &Step, last_round: usize) -> Result<Exit> {
        let done = |result: Result<()>| result.map(|()| Exit::Done);
        match step {
            Step::Label => self.label(None),
            Step::LabelCase(case) => self.label(Some(case)),
            Step::Plan => done(self.plan()),
            Step::Preprocess(round) => self.preprocess(*round),
            Step::Train(round, fold) => done(self.train(*round, *fold)),
            Step::Relabel(round) => done(self.relabel(*round)),
            Step::Test(round) => self.test(*round),
            Step::Model => done(self.model(last_round)),
        }
    }

    /// The labelled cases, as members of a data set.
    pub fn labelled(&self) -> Vec<Member> {
        let cases = self.cohort.labelled.iter();
        cases.map(|case| member(&case.name, &case.image, &case.labels)).collect()
    }

    /// The unlabelled cases that take part, with the pseudo-label of a round.
    ///
    /// # Errors
    /// One that is gone.
    pub(super) fn pseudo_labelled(&self, round: usize) -> Result<Vec<Member>> {
        self.check_who_takes_part()?;
        let part: BTreeSet<String> = self.folds()?.into_iter().flatten().collect();
        let mut cases: Vec<_> = self.cohort.unlabelled.iter().filter(|case| part.contains(&case.name)).collect();
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        let pseudo_labelled = |case: &UnlabelledCase| {
            let label = self.places.pseudo_label(round, &case.name);
            if !label.is_file() {
                bad_input!(
                    "{} takes part in this run, but its pseudo-label {} is gone, as when its image cannot be read any more; mend the image, or give --redo to label and train anew",
                    case.name,
                    label.display()
                );
            }
            Ok(member(&case.name, &case.image, &label))
        };
        cases.into_iter().map(pseudo_labelled).collect()
    }

    /// Which case is re-labelled by which fold, of those that take part.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn folds(&self) -> Result<Vec<Vec<String>>> {
        read_made(&self.places.folds())
    }

    /// The same, chosen from the cases that have a pseudo-label now.
    fn choose_folds(&self) -> Result<Vec<Vec<String>>> {
        let has_label = |name: &&str| self.places.pseudo_label(0, name).is_file();
        let named = |name: &str| (name.to_owned(), self.group_of(name));
        let cases: Vec<(String, String)> = self.unlabelled().filter(has_label).map(named).collect();
        if cases.len() < 2 {
            bad_input!(
                "{} unlabelled cases have pseudo-labels; two are needed, so that each is re-labelled by a network that never saw it",
                cases.len()
            );
        }
        Ok(folds(&cases, self.settings.seed))
    }

    pub(super) fn group_of(&self, case: &str) -> String {
        self.grouping.group_of(case).unwrap_or_default()
    }

    /// Folders that volumes are read from.
    pub fn input_folders(&self) -> Vec<PathBuf> {
        let test = self.test.iter().flat_map(|case| [&case.image, &case.labels]);
        let test = test.filter_map(|file| Some(file.parent()?.to_owned()));
        self.cohort.input_folders.iter().cloned().chain(test).collect()
    }

    /// The command that makes the initial pseudo-labels, without `--label-options`.
    pub fn label_words(&self) -> Vec<OsString> {
        self.tffs_words(&self.settings.unlabelled, &self.places.pseudo_labels(0))
    }

    /// TFFS of volumes, into a folder.
    pub(super) fn tffs_words(&self, unlabelled: &Path, out: &Path) -> Vec<OsString> {
        let settings = &self.settings;
        let mut words: Vec<OsString> = vec!["pseudo-label".into()];
        let folders = [
            ("--labelled", settings.labelled.as_path()),
            ("--unlabelled", unlabelled),
            ("--weights", &settings.weights),
            ("--out", out),
        ];
        folders
            .iter()
            .for_each(|(option, path)| words.extend([OsString::from(option), path.into()]));
        words.extend(["--seed".into(), settings.seed.to_string().into()]);
        words.extend(settings.groups.iter().flat_map(|file| ["--groups".into(), file.into()]));
        words.extend(
            settings
                .group_regex
                .iter()
                .flat_map(|pattern| ["--group-regex".into(), pattern.into()]),
        );
        words.extend(self.device_options.iter().cloned());
        words
    }

    pub(super) fn tffs(&self, mut words: Vec<OsString>, case: Option<&str>) -> Result<Exit> {
        words.extend(case.iter().flat_map(|name| ["--case".into(), name.into()]));
        self.command(words, ("--label-options", &self.settings.label_options))
    }

    /// The initial pseudo-labels, of all cases or one.
    fn label(&self, case: Option<&str>) -> Result<Exit> {
        self.tffs(self.label_words(), case)
    }

    /// Who takes part is settled once, unless it `may_change`: a case that is labelled later must not change what others are trained on.
    pub(super) fn after_label(&self, may_change: bool) -> Result<()> {
        let chosen = self.choose_folds()?;
        if may_change || !self.places.folds().is_file() {
            write_if_changed(&self.places.folds(), &json!(chosen))?;
        }
        let part: BTreeSet<String> = self.folds()?.into_iter().flatten().collect();
        for name in self.unlabelled().filter(|name| !part.contains(*name)) {
            match self.places.pseudo_label(0, name).is_file() {
                true => warning!("{name}: was labelled after the others and takes no part in the rounds; --redo lets it"),
                false => warning!("{name}: has no pseudo-label and takes no part in the rounds"),
            }
        }
        Ok(())
    }

    fn dataset(&self, round: usize) -> Result<PathBuf> {
        let folder = self.places.of_round(round, "dataset");
        let (labelled, pseudo) = (self.labelled(), self.pseudo_labelled(round - 1)?);
        write_dataset(&folder, &self.description, &labelled.iter().chain(&pseudo).collect::<Vec<_>>())?;
        Ok(folder)
    }

    /// One plan for all rounds, so that their networks compare. Networks of another plan are removed, in an order that a killed process may break off anywhere.
    fn plan(&self) -> Result<()> {
        let (file, out) = (self.places.plans(), self.places.out());
        let [new, rounds, old] = ["plans.new", "rounds", "rounds.old"].map(|name| out.join(name));
        [&new, &old].into_iter().try_for_each(|folder| remove(folder))?;
        let words = words(&[&"plan", &self.dataset(1)?, &"--out", &new]);
        self.command(words, ("--plan-options", &self.settings.plan_options))?;
        let made = new.join(file.file_name().unwrap_or_default());
        let is_another = fs::read(&file).is_ok_and(|before| fs::read(&made).is_ok_and(|now| now != before));
        if is_another {
            if is_any_claimed(out, "round_") {
                bad_input!("another hpc-seg is training in {} by the plan before; stop it first", out.display());
            }
            note!("the plan is another: the networks of the one before are removed");
            fs::rename(&rounds, &old).with_context(|| format!("cannot rename {}", rounds.display()))?;
        }
        copy(&new.join(fingerprint::FILE), &file.with_file_name(fingerprint::FILE))?;
        copy(&made, &file)?;
        [&new, &old].into_iter().try_for_each(|folder| remove(folder))?;
        self.dataset(1).map(drop)
    }

    /// The cases of a round, ready for training.
    fn preprocess(&self, round: usize) -> Result<Exit> {
        let (dataset, out) = (self.dataset(round)?, self.places.of_round(round, "preprocessed"));
        write_splits(&out, &self.labelled(), &self.folds()?)?;
        let names: String = self.folds()?.iter().flatten().map(|name| format!("{name}\n")).collect();
        atomic_file::write_bytes(&self.places.of_round(round, PSEUDO_CASES), names.as_bytes())?;
        let plans = self.places.plans();
        let words = words(&[&"preprocess", &dataset, &"--plans", &plans, &"--out", &out]);
        let exit = self.command(words, ("", ""))?;
        if matches!(exit, Exit::SomeFailed | Exit::Elsewhere(true)) {
            bad_input!(
                "{}: not every case could be preprocessed; mend or remove those named above",
                out.display()
            );
        }
        Ok(exit)
    }

    /// A round's fold; it segments the cases it never saw in the end.
    fn train(&self, round: usize, fold: usize) -> Result<()> {
        let [preprocessed, model] = ["preprocessed", "model"].map(|name| self.places.of_round(round, name));
        let (before, pseudo) = (
            self.places.checkpoint(round.saturating_sub(1), fold),
            self.places.of_round(round, PSEUDO_CASES),
        );
        let (fold, seed) = (fold.to_string(), self.settings.seed.wrapping_add(round as u64).to_string());
        let train = |restart: bool| {
            let mut words = words(&[&"train", &preprocessed, &"--out", &model, &"--fold", &fold, &"--seed", &seed]);
            if self.settings.warm_start && round > 1 {
                words.extend(["--warm-start".into(), before.clone().into()]);
            }
            // Those that --pseudo-weight is about.
            words.extend(["--pseudo-cases".into(), pseudo.clone().into()]);
            words.extend(restart.then(|| "--restart".into()));
            self.command(words, ("--train-options", &self.settings.train_options))
        };
        match train(false) {
            Err(error) if self.redo && is_of_other_settings(&error) => {
                note!("{error:#}; it is trained anew");
                forget_other_models(&Prepared::open(&preprocessed)?, &model)?;
                train(true)?;
            }
            Err(error) if is_of_other_settings(&error) => {
                return Err(error
                    .context("a fold was begun with other settings or labels; give the same again, or --redo to train such folds anew"));
            }
            other => drop(other?),
        }
        Ok(())
    }

    /// Where a round's networks put the cases they never saw: (case, mask).
    pub(super) fn relabelled(&self, round: usize) -> Result<Vec<(String, PathBuf)>> {
        let model = self.places.of_round(round, "model");
        let folds = self.folds()?.into_iter().enumerate();
        let masks = folds.flat_map(|(fold, names)| held_out_masks(&model, fold, names));
        Ok(masks.collect())
    }

    /// The same of one fold.
    pub(super) fn relabelled_by(&self, round: usize, fold: usize) -> Result<Vec<PathBuf>> {
        let model = self.places.of_round(round, "model");
        let names = self.folds()?.into_iter().nth(fold).unwrap_or_default();
        Ok(held_out_masks(&model, fold, names).map(|(_, mask)| mask).collect())
    }

    /// Collects a round's pseudo-labels, largest components kept where all held-out cases together say that it helps, and compares them with those before.
    fn relabel(&self, round: usize) -> Result<()> {
        let postprocessing = Postprocessing::read(&self.places.of_round(round, "model"))?;
        let out = self.places.pseudo_labels(round);
        fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
        let mut names = Vec::new();
        for (name, mask) in self.relabelled(round)? {
            self.stop.check()?;
            let volume = Volume::open(&mask)?;
            let (mut labels, dims) = (volume.labels_u8()?, AxisMap::default().permute(volume.dims()));
            postprocessing.apply(&mut labels, dims)?;
            let path = self.places.pseudo_label(round, &name);
            volume::write(&path, volume.header(), Voxels::U8(&labels), None, &[])?;
            names.push(name);
        }
        self.forget_labels_of_others(&out, &names)?;
        let [before, after] = [round - 1, round].map(|round| self.places.pseudo_labels(round));
        let agreement = agreements(&before, &after, &names, self.description.labels.len() as u8, self.stop)?;
        note!("round {round}: mean Dice with the pseudo-labels before {:.4}", agreement.mean_dice);
        write_if_changed(&self.places.agreement(round), &serde_json::to_value(agreement)?)
    }

    /// Removes a round's labels of cases that take no part any more: they are of networks that are gone.
    fn forget_labels_of_others(&self, out: &Path, names: &[String]) -> Result<()> {
        let case = |path: &Path| path.file_name()?.to_str()?.strip_suffix(ENDING).map(str::to_owned);
        for path in fs::read_dir(out).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if let Some(name) = case(&path).filter(|name| !names.contains(name)) {
                note!("{name} takes part no longer: its label {} is removed", path.display());
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// The networks of the last round as the product.
    fn model(&self, last: usize) -> Result<()> {
        let (from, to) = (self.places.of_round(last, "model"), self.places.model());
        for file in ["plans.json", "dataset.json", postprocessing::FILE] {
            copy(&from.join(file), &to.join(file))?;
        }
        let count = self.folds()?.len();
        // Of a run with more of them; predict takes all there are.
        (count..FOLDS).try_for_each(|fold| remove(&to.join(format!("fold_{fold}"))))?;
        for fold in 0..count {
            copy(&self.places.checkpoint(last, fold), &self.places.product(fold))?;
        }
        Ok(())
    }
}

fn held_out_masks(model: &Path, fold: usize, names: Vec<String>) -> impl Iterator<Item = (String, PathBuf)> {
    let from = held_out::folder(model, Fold::Number(fold));
    names.into_iter().map(move |name| {
        let mask = from.join(format!("{name}.nii.gz"));
        (name, mask)
    })
}

pub(super) fn words(words: &[&dyn AsRef<OsStr>]) -> Vec<OsString> {
    words.iter().map(|word| word.as_ref().to_owned()).collect()
}

fn member(name: &str, image: &Path, label: &Path) -> Member {
    Member {
        name: name.to_owned(),
        image: image.to_owned(),
        label: label.to_owned(),
    }
}

/// The highest label of the labelled volumes.
fn most_label(cohort: &Cohort) -> Result<u16> {
    let mut most = 0;
    for case in &cohort.labelled {
        let labels = Volume::open(&case.labels)?.labels(&AxisMap::default())?;
        most = most.max(labels.into_iter().max().unwrap_or(0));
    }
    if !(1..255).contains(&most) {
        bad_input!("the labelled volumes' highest label is {most}; labels from 1 to 254 are needed");
    }
    Ok(most)
}

/// Removes a folder, if there is one.
fn remove(folder: &Path) -> Result<()> {
    match folder.is_dir() {
        true => fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display())),
        false => Ok(()),
    }
}

/// Copies a file, whole or not at all.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().unwrap_or(to);
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let bytes = fs::read(from).with_context(|| format!("{}: cannot be read", from.display()))?;
    atomic_file::write_bytes(to, &bytes)
}

/// A link to a file that stays where it is; an older link of the name is replaced.
pub(super) fn link(to: &Path, at: &Path) -> Result<()> {
    let whole = fs::canonicalize(to).with_context(|| format!("{}: cannot be found", to.display()))?;
    if fs::read_link(at).is_ok_and(|there| there == whole) {
        return Ok(());
    }
    let folder = at.parent().unwrap_or(at);
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // Under a name of this process's own first: another one may be reading through the link.
    let own = folder.join(format!("{}link-{}", atomic_file::TEMPORARY_PREFIX, std::process::id()));
    let _ = fs::remove_file(&own);
    #[cfg(unix)]
    let made = std::os::unix::fs::symlink(&whole, &own);
    #[cfg(not(unix))]
    let made = fs::copy(&whole, &own).map(drop);
    made.and_then(|()| fs::rename(&own, at))
        .with_context(|| format!("cannot make a link at {}", at.display()))
}
