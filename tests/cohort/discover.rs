//! Each layout is found, and each mistake is told with what to do about it.

use super::{folder_of, put};
use hpc_seg::cohort::discover::{Cohort, discover};
use std::path::Path;

fn found(labelled: &Path, unlabelled: &Path) -> Cohort {
    discover(labelled, unlabelled, 0).unwrap()
}

fn message(labelled: &Path, unlabelled: &Path, channel: usize) -> String {
    let error = discover(labelled, unlabelled, channel).unwrap_err();
    assert!(hpc_seg::error::is_input_error(&error), "not an input error: {error}");
    error.to_string()
}

fn labelled_names(cohort: &Cohort) -> Vec<&str> {
    cohort.labelled.iter().map(|case| case.name.as_str()).collect()
}

fn unlabelled_names(cohort: &Cohort) -> Vec<&str> {
    cohort.unlabelled.iter().map(|case| case.name.as_str()).collect()
}

/// Two folders with one case each, for tests that add to them.
fn pair() -> (tempfile::TempDir, tempfile::TempDir) {
    (folder_of(&["images/a.nii.gz", "labels/a.nii.gz"]), folder_of(&["images/u.nii.gz"]))
}

#[test]
fn one_nnunet_folder_serves_both_kinds() {
    let folder = folder_of(&[
        "imagesTr/b_0000.nii.gz",
        "imagesTr/a_0000.nii.gz",
        "imagesTr/c_0000.nii.gz",
        "labelsTr/a.nii.gz",
        "imagesTs/t_0000.nii.gz",
        "labelsTs/t.nii.gz",
        "dataset.json",
    ]);
    let cohort = found(folder.path(), folder.path());
    assert_eq!(labelled_names(&cohort), ["a"]);
    assert_eq!(unlabelled_names(&cohort), ["b", "c", "t"]);
    assert_eq!(cohort.labelled[0].labels, folder.path().join("labelsTr/a.nii.gz"));
    assert!(cohort.remarks.is_empty(), "{:?}", cohort.remarks);
}

#[test]
fn a_channel_is_picked_by_its_number() {
    let folder = folder_of(&[
        "imagesTr/a_0000.nii.gz",
        "imagesTr/a_0001.nii.gz",
        "imagesTr/b_0000.nii.gz",
        "imagesTr/b_0001.nii.gz",
        "labelsTr/a.nii.gz",
    ]);
    let cohort = discover(folder.path(), folder.path(), 1).unwrap();
    assert_eq!(cohort.labelled[0].image, folder.path().join("imagesTr/a_0001.nii.gz"));
    assert_eq!(cohort.unlabelled[0].image, folder.path().join("imagesTr/b_0001.nii.gz"));
    let text = message(folder.path(), folder.path(), 2);
    assert!(
        text.contains("no image of channel 2 (_0002), only _0000, _0001; choose one with --channel"),
        "{text}"
    );
}

#[test]
fn cases_without_an_image_of_the_channel_are_remarked_upon() {
    let folder = folder_of(&[
        "imagesTr/a_0000.nii.gz",
        "imagesTr/b_0001.nii.gz",
        "imagesTs/c_0000.nii.gz",
        "imagesTs/c_0001.nii.gz",
        "imagesTs/scan_2021.nii.gz",
        "labelsTr/a.nii.gz",
        "labelsTr/b.nii.gz",
    ]);
    let cohort = discover(folder.path(), folder.path(), 0).unwrap();
    assert_eq!((labelled_names(&cohort), unlabelled_names(&cohort)), (vec!["a"], vec!["c"]));
    let [remark] = &cohort.remarks[..] else {
        panic!("{:?}", cohort.remarks)
    };
    assert!(
        remark.starts_with("2 cases have no image of channel 0 and are left out") && remark.contains("b_0001.nii.gz"),
        "{remark}"
    );
}

