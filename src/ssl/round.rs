//! A round's data set in nnU-Net's layout: the labelled cases and the pseudo-labelled ones, listed with their files where they lie, and the folds that the round trains.

use crate::unet::splits::Split;
use crate::{atomic_file, bad_input, warning};
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A case with a label of either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: PathBuf,
    /// Its label.
    pub label: PathBuf,
}

/// What the data set is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Of the image, such as MRI or CT.
    pub channel: String,
    /// By value, background first.
    pub labels: Vec<String>,
}

impl Description {
    /// That of `FOLDER/dataset.json` as nnU-Net or the Medical Segmentation Decathlon write it: its channel 0, and its labels if it names all up to `most`, which are else
    /// called by their values. Without the file, an MRI.
    ///
    /// # Errors
    /// A file that is none of theirs: what the images are decides how they are normalised.
    pub fn of(folder: &Path, most: u16) -> Result<Self> {
        let path = folder.join("dataset.json");
        let by_value = || {
            let name = |label: u16| (label > 0).then(|| format!("label_{label}"));
            (0..=most)
                .map(|label| name(label).unwrap_or_else(|| "background".to_owned()))
                .collect()
        };
        if !path.is_file() {
            return Ok(Self {
                channel: "MRI".to_owned(),
                labels: by_value(),
            });
        }
        let text = fs::read_to_string(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
        let json = serde_json::from_str::<Value>(&text).ok();
        let channels = json
            .as_ref()
            .and_then(|json| json.get("channel_names").or_else(|| json.get("modality")));
        let Some(channel) = channels.and_then(|names| names.get("0")?.as_str()) else {
            bad_input!(
                "{}: does not say what the images are; mend it, such as {{\"channel_names\": {{\"0\": \"CT\"}}, ...}}, or remove it (they are taken for MRI then)",
                path.display()
            );
        };
        let labels = json.as_ref().and_then(|json| names_of_labels(json.get("labels")?, most));
        if labels.is_none() {
            warning!(
                "{}: does not name all labels up to {most}, which are called by their values",
                path.display()
            );
        }
        Ok(Self {
            channel: channel.to_owned(),
            labels: labels.unwrap_or_else(by_value),
        })
    }
}

/// By value, from names with values (nnU-Net's) or values with names (the Decathlon's); numbers may be text.
fn names_of_labels(labels: &Value, most: u16) -> Option<Vec<String>> {
    let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
    let labels = labels.as_object()?;
    let named = |label: u16| {
        let wanted = Some(u64::from(label));
        let by_name = labels
            .iter()
            .find(|(_, value)| number(value) == wanted)
            .map(|(name, _)| name.as_str());
        by_name.or_else(|| labels.get(&label.to_string())?.as_str()).map(str::to_owned)
    };
    (0..=most).map(named).collect()
}

/// Writes `FOLDER/dataset.json` with all cases.
///
/// # Errors
/// A name that stands for two cases; a folder that cannot be written.
pub fn write_dataset(folder: &Path, description: &Description, members: &[&Member]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}; choose another --out", folder.display()))?;
    let mut seen = BTreeSet::new();
    if let Some(twice) = members.iter().find(|member| !seen.insert(&member.name)) {
        bad_input!(
            "{}: its name {} stands for two cases; rename one of them",
            twice.image.display(),
            twice.name
        );
    }
    let labels: Map<String, Value> = description
        .labels
        .iter()
        .zip(0..)
        .map(|(name, value): (_, u64)| (name.clone(), value.into()))
        .collect();
    let file = |path: &Path| -> Result<Value> {
        let whole = fs::canonicalize(path).with_context(|| format!("{}: cannot be found", path.display()))?;
        Ok(json!(whole))
    };
    let mut cases = Map::new();
    for member in members {
        let entry = json!({"images": [file(&member.image)?], "label": file(&member.label)?});
        cases.insert(member.name.clone(), entry);
    }
    let json = json!({
        "channel_names": {"0": description.channel},
        "labels": labels,
        "numTraining": members.len(),
        "file_ending": ".nii.gz",
        "dataset": cases,
    });
    write_if_changed(&folder.join("dataset.json"), &json)
}

/// The cases that [`write_dataset`] listed, by name.
///
/// # Errors
/// A file that cannot be read.
pub fn members_of(folder: &Path) -> Result<BTreeMap<String, Member>> {
    let path = folder.join("dataset.json");
    let reading = || format!("{}: cannot be read", path.display());
    let json: Value = serde_json::from_str(&fs::read_to_string(&path).with_context(reading)?).with_context(reading)?;
    let member = |(name, entry): (&String, &Value)| {
        let file = |value: Option<&Value>| Some(PathBuf::from(value?.as_str()?));
        let member = Member {
            name: name.clone(),
            image: file(entry.get("images")?.get(0))?,
            label: file(entry.get("label"))?,
        };
        Some((name.clone(), member))
    };
    let cases = json.get("dataset").and_then(Value::as_object).into_iter().flatten();
    Ok(cases.filter_map(member).collect())
}

