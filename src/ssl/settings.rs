//! The settings of a run: given as flags, in a file, or left at their defaults, and kept with their origin in `OUT/config.toml`.

use crate::ssl::places::Places;
use crate::{atomic_file, bad_input};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Their file in the output folder.
pub const FILE_NAME: &str = "config.toml";

/// What a run's results depend on, besides the files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Folder of volumes with labels.
    pub labelled: PathBuf,
    /// Folder of volumes to be labelled.
    pub unlabelled: PathBuf,
    /// SAM 2.1 or MedSAM2 weights.
    pub weights: PathBuf,
    /// Folder of volumes with references, which nothing is trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<PathBuf>,
    /// Table of lines CASE,GROUP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<PathBuf>,
    /// Expression that takes the group from a case's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_regex: Option<String>,
    /// Most rounds.
    #[serde(default = "default_rounds")]
    pub rounds: usize,
    /// Mean Dice between two rounds' pseudo-labels at which they have settled.
    #[serde(default = "default_settled")]
    pub settled: f64,
    /// Seed of everything that is drawn.
    #[serde(default)]
    pub seed: u64,
    /// Whether a round's networks start from those of the round before.
    #[serde(default)]
    pub warm_start: bool,
    /// Options of `pseudo-label`.
    #[serde(default)]
    pub label_options: String,
    /// Options of `plan`.
    #[serde(default)]
    pub plan_options: String,
    /// Options of `train`.
    #[serde(default)]
    pub train_options: String,
}

fn default_rounds() -> usize {
    3
}

fn default_settled() -> f64 {
    0.99
}

/// Where a setting comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// The file of `--settings`.
    File,
    /// Nowhere.
    Default,
}

/// What a change of makes other pseudo-labels or another plan. (A table of groups counts by what it says, not by where it lies: see [`super::depends`].)
const DECIDING: [&str; 5] = ["group_regex", "seed", "warm_start", "label_options", "plan_options"];
/// What a change of makes other networks, once one is begun: all of them are to be of one kind.
const OF_NETWORKS: &str = "train_options";
/// What is a path; kept whole, so that the settings hold from anywhere.
const PATHS: [&str; 5] = ["labelled", "unlabelled", "weights", "test", "groups"];

impl Settings {
    /// Flags, completed by those of a file and by defaults.
    ///
    /// # Errors
    /// A file that cannot be read, keys or values that make no sense, what is missing.
    pub fn settle(flags: Table, file: Option<&Path>) -> Result<(Self, BTreeMap<String, Origin>)> {
        let mut all = file.map(read).transpose()?.unwrap_or_default();
        if ["groups", "group_regex"].iter().any(|key| flags.contains_key(*key)) {
            all.retain(|key, _| key != "groups" && key != "group_regex");
        }
        let mut origins: BTreeMap<String, Origin> = all.keys().map(|key| (key.clone(), Origin::File)).collect();
        origins.extend(flags.keys().map(|key| (key.clone(), Origin::Flag)));
        all.extend(flags);
        for key in PATHS {
            if let Some(Value::String(path)) = all.get_mut(key) {
                let whole = std::path::absolute(&*path).with_context(|| format!("{path}: is no path"))?;
                *path = whole.to_string_lossy().into_owned();
            }
        }
        if let Some(missing) = ["labelled", "unlabelled", "weights"].iter().find(|key| !all.contains_key(**key)) {
            bad_input!("--{missing} is missing: give it as an option, or in the file of --settings");
        }
        let settings: Self = match all.try_into() {
            Ok(settings) => settings,
            Err(error) => bad_input!(
                "{}: {}; the keys are the options' names with _ for -, as in a run's {FILE_NAME}",
                file.map_or("--settings".to_owned(), |path| path.display().to_string()),
                error.message()
            ),
        };
        settings.check()?;
        Ok((settings, origins))
    }

