//! `train` from the command line: from a data set to a model that predicts, stopped and killed at any moment, and what it refuses.

mod folds;

use super::commands::{data_set, plan};
use crate::e2e::{Answer, Phantoms};
use hpc_seg::weights::Checkpoint;
use serde_json::Value;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const SMALL: [&str; 8] = ["--patch", "8,32,32", "--features", "4", "--batch", "2", "--spacing", "6,4,4"];

fn train(phantoms: &Phantoms, from: &str, out: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hpc-seg"));
    command.stdin(Stdio::null()).arg("train").arg(phantoms.at(from));
    command.arg("--out").arg(phantoms.at(out)).args(more);
    command
}

fn trained(phantoms: &Phantoms, from: &str, out: &str, more: &[&str]) -> Answer {
    Answer::of(train(phantoms, from, out, more).output().unwrap())
}

fn started(phantoms: &Phantoms, out: &str, more: &[&str]) -> Child {
    let mut command = train(phantoms, "pre", out, more);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn preprocessed(phantoms: &Phantoms, more: &[&str]) -> Answer {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hpc-seg"));
    command.arg("preprocess").arg(phantoms.at("data"));
    command.arg("--plans").arg(phantoms.at("plans/nnUNetPlans.json"));
    command.arg("--out").arg(phantoms.at("pre")).args(more);
    Answer::of(command.output().unwrap())
}

/// Phantoms with preprocessed cases in `pre`.
fn ready() -> Phantoms {
    let phantoms = data_set(5, [16, 64, 64]);
    plan(&phantoms, "plans", &SMALL).expect(0, &[]);
    preprocessed(&phantoms, &[]).expect(0, &["5 done"]);
    phantoms
}

fn weights(phantoms: &Phantoms, out: &str) -> Vec<(String, Vec<f32>)> {
    let checkpoint = Checkpoint::open(&phantoms.at(out).join("fold_0/checkpoint_final.pth")).unwrap();
    checkpoint
        .names()
        .map(|name| (name.to_owned(), checkpoint.f32(name).unwrap()))
        .collect()
}

#[test]
fn a_data_set_becomes_a_model_that_predicts() {
    let phantoms = data_set(5, [16, 64, 64]);
    plan(&phantoms, "plans", &SMALL).expect(0, &[]);
    let plans = phantoms.at("plans/nnUNetPlans.json");
    let course = ["--plans", plans.to_str().unwrap(), "--epochs", "2", "--iterations", "3"];
    let answer = trained(&phantoms, "data", "model", &course).expect(0, &["5 done", "epoch 2 of 2", "fold_0: trained"]);
    assert!(
        answer.stderr.contains("fold_0: the held-out cases") && answer.stderr.contains("dice"),
        "{}",
        answer.stderr
    );
    for file in [
        "plans.json",
        "dataset.json",
        "fold_0/progress.csv",
        "fold_0/progress.svg",
        "fold_0/events.out.tfevents.hpc-seg",
        "fold_0/training.json",
        "fold_0/validation/summary.json",
    ] {
        assert!(phantoms.at("model").join(file).is_file(), "{file}");
    }
    let summary = fs::read(phantoms.at("model/fold_0/validation/summary.json")).unwrap();
    let summary: Value = serde_json::from_slice(&summary).unwrap();
    assert_eq!(summary["metric_per_case"].as_array().map(Vec::len), Some(1));
    trained(&phantoms, "data", "model", &course).expect(0, &["fold_0: was finished before"]);
    // Trained anew, the fold is compared anew, whenever that is; what was decided for the former networks is forgotten.
    let decided = phantoms.at("model/postprocessing.json");
    fs::write(&decided, "{}").unwrap();
    let anew = [&course[..], &["--restart", "--no-validation"]].concat();
    trained(&phantoms, "data", "model", &anew).expect(0, &["fold_0: trained"]);
    assert!(!phantoms.at("model/fold_0/validation").exists() && !decided.exists());
    trained(&phantoms, "data", "model", &course).expect(0, &["fold_0: was finished before", "fold_0: the held-out cases"]);
    let held_out = fs::read_dir(phantoms.at("model/fold_0/validation")).unwrap();
    let mut names = held_out.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let name = names.find(|name| name.ends_with(".nii.gz")).unwrap();
    let image = name.replace(".nii.gz", "_0000.nii.gz");
    fs::create_dir(phantoms.at("images")).unwrap();
    fs::copy(phantoms.at("data/imagesTr").join(&image), phantoms.at("images").join(&image)).unwrap();
    let predicted = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hpc-seg"));
        command.args(["predict", "--model"]).arg(phantoms.at("model"));
        command.arg("--input").arg(phantoms.at("images"));
        command.arg("--out").arg(phantoms.at("predicted")).args(more);
        Answer::of(command.output().unwrap())
    };
    predicted(&["--folds", "0,0"]).expect(2, &["--folds names 0 twice"]);
    // A copy that was put aside is no network of the model.
    fs::create_dir(phantoms.at("model/fold_0.old")).unwrap();
    fs::write(phantoms.at("model/fold_0.old/checkpoint_final.pth"), "").unwrap();
    predicted(&[]).expect(0, &["fold_0.old: is left out", "1 done"]);
    // The held-out case's prediction is that of `predict`.
    let of = |folder: &str| crate::e2e::read(&phantoms.at(folder).join(&name)).1;
    assert!(of("predicted") == of("model/fold_0/validation"));
}

