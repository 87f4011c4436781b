//! A raw data set in nnU-Net's layout: `dataset.json`, `imagesTr/CASE_0000.nii.gz` (a file per channel), `labelsTr/CASE.nii.gz`.

use crate::volume::{AxisMap, Header, Volume, is_safe_name};
use crate::{bad_input, warning};
use anyhow::{Context, Result};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::f32::consts::LN_2;
use std::fs;
use std::path::{Path, PathBuf};

/// The name of a label that says nothing is known of its voxels.
const IGNORE: &str = "ignore";

/// What `dataset.json` says.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// Its folder.
    pub folder: PathBuf,
    /// Names of the channels, by number.
    pub channels: Vec<String>,
    /// Names of the labels by value, background (0) first; without `ignore`.
    pub labels: Vec<String>,
    /// The value that stands for unknown voxels: one more than the highest label.
    pub ignore: Option<u16>,
    /// `numTraining`.
    pub training_cases: usize,
    /// `.nii.gz` or `.nii`.
    pub ending: String,
    /// The file, word for word.
    pub json: Value,
}

/// The files of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseFiles {
    /// Its name.
    pub name: String,
    /// A file per channel.
    pub images: Vec<PathBuf>,
    /// None for a case that is to be predicted.
    pub label: Option<PathBuf>,
    /// How uncertain a pseudo-label is: a map as `hpc-seg pseudo-label` writes it.
    pub uncertainty: Option<PathBuf>,
}

/// A case's voxels in the files' order: [z, y, x].
#[derive(Clone, Debug)]
pub struct RawCase {
    /// Voxels along z, y, x.
    pub shape: [usize; 3],
    /// Along z, y, x in mm; single precision, widened, as ITK gives it.
    pub spacing: [f64; 3],
    /// A channel after the other.
    pub image: Vec<Vec<f32>>,
    /// Labels, if there are any.
    pub label: Option<Vec<i16>>,
    /// From 0 to 1, if the case has such a map.
    pub uncertainty: Option<Vec<f32>>,
    /// Of the first channel, for whoever writes a result.
    pub header: Header,
}

