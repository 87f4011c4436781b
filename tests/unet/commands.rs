//! `plan` and `preprocess` from the command line: the same bytes however they are run, killed or not, and errors that name the file.

use crate::e2e::{Answer, Phantoms, edit};
use hpc_seg::unet::plan::Plans;
use hpc_seg::unet::store::StoredCase;
use hpc_seg::volume::{Header, Voxels, write};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// Phantoms with a `dataset.json`, so that they are a data set of nnU-Net's.
pub fn data_set(cases: usize, size: [usize; 3]) -> Phantoms {
    let phantoms = Phantoms::new(cases, cases, size);
    let json =
        json!({"channel_names": {"0": "MRI"}, "labels": {"background": 0, "liver": 1}, "numTraining": cases, "file_ending": ".nii.gz"});
    fs::write(phantoms.at("data/dataset.json"), json.to_string()).unwrap();
    phantoms
}

pub fn plan(phantoms: &Phantoms, out: &str, more: &[&str]) -> Answer {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hpc-seg"));
    command
        .arg("plan")
        .arg(phantoms.at("data"))
        .arg("--out")
        .arg(phantoms.at(out))
        .args(more);
    Answer::of(command.output().unwrap())
}

fn preprocess(phantoms: &Phantoms, out: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hpc-seg"));
    command.arg("preprocess").arg(phantoms.at("data"));
    command.arg("--plans").arg(phantoms.at("plans/nnUNetPlans.json"));
    command.arg("--out").arg(phantoms.at(out)).args(more);
    command
}

fn preprocessed(phantoms: &Phantoms, out: &str, more: &[&str]) -> Answer {
    Answer::of(preprocess(phantoms, out, more).output().unwrap())
}

/// All results but the journal, by name.
fn results(phantoms: &Phantoms, out: &str) -> BTreeMap<String, Vec<u8>> {
    let mut results = phantoms.results(out);
    results.remove("nnUNetPlans_3d_fullres/journal.jsonl").expect("there is a journal");
    results
}

#[test]
fn a_data_set_is_planned_and_preprocessed_with_the_same_bytes_for_any_threads() {
    let phantoms = data_set(6, [12, 40, 48]);
    let answer = plan(&phantoms, "plans", &["--threads", "1"]).expect(0, &[]);
    assert!(answer.stdout.contains("6 cases, resampled to"), "{}", answer.stdout);
    plan(&phantoms, "again", &["--threads", "3"]).expect(0, &[]);
    assert!(phantoms.results("plans") == phantoms.results("again"));
    preprocessed(&phantoms, "one", &["--threads", "1"]).expect(0, &["6 done"]);
    preprocessed(&phantoms, "nine", &["--threads", "9"]).expect(0, &["6 done"]);
    assert!(results(&phantoms, "one") == results(&phantoms, "nine"));
    preprocessed(&phantoms, "one", &[]).expect(0, &["6 were finished before"]);
    let splits: Value = serde_json::from_slice(&results(&phantoms, "one")["splits_final.json"]).unwrap();
    assert_eq!(splits.as_array().map(Vec::len), Some(5));
    let plans = Plans::read(&phantoms.at("one/nnUNetPlans.json")).unwrap();
    let case = StoredCase::open(&phantoms.at("one").join(&plans.configuration.data_identifier), "phantom_003").unwrap();
    let view = case.view();
    assert!(view.label.contains(&1) && view.locations[0].0 == [1] && !view.locations[0].1.is_empty());
}

