//! An evaluation compares a folder of label maps with a folder of references, case by case, and sums up by group and class.
//!
//! Cases are matched by file name (`CASE.nii.gz`, `.nii` or `.hdr`). A case that cannot be compared fails by itself: the others go on.

mod export;
mod summing;

use crate::cohort::discover::listed;
use crate::cohort::groups::Grouping;
use crate::cohort::layouts::volumes_by_stem;
use crate::messages::{self, Level, Progress};
use crate::metrics::distance::Grid;
use crate::metrics::measures::{Maps, Measure, Preset, of_class};
use crate::metrics::overlap::{Overlap, Overlaps};
use crate::stop::Stop;
use crate::volume::{AxisMap, Volume};
use crate::{bad_input, panics, warning};
use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub use summing::{Mean, Row};

/// What is compared, and how.
pub struct Request {
    /// Folder of the label maps that are judged.
    pub predictions: PathBuf,
    /// Folder of the references, with the same file names.
    pub references: PathBuf,
    /// Names of the cases to compare; empty: all that either folder has.
    pub only: Vec<String>,
    /// Which measures.
    pub preset: Preset,
    /// Tolerances of the NSD, mm.
    pub tolerances_mm: Vec<f64>,
    /// Labels that are compared; none: all but 0 that occur.
    pub classes: Vec<u16>,
    /// Voxels of the reference with this label are left out.
    pub ignored: Option<u16>,
    /// Which group a case belongs to.
    pub grouping: Grouping,
    /// Seed of the intervals.
    pub seed: u64,
}

/// One class of one case.
#[derive(Clone, Debug)]
pub struct Score {
    /// Voxels.
    pub overlap: Overlap,
    /// One value per measure: NaN where there is none, infinite where the class was missed; see [`crate::metrics::measures`].
    pub values: Vec<f64>,
}

/// A compared case.
#[derive(Clone, Debug)]
pub struct Case {
    /// The case's name.
    pub name: String,
    /// Its group.
    pub group: String,
    /// The files.
    pub prediction: PathBuf,
    /// The files.
    pub reference: PathBuf,
    /// By class; the same classes for all cases.
    pub scores: BTreeMap<u16, Score>,
    /// Labels of the reference that were not asked for.
    pub left_out: Vec<u16>,
}

/// What came out.
pub struct Evaluation {
    /// As asked.
    pub request: Request,
    /// What [`Score::values`] are.
    pub measures: Vec<Measure>,
    /// By name.
    pub cases: Vec<Case>,
    /// Cases that could not be compared, and why.
    pub failed: Vec<(String, String)>,
}

/// A pair of files to be.
struct Pair {
    group: String,
    prediction: Option<PathBuf>,
    reference: Option<PathBuf>,
}

impl Request {
    /// Compares all cases, on the threads of the current pool.
    ///
    /// # Errors
    /// Folders that cannot be read or share no case, options that make no sense, a case without a group, a stop.
    pub fn run(self, stop: &Stop) -> Result<Evaluation> {
        self.check()?;
        let pairs = self.pairs()?;
        let measures = self.preset.measures(&self.tolerances_mm);
        let progress = Progress::new("evaluate");
        progress.stage("cases", pairs.len() as u64);
        let (mut cases, mut failed) = (Vec::new(), Vec::new());
        for (name, pair) in pairs {
            stop.check()?;
            match panics::catch(|| self.compare(&name, &pair, &measures)) {
                Ok(case) => cases.push(case),
                Err(error) => {
                    let text = format!("{error:#}").replace(['\n', '\r'], " ");
                    messages::say(Level::Error, format_args!("{name} failed: {text}"));
                    failed.push((name, text));
                }
            }
            progress.advance(1);
        }
        self.fill_in_absent_classes(&mut cases, &measures);
        Ok(Evaluation {
            request: self,
            measures,
            cases,
            failed,
        })
    }

    fn check(&self) -> Result<()> {
        if let Some(wrong) = self.tolerances_mm.iter().find(|mm| !(mm.is_finite() && **mm >= 0.0)) {
            bad_input!("--tolerance {wrong}: give a distance in mm, 0 or more, such as 3");
        }
        if let Some(twice) = (1..self.tolerances_mm.len()).find(|&at| self.tolerances_mm[..at].contains(&self.tolerances_mm[at])) {
            bad_input!("--tolerance {}: is given twice", self.tolerances_mm[twice]);
        }
        if self.classes.contains(&0) {
            bad_input!("--classes: 0 is the background, which is not compared; name labels from 1");
        }
        if let Some(ignored) = self.ignored.filter(|label| self.classes.contains(label)) {
            bad_input!("--ignore-label {ignored}: --classes asks for the same label; take it out of one of them");
        }
        Ok(())
    }

