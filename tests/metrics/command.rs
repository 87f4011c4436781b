//! `evaluate` from the command line.

use crate::e2e::Answer;
use hpc_seg::volume::{Header, Voxels, write};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

const DIMS: [usize; 3] = [6, 5, 4];

fn put(path: &Path, dims: [usize; 3], label: impl Fn(usize) -> u8) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let affine = [[2.0, 0.0, 0.0, 1.0], [0.0, 2.0, 0.0, 2.0], [0.0, 0.0, 5.0, 3.0]];
    let header = Header::new(dims, &affine).unwrap();
    let labels: Vec<u8> = (0..dims.iter().product()).map(label).collect();
    write(path, &header, Voxels::U8(&labels), None, &[]).unwrap();
}

fn evaluate(folder: &Path, more: &[&str]) -> Answer {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hpc-seg"));
    command
        .current_dir(folder)
        .args(["evaluate", "--predictions", "p", "--references", "r"])
        .args(more);
    Answer::of(command.output().unwrap())
}

#[test]
fn a_folder_is_compared_with_another_and_bad_cases_fail_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for case in ["A1", "A2", "B1"] {
        put(&at(&format!("r/{case}.nii.gz")), DIMS, |i| u8::from(i % 6 < 3));
        put(&at(&format!("p/{case}.nii.gz")), DIMS, |i| {
            u8::from(i % 6 < if case == "B1" { 4 } else { 3 })
        });
    }
    put(&at("p/extra.nii.gz"), DIMS, |_| 0);
    let files = ["--json", "all.json", "--csv", "all.csv", "--summary", "summary.json"];
    let answer =
        evaluate(folder.path(), &[&files[..], &["--group-regex", "^(.)"]].concat()).expect(0, &["extra.nii.gz: a segmentation without"]);
    assert!(answer.stdout.starts_with("metrics as medpy\n"), "{}", answer.stdout);
    let all: Value = serde_json::from_slice(&fs::read(at("all.json")).unwrap()).unwrap();
    let mean = |group: &str, score: &str| {
        let found = all["means"]
            .as_array()
            .unwrap()
            .iter()
            .find(|m| m["group"] == group && m["score"] == score);
        found.unwrap()["mean"].as_f64().unwrap()
    };
    assert_eq!((mean("A", "dice"), mean("A", "hd")), (1.0, 0.0));
    assert!((mean("B", "dice") - 6.0 / 7.0).abs() < 1e-12);
    assert_eq!(mean("B", "hd"), 2.0, "one voxel along x");
    assert!(
        fs::read_to_string(at("summary.json"))
            .unwrap()
            .contains("\"prediction_file\": \"p/A1.nii.gz\"")
    );
    assert_eq!(fs::read_to_string(at("all.csv")).unwrap().lines().count(), 4);

    // One on another grid, one that is missing, one that is no volume.
    put(&at("p/A1.nii.gz"), [6, 5, 3], |_| 1);
    fs::remove_file(at("p/A2.nii.gz")).unwrap();
    evaluate(folder.path(), &[]).expect(3, &["A1.nii.gz: lies on another grid", "A2.nii.gz: is missing"]);
    fs::write(at("p/B1.nii.gz"), b"no volume").unwrap();
    evaluate(folder.path(), &[]).expect(3, &["B1.nii.gz"]);
    evaluate(folder.path(), &["--preset", "best"]).expect(2, &["the presets are nnunet, care, medpy, monai, simpleitk"]);
    evaluate(folder.path(), &["--tolerance", "nan"]).expect(2, &["--tolerance NaN"]);
    fs::remove_dir_all(at("r")).unwrap();
    evaluate(folder.path(), &[]).expect(2, &["r: cannot be read"]);
}