    fn check(&self) -> Result<()> {
        if self.rounds == 0 || self.rounds > 1000 || !(0.0..=1.0).contains(&self.settled) {
            bad_input!(
                "--rounds {} --settled {}: give at least one round, and a Dice from 0 to 1",
                self.rounds,
                self.settled
            );
        }
        if self.groups.is_some() && self.group_regex.is_some() {
            bad_input!("--groups and --group-regex: give one of them");
        }
        words("--label-options", &self.label_options)?;
        words("--plan-options", &self.plan_options)?;
        let train = words("--train-options", &self.train_options)?;
        if train.iter().any(|word| word == "--no-validation") {
            bad_input!("--train-options --no-validation: the held-out cases are what a round re-labels; leave it out");
        }
        Ok(())
    }

    /// What is different from the settings that `OUT/config.toml` holds, of all that decides labels and plan; empty for a new run.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn changes_since(&self, out: &Path) -> Result<Vec<String>> {
        let path = out.join(FILE_NAME);
        if !path.is_file() {
            return Ok(Vec::new());
        }
        // Keys of an earlier build's may be fewer: they have their defaults.
        let before = Self::of(out)
            .and_then(|before| Ok(Table::try_from(before)?))
            .or_else(|_| read(&path))?;
        let now = Table::try_from(self)?;
        let shown = |value: Option<&Value>| value.map_or("unset".to_owned(), Value::to_string);
        // Options count by their words.
        let meant = |value: Option<&Value>| value.map(|value| value.as_str().and_then(shlex::split).ok_or(value.clone()));
        let networks = Places::new(out).has_begun_networks().then_some(&OF_NETWORKS);
        let changed = DECIDING
            .iter()
            .chain(networks)
            .filter(|key| meant(before.get(**key)) != meant(now.get(**key)));
        Ok(changed
            .map(|key| format!("{key} was {} and is {}", shown(before.get(*key)), shown(now.get(*key))))
            .collect())
    }

    /// Writes `OUT/config.toml`: a line for each setting, with its origin.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn write(&self, out: &Path, origins: &BTreeMap<String, Origin>) -> Result<()> {
        let mut text =
            String::from("# Settings of hpc-seg run, and where each came from. Another run can be given them: --settings FILE\n");
        for (key, value) in Table::try_from(self)? {
            let origin = match origins.get(&key) {
                Some(Origin::Flag) => "flag",
                Some(Origin::File) => "file",
                Some(Origin::Default) | None => "default",
            };
            writeln!(text, "{key} = {value}  # {origin}")?;
        }
        atomic_file::write_bytes(&out.join(FILE_NAME), text.as_bytes())
    }

    /// The settings of an output folder.
    ///
    /// # Errors
    /// A folder that no run was begun in, a file that cannot be read.
    pub fn of(out: &Path) -> Result<Self> {
        let path = out.join(FILE_NAME);
        if fs::metadata(&path).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            bad_input!("{}: holds no {FILE_NAME}; give the --out of an hpc-seg run", out.display());
        }
        Ok(Self::settle(Table::new(), Some(&path))?.0)
    }
}

/// The words of the options of steps, which are given as one text, as a shell would split it: `"--pretrained 'my network.pth'"` are two.
///
/// # Errors
/// A quote that is not closed.
pub fn words(option: &str, text: &str) -> Result<Vec<OsString>> {
    match shlex::split(text) {
        Some(words) => Ok(words.into_iter().map(OsString::from).collect()),
        None => bad_input!("{option} {text:?}: a quote or a \\ has no end; close it"),
    }
}

