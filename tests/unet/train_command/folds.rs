//! What the folds of a model share, and what is refused before anything is trained or lost.

use super::{SMALL, data_set, plan, ready, trained, weights};
use crate::e2e::Phantoms;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const SHORT: [&str; 5] = ["--epochs", "1", "--iterations", "1", "--no-validation"];

/// Phantoms, and two plans for them.
fn two_plans() -> Phantoms {
    let phantoms = data_set(5, [16, 64, 64]);
    plan(&phantoms, "plans", &SMALL).expect(0, &[]);
    plan(&phantoms, "others", &[&SMALL[..6], &["--spacing", "6,5,5"]].concat()).expect(0, &[]);
    phantoms
}

fn with<'a>(plans: &'a Path, fold: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let words = ["--plans", plans.to_str().unwrap(), "--fold", fold];
    [&SHORT[..], &words, more].concat()
}

fn change_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

#[test]
fn other_plans_are_refused_before_anything_is_trained_or_lost() {
    let phantoms = two_plans();
    let [plans, others] = ["plans", "others"].map(|name| phantoms.at(name).join("nnUNetPlans.json"));
    trained(&phantoms, "data", "model", &with(&plans, "0", &[])).expect(0, &["fold_0: trained"]);
    let before = weights(&phantoms, "model");
    for (fold, more) in [("0", &[][..]), ("1", &[]), ("1", &["--restart"])] {
        let answer = trained(&phantoms, "data", "model", &with(&others, fold, more));
        let answer = answer.expect(2, &["fold_0/training.json: this fold was begun with other plans"]);
        assert!(!answer.stderr.contains("epoch 1 of 1"), "{}", answer.stderr);
    }
    // The first command goes on as before, with plans or without.
    trained(&phantoms, "data", "model", &with(&plans, "0", &[])).expect(0, &["fold_0: was finished before"]);
    trained(&phantoms, "data", "model", &[&SHORT[..], &["--fold", "1"]].concat()).expect(0, &["fold_1: trained"]);
    assert!(weights(&phantoms, "model") == before);
    // All folds at once may go over to other plans.
    trained(&phantoms, "data", "model", &with(&others, "0", &["--restart"])).expect(2, &["fold_1/training.json"]);
    trained(&phantoms, "data", "model", &with(&others, "0,1", &["--restart"])).expect(0, &["fold_0: trained", "fold_1: trained"]);
    let spacing = |path: &Path| {
        let json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        json["configurations"]["3d_fullres"]["spacing"].clone()
    };
    assert_eq!(spacing(&phantoms.at("model/plans.json")), spacing(&others));
}

#[test]
fn another_description_is_no_other_model_and_other_labels_are() {
    let phantoms = ready();
    let course = [&SHORT[..], &["--fold"]].concat();
    trained(&phantoms, "pre", "model", &[&course[..], &["0"]].concat()).expect(0, &[]);
    change_json(&phantoms.at("pre/dataset.json"), |json| {
        json["description"] = "phantoms".into();
        json["numTraining"] = 7.into();
    });
    trained(&phantoms, "pre", "model", &[&course[..], &["1"]].concat()).expect(0, &["fold_1: trained"]);
    change_json(&phantoms.at("pre/dataset.json"), |json| json["channel_names"] = json!({"0": "CT"}));
    let answer = trained(&phantoms, "pre", "model", &[&course[..], &["2"]].concat());
    let answer = answer.expect(
        2,
        &["dataset.json: belongs to another model; folds of one model share their channels and labels"],
    );
    assert!(!answer.stderr.contains("epoch 1 of 1"), "{}", answer.stderr);
}

#[test]
fn all_cases_are_those_of_every_fold_and_those_that_none_names() {
    let phantoms = ready();
    let names = ["phantom_000", "phantom_001", "phantom_002", "phantom_003", "phantom_004"];
    let splits = json!([{"train": names[..2], "val": names[2..3]}, {"train": [names[3], names[1]], "val": names[3..4]}]);
    fs::write(phantoms.at("pre/splits_final.json"), splits.to_string()).unwrap();
    trained(&phantoms, "pre", "model", &[&SHORT[..], &["--fold", "all"]].concat()).expect(0, &[]);
    let settings: Value = serde_json::from_slice(&fs::read(phantoms.at("model/fold_all/training.json")).unwrap()).unwrap();
    let cases: Vec<&String> = settings["training_cases"].as_object().unwrap().keys().collect();
    assert_eq!(cases, names);
    let told = "fold 1: 1 of the held-out cases are trained on too, such as phantom_003";
    trained(&phantoms, "pre", "model", &[&SHORT[..], &["--fold", "1"]].concat()).expect(0, &[told]);
}

#[test]
fn held_out_cases_that_are_segmented_stay_until_the_network_is_another() {
    let phantoms = ready();
    let names = ["phantom_000", "phantom_001", "phantom_002"];
    let splits = json!([{"train": names[2..], "val": names[..2]}]);
    fs::write(phantoms.at("pre/splits_final.json"), splits.to_string()).unwrap();
    let course = ["--epochs", "1", "--iterations", "1", "--no-mirroring"];
    trained(&phantoms, "pre", "model", &course).expect(0, &[]);
    let folder = phantoms.at("model/fold_0/validation");
    let made = |number: usize| {
        fs::metadata(folder.join(format!("phantom_00{number}.nii.gz")))
            .unwrap()
            .modified()
            .unwrap()
    };
    let before = [made(0), made(1)];
    fs::remove_file(folder.join("summary.json")).unwrap();
    fs::remove_file(folder.join("phantom_001.nii.gz")).unwrap();
    trained(&phantoms, "pre", "model", &course).expect(0, &["fold_0: the held-out cases"]);
    assert!(folder.join("summary.json").is_file() && made(0) == before[0] && made(1) > before[1]);
    fs::remove_file(phantoms.at("model/fold_0/checkpoint_final.pth")).unwrap();
    trained(&phantoms, "pre", "model", &course).expect(0, &["fold_0: trained"]);
    assert!(made(0) > before[0], "it is of another network");
}

#[test]
fn a_case_that_cannot_be_preprocessed_keeps_training_from_beginning_and_that_is_said() {
    let good = two_plans();
    crate::e2e::change_voxels(&good.labels(1), |voxels| voxels[0] = 9.0);
    let plans = good.at("plans/nnUNetPlans.json");
    trained(&good, "data", "model", &with(&plans, "0", &[])).expect(2, &["nothing was trained", "failed.csv"]);
    assert!(!good.at("model/fold_0").exists());
}

#[test]
fn folds_of_the_data_set_are_taken() {
    let phantoms = data_set(5, [16, 64, 64]);
    plan(&phantoms, "plans", &SMALL).expect(0, &[]);
    let names = ["phantom_000", "phantom_001", "phantom_002", "phantom_003", "phantom_004"];
    let own = phantoms.at("data/splits_final.json");
    let splits = json!([{"train": names[..3], "val": names[3..]}]);
    fs::write(&own, splits.to_string()).unwrap();
    super::preprocessed(&phantoms, &[]).expect(0, &["5 done"]);
    let taken: Value = serde_json::from_slice(&fs::read(phantoms.at("pre/splits_final.json")).unwrap()).unwrap();
    assert_eq!(taken, splits);
    fs::write(&own, json!([{"train": names[1..], "val": names[..1]}]).to_string()).unwrap();
    super::preprocessed(&phantoms, &[]).expect(0, &["other folds than those in"]);
    fs::write(&own, "[]").unwrap();
    super::preprocessed(&phantoms, &[]).expect(2, &["data/splits_final.json: cannot be read"]);
}