impl Dataset {
    /// Reads `FOLDER/dataset.json`.
    ///
    /// # Errors
    /// A file that is missing or no `dataset.json` of nnU-Net's; regions, which are not supported; labels with gaps.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("dataset.json");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => bad_input!(
                "{}: cannot be read ({error}); a data set in nnU-Net's layout has one, beside imagesTr and labelsTr",
                path.display()
            ),
        };
        let Ok(json) = serde_json::from_str::<Value>(&text) else {
            bad_input!("{}: is no JSON; repair it", path.display());
        };
        Self::of(folder, &json).with_context(|| format!("{}: cannot be used", path.display()))
    }

    /// From the content of `dataset.json`.
    ///
    /// # Errors
    /// As [`Dataset::open`].
    pub fn of(folder: &Path, json: &Value) -> Result<Self> {
        let object = |key: &str| json.get(key).and_then(Value::as_object);
        let Some(names) = object("channel_names").or_else(|| object("modality")) else {
            bad_input!("it has no \"channel_names\"; give one such as {{\"0\": \"MRI\"}}");
        };
        let Some(labels) = object("labels") else {
            bad_input!("it has no \"labels\"; give them such as {{\"background\": 0, \"liver\": 1}}");
        };
        let ending = json.get("file_ending").and_then(Value::as_str).unwrap_or_default();
        if !matches!(ending, ".nii.gz" | ".nii") {
            bad_input!("\"file_ending\" is {ending:?}; volumes are read from .nii.gz and .nii");
        }
        let reader = json
            .get("overwrite_image_reader_writer")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if reader.ends_with("WithReorient") {
            bad_input!(
                "\"overwrite_image_reader_writer\" is {reader:?}; volumes are taken as they are stored: reorient them, and leave the key out"
            );
        }
        let (labels, ignore) = labels_by_value(labels)?;
        Ok(Self {
            folder: folder.to_path_buf(),
            channels: channels_by_number(names)?,
            labels,
            ignore,
            training_cases: json.get("numTraining").and_then(Value::as_u64).unwrap_or(0) as usize,
            ending: ending.to_owned(),
            json: json.clone(),
        })
    }

    /// Classes a network tells apart, background among them.
    pub fn classes(&self) -> usize {
        self.labels.len()
    }

    /// Entries of `labels`, `ignore` among them.
    pub fn label_entries(&self) -> usize {
        self.labels.len() + usize::from(self.ignore.is_some())
    }

    /// The training cases by name.
    ///
    /// # Errors
    /// Channels or labels that are missing, with the file's name; no case at all.
    pub fn cases(&self) -> Result<Vec<CaseFiles>> {
        let cases = match self.json.get("dataset").and_then(Value::as_object) {
            Some(table) => self.listed(table)?,
            None => self.found(&self.folder.join("imagesTr"), Some(&self.folder.join("labelsTr")))?,
        };
        let files = cases.iter().flat_map(|case| case.images.iter().chain(&case.label));
        if let Some(missing) = files.clone().find(|file| !file.is_file()) {
            bad_input!(
                "{}: is missing; every case of imagesTr needs all its channels and its label",
                missing.display()
            );
        }
        Ok(cases)
    }

    /// `dataset.json` without its list of cases, if it has one: what a model is of, wherever its cases lay.
    pub fn description(&self) -> Value {
        let mut json = self.json.clone();
        if let Some(map) = json.as_object_mut() {
            map.shift_remove("dataset");
        }
        json
    }

    /// The cases of a folder of images, `CASE_0000.nii.gz` and so on, for each channel a file; labels are those of `labels`, if given.
    ///
    /// # Errors
    /// A folder that cannot be read, or holds no such file.
    pub fn found(&self, images: &Path, labels: Option<&Path>) -> Result<Vec<CaseFiles>> {
        let entries = match fs::read_dir(images) {
            Ok(entries) => entries,
            Err(error) => bad_input!("{}: cannot be read ({error}); give a folder of images", images.display()),
        };
        let names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect();
        let numbered = |name: &String| Some(self.case_and_channel(name)?.0.to_owned());
        let cases: BTreeSet<String> = names.iter().filter_map(numbered).collect();
        if cases.is_empty() {
            bad_input!(
                "{}: holds no CASE_0000{}; name the channels' files so",
                images.display(),
                self.ending
            );
        }
        if let Some(folder) = labels {
            self.warn_of_labels_alone(folder, &cases);
        }
        let is_volume = |name: &&String| {
            let name = name.to_ascii_lowercase();
            [".nii", ".nii.gz", ".hdr", ".hdr.gz"].iter().any(|ending| name.ends_with(ending))
        };
        let mut others: Vec<&String> = names.iter().filter(is_volume).filter(|name| numbered(name).is_none()).collect();
        others.sort();
        if let Some(first) = others.first() {
            warning!(
                "{}: volumes that are left out: {}, such as {first}; images are called CASE_0000{}",
                images.display(),
                others.len(),
                self.ending
            );
        }
        self.warn_of_other_channels(images, &names);
        if let Some(name) = cases.iter().find(|name| !is_safe_name(name)) {
            bad_input!("{}: {name:?} cannot name the results safely; rename the files", images.display());
        }
        let file = |case: &str, channel: usize| images.join(format!("{case}_{channel:04}{}", self.ending));
        let files = |name: String| CaseFiles {
            images: (0..self.channels.len()).map(|channel| file(&name, channel)).collect(),
            label: labels.map(|labels| labels.join(format!("{name}{}", self.ending))),
            uncertainty: None,
            name,
        };
        Ok(cases.into_iter().map(files).collect())
    }

    /// `CASE_0001.nii.gz` is channel 1 of CASE.
    fn case_and_channel<'n>(&self, name: &'n str) -> Option<(&'n str, usize)> {
        let (case, digits) = name.strip_suffix(&self.ending)?.rsplit_once('_')?;
        let is_channel = digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_digit());
        Some((case, digits.parse().ok()?)).filter(|_| is_channel)
    }

    /// Says which files are of channels that `dataset.json` does not have: they are not looked at.
    fn warn_of_other_channels(&self, images: &Path, names: &[String]) {
        let is_beyond = |name: &&String| {
            self.case_and_channel(name)
                .is_some_and(|(_, channel)| channel >= self.channels.len())
        };
        let mut beyond: Vec<&String> = names.iter().filter(is_beyond).collect();
        beyond.sort();
        if let Some(first) = beyond.first() {
            warning!(
                "{}: files of channels beyond the {} of dataset.json, which are left out: {}, such as {first}",
                images.display(),
                self.channels.len(),
                beyond.len()
            );
        }
    }

    /// Says which label maps have no image: a name that was mistyped would take a case away without a word.
    fn warn_of_labels_alone(&self, folder: &Path, cases: &BTreeSet<String>) {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let alone = |name: String| {
            name.strip_suffix(&self.ending)
                .filter(|case| !cases.contains(*case) && !case.starts_with('.'))
                .map(str::to_owned)
        };
        let mut alone: Vec<String> = names.filter_map(alone).collect();
        alone.sort();
        if let Some(first) = alone.first() {
            let (count, ending) = (alone.len(), &self.ending);
            warning!(
                "{}: label maps without an image: {count}, such as {first}{ending}; name them like their images, without the channel",
                folder.display()
            );
        }
    }

    /// The cases of the key `dataset`.
    fn listed(&self, table: &Map<String, Value>) -> Result<Vec<CaseFiles>> {
        let place = |value: &Value| value.as_str().map(|path| self.folder.join(path));
        let case = |(name, entry): (&String, &Value)| {
            let images: Option<Vec<PathBuf>> = entry.get("images").and_then(Value::as_array)?.iter().map(place).collect();
            let label = place(entry.get("label")?)?;
            Some((
                name.clone(),
                CaseFiles {
                    name: name.clone(),
                    images: images?,
                    label: Some(label),
                    uncertainty: None,
                },
            ))
        };
        let cases: Option<BTreeMap<String, CaseFiles>> = table.iter().map(case).collect();
        if let Some(name) = table.keys().find(|name| !is_safe_name(name)) {
            bad_input!(
                "{}: the case name {name:?} cannot name the results safely; give another",
                self.folder.join("dataset.json").display()
            );
        }
        match cases {
            Some(cases) if !cases.is_empty() && cases.values().all(|case| case.images.len() == self.channels.len()) => {
                Ok(cases.into_values().collect())
            }
            _ => bad_input!(
                "{}: \"dataset\" must give each case \"images\", a file per channel, and a \"label\"",
                self.folder.join("dataset.json").display()
            ),
        }
    }

    /// Gives the cases their maps of uncertainty, FOLDER/CASE.nii.gz, where there is one.
    ///
    /// # Errors
    /// A folder without any.
    pub fn find_uncertainty(&self, cases: &mut [CaseFiles], folder: &Path) -> Result<()> {
        for case in cases.iter_mut() {
            let path = folder.join(format!("{}{}", case.name, self.ending));
            case.uncertainty = path.is_file().then_some(path);
        }
        if cases.iter().all(|case| case.uncertainty.is_none()) {
            bad_input!(
                "{}: holds no CASE{} of any of the {} cases; give the folder OUT/uncertainty of hpc-seg pseudo-label",
                folder.display(),
                self.ending,
                cases.len()
            );
        }
        Ok(())
    }

    /// Reads a case and checks that its files fit each other and the labels `dataset.json`.
    ///
    /// # Errors
    /// A file that cannot be read, has another grid than the first channel, or NaN; labels that `dataset.json` does not know.
    pub fn load(&self, case: &CaseFiles) -> Result<RawCase> {
        let axes = AxisMap::default();
        let volumes = case.images.iter().map(|path| open_one(path)).collect::<Result<Vec<_>>>()?;
        let Some(first) = volumes.first() else {
            bad_input!("{}: a case without any image", case.name);
        };
        for volume in &volumes {
            same_grid(first, volume)?;
            if let Some(([x, y, z], value)) = volume.first_non_finite()? {
                bad_input!(
                    "{}: voxel ({x}, {y}, {z}) is {value}, and must be a finite number below 3.4e38; repair the volume or leave the case out",
                    volume.path().display()
                );
            }
        }
        let label = match &case.label {
            None => None,
            Some(path) => {
                let volume = open_one(path)?;
                same_grid(first, &volume)?;
                let labels = volume.labels(&axes)?;
                let most = (self.label_entries() - 1) as u16;
                if let Some(label) = labels.iter().find(|label| **label > most) {
                    bad_input!(
                        "{}: has label {label}, which dataset.json does not know; its labels end at {most}",
                        path.display()
                    );
                }
                Some(labels.into_iter().map(|label| label as i16).collect())
            }
        };
        let uncertainty = match &case.uncertainty {
            None => None,
            Some(path) => Some(read_uncertainty(first, path, &axes)?),
        };
        Ok(RawCase {
            uncertainty,
            shape: axes.permute(first.dims()),
            spacing: axes.permute(first.geometry().spacing),
            image: volumes.iter().map(|volume| volume.voxels_f32(&axes)).collect::<Result<_>>()?,
            label,
            header: first.header().clone(),
        })
    }
}

