//! Unusable labels: every case that would use them fails with the label file's name, others do not.

use super::{Phantoms, change_voxels, edit, keep_slices, set_f32};
use std::fs;
use std::path::Path;

/// Damages the labels of the only labelled case and demands the message.
fn all_fail(damage: impl FnOnce(&Path), pieces: &[&str]) {
    let phantoms = Phantoms::new(2, 1, [6, 64, 64]);
    damage(&phantoms.labels(0));
    let named: Vec<&str> = pieces
        .iter()
        .copied()
        .chain(["labelsTr/phantom_000.nii.gz", "0 done, 1 failed (see ", "failed.csv)"])
        .collect();
    phantoms.label("out", &[]).expect(3, &named);
    assert!(!phantoms.at("out/phantom_001.nii.gz").exists());
}

#[test]
fn masks_that_are_empty_everywhere_are_refused() {
    all_fail(
        |path| change_voxels(path, |voxels| voxels.fill(0.0)),
        &["no labelled volume shows any class: every mask is empty (", "check the label files"],
    );
}

#[test]
fn labels_of_another_shape_are_refused() {
    all_fail(
        |path| keep_slices(path, 0..5),
        &["[64, 64, 5]", "[64, 64, 6]", "labels must lie on their image's grid"],
    );
}

#[test]
fn labels_elsewhere_in_the_patient_are_refused() {
    let shift = |bytes: &mut Vec<u8>| {
        for at in [268, 292] {
            let x = f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            set_f32(bytes, at, x + 40.0); // qoffset_x and the last column of srow_x
        }
    };
    all_fail(
        |path| edit(path, shift),
        &[
            "the labels lie elsewhere than their image",
            "imagesTr/phantom_000_0000.nii.gz",
            "resample",
        ],
    );
}

#[test]
fn values_that_are_no_labels_are_refused_with_their_place() {
    let at = 2 * 64 * 64 + 3 * 64 + 5;
    for (value, piece) in [
        (0.5, "voxel [5, 3, 2] (x, y, z from 0) has the value 0.5, which is no label"),
        (-1.0, "has the value -1, which is no label"),
        (f32::NAN, "has the value NaN, which is no label"),
        (300.0, "label 300 is above 255; renumber the classes"),
    ] {
        all_fail(|path| change_voxels(path, |voxels| voxels[at] = value), &[piece]);
    }
}

#[test]
fn one_empty_mask_of_several_is_left_out_and_said() {
    let phantoms = Phantoms::new(3, 2, [6, 64, 64]);
    phantoms.label("both", &["--insertions", "2"]).expect(0, &[]);
    assert_eq!(phantoms.record("both", 2)["classes"][0]["runs"], 4);
    change_voxels(&phantoms.labels(0), |voxels| voxels.fill(0.0));
    phantoms
        .label("one", &["--insertions", "2"])
        .expect(0, &["warning: phantom_002: ", "labelsTr/phantom_000.nii.gz", "every mask is empty"]);
    let record = phantoms.record("one", 2);
    assert_eq!(record["classes"][0]["runs"], 2);
    assert_eq!(record["supports"].as_array().unwrap().len(), 1, "{record}");
    assert_eq!(record["supports"][0]["case"], "phantom_001");
    fs::remove_file(phantoms.labels(0)).unwrap();
    fs::remove_file(phantoms.image(0)).unwrap();
    phantoms.label("alone", &["--insertions", "2"]).expect(0, &[]);
    assert!(
        phantoms.mask("one", 2) == phantoms.mask("alone", 2),
        "an empty mask leaves no trace in the result"
    );
}

#[test]
fn a_labelled_image_that_shows_nothing_is_said() {
    let phantoms = Phantoms::new(2, 1, [6, 64, 64]);
    change_voxels(&phantoms.image(0), |voxels| voxels.fill(0.0));
    phantoms
        .label("out", &[])
        .expect(0, &["imagesTr/phantom_000_0000.nii.gz: the volume is constant after clipping"]);
}

#[test]
fn a_bad_labelled_volume_fails_only_the_cases_of_its_group() {
    let phantoms = Phantoms::new(4, 2, [6, 64, 64]);
    fs::write(phantoms.labels(0), b"").unwrap();
    fs::write(
        phantoms.at("groups.csv"),
        "phantom_000,a\nphantom_001,b\nphantom_002,a\nphantom_003,b\n",
    )
    .unwrap();
    let table = phantoms.at("groups.csv");
    phantoms.label("out", &["--groups", table.to_str().unwrap()]).expect(
        3,
        &[
            "phantom_002 failed",
            "labelsTr/phantom_000.nii.gz: is empty (0 bytes)",
            "1 done, 1 failed",
        ],
    );
    assert_eq!(phantoms.record("out", 3)["supports"][0]["case"], "phantom_001");
}
