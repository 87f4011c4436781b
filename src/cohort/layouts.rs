//! How cases lie in a folder: nnU-Net's raw layout, `images/` beside `labels/`, or a flat folder of images.

use crate::bad_input;
use crate::volume::{files_of, is_safe_name};
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// What was looked for, for messages about folders that hold nothing of the kind.
pub const LOOKED_FOR: &str = "imagesTr/CASE_0000.nii.gz with labelsTr/CASE.nii.gz (nnU-Net), imagesTs/CASE_0000.nii.gz, \
images/CASE.nii.gz with labels/CASE.nii.gz, or, for unlabelled images only, CASE.nii.gz directly in the folder; \
file names end in .nii, .nii.gz or .hdr (beside an .img)";

/// An image found in a folder, and its labels if there is a file for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The case's name: the file's name without ending and channel number.
    pub name: String,
    /// The image file.
    pub image: PathBuf,
    /// The label file, if there is one.
    pub labels: Option<PathBuf>,
}

/// All of a folder's cases, in the order of their names.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    /// The cases.
    pub cases: Vec<Found>,
    /// Label files without an image.
    pub labels_without_image: Vec<PathBuf>,
    /// Images of other channels, of cases that have none of the wanted one.
    pub without_channel: Vec<PathBuf>,
    /// Folders in which images were found or expected.
    pub image_folders: Vec<PathBuf>,
    /// Whether the layout has a place for labels at all (a flat folder has none).
    pub can_hold_labels: bool,
}

/// Lists the cases of `folder`, of whichever layout it has; of several channels it takes number `channel`.
///
/// # Errors
/// When the folder cannot be read, holds no case in any known layout, or holds one twice.
pub fn read(folder: &Path, channel: usize) -> Result<Folder> {
    if !folder.is_dir() {
        bad_input!("{} is no folder; give a folder of volumes: {LOOKED_FOR}", folder.display());
    }
    // nnU-Net's labelsTs hold what a test set is compared with: they must never become supports.
    let pairs = [
        ("imagesTr", Some("labelsTr"), true),
        ("imagesTs", None, true),
        ("images", Some("labels"), false),
    ];
    let mut all = Folder::default();
    for (images, labels, has_channels) in pairs {
        if folder.join(images).is_dir() {
            let label_files = labels.map(|labels| folder.join(labels)).filter(|labels| labels.is_dir());
            read_pair(
                &mut all,
                &folder.join(images),
                label_files.as_deref(),
                has_channels.then_some(channel),
            )?;
        }
    }
    if all.image_folders.is_empty() {
        // A folder that is itself called imagesTs is the most common thing to hand to nnU-Net's own predict command.
        let is_nnunet = matches!(folder.file_name().and_then(|name| name.to_str()), Some("imagesTr" | "imagesTs"));
        let channel = is_nnunet.then_some(channel);
        add_cases(&mut all, folder, &BTreeMap::new(), channel)?;
    }
    if all.cases.is_empty() {
        bad_input!(
            "no case found in {} ({}). Looked for: {LOOKED_FOR}",
            folder.display(),
            what_is_there(folder)
        );
    }
    if channel != 0
        && !all
            .image_folders
            .iter()
            .any(|images| images.ends_with("imagesTr") || images.ends_with("imagesTs"))
    {
        bad_input!(
            "--channel {channel} picks files such as CASE_{channel:04}.nii.gz in imagesTr or imagesTs; {} has neither",
            folder.display()
        );
    }
    all.cases.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(twice) = all.cases.windows(2).find(|two| two[0].name == two[1].name) {
        let (first, second) = (twice[0].image.display(), twice[1].image.display());
        bad_input!(
            "the case {} is there twice: {first} and {second}; rename or remove one of them",
            twice[0].name
        );
    }
    Ok(all)
}

/// Lists the cases of a folder whose labels are references to compare with: nnU-Net's `imagesTs` and `labelsTs` first, then the places of labels.
///
/// # Errors
/// When the folder holds no images with labels in any known layout.
pub fn read_test(folder: &Path) -> Result<Folder> {
    let pairs = [
        ("imagesTs", "labelsTs", true),
        ("imagesTr", "labelsTr", true),
        ("images", "labels", false),
    ];
    for (images, labels, has_channels) in pairs {
        let [images, labels] = [images, labels].map(|name| folder.join(name));
        if images.is_dir() && labels.is_dir() {
            let mut all = Folder::default();
            read_pair(&mut all, &images, Some(&labels), has_channels.then_some(0))?;
            return Ok(all);
        }
    }
    bad_input!(
        "--test {}: holds no test cases; looked for imagesTs/CASE_0000.nii.gz with labelsTs/CASE.nii.gz, imagesTr with labelsTr, images with labels",
        folder.display()
    );
}

fn read_pair(all: &mut Folder, images: &Path, labels: Option<&Path>, channel: Option<usize>) -> Result<()> {
    all.can_hold_labels = true;
    let label_files = labels.map_or(Ok(BTreeMap::new()), volumes_by_stem)?;
    let used = add_cases(all, images, &label_files, channel)?;
    let without_image = label_files
        .into_iter()
        .filter(|(stem, _)| !used.contains(stem))
        .map(|(_, path)| path);
    all.labels_without_image.extend(without_image);
    Ok(())
}