#[test]
fn sigterm_saves_and_the_same_command_goes_on_to_the_same_weights() {
    let phantoms = ready();
    let course = ["--epochs", "40", "--iterations", "5", "--no-validation"];
    trained(&phantoms, "pre", "unbroken", &course).expect(0, &[]);
    let mut stopped = 0;
    for signal in ["-TERM", "-USR1", "-INT"] {
        let mut child = started(&phantoms, "out", &course);
        let begun = Instant::now();
        let before = fs::read(phantoms.at("out/fold_0/progress.csv")).unwrap_or_default();
        while fs::read(phantoms.at("out/fold_0/progress.csv")).unwrap_or_default() == before && child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(60), "training did not start");
            sleep(Duration::from_millis(1));
        }
        let _ = Command::new("kill").args([signal, &child.id().to_string()]).status();
        match child.wait().unwrap().code() {
            Some(75) => stopped += 1,
            code => assert_eq!(code, Some(0)),
        }
    }
    assert!(stopped > 0, "every run was over before its signal");
    trained(&phantoms, "pre", "out", &course).expect(0, &[]);
    assert!(weights(&phantoms, "unbroken") == weights(&phantoms, "out"));
}

#[test]
fn training_killed_at_any_moment_ends_with_the_same_weights() {
    let phantoms = ready();
    let course = [
        "--epochs",
        "12",
        "--iterations",
        "5",
        "--no-validation",
        "--checkpoint-minutes",
        "0.0001",
    ];
    let begun = Instant::now();
    trained(&phantoms, "pre", "unbroken", &course).expect(0, &[]);
    let whole = begun.elapsed();
    let mut killed = 0;
    for share in [0.1, 0.2, 0.3, 0.25, 0.4, 0.35, 0.15, 0.3] {
        let mut child = started(&phantoms, "out", &course);
        sleep(whole.mul_f64(share));
        killed += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(killed > 0, "every run was over before it was killed");
    // What a kill at the worst moment leaves.
    fs::write(phantoms.at("out/fold_0/.hpc-seg-half"), b"half a checkpoint").unwrap();
    trained(&phantoms, "pre", "out", &course).expect(0, &[]);
    assert!(weights(&phantoms, "unbroken") == weights(&phantoms, "out"));
    let left = fs::read_dir(phantoms.at("out/fold_0"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let unfinished: Vec<String> = left
        .filter(|name| name.starts_with(".hpc-seg-") || name.starts_with("checkpoint_") && name != "checkpoint_final.pth")
        .collect();
    assert!(unfinished.is_empty(), "{unfinished:?}");
}

#[test]
fn pseudo_labels_count_less_and_their_uncertainty_is_stored() {
    let phantoms = ready();
    let maps = phantoms.at("maps");
    fs::create_dir(&maps).unwrap();
    let folder = maps.to_str().unwrap();
    preprocessed(&phantoms, &["--uncertainty", folder]).expect(2, &["holds no CASE.nii.gz of any of the 5 cases"]);
    let (header, voxels) = crate::e2e::read(&phantoms.image(2));
    let path = maps.join("phantom_002.nii.gz");
    let map = |value: f32| {
        let values = vec![value; voxels.len()];
        hpc_seg::volume::write(&path, &header, hpc_seg::volume::Voxels::F32(&values), None, &[]).unwrap();
    };
    map(1.5);
    preprocessed(&phantoms, &["--uncertainty", folder]).expect(3, &["holds 1.5; a map of uncertainty is binary entropy"]);
    map(0.5 * std::f32::consts::LN_2);
    preprocessed(&phantoms, &["--uncertainty", folder]).expect(0, &["1 done"]);
    let stored = hpc_seg::unet::store::StoredCase::open(&phantoms.at("pre/nnUNetPlans_3d_fullres"), "phantom_002").unwrap();
    assert!(stored.view().uncertainty.unwrap().iter().all(|value| (value - 0.5).abs() < 1e-6));
    let course = ["--epochs", "1", "--iterations", "2", "--no-validation", "--fold", "all"];
    trained(&phantoms, "pre", "one", &course).expect(0, &[]);
    let less = [&course[..], &["--pseudo-weight", "0.25"]].concat();
    trained(&phantoms, "pre", "less", &less).expect(0, &[]);
    let losses = ["one", "less"].map(|out| fs::read_to_string(phantoms.at(out).join("fold_all/progress.csv")).unwrap());
    assert!(losses[0] != losses[1]);
    let settings: Value = serde_json::from_slice(&fs::read(phantoms.at("less/fold_all/training.json")).unwrap()).unwrap();
    assert_eq!(settings["pseudo_labelled"], serde_json::json!(["phantom_002"]));
    fs::write(phantoms.at("names"), "phantom_001\n\n phantom_004 \n").unwrap();
    let names = phantoms.at("names");
    let named = [&less[..], &["--pseudo-cases", names.to_str().unwrap()]].concat();
    trained(&phantoms, "pre", "named", &named).expect(0, &[]);
    let settings: Value = serde_json::from_slice(&fs::read(phantoms.at("named/fold_all/training.json")).unwrap()).unwrap();
    assert_eq!(
        settings["pseudo_labelled"],
        serde_json::json!(["phantom_001", "phantom_002", "phantom_004"])
    );
}

#[test]
fn what_cannot_be_trained_is_refused_with_the_remedy() {
    let phantoms = ready();
    let refused = |more: &[&str], pieces: &[&str]| {
        trained(&phantoms, "pre", "out", more).expect(2, pieces);
    };
    refused(&["--fold", "five"], &["--fold five: give 0, 1, 2, 3, 4, or all"]);
    refused(&["--time-budget", "8"], &["--time-budget 8: give a time with its unit"]);
    refused(&["--epochs", "0"], &["--epochs 0: 1 to 1000000"]);
    refused(&["--pseudo-weight=-1"], &["--pseudo-weight -1: give a number from 0"]);
    refused(&["--pseudo-cases", "nowhere"], &["nowhere: cannot be read"]);
    let names = phantoms.at("names");
    fs::write(&names, "phantom_002_0000\n").unwrap();
    refused(
        &["--pseudo-cases", names.to_str().unwrap()],
        &["has no case phantom_002_0000", "without _0000"],
    );
    refused(&["--resume"], &["holds no checkpoint to go on from; leave out --resume"]);
    refused(&["--pretrained", "nowhere.pth"], &["nowhere.pth"]);
    trained(&phantoms, "nowhere", "out", &[]).expect(2, &["dataset.json: cannot be read"]);
    // A damaged case, a missing one, damaged folds.
    let data = phantoms.at("pre/nnUNetPlans_3d_fullres/phantom_001.data");
    let bytes = fs::read(&data).unwrap();
    fs::write(&data, &bytes[..bytes.len() / 2]).unwrap();
    refused(&[], &["phantom_001.data: is incomplete"]);
    fs::remove_file(&data).unwrap();
    trained(&phantoms, "pre", "out", &[]).expect(1, &["phantom_001.data: cannot be read; run hpc-seg preprocess again"]);
    fs::remove_file(phantoms.at("pre/nnUNetPlans_3d_fullres/phantom_001.json")).unwrap();
    refused(&[], &["phantom_001: is named in", "splits_final.json", "failed.csv says why"]);
    fs::write(phantoms.at("pre/splits_final.json"), "[]").unwrap();
    refused(&[], &["splits_final.json: cannot be read; it must hold"]);
}

#[test]
fn data_that_show_nothing_are_told_of() {
    let phantoms = data_set(5, [16, 64, 64]);
    for case in 0..5 {
        crate::e2e::change_voxels(&phantoms.labels(case), |voxels| voxels.fill(0.0));
    }
    let nothing = phantoms.image(3);
    plan(&phantoms, "plans", &SMALL).expect(0, &[]);
    crate::e2e::change_voxels(&nothing, |voxels| voxels.fill(7.0));
    preprocessed(&phantoms, &[]).expect(0, &["phantom_003: channel 0 has one value everywhere", "5 done"]);
    let course = ["--epochs", "1", "--iterations", "1", "--no-validation", "--fold", "all"];
    trained(&phantoms, "pre", "model", &course).expect(0, &["no case has a labelled voxel", "fold_all: trained"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_hpc-seg"));
    command
        .args(["predict", "--no-mirroring", "--folds", "all", "--model"])
        .arg(phantoms.at("model"));
    command.arg("--input").arg(phantoms.at("data/imagesTr"));
    command.arg("--out").arg(phantoms.at("predicted"));
    let answer = Answer::of(command.output().unwrap()).expect(0, &["phantom_003: channel 0 has one value everywhere"]);
    assert!(!answer.stderr.contains("phantom_002: channel"), "{}", answer.stderr);
    // Cases that are preprocessed have their plan.
    let other = ["--plans", "other.json"];
    trained(&phantoms, "pre", "other", &other).expect(2, &["--plans other.json", "leave --plans out"]);
    assert!(!phantoms.at("other").exists());
}

#[test]
fn folds_that_are_started_together_share_the_preprocessing_and_are_all_trained() {
    let phantoms = data_set(6, [16, 64, 64]);
    plan(&phantoms, "plans", &SMALL).expect(0, &[]);
    let plans = phantoms.at("plans/nnUNetPlans.json");
    let start = |fold: &str| {
        let course = [
            "--epochs",
            "1",
            "--iterations",
            "1",
            "--no-validation",
            "--threads",
            "1",
            "--fold",
            fold,
        ];
        let mut command = train(&phantoms, "data", "model", &course);
        command.arg("--plans").arg(&plans).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    for (fold, child) in ["0", "1", "2"].map(|fold| (fold, start(fold))) {
        let trained = format!("fold_{fold}: trained");
        Answer::of(child.wait_with_output().unwrap()).expect(0, &[&trained]);
    }
}
