//! `run`: pseudo-labels and rounds of training in one command, killed or not, and what it refuses.

use super::{Answer, Phantoms};
use crate::cohort::files_below;
use hpc_seg::weights::Checkpoint;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Instant;

const PLAN: &str = "--patch 8,32,32 --features 4 --batch 2 --spacing 6,4,4";
const TRAIN: &str = "--epochs 1 --iterations 2 --no-mirroring";

/// Labelled 000 and 001, unlabelled 002 to 004.
fn cohort() -> Phantoms {
    Phantoms::new(5, 2, [6, 48, 48])
}

fn command(phantoms: &Phantoms, out: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hpc-seg"));
    command.stdin(Stdio::null()).arg("run");
    for (option, place) in [
        ("--labelled", "data"),
        ("--unlabelled", "data"),
        ("--weights", "demo.safetensors"),
        ("--out", out),
    ] {
        command.arg(option).arg(phantoms.at(place));
    }
    command.args([
        "--label-options",
        "--insertions 1",
        "--plan-options",
        PLAN,
        "--train-options",
        TRAIN,
    ]);
    command.args(more);
    command
}

fn run(phantoms: &Phantoms, out: &str, more: &[&str]) -> Answer {
    Answer::of(command(phantoms, out, more).output().unwrap())
}

/// Pseudo-labels of all rounds, and the networks' weights.
fn results(phantoms: &Phantoms, out: &str) -> (BTreeMap<String, Vec<u8>>, Vec<Vec<f32>>) {
    let folder = phantoms.at(out).join("pseudo_labels");
    let masks = files_below(&folder).into_iter().filter(|file| file.ends_with(".nii.gz"));
    let masks = masks.map(|file| (file.clone(), fs::read(folder.join(file)).unwrap())).collect();
    let weights = |fold: usize| {
        let path = phantoms.at(out).join(format!("model/fold_{fold}/checkpoint_final.pth"));
        let checkpoint = Checkpoint::open(&path).unwrap();
        checkpoint.names().flat_map(|name| checkpoint.f32(name).unwrap()).collect()
    };
    (masks, (0..3).map(weights).collect())
}

#[test]
fn labels_go_through_rounds_and_a_killed_run_ends_the_same() {
    let phantoms = cohort();
    let begun = Instant::now();
    let answer = run(&phantoms, "unbroken", &["--rounds", "2", "--settled", "1"])
        .expect(0, &["round 1: training folds 0,1,2", "round 2: mean Dice"]);
    let whole = begun.elapsed();
    assert!(answer.stdout.contains("not settled yet"), "{}", answer.stdout);
    let (masks, weights) = results(&phantoms, "unbroken");
    for round in 0..3 {
        for case in 2..5 {
            assert!(
                masks.contains_key(&format!("round_{round}/phantom_{case:03}.nii.gz")),
                "round {round}, case {case}"
            );
        }
    }
    assert!(masks["round_1/phantom_002.nii.gz"] != masks["round_0/phantom_002.nii.gz"]);
    let summary: Value = serde_json::from_slice(&fs::read(phantoms.at("unbroken/summary.json")).unwrap()).unwrap();
    assert_eq!(summary["rounds"].as_array().map(Vec::len), Some(2));
    // Nobody trains on the case that it re-labels.
    let splits = fs::read(phantoms.at("unbroken/rounds/round_1/preprocessed/splits_final.json")).unwrap();
    let splits: Vec<BTreeMap<String, Vec<String>>> = serde_json::from_slice(&splits).unwrap();
    assert_eq!(splits.len(), 3);
    for split in &splits {
        assert!(split["val"].len() == 1 && split["train"].len() == 4 && !split["train"].contains(&split["val"][0]));
        assert!(
            ["phantom_000", "phantom_001"]
                .iter()
                .all(|name| split["train"].iter().any(|other| other == name))
        );
    }
    let mut killed = 0;
    for share in [0.2, 0.5, 0.4] {
        let mut child = command(&phantoms, "killed", &["--rounds", "2", "--settled", "1", "--threads", "1"]);
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        sleep(whole.mul_f64(share));
        killed += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(killed > 0, "every run was over before it was killed");
    run(&phantoms, "killed", &["--rounds", "2", "--settled", "1"]).expect(0, &[]);
    let after = results(&phantoms, "killed");
    assert!(after.0 == masks, "{:?}", after.0.keys());
    assert!(after.1 == weights);
    // Labels that agree enough end it: any do, for a Dice of 0.
    run(&phantoms, "unbroken", &["--settled", "0"]).expect(0, &["fold_2: was finished before"]);
    let summary: Value = serde_json::from_slice(&fs::read(phantoms.at("unbroken/summary.json")).unwrap()).unwrap();
    assert_eq!(
        (summary["rounds"].as_array().map(Vec::len), &summary["settled"]),
        (Some(1), &Value::Bool(true))
    );
}

#[test]
fn what_cannot_be_run_is_refused_with_the_remedy() {
    let phantoms = Phantoms::new(3, 2, [6, 48, 48]);
    run(&phantoms, "out", &["--rounds", "0"]).expect(2, &["give at least one round"]);
    run(&phantoms, "out", &["--settled", "1.5"]).expect(2, &["a Dice from 0 to 1"]);
    run(&phantoms, "out", &[]).expect(2, &["1 unlabelled cases have pseudo-labels; two are needed"]);
    let refused = |option: &str, value: &str, pieces: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hpc-seg"));
        command
            .arg("run")
            .arg("--labelled")
            .arg(phantoms.at("data"))
            .arg("--unlabelled")
            .arg(phantoms.at("data"));
        command
            .arg("--weights")
            .arg(phantoms.at("demo.safetensors"))
            .arg("--out")
            .arg(phantoms.at("other"));
        Answer::of(command.args([option, value]).output().unwrap()).expect(2, pieces);
    };
    refused("--label-options", "--nonsense", &["--label-options", "--nonsense"]);
    refused("--train-options", "--no-validation", &["what a round re-labels; leave it out"]);
}