/// Adds the images of one folder with their labels, and returns the stems of all label files that belong to an image of any channel.
fn add_cases(all: &mut Folder, images: &Path, labels: &BTreeMap<String, PathBuf>, channel: Option<usize>) -> Result<Vec<String>> {
    all.image_folders.push(images.to_path_buf());
    let (mut used, mut other_channels) = (Vec::new(), Vec::<(String, usize, PathBuf)>::new());
    let cases_before = all.cases.len();
    for (stem, image) in volumes_by_stem(images)? {
        let (name, number) = match channel.and_then(|_| split_channel(&stem)) {
            // Some datasets number their cases with four digits and leave the channel out: then the label carries the full name.
            Some((case, _)) if labels.contains_key(&stem) && !labels.contains_key(case) => (stem.as_str(), 0),
            Some((case, number)) => (case, number),
            None => (stem.as_str(), 0),
        };
        let label = labels.get(name).cloned();
        if let Some(label) = &label {
            // Every case depends on labelled ones, so that half a pair is told before any work.
            [&image, label].into_iter().try_for_each(|file| files_of(file).map(drop))?;
        }
        used.extend(label.is_some().then(|| name.to_string()));
        if number == channel.unwrap_or(0) {
            check_name(name, &image)?;
            all.cases.push(Found {
                name: name.to_string(),
                image,
                labels: label,
            });
        } else {
            other_channels.push((name.to_string(), number, image));
        }
    }
    let taken = &all.cases[cases_before..];
    let names: BTreeSet<&String> = taken.iter().map(|case| &case.name).collect();
    let alone = other_channels.iter().filter(|(name, ..)| !names.contains(name));
    let alone: BTreeMap<&String, &PathBuf> = alone.map(|(name, _, image)| (name, image)).collect();
    all.without_channel.extend(alone.into_values().cloned());
    if taken.is_empty() && !other_channels.is_empty() {
        let numbers: BTreeSet<usize> = other_channels.iter().map(|(_, number, _)| *number).collect();
        let there = numbers.iter().map(|number| format!("_{number:04}")).collect::<Vec<_>>().join(", ");
        let wanted = channel.unwrap_or(0);
        bad_input!(
            "{} has no image of channel {wanted} (_{wanted:04}), only {there}; choose one with --channel",
            images.display()
        );
    }
    Ok(used)
}

/// `liver_07_0001` is channel 1 of `liver_07`.
fn split_channel(stem: &str) -> Option<(&str, usize)> {
    let (case, digits) = stem.rsplit_once('_')?;
    let is_channel = digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_digit()) && !case.is_empty();
    Some((case, digits.parse().ok()?)).filter(|_| is_channel)
}

/// The volumes of one folder by their names without endings; hidden files and anything else are passed over.
pub(super) fn volumes_by_stem(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let reading = || format!("cannot list the folder {}", folder.display());
    let mut volumes = BTreeMap::<String, PathBuf>::new();
    for entry in fs::read_dir(folder).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            bad_input!("the name of {} is not valid UTF-8; rename the file", path.display());
        };
        let Some(stem) = stem_of(name).filter(|_| !name.starts_with('.') && may_be_file(path.metadata())) else {
            continue;
        };
        if let Some(other) = volumes.get(stem) {
            bad_input!(
                "the case {stem} is there twice: {} and {}; rename or remove one of them",
                other.display(),
                path.display()
            );
        }
        volumes.insert(stem.to_string(), path.clone());
    }
    Ok(volumes)
}

/// A link to nothing, or a file that may not be looked at, is a case that fails by itself, and not one that nobody misses.
fn may_be_file(looked_at: io::Result<fs::Metadata>) -> bool {
    looked_at.map_or(true, |metadata| metadata.is_file())
}

fn stem_of(name: &str) -> Option<&str> {
    [".nii.gz", ".nii", ".hdr"]
        .iter()
        .find_map(|ending| name.strip_suffix(ending))
        .filter(|stem| !stem.is_empty())
}

/// Case names become file names of results and journal entries.
fn check_name(name: &str, image: &Path) -> Result<()> {
    if !is_safe_name(name) {
        bad_input!(
            "{:?} gives the case name {name:?}, which cannot name the results safely; rename the file",
            image.display().to_string()
        );
    }
    Ok(())
}

/// A short listing for messages.
fn what_is_there(folder: &Path) -> String {
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    match names.len() {
        0 => "it is empty".to_string(),
        1..=5 => format!("it holds {}", names.join(", ")),
        count => format!("it holds {} and {} more", names[..4].join(", "), count - 4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_may_not_be_looked_at_are_cases_and_folders_are_not() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!may_be_file(folder.path().metadata()));
        for kind in [
            io::ErrorKind::PermissionDenied,
            io::ErrorKind::NotFound,
            io::ErrorKind::StaleNetworkFileHandle,
        ] {
            assert!(may_be_file(Err(kind.into())), "{kind}");
        }
    }

    #[test]
    fn only_four_digits_after_an_underscore_are_a_channel() {
        assert_eq!(split_channel("liver_07_0001"), Some(("liver_07", 1)));
        for stem in ["liver_07", "liver", "_0000", "liver_00001", "liver_+001"] {
            assert_eq!(split_channel(stem), None, "{stem}");
        }
    }

    #[test]
    fn endings_are_taken_off_whole() {
        assert_eq!(stem_of("a.b.nii.gz"), Some("a.b"));
        assert_eq!(stem_of("a.hdr"), Some("a"));
        for name in ["a.img", "a.nii.gz.json", ".nii", "nii"] {
            assert_eq!(stem_of(name), None, "{name}");
        }
    }

    #[test]
    fn names_that_would_harm_are_refused() {
        for name in ["..", "a\nb", ".hidden", "a\\b", &"x".repeat(300)] {
            assert!(check_name(name, Path::new("f")).is_err(), "{name:?}");
        }
        assert!(check_name("Patient 7, 1009-A-S4", Path::new("f")).is_ok());
    }
}
