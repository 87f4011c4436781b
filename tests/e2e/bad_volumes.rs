//! Unusable unlabelled volumes: the message names file and remedy, and the other cases are done all the same.

use super::{Phantoms, change_voxels, edit, keep_slices, set_i16};
use std::fs;
use std::path::Path;

/// Damages the image of case 001 and demands that it alone fails, with `pieces` in the message and in `failed.csv`.
fn one_fails(damage: impl FnOnce(&Path), pieces: &[&str]) {
    let phantoms = Phantoms::small();
    damage(&phantoms.query(1));
    let named: Vec<&str> = pieces
        .iter()
        .copied()
        .chain(["phantom_001_0000.nii.gz", "1 done, 1 failed (see ", "failed.csv)"])
        .collect();
    phantoms.label("out", &[]).expect(3, &named);
    let list = fs::read_to_string(phantoms.at("out/failed.csv")).unwrap();
    let rows: Vec<&str> = list.lines().collect();
    assert_eq!((rows.len(), rows[0]), (2, "case,stage,error"), "{list}");
    assert!(rows[1].starts_with("phantom_001,reading,"), "{list}");
    for piece in pieces {
        assert!(rows[1].contains(piece), "{piece:?} is not in: {list}");
    }
    assert!(phantoms.at("out/phantom_002.nii.gz").is_file());
    for file in [
        "phantom_001.nii.gz",
        "uncertainty/phantom_001.nii.gz",
        "cases/phantom_001.json",
        "cases/phantom_001.png",
    ] {
        assert!(!phantoms.at("out").join(file).exists(), "{file} of a failed case");
    }
}

#[test]
fn a_truncated_file_fails_alone() {
    let cut = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    };
    one_fails(cut, &["copy", "again"]);
}

#[test]
fn a_header_that_claims_more_than_the_file_holds_fails_alone() {
    one_fails(|path| edit(path, |bytes| set_i16(bytes, 42, 32000)), &["32000 x 64 x 6"]);
}

#[test]
fn an_axis_of_size_zero_fails_alone() {
    one_fails(
        |path| edit(path, |bytes| set_i16(bytes, 46, 0)),
        &["axis 3 has size 0; every axis needs at least one voxel: export the file again"],
    );
}

#[test]
fn voxels_that_are_no_numbers_fail_alone() {
    for (value, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let at = 2 * 64 * 64 + 3 * 64 + 5;
        one_fails(
            |path| change_voxels(path, |voxels| voxels[at] = value),
            &[
                &format!("voxel x 5, y 3, z 2 is {shown}: intensities must be finite"),
                "repair the volume or leave it out",
            ],
        );
    }
}

#[test]
fn a_file_of_another_format_and_an_empty_one_fail_alone() {
    one_fails(
        |path| fs::write(path, b"NRRD0004\ntype: short\n").unwrap(),
        &["NRRD; convert it to .nii.gz first"],
    );
    one_fails(
        |path| fs::write(path, b"").unwrap(),
        &["is empty (0 bytes); copy or export it again"],
    );
}

#[test]
fn a_constant_volume_is_labelled_with_a_warning() {
    for value in [0.0, 100.0] {
        let phantoms = Phantoms::small();
        change_voxels(&phantoms.query(1), |voxels| voxels.fill(value));
        phantoms.label("out", &[]).expect(
            0,
            &[
                "warning: phantom_001: ",
                "phantom_001_0000.nii.gz: the volume is constant after clipping",
            ],
        );
        let warnings = &phantoms.record("out", 1)["warnings"];
        assert!(
            warnings[0]
                .as_str()
                .unwrap()
                .contains("nothing can be segmented in it; check the file"),
            "{warnings}"
        );
        assert_eq!(phantoms.record("out", 2)["warnings"].as_array().unwrap().len(), 0);
    }
}

#[test]
fn negative_intensities_without_a_window_are_said_and_with_one_they_are_not() {
    let phantoms = Phantoms::small();
    for path in [phantoms.image(0), phantoms.query(1), phantoms.query(2)] {
        change_voxels(&path, |voxels| voxels.iter_mut().for_each(|v| *v = *v * 4.0 - 500.0));
    }
    phantoms
        .label("mr", &["--case", "phantom_001"])
        .expect(0, &["probably CT; give its window with --window LEVEL,WIDTH"]);
    let answer = phantoms
        .label("ct", &["--window", "-50,900", "--case", "phantom_001"])
        .expect(0, &[]);
    assert!(!answer.stderr.contains("warning"), "{}", answer.stderr);
    let record = phantoms.record("ct", 1);
    assert_eq!(record["settings"]["window"], serde_json::json!({"level": -50.0, "width": 900.0}));
    assert!(
        record["classes"][0]["volume_ml"].as_f64().unwrap() > 0.0,
        "the window shows the organ: {record}"
    );
}

