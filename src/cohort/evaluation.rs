//! A folder of segmentations against a folder of references: which files belong together, and the scores of each case.

use crate::bad_input;
use crate::cohort::groups::Grouping;
use crate::metrics::preset::Preset;
use crate::metrics::scores::{Pair, Scores};
use crate::metrics::summary::Row;
use crate::panics;
use crate::stop::Stop;
use crate::volume::{AxisMap, Volume, is_volume_name};
use anyhow::Result;
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What is compared, and how.
#[derive(Debug)]
pub struct Request {
    /// Folder of the segmentations.
    pub predictions: PathBuf,
    /// Folder of the references.
    pub references: PathBuf,
    /// Whose metrics.
    pub preset: Preset,
    /// Of NSD, in mm.
    pub tolerance: f64,
    /// The label of the references whose voxels do not count.
    pub ignore: Option<u16>,
    /// Groups of cases.
    pub grouping: Grouping,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Evaluation {
    /// A row for each case and class, by their order.
    pub rows: Vec<Row>,
    /// Cases that could not be compared, and why.
    pub failed: Vec<(String, String)>,
    /// Segmentations without a reference.
    pub unmatched: Vec<String>,
}

/// A case's scores of the classes that it has, and what is needed for the others.
struct Case {
    name: String,
    group: String,
    voxels: usize,
    scores: Vec<(u16, Scores)>,
}

/// Compares every reference with the segmentation of its name, several at a time.
///
/// # Errors
/// Folders that cannot be read or hold no volume, a stop.
pub fn evaluate(request: &Request, stop: &Stop, done: impl Fn() + Sync) -> Result<Evaluation> {
    let references = volumes(&request.references)?;
    let predictions = volumes(&request.predictions)?;
    if references.is_empty() {
        bad_input!(
            "{}: holds no .nii.gz or .nii; give the folder of the references",
            request.references.display()
        );
    }
    let cases: Vec<(String, Result<Case>)> = references
        .par_iter()
        .map(|file| {
            stop.check()?;
            let case = panics::catch(|| compare(request, file));
            done();
            Ok((file.clone(), case))
        })
        .collect::<Result<_>>()?;
    let mut evaluation = Evaluation {
        unmatched: predictions.difference(&references).cloned().collect(),
        ..Evaluation::default()
    };
    let classes: BTreeSet<u16> = cases
        .iter()
        .filter_map(|(_, case)| case.as_ref().ok())
        .flat_map(|case| case.scores.iter().map(|(class, _)| *class))
        .collect();
    for (file, case) in cases {
        match case {
            Err(error) => evaluation.failed.push((file, format!("{error:#}"))),
            Ok(case) => evaluation.rows.extend(classes.iter().map(|&class| Row {
                case: case.name.clone(),
                group: case.group.clone(),
                class,
                scores: match case.scores.iter().find(|(own, _)| *own == class) {
                    Some((_, scores)) => scores.clone(),
                    None => Scores::absent(case.voxels),
                },
            })),
        }
    }
    Ok(evaluation)
}

fn compare(request: &Request, file: &str) -> Result<Case> {
    let name = file.trim_end_matches(".gz").trim_end_matches(".nii").to_owned();
    let Some(group) = request.grouping.group_of(&name) else {
        bad_input!("{name}: is in no group; name it in --groups, or change --group-regex");
    };
    let paths = [&request.predictions, &request.references].map(|folder| folder.join(file));
    if !paths[0].is_file() {
        bad_input!(
            "{}: is missing, the reference {} has no segmentation",
            paths[0].display(),
            paths[1].display()
        );
    }
    let [prediction, reference] = [Volume::open(&paths[0])?, Volume::open(&paths[1])?];
    if let Some(difference) = reference.geometry().difference(prediction.geometry()) {
        bad_input!(
            "{}: lies on another grid than its reference {}: {difference}; resample it",
            paths[0].display(),
            paths[1].display()
        );
    }
    let axes = AxisMap::default();
    let [p, r] = [prediction.labels(&axes)?, reference.labels(&axes)?];
    let pair = Pair {
        prediction: &p,
        reference: &r,
        shape: axes.permute(reference.dims()),
        spacing: axes.permute(reference.geometry().spacing),
        ignore: request.ignore,
    };
    let counted = |at: &usize| Some(r[*at]) != request.ignore;
    let classes: BTreeSet<u16> = (0..r.len())
        .filter(counted)
        .flat_map(|at| [p[at], r[at]])
        .filter(|class| *class > 0)
        .collect();
    Ok(Case {
        name,
        group,
        voxels: (0..r.len()).filter(counted).count(),
        scores: classes
            .iter()
            .map(|&class| (class, pair.scores(class, request.preset, request.tolerance)))
            .collect(),
    })
}

/// Names of the volumes in a folder.
fn volumes(folder: &Path) -> Result<BTreeSet<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => bad_input!("{}: cannot be read ({error}); give a folder of label maps", folder.display()),
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names
        .filter(|name| !name.starts_with('.') && is_volume_name(Path::new(name)))
        .collect())
}