/// A file of one channel.
fn open_one(path: &Path) -> Result<Volume> {
    let volume = Volume::open(path)?;
    check_one_channel(path, volume.header())?;
    Ok(volume)
}

/// Refuses a file of several channels: which of them is meant nobody has said.
///
/// # Errors
/// That there are several.
pub fn check_one_channel(path: &Path, header: &Header) -> Result<()> {
    if header.channels() > 1 {
        bad_input!(
            "{}: holds {} volumes; nnU-Net's layout has a file for each channel (CASE_0000, CASE_0001, ...) and one for labels: split it",
            path.display(),
            header.channels()
        );
    }
    Ok(())
}

/// A map as `hpc-seg pseudo-label` writes it: binary entropy in nats, of which ln 2 is the most.
fn read_uncertainty(first: &Volume, path: &Path, axes: &AxisMap) -> Result<Vec<f32>> {
    let volume = open_one(path)?;
    same_grid(first, &volume)?;
    let mut map = volume.voxels_f32(axes)?;
    if let Some(value) = map.iter().find(|value| !(**value >= 0.0 && **value < 1.0)) {
        bad_input!(
            "{}: holds {value}; a map of uncertainty is binary entropy in nats, from 0 to 0.693",
            path.display()
        );
    }
    map.iter_mut().for_each(|value| *value = (*value / LN_2).min(1.0));
    Ok(map)
}