#[test]
fn volumes_of_one_slice_are_labelled_and_can_label() {
    let phantoms = Phantoms::small();
    keep_slices(&phantoms.query(1), 3..4);
    phantoms.label("query", &["--insertions", "5"]).expect(
        0,
        &["phantom_001 has 1 slices: all of them serve as insertion places, fewer than --insertions 5"],
    );
    assert_eq!(phantoms.record("query", 1)["supports"][0]["places"], serde_json::json!([0]));
    assert!(phantoms.record("query", 1)["mean_uncertainty"].as_f64().unwrap().is_finite());
    for path in [phantoms.image(0), phantoms.labels(0)] {
        keep_slices(&path, 3..4);
    }
    phantoms.label("both", &[]).expect(0, &["2 done"]);
}

#[test]
fn an_insertion_place_beyond_the_volume_fails_the_case_it_does_not_fit() {
    let phantoms = Phantoms::small();
    keep_slices(&phantoms.query(1), 1..4);
    phantoms.label("out", &["--insert-at", "0,4"]).expect(
        3,
        &[
            "phantom_001 failed",
            "--insert-at 4: ",
            "phantom_001_0000.nii.gz has 3 slices; places run from 0 to 2",
            "1 done, 1 failed",
        ],
    );
    assert_eq!(phantoms.record("out", 2)["supports"][0]["places"], serde_json::json!([0, 4]));
}

#[test]
fn a_mended_case_is_done_by_the_same_command_and_leaves_the_list() {
    let phantoms = Phantoms::small();
    let whole = fs::read(phantoms.query(1)).unwrap();
    fs::write(phantoms.query(1), b"").unwrap();
    phantoms.label("out", &[]).expect(3, &[]);
    fs::write(phantoms.query(1), whole).unwrap();
    phantoms
        .label("out", &[])
        .expect(0, &["phantom_002: finished before, skipped", "1 done, 1 were finished before"]);
    assert!(!phantoms.at("out/failed.csv").exists());
}

#[test]
fn half_a_pair_fails_alone() {
    let phantoms = Phantoms::small();
    fs::remove_file(phantoms.query(1)).unwrap();
    fs::write(phantoms.at("data/imagesTs/phantom_001_0000.hdr"), "half").unwrap();
    let remedy = "phantom_001_0000.img (or .gz), which does not exist; put both files into one folder";
    phantoms
        .label("out", &[])
        .expect(3, &["phantom_001_0000.hdr: its voxels should be in", remedy, "1 done, 1 failed"]);
    let list = fs::read_to_string(phantoms.at("out/failed.csv")).unwrap();
    assert!(list.contains(remedy), "{list}");
}

#[test]
fn a_link_to_nothing_fails_alone() {
    let phantoms = Phantoms::small();
    fs::remove_file(phantoms.query(1)).unwrap();
    std::os::unix::fs::symlink("nowhere", phantoms.query(1)).unwrap();
    let answer = phantoms
        .label("out", &[])
        .expect(3, &["phantom_001_0000.nii.gz", "1 done, 1 failed"]);
    let list = phantoms.at("out/failed.csv");
    assert!(answer.stderr.contains(list.to_str().unwrap()), "where to look: {}", answer.stderr);
    let list = fs::read_to_string(list).unwrap();
    assert!(list.lines().count() == 2 && list.contains("phantom_001,start,"), "{list}");
    assert!(phantoms.at("out/phantom_002.nii.gz").is_file());
}

#[test]
fn one_channel_of_several_is_labelled_and_that_is_said() {
    let phantoms = Phantoms::small();
    // Its six slices as two frames of three.
    edit(&phantoms.query(1), |bytes| {
        for (at, size) in [(40, 4), (46, 3), (48, 2)] {
            set_i16(bytes, at, size);
        }
    });
    phantoms
        .label("out", &[])
        .expect(0, &["has 2 channels, of which number 0 is labelled"]);
}