fn read(path: &Path) -> Result<Table> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => bad_input!("{}: cannot be read ({error}); give a file of settings", path.display()),
    };
    match text.parse() {
        Ok(table) => Ok(table),
        Err(error) => bad_input!(
            "{}: is no TOML: {}; write lines such as rounds = 2",
            path.display(),
            error.to_string().trim_end().replace('\n', " ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        text.parse().unwrap()
    }

    fn needed() -> Table {
        table("labelled = '/l'\nunlabelled = '/u'\nweights = '/w'")
    }

    #[test]
    fn flags_come_before_the_file_and_the_file_before_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mine.toml");
        fs::write(
            &file,
            "labelled = 'l'\nunlabelled = '/u'\nweights = '/w'\nrounds = 5\nseed = 9\ngroups = '/g'",
        )
        .unwrap();
        let (settings, origins) = Settings::settle(table("rounds = 2\ngroup_regex = 'x'"), Some(&file)).unwrap();
        assert_eq!((settings.rounds, settings.seed, settings.settled), (2, 9, 0.99));
        assert!(settings.labelled.is_absolute() && settings.groups.is_none());
        assert_eq!(
            (origins["rounds"], origins["seed"], origins.get("settled")),
            (Origin::Flag, Origin::File, None)
        );
        settings.write(folder.path(), &origins).unwrap();
        let text = fs::read_to_string(folder.path().join(FILE_NAME)).unwrap();
        for line in ["rounds = 2  # flag", "seed = 9  # file", "settled = 0.99  # default"] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert_eq!(Settings::of(folder.path()).unwrap(), settings);
        assert!(settings.changes_since(folder.path()).unwrap().is_empty());
        let other = Settings {
            seed: 1,
            rounds: 7,
            ..settings
        };
        assert_eq!(other.changes_since(folder.path()).unwrap(), ["seed was 9 and is 1"]);
        // Options of training count once a network is begun, by their words; a setting that an earlier build did not know has its default.
        let mut other = Settings {
            seed: 9,
            train_options: "--epochs  3".into(),
            ..other
        };
        assert!(other.changes_since(folder.path()).unwrap().is_empty());
        let fold = folder.path().join("rounds/round_1/model/fold_0");
        fs::create_dir_all(&fold).unwrap();
        fs::write(fold.join("training.json"), "{}").unwrap();
        assert!(other.changes_since(folder.path()).unwrap()[0].starts_with("train_options was"));
        other.write(folder.path(), &origins).unwrap();
        other.train_options = "--epochs 3".into();
        let written = fs::read_to_string(folder.path().join(FILE_NAME)).unwrap();
        let known = written.lines().filter(|line| !line.starts_with("warm_start"));
        fs::write(folder.path().join(FILE_NAME), known.collect::<Vec<_>>().join("\n")).unwrap();
        assert!(other.changes_since(folder.path()).unwrap().is_empty());
    }

    #[test]
    fn options_of_steps_are_split_as_a_shell_splits_them() {
        let text = r#" --pretrained 'my network.pth'  --epochs 3 --x="a b" "#;
        assert_eq!(
            words("--train-options", text).unwrap(),
            ["--pretrained", "my network.pth", "--epochs", "3", "--x=a b"]
        );
        assert!(words("--train-options", "").unwrap().is_empty());
        let error = words("--train-options", "--x 'a").unwrap_err().to_string();
        assert!(error.contains("--train-options") && error.contains("close it"), "{error}");
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |text: &str, piece: &str| {
            let file = folder.path().join("mine.toml");
            fs::write(&file, text).unwrap();
            let error = Settings::settle(needed(), Some(&file)).unwrap_err().to_string();
            assert!(error.contains(piece), "{text}: {error}");
        };
        refused("rounds = 0", "give at least one round");
        refused("settled = 1.5", "a Dice from 0 to 1");
        refused("rounds = 'many'", "mine.toml: invalid type");
        refused("round = 1", "unknown field `round`");
        refused("rounds = ", "is no TOML");
        refused("train_options = '--no-validation'", "what a round re-labels");
        refused("plan_options = '--memory \"10GiB'", "--plan-options");
        assert!(
            Settings::settle(Table::new(), None)
                .unwrap_err()
                .to_string()
                .contains("--labelled is missing")
        );
        assert!(
            Settings::of(folder.path())
                .unwrap_err()
                .to_string()
                .contains("holds no config.toml")
        );
    }
}