#[test]
fn preprocessing_killed_at_any_moment_ends_with_the_same_files() {
    let phantoms = data_set(5, [16, 64, 64]);
    plan(&phantoms, "plans", &["--spacing", "3,1,1"]).expect(0, &[]);
    preprocessed(&phantoms, "whole", &["--threads", "1"]).expect(0, &["5 done"]);
    let mut interrupted = 0;
    for milliseconds in [5, 40, 80, 120, 200, 300] {
        let mut command = preprocess(&phantoms, "killed", &["--threads", "1"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        sleep(Duration::from_millis(milliseconds));
        interrupted += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(interrupted > 0, "every run was over before it was killed");
    // What a kill at the worst moments leaves.
    for folder in ["killed", "killed/gt_segmentations", "killed/nnUNetPlans_3d_fullres"] {
        fs::create_dir_all(phantoms.at(folder)).unwrap();
        fs::write(phantoms.at(folder).join(".hpc-seg-half"), b"half").unwrap();
    }
    preprocessed(&phantoms, "killed", &[]).expect(0, &[]);
    assert!(results(&phantoms, "whole") == results(&phantoms, "killed"));
}

#[test]
fn bad_cases_fail_alone_and_bad_data_sets_before_any_work() {
    let phantoms = data_set(7, [6, 40, 48]);
    plan(&phantoms, "plans", &[]).expect(0, &[]);
    plan(&phantoms, "new", &["--memory", "10MiB", "--patch", "8,32,32"])
        .expect(2, &["a training step of this plan takes", "smaller --patch"]);
    for coarse in [["--spacing", "500,500,500"], ["--patch", "7,7,7"]] {
        plan(&phantoms, "new", &coarse).expect(
            2,
            &["makes no network of two stages", "choose a finer --spacing or a larger --patch"],
        );
    }
    plan(&phantoms, "new", &["--spacing", "1,500,1"]).expect(2, &["one slice each at the plan's spacing"]);
    // A label that dataset.json does not know, a label on another grid, an image with NaN, two volumes in one file, an image in metres.
    let voxels = 6 * 40 * 48;
    let header = |case: usize, slices: usize| {
        let affine = crate::e2e::read(&phantoms.image(case)).0.geometry().affine;
        Header::new([48, 40, slices], &affine).unwrap()
    };
    let mut labels = vec![0u8; voxels];
    labels[77] = 2;
    write(&phantoms.labels(1), &header(1, 6), Voxels::U8(&labels), None, &[]).unwrap();
    write(&phantoms.labels(2), &header(2, 5), Voxels::U8(&labels[..voxels / 6 * 5]), None, &[]).unwrap();
    let mut image = vec![1f32; voxels];
    image[5] = f32::NAN;
    write(&phantoms.image(3), &header(3, 6), Voxels::F32(&image), None, &[]).unwrap();
    let two = vec![1f32; 2 * voxels];
    write(&phantoms.image(5), &header(5, 6), Voxels::F32(&two), Some(2), &[]).unwrap();
    for file in [phantoms.image(6), phantoms.labels(6)] {
        edit(&file, |bytes| bytes[123] = 1);
    }
    preprocessed(&phantoms, "out", &[]).expect(
        3,
        &[
            "phantom_001.nii.gz: has label 2, which dataset.json does not know",
            "phantom_002.nii.gz: lies on another grid",
            "phantom_003_0000.nii.gz: voxel (5, 0, 0) is NaN",
            "phantom_005_0000.nii.gz: holds 2 volumes; nnU-Net's layout has a file for each channel",
            "phantom_006_0000.nii.gz: at the plan's spacing of",
            "mm: check the header's units",
            "2 done, 5 failed",
        ],
    );
    plan(&phantoms, "new", &[]).expect(2, &["leave the case out"]);
    // A fill value in an organ.
    let few = data_set(3, [6, 40, 48]);
    let organ = crate::e2e::read(&few.labels(1)).1.iter().position(|label| *label > 0.0).unwrap();
    crate::e2e::change_voxels(&few.image(1), |voxels| voxels[organ] = 1e20);
    plan(&few, "new", &[]).expect(2, &["phantom_001: channel 0 has intensities up to 1e20", "leave the case out"]);
    fs::copy(phantoms.labels(4), phantoms.at("data/labelsTr/phantom_4.nii.gz")).unwrap();
    preprocessed(&phantoms, "out", &[]).expect(3, &["labelsTr: label maps without an image: 1, such as phantom_4.nii.gz"]);
    // Cases that came and went since the folds were made, and a name that is no case's.
    let of = |folder: &str, name: &str| phantoms.at("data").join(folder).join(name);
    fs::copy(phantoms.image(0), of("imagesTr", "later_0000.nii.gz")).unwrap();
    fs::copy(phantoms.labels(0), of("labelsTr", "later.nii.gz")).unwrap();
    for file in [phantoms.image(5), phantoms.labels(5)] {
        fs::remove_file(file).unwrap();
    }
    for name in ["foo.nii.gz", "bar_0000.NII.GZ", "phantom_000_0001.nii.gz"] {
        fs::write(of("imagesTr", name), "").unwrap();
    }
    preprocessed(&phantoms, "out", &[]).expect(
        3,
        &[
            "still trained on cases that the data set has no longer: phantom_005",
            "no network but that of --fold all is trained on cases that came later: later",
            "volumes that are left out: 2, such as bar_0000.NII.GZ",
            "channels beyond the 1 of dataset.json, which are left out: 1, such as phantom_000_0001.nii.gz",
        ],
    );
    fs::remove_file(phantoms.labels(4)).unwrap();
    preprocessed(&phantoms, "out", &[]).expect(2, &["phantom_004.nii.gz: is missing"]);
    fs::remove_file(phantoms.at("data/dataset.json")).unwrap();
    preprocessed(&phantoms, "out", &[]).expect(2, &["dataset.json: cannot be read"]);
    plan(&phantoms, "new", &["--patch", "3,4"]).expect(2, &["--patch takes three numbers"]);
    plan(&phantoms, "new", &["--spacing", "1,0,1"]).expect(2, &["millimetres are positive"]);
}

#[test]
fn case_names_of_a_list_stay_within_the_output_folder() {
    let phantoms = data_set(5, [6, 32, 32]);
    let path = phantoms.at("data/dataset.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json["dataset"] = json!({"../evil": {"images": ["imagesTr/phantom_000_0000.nii.gz"], "label": "labelsTr/phantom_000.nii.gz"}});
    fs::write(&path, json.to_string()).unwrap();
    plan(&phantoms, "plans", &[]).expect(2, &["dataset.json: the case name \"../evil\" cannot name the results safely"]);
}
