//! Which cases exist: the labelled volumes that will serve as supports, and the unlabelled ones to be labelled.

use crate::bad_input;
use crate::cohort::layouts::{self, Folder, Found};
use anyhow::Result;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A volume with labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelledCase {
    /// The case's name.
    pub name: String,
    /// The image file.
    pub image: PathBuf,
    /// The label file.
    pub labels: PathBuf,
}

/// A volume to be labelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnlabelledCase {
    /// The case's name, which names its results.
    pub name: String,
    /// The image file.
    pub image: PathBuf,
}

/// All cases of a run, each list in the order of the names.
#[derive(Clone, Debug)]
pub struct Cohort {
    /// The volumes with labels; at least one.
    pub labelled: Vec<LabelledCase>,
    /// The volumes to be labelled; at least one.
    pub unlabelled: Vec<UnlabelledCase>,
    /// Folders that images and labels are read from; results must not go there.
    pub input_folders: Vec<PathBuf>,
    /// What the user should know about the folders, in sentences.
    pub remarks: Vec<String>,
}

/// Finds the cases of two folders, which may be one and the same: then the labelled cases are those with a label file and the unlabelled
/// ones those without. Of unlabelled volumes in another folder labels are never read.
///
/// # Errors
/// When a folder holds no case of its kind, or a name stands for two different volumes; the message says what was looked for.
pub fn discover(labelled_folder: &Path, unlabelled_folder: &Path, channel: usize) -> Result<Cohort> {
    let with_labels = layouts::read(labelled_folder, channel)?;
    let without_labels = layouts::read(unlabelled_folder, channel)?;
    let same_folder = is_same(labelled_folder, unlabelled_folder);
    let mut remarks = remarks_on_labels(&with_labels, same_folder);
    let folders = [&with_labels, &without_labels];
    let folders = &folders[..if same_folder { 1 } else { 2 }];
    remarks.extend(folders.iter().filter_map(|folder| remark_on_channels(folder, channel)));
    let labelled: Vec<LabelledCase> = with_labels.cases.iter().filter_map(labelled_case).collect();
    if labelled.is_empty() {
        bad_input!("{}", no_labels_message(labelled_folder, &with_labels));
    }
    let unlabelled = unlabelled_cases(&without_labels, &labelled, same_folder, &mut remarks)?;
    if unlabelled.is_empty() {
        bad_input!(
            "every case in {} has labels: there is nothing to label",
            unlabelled_folder.display()
        );
    }
    let label_folders = labelled.iter().filter_map(|case| Some(case.labels.parent()?.to_path_buf()));
    let mut input_folders = vec![labelled_folder.to_path_buf(), unlabelled_folder.to_path_buf()];
    input_folders.extend(
        with_labels
            .image_folders
            .iter()
            .chain(&without_labels.image_folders)
            .cloned()
            .chain(label_folders),
    );
    input_folders.sort();
    input_folders.dedup();
    Ok(Cohort {
        labelled,
        unlabelled,
        input_folders,
        remarks,
    })
}