#[test]
fn images_and_labels_of_equal_names_are_paired_with_any_ending() {
    let labelled = folder_of(&[
        "images/a.nii",
        "images/b.hdr",
        "images/b.img",
        "images/case_0001.nii.gz",
        "labels/a.nii",
        "labels/b.nii.gz",
    ]);
    put(labelled.path(), "labels/case_0001.nii.gz", "x");
    let unlabelled = folder_of(&["u1.nii.gz", "u0.nii", "notes.txt", "._u1.nii.gz"]);
    let cohort = found(labelled.path(), unlabelled.path());
    assert_eq!(labelled_names(&cohort), ["a", "b", "case_0001"]);
    assert_eq!(unlabelled_names(&cohort), ["u0", "u1"]);
}

#[test]
fn a_folder_called_images_ts_can_be_given_itself() {
    let (labelled, unlabelled) = (
        folder_of(&["images/a.nii.gz", "labels/a.nii.gz"]),
        folder_of(&["imagesTs/u_0000.nii.gz"]),
    );
    assert_eq!(
        unlabelled_names(&found(labelled.path(), &unlabelled.path().join("imagesTs"))),
        ["u"]
    );
}

#[test]
fn cases_numbered_with_four_digits_keep_their_numbers_when_the_labels_do() {
    let labelled = folder_of(&[
        "imagesTr/la_0003.nii.gz",
        "imagesTr/la_0007.nii.gz",
        "labelsTr/la_0003.nii.gz",
        "labelsTr/la_0007.nii.gz",
    ]);
    let unlabelled = folder_of(&["u.nii.gz"]);
    assert_eq!(labelled_names(&found(labelled.path(), unlabelled.path())), ["la_0003", "la_0007"]);
}

#[test]
fn missing_and_extra_labels_are_remarked_upon() {
    let (labelled, unlabelled) = pair();
    put(labelled.path(), "images/no_label.nii.gz", "x");
    put(labelled.path(), "labels/no_image.nii.gz", "x");
    let cohort = found(labelled.path(), unlabelled.path());
    assert_eq!(labelled_names(&cohort), ["a"]);
    assert_eq!(
        cohort.remarks[0],
        "images without a label file are not used as labelled volumes: no_label"
    );
    assert!(
        cohort.remarks[1].starts_with("label files without an image of their name are not used: "),
        "{:?}",
        cohort.remarks
    );
    assert!(cohort.remarks[1].ends_with("labels/no_image.nii.gz"));
}

#[test]
fn labels_of_unlabelled_cases_in_another_folder_are_not_read_and_that_is_said() {
    let (labelled, unlabelled) = pair();
    put(unlabelled.path(), "labels/u.nii.gz", "x");
    let cohort = found(labelled.path(), unlabelled.path());
    assert_eq!(unlabelled_names(&cohort), ["u"]);
    assert_eq!(
        cohort.remarks,
        ["1 of the unlabelled cases have label files, which are not read: u"]
    );
}

#[test]
fn a_labelled_volume_met_again_among_the_unlabelled_is_left_out() {
    let folder = folder_of(&["images/a.nii.gz", "images/b.nii.gz", "labels/a.nii.gz"]);
    let cohort = found(folder.path(), &folder.path().join("images"));
    assert_eq!(unlabelled_names(&cohort), ["b"]);
    assert_eq!(
        cohort.remarks.last().unwrap(),
        "labelled volumes among the unlabelled ones are left out there: a"
    );
}

#[test]
fn one_name_for_two_volumes_is_refused() {
    let (labelled, unlabelled) = pair();
    put(unlabelled.path(), "images/a.nii.gz", "another");
    let text = message(labelled.path(), unlabelled.path(), 0);
    assert!(
        text.starts_with("the case name a stands for a labelled volume (") && text.ends_with("rename one of them"),
        "{text}"
    );

    let twice = folder_of(&["images/u.nii", "images/u.nii.gz"]);
    let text = message(labelled.path(), twice.path(), 0);
    assert!(
        text.starts_with("the case u is there twice: ") && text.ends_with("rename or remove one of them"),
        "{text}"
    );

    let twice = folder_of(&["imagesTr/u_0000.nii.gz", "imagesTs/u_0000.nii.gz"]);
    assert!(message(labelled.path(), twice.path(), 0).starts_with("the case u is there twice: "));
}