    /// All names of either folder, with what there is.
    fn pairs(&self) -> Result<BTreeMap<String, Pair>> {
        let [mut predictions, mut references] = [
            volumes(&self.predictions, "--predictions")?,
            volumes(&self.references, "--references")?,
        ];
        let names: BTreeSet<String> = predictions.keys().chain(references.keys()).cloned().collect();
        let is_wanted = |name: &String| self.only.is_empty() || self.only.contains(name);
        let names: BTreeSet<String> = names.into_iter().filter(is_wanted).collect();
        if !names
            .iter()
            .any(|name| predictions.contains_key(name) && references.contains_key(name))
        {
            let [ours, theirs] = [&predictions, &references].map(|files| listed(files.keys().map(String::as_str)));
            bad_input!(
                "{} and {} have no case in common; {ours} against {theirs}: give the files of a case the same name",
                self.predictions.display(),
                self.references.display()
            );
        }
        let without: Vec<&str> = names
            .iter()
            .map(String::as_str)
            .filter(|name| self.grouping.group_of(name).is_none())
            .collect();
        if !without.is_empty() {
            bad_input!(
                "{} cases have no group: {}; add lines CASE,GROUP for them to --groups, or widen --group-regex",
                without.len(),
                listed(without.into_iter())
            );
        }
        let pair = |name: String| {
            let pair = Pair {
                group: self.grouping.group_of(&name).unwrap_or_default(),
                prediction: predictions.remove(&name),
                reference: references.remove(&name),
            };
            (name, pair)
        };
        Ok(names.into_iter().map(pair).collect())
    }

    fn compare(&self, name: &str, pair: &Pair, measures: &[Measure]) -> Result<Case> {
        let (prediction, reference) = match (&pair.prediction, &pair.reference) {
            (Some(prediction), Some(reference)) => (prediction, reference),
            (None, Some(reference)) => bad_input!(
                "{} has no prediction in {}; predict it, or take the reference away",
                reference.display(),
                self.predictions.display()
            ),
            (Some(prediction), _) => bad_input!(
                "{} has no reference in {}; add it, or take the prediction away",
                prediction.display(),
                self.references.display()
            ),
            _ => bad_input!("{name} has no files"),
        };
        let [judged, truth] = [open(prediction)?, open(reference)?];
        if let Some(difference) = judged.geometry().difference(truth.geometry()) {
            bad_input!(
                "{} and {} lie on different grids: {difference}; resample the prediction to the reference",
                prediction.display(),
                reference.display()
            );
        }
        if let Some(contradiction) = truth.geometry().contradiction() {
            warning!("{}: {contradiction}", reference.display());
        }
        let axes = AxisMap::default();
        let maps = [judged.labels(&axes)?, truth.labels(&axes)?];
        let maps = Maps {
            prediction: &maps[0],
            reference: &maps[1],
            grid: Grid {
                shape: axes.permute(truth.dims()),
                spacing: axes.permute(truth.geometry().spacing),
            },
            ignored: self.ignored,
        };
        let overlaps = Overlaps::count(maps.prediction, maps.reference, maps.grid.shape, maps.ignored)?;
        let classes: Vec<u16> = match self.classes[..] {
            [] => overlaps.classes().filter(|class| self.ignored != Some(*class)).collect(),
            _ => self.classes.clone(),
        };
        let score = |class: u16| Score {
            overlap: overlaps.of(class),
            values: of_class(measures, maps, &overlaps, class),
        };
        let is_left_out = |class: &u16| overlaps.of(*class).referred() > 0 && !classes.contains(class) && self.ignored != Some(*class);
        let left_out = overlaps.classes().filter(is_left_out).collect();
        // Class 0 is nobody's; it carries the number of compared voxels to the classes that this case lacks.
        let scores = classes.into_iter().chain([0]).map(|class| (class, score(class))).collect();
        Ok(Case {
            name: name.to_owned(),
            group: pair.group.clone(),
            prediction: prediction.clone(),
            reference: reference.clone(),
            scores,
            left_out,
        })
    }

    /// Gives all cases the same classes.
    fn fill_in_absent_classes(&self, cases: &mut [Case], measures: &[Measure]) {
        let classes: BTreeSet<u16> = cases
            .iter()
            .flat_map(|case| case.scores.keys().copied())
            .filter(|class| *class != 0)
            .collect();
        for case in cases {
            let Some(absent) = case.scores.remove(&0) else { continue };
            debug_assert_eq!(absent.values.len(), measures.len());
            for &class in &classes {
                case.scores.entry(class).or_insert_with(|| absent.clone());
            }
        }
    }
}

fn volumes(folder: &Path, option: &str) -> Result<BTreeMap<String, PathBuf>> {
    if !folder.is_dir() {
        bad_input!("{option} {}: there is no such folder", folder.display());
    }
    let volumes = volumes_by_stem(folder)?;
    if volumes.is_empty() {
        bad_input!(
            "{option} {}: holds no label map; give the folder with CASE.nii.gz, .nii or .hdr directly in it",
            folder.display()
        );
    }
    Ok(volumes)
}

fn open(path: &Path) -> Result<Volume> {
    let volume = Volume::open(path)?;
    if volume.channels() != 1 {
        bad_input!(
            "{}: has {} channels, a label map has one; export it as a three-dimensional map",
            path.display(),
            volume.channels()
        );
    }
    Ok(volume)
}