/// The cases of a folder that have references to compare with, by name, and what the user should know of the others; see [`layouts::read_test`].
///
/// # Errors
/// When there is none.
pub fn test_cases(folder: &Path) -> Result<(Vec<LabelledCase>, Vec<String>)> {
    let found = layouts::read_test(folder)?;
    let mut remarks = Vec::new();
    let without: Vec<&str> = found
        .cases
        .iter()
        .filter(|case| case.labels.is_none())
        .map(|case| &*case.name)
        .collect();
    if !without.is_empty() {
        remarks.push(format!(
            "--test {}: images without a reference are no test cases: {}",
            folder.display(),
            listed(without.into_iter())
        ));
    }
    let alone: Vec<String> = found.labels_without_image.iter().map(|path| path.display().to_string()).collect();
    if !alone.is_empty() {
        remarks.push(format!(
            "--test {}: references without an image are not compared: {}",
            folder.display(),
            listed(alone.iter().map(String::as_str))
        ));
    }
    remarks.extend(remark_on_channels(&found, 0));
    let mut cases: Vec<LabelledCase> = found.cases.iter().filter_map(labelled_case).collect();
    if cases.is_empty() {
        bad_input!("--test {}: no image has a label file of its name", folder.display());
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((cases, remarks))
}

impl Cohort {
    /// Keeps only the unlabelled cases of these names (all when there is none).
    ///
    /// # Errors
    /// When a name is not among the unlabelled cases.
    pub fn keep_only(&mut self, names: &[String]) -> Result<()> {
        for name in names {
            if !self.unlabelled.iter().any(|case| case.name == *name) {
                let there = listed(self.unlabelled.iter().map(|case| case.name.as_str()));
                bad_input!("--case {name}: there is no unlabelled case of this name; there are {there}");
            }
        }
        self.unlabelled.retain(|case| names.is_empty() || names.contains(&case.name));
        Ok(())
    }
}

fn labelled_case(found: &Found) -> Option<LabelledCase> {
    Some(LabelledCase {
        name: found.name.clone(),
        image: found.image.clone(),
        labels: found.labels.clone()?,
    })
}

/// The cases to label, less those that are supports themselves.
fn unlabelled_cases(
    folder: &Folder,
    supports: &[LabelledCase],
    same_folder: bool,
    remarks: &mut Vec<String>,
) -> Result<Vec<UnlabelledCase>> {
    let supports: BTreeMap<&str, &LabelledCase> = supports.iter().map(|case| (case.name.as_str(), case)).collect();
    let (mut cases, mut own_supports, mut with_labels) = (Vec::new(), Vec::new(), Vec::new());
    for found in folder.cases.iter().filter(|found| !same_folder || found.labels.is_none()) {
        match supports.get(found.name.as_str()) {
            Some(support) if is_same(&support.image, &found.image) => own_supports.push(found.name.as_str()),
            Some(support) => {
                let (name, first, second) = (&found.name, support.image.display(), found.image.display());
                bad_input!(
                    "the case name {name} stands for a labelled volume ({first}) and for another, unlabelled one ({second}); rename one of them"
                );
            }
            None => {
                with_labels.extend(found.labels.is_some().then_some(found.name.as_str()));
                cases.push(UnlabelledCase {
                    name: found.name.clone(),
                    image: found.image.clone(),
                });
            }
        }
    }
    if !own_supports.is_empty() {
        remarks.push(format!(
            "labelled volumes among the unlabelled ones are left out there: {}",
            listed(own_supports.into_iter())
        ));
    }
    if !with_labels.is_empty() {
        let count = with_labels.len();
        remarks.push(format!(
            "{count} of the unlabelled cases have label files, which are not read: {}",
            listed(with_labels.into_iter())
        ));
    }
    Ok(cases)
}

/// Cases that nobody would miss.
fn remark_on_channels(folder: &Folder, channel: usize) -> Option<String> {
    let first = folder.without_channel.first()?;
    Some(format!(
        "{} cases have no image of channel {channel} and are left out: {} is a file of one; name it CASE_{channel:04}, or choose a channel with --channel",
        folder.without_channel.len(),
        first.display()
    ))
}

fn remarks_on_labels(folder: &Folder, same_folder: bool) -> Vec<String> {
    let mut remarks = Vec::new();
    let has_labels = folder.cases.iter().any(|found| found.labels.is_some());
    let without: Vec<&str> = folder
        .cases
        .iter()
        .filter(|found| found.labels.is_none())
        .map(|found| found.name.as_str())
        .collect();
    if has_labels && !same_folder && !without.is_empty() {
        remarks.push(format!(
            "images without a label file are not used as labelled volumes: {}",
            listed(without.into_iter())
        ));
    }
    if !folder.labels_without_image.is_empty() {
        let files: Vec<String> = folder.labels_without_image.iter().map(|path| path.display().to_string()).collect();
        remarks.push(format!(
            "label files without an image of their name are not used: {}",
            listed(files.iter().map(String::as_str))
        ));
    }
    remarks
}

fn no_labels_message(folder: &Path, found: &Folder) -> String {
    let (shown, images) = (folder.display(), found.cases.len());
    if !found.can_hold_labels {
        return format!(
            "{shown} holds {images} images but has no place for labels: a labelled folder has imagesTr and labelsTr, or images and labels \
             (give the folder above them)"
        );
    }
    let example = found.cases.first().map_or("CASE", |case| case.name.as_str());
    let mut message = format!(
        "{shown} holds {images} images but no label file that belongs to one of them, such as labelsTr/{example}.nii.gz or labels/{example}.nii.gz"
    );
    if let Some(label) = found.labels_without_image.first() {
        message += &format!("; there is {}, which has no image: name it like its image", label.display());
    }
    message
}

/// The first few names, and how many there are beyond them.
pub fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.len() {
        0..=6 => names.join(", "),
        count => format!("{} and {} more", names[..5].join(", "), count - 5),
    }
}

/// Whether two paths lead to the same place, through links as well.
pub fn is_same(first: &Path, second: &Path) -> bool {
    first == second || matches!((first.canonicalize(), second.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