/// Writes `FOLDER/splits_final.json`: fold k trains on all labelled cases and the pseudo-labelled ones of the other folds, and holds out its own.
///
/// # Errors
/// A folder that cannot be written.
pub fn write_splits(folder: &Path, labelled: &[Member], folds: &[Vec<String>]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}; choose another --out", folder.display()))?;
    let split = |held_out: &Vec<String>| {
        let others = folds.iter().filter(|fold| *fold != held_out).flatten();
        let mut train: Vec<String> = labelled.iter().map(|member| &member.name).chain(others).cloned().collect();
        train.sort();
        Split {
            train,
            val: held_out.clone(),
        }
    };
    let splits: Vec<Split> = folds.iter().map(split).collect();
    write_if_changed(&folder.join("splits_final.json"), &serde_json::to_value(splits)?)
}

/// Writes a value as indented JSON. What is the same stays as it is, so that nothing made of it looks old.
///
/// # Errors
/// A folder that cannot be written.
pub fn write_if_changed(path: &Path, json: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(json)? + "\n";
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    atomic_file::write_bytes(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unet::dataset::Dataset;

    fn member(folder: &Path, name: &str) -> Member {
        let [image, label] = ["image", "label"].map(|kind| folder.join(format!("{name}_{kind}.nii.gz")));
        [&image, &label].into_iter().for_each(|path| fs::write(path, b"").unwrap());
        Member {
            name: name.to_owned(),
            image,
            label,
        }
    }

    #[test]
    fn a_round_is_a_data_set_whose_folds_never_see_their_own_cases() {
        let folder = tempfile::tempdir().unwrap();
        let members: Vec<Member> = ["l", "a", "b", "c"].iter().map(|name| member(folder.path(), name)).collect();
        let description = Description::of(folder.path(), 2).unwrap();
        assert_eq!(description.labels, ["background", "label_1", "label_2"]);
        let out = folder.path().join("round");
        write_dataset(&out, &description, &members.iter().collect::<Vec<_>>()).unwrap();
        let dataset = Dataset::open(&out).unwrap();
        let cases = dataset.cases().unwrap();
        assert_eq!(cases.len(), 4);
        assert!(cases.iter().all(|case| case.images[0].is_file()));
        let listed = members_of(&out).unwrap();
        assert!(listed.len() == 4 && listed["a"].image.ends_with("a_image.nii.gz") && listed["a"].label.ends_with("a_label.nii.gz"));
        let folds = [vec!["a".to_owned()], vec!["b".to_owned(), "c".to_owned()]];
        write_splits(&out, &members[..1], &folds).unwrap();
        let splits: Vec<Split> = serde_json::from_str(&fs::read_to_string(out.join("splits_final.json")).unwrap()).unwrap();
        assert_eq!(
            (splits[0].train.join(" "), splits[0].val.join(" ")),
            ("b c l".to_owned(), "a".to_owned())
        );
        assert_eq!(
            (splits[1].train.join(" "), splits[1].val.join(" ")),
            ("a l".to_owned(), "b c".to_owned())
        );
        let twice = [&members[0], &members[0]];
        assert!(
            write_dataset(&out, &description, &twice)
                .unwrap_err()
                .to_string()
                .contains("stands for two cases")
        );
    }

    #[test]
    fn names_come_from_the_labelled_folder_where_it_has_them() {
        let folder = tempfile::tempdir().unwrap();
        let of = |json: &str, most: u16| {
            fs::write(folder.path().join("dataset.json"), json).unwrap();
            Description::of(folder.path(), most).map(|found| (found.channel, found.labels.join(" ")))
        };
        let nnunet = r#"{"channel_names": {"1": "T2", "0": "CT"}, "labels": {"background": 0, "liver": 1, "spleen": 2}}"#;
        let text = r#"{"channel_names": {"0": "CT"}, "labels": {"background": "0", "liver": "1"}}"#;
        let decathlon = r#"{"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"}}"#;
        for json in [nnunet, text, decathlon] {
            assert_eq!(of(json, 1).unwrap(), ("CT".to_owned(), "background liver".to_owned()), "{json}");
        }
        // A label that it does not name takes the channel's name along no longer.
        assert_eq!(of(text, 2).unwrap(), ("CT".to_owned(), "background label_1 label_2".to_owned()));
        for broken in ["{", "{}", r#"{"channel_names": ["CT"]}"#] {
            let message = of(broken, 1).unwrap_err().to_string();
            assert!(
                message.contains("dataset.json: does not say what the images are; mend it"),
                "{message}"
            );
        }
    }
}