fn same_grid(first: &Volume, other: &Volume) -> Result<()> {
    if let Some(difference) = first.geometry().difference(other.geometry()) {
        bad_input!(
            "{}: lies on another grid than {}: {difference}; resample it, or leave the case out",
            other.path().display(),
            first.path().display()
        );
    }
    Ok(())
}

fn channels_by_number(names: &Map<String, Value>) -> Result<Vec<String>> {
    let name = |channel: usize| names.get(&channel.to_string()).and_then(Value::as_str).map(str::to_owned);
    match (0..names.len()).map(name).collect() {
        Some(channels) if !names.is_empty() => Ok(channels),
        _ => bad_input!("\"channel_names\" must be numbered \"0\", \"1\", ... and have a text each"),
    }
}

/// Names by value, and the value of `ignore`.
fn labels_by_value(labels: &Map<String, Value>) -> Result<(Vec<String>, Option<u16>)> {
    let mut by_value = BTreeMap::new();
    for (name, value) in labels {
        let single = match value.as_array().map(Vec::as_slice) {
            Some([value]) => value.as_u64(),
            Some(_) => bad_input!("label {name:?} is a region of several values; regions are not supported, give every label one value"),
            None => value.as_u64().or_else(|| value.as_str()?.parse().ok()),
        };
        let Some(value) = single.filter(|value| *value < 255) else {
            bad_input!("label {name:?} is {value}; labels are whole numbers from 0 to 254");
        };
        if by_value.insert(value, name.clone()).is_some() {
            bad_input!("label {value} is given twice");
        }
    }
    if by_value.keys().copied().ne(0..by_value.len() as u64) {
        let values: Vec<u64> = by_value.into_keys().collect();
        bad_input!("the labels are {values:?}; they must run from 0 (background) without gaps");
    }
    let mut names: Vec<String> = by_value.into_values().collect();
    let ignore = match names.iter().position(|name| name == IGNORE) {
        None => None,
        Some(at) if at > 0 && at + 1 == names.len() => {
            names.pop();
            Some(at as u16)
        }
        Some(at) => bad_input!("the label \"{IGNORE}\" is {at}; it must be the highest"),
    };
    if names.len() < 2 {
        bad_input!("there is no label besides the background");
    }
    Ok((names, ignore))
}