#[test]
fn a_folder_without_cases_is_told_what_was_looked_for_and_what_is_there() {
    let (labelled, _) = pair();
    let other = folder_of(&["slice1.dcm", "slice2.dcm"]);
    let text = message(labelled.path(), other.path(), 0);
    assert!(
        text.contains("(it holds slice1.dcm, slice2.dcm). Looked for: imagesTr/CASE_0000.nii.gz with labelsTr"),
        "{text}"
    );
    let empty = tempfile::tempdir().unwrap();
    assert!(message(labelled.path(), empty.path(), 0).contains("(it is empty)"));
    assert!(message(&labelled.path().join("gone"), empty.path(), 0).contains("gone is no folder; give a folder of volumes"));
}

#[test]
fn a_labelled_folder_without_labels_is_told_how_they_should_lie() {
    let (_, unlabelled) = pair();
    let flat = folder_of(&["a.nii.gz"]);
    let text = message(flat.path(), unlabelled.path(), 0);
    assert!(
        text.contains("holds 1 images but has no place for labels") && text.contains("give the folder above them"),
        "{text}"
    );

    let misnamed = folder_of(&["images/a.nii.gz", "labels/a_seg.nii.gz"]);
    let text = message(misnamed.path(), unlabelled.path(), 0);
    assert!(text.contains("such as labelsTr/a.nii.gz or labels/a.nii.gz; there is"), "{text}");
    assert!(
        text.ends_with("labels/a_seg.nii.gz, which has no image: name it like its image"),
        "{text}"
    );
}

#[test]
fn half_a_pair_is_a_case_that_fails_by_itself_unless_it_is_labelled() {
    let (labelled, _) = pair();
    let unlabelled = folder_of(&["u.hdr", "v.nii.gz"]);
    assert_eq!(unlabelled_names(&found(labelled.path(), unlabelled.path())), ["u", "v"]);
    for files in [["images/a.hdr", "labels/a.nii"], ["images/a.nii", "labels/a.hdr"]] {
        let text = message(folder_of(&files).path(), unlabelled.path(), 0);
        assert!(
            text.contains("a.hdr: its voxels should be in") && text.contains("put both files into one folder"),
            "{text}"
        );
    }
    let compressed = folder_of(&["images/a.hdr", "images/a.img.gz", "labels/a.nii"]);
    assert_eq!(labelled_names(&found(compressed.path(), unlabelled.path())), ["a"]);
}

#[test]
fn a_folder_in_which_all_is_labelled_has_nothing_to_label() {
    let (labelled, _) = pair();
    assert!(message(labelled.path(), labelled.path(), 0).ends_with("has labels: there is nothing to label"));
}

#[test]
fn a_channel_makes_no_sense_without_numbered_files() {
    let (labelled, unlabelled) = pair();
    let text = message(labelled.path(), unlabelled.path(), 1);
    assert!(
        text.starts_with("--channel 1 picks files such as CASE_0001.nii.gz in imagesTr or imagesTs"),
        "{text}"
    );
}

#[test]
fn cases_can_be_chosen_by_name_and_a_wrong_name_is_told_the_right_ones() {
    let (labelled, unlabelled) = pair();
    put(unlabelled.path(), "images/v.nii.gz", "x");
    let mut cohort = found(labelled.path(), unlabelled.path());
    let error = cohort.keep_only(&["w".to_string()]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--case w: there is no unlabelled case of this name; there are u, v"
    );
    cohort.keep_only(&["v".to_string()]).unwrap();
    assert_eq!(unlabelled_names(&cohort), ["v"]);
}

#[cfg(unix)]
#[test]
fn a_file_name_that_is_not_text_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let (labelled, unlabelled) = pair();
    let name = std::ffi::OsStr::from_bytes(b"bad\xff.nii.gz");
    std::fs::write(unlabelled.path().join("images").join(name), "x").unwrap();
    assert!(message(labelled.path(), unlabelled.path(), 0).ends_with("is not valid UTF-8; rename the file"));
}
