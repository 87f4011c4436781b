//! `hpc-seg evaluate` from folders to files.

use hpc_seg::volume::{self, Header, Voxels};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn put(folder: &Path, file: &str, voxels: &[u8], shift: f64) {
    let path = folder.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let affine = [[2.0, 0.0, 0.0, shift], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
    let header = Header::new([voxels.len() / 2, 2, 1], &affine).unwrap();
    volume::write(&path, &header, Voxels::U8(voxels), None, &[]).unwrap();
}

/// Four good cases of two groups, and one each without a partner, of another size, at another place, and no volume at all.
fn cohort() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (case, prediction, reference) in [
        ("A_1", [0, 1, 1, 0, 0, 1, 0, 2], [0, 1, 1, 0, 0, 1, 1, 0]),
        ("A_2", [1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]),
        ("B_1", [1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0]),
        ("B_2", [0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0]),
    ] {
        put(at, &format!("out/{case}.nii.gz"), &prediction, 0.0);
        put(at, &format!("truth/{case}.nii"), &reference, 0.0);
    }
    put(at, "truth/A_lonely.nii", &[1; 8], 0.0);
    put(at, "out/A_extra.nii", &[1; 8], 0.0);
    put(at, "out/A_small.nii", &[1; 6], 0.0);
    put(at, "truth/A_small.nii", &[1; 8], 0.0);
    put(at, "out/A_shifted.nii", &[1; 8], 4.0);
    put(at, "truth/A_shifted.nii", &[1; 8], 0.0);
    fs::write(at.join("out/A_broken.nii"), "nothing").unwrap();
    put(at, "truth/A_broken.nii", &[1; 8], 0.0);
    folder
}

fn evaluate(folder: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hpc-seg"))
        .current_dir(folder)
        .args(["evaluate", "--predictions", "out", "--references", "truth"])
        .args(more)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn results_replace_neither_each_other_nor_a_volume() {
    let folder = cohort();
    let output = evaluate(folder.path(), &["--json", "all", "--summary", "own", "--csv", "./all"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("all: is named for two results"),
        "{}",
        text(&output.stderr)
    );
    assert!(!folder.path().join("all").exists() && !folder.path().join("own").exists());
    let before = fs::read(folder.path().join("out/A_1.nii.gz")).unwrap();
    for (path, complaint) in [
        ("out/A_1.nii.gz", "is a volume's name"),
        ("nowhere/x.json", "its folder does not exist"),
    ] {
        let output = evaluate(folder.path(), &["--json", path]);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(complaint), "{}", text(&output.stderr));
    }
    assert_eq!(fs::read(folder.path().join("out/A_1.nii.gz")).unwrap(), before);
}

#[test]
fn cases_that_cannot_be_compared_fail_by_themselves_and_say_why() {
    let folder = cohort();
    let output = evaluate(folder.path(), &["--json", "all.json", "--group-regex", "^[AB]"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    for expected in [
        "error: A_lonely failed: truth/A_lonely.nii has no prediction in out; predict it, or take the reference away",
        "error: A_extra failed: out/A_extra.nii has no reference in truth; add it, or take the prediction away",
        "error: A_small failed: out/A_small.nii and truth/A_small.nii lie on different grids: 3 x 2 x 1 voxels against 4 x 2 x 1; resample",
        "error: A_shifted failed: out/A_shifted.nii and truth/A_shifted.nii lie on different grids: positions 4.00 mm apart",
        "error: A_broken failed: out/A_broken.nii: ",
        "4 cases compared, 5 failed",
    ] {
        assert!(said.contains(expected), "{expected}\n--- not in\n{said}");
    }
    let all: Value = serde_json::from_str(&fs::read_to_string(folder.path().join("all.json")).unwrap()).unwrap();
    assert_eq!(all["failed"].as_array().unwrap().len(), 5);
    let dice = |group: &str| &all["groups"][group]["1"]["dice"];
    assert_eq!(dice("A")["mean"], (6.0 / 7.0 + 1.0) / 2.0);
    let half_apart = (1.0 - 6.0 / 7.0) / 2.0;
    assert!((dice("A")["std"].as_f64().unwrap() - half_apart).abs() < 1e-12);
    assert_eq!(dice("B")["mean"], 0.0);
    assert_eq!(dice("all")["cases"], 4);
    // A_1 misses 1 of 4 voxels; the nearest of its own is 1 mm away. B_1 is 3 voxels of 2 mm off. B_2 found nothing.
    let hd = |group: &str| &all["groups"][group]["1"]["hd_mm"];
    assert_eq!((&hd("A")["mean"], &hd("B")["mean"]), (&Value::from(0.5), &Value::from(6.0)));
    assert_eq!((&hd("B")["missed"], &hd("B")["cases"]), (&Value::from(1), &Value::from(1)));
    assert_eq!(all["rules"]["hd_mm"], "MedPy");
    // Class 2 occurs in A_1 alone; the other cases have no value.
    assert_eq!(all["groups"]["all"]["2"]["dice"]["cases"], 1);
    assert_eq!(all["cases"][1]["classes"]["2"]["dice"], Value::Null);
    let table = text(&output.stdout);
    assert!(table.lines().next().unwrap().starts_with("group  class  measure"), "{table}");
    assert!(table.contains("nsd_3mm") && table.contains("\nB          1  hd_mm"), "{table}");
}

#[test]
fn tables_hold_every_case_and_nnunets_summary_is_as_nnunet_writes_it() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "out/a.nii", &[0, 1, 1, 0, 0, 1, 0, 0], 0.0);
    put(folder.path(), "truth/a.nii", &[0, 1, 1, 0, 0, 1, 1, 0], 0.0);
    let output = evaluate(
        folder.path(),
        &[
            "--preset",
            "nnunet",
            "--classes",
            "1,2",
            "--csv",
            "all.csv",
            "--summary",
            "summary.json",
        ],
    );
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let table = fs::read_to_string(folder.path().join("all.csv")).unwrap();
    let dice = 6.0 / 7.0;
    assert_eq!(
        table,
        format!("case,group,class,tp,fp,fn,dice,iou\na,all,1,3,0,1,{dice},0.75\na,all,2,0,0,0,,\n")
    );
    let found = format!(
        "\"Dice\": {dice},\n{{i}}\"FN\": 1{{f}},\n{{i}}\"FP\": 0{{f}},\n{{i}}\"IoU\": 0.75,\n{{i}}\"TN\": 4{{f}},\n{{i}}\"TP\": 3{{f}},\n{{i}}\"n_pred\": 3{{f}},\n{{i}}\"n_ref\": 4{{f}}"
    );
    let absent = "\"Dice\": NaN,\n{i}\"FN\": 0{f},\n{i}\"FP\": 0{f},\n{i}\"IoU\": NaN,\n{i}\"TN\": 8{f},\n{i}\"TP\": 0{f},\n{i}\"n_pred\": 0{f},\n{i}\"n_ref\": 0{f}";
    let filled = |text: &str, indent: usize, fraction: &str| text.replace("{i}", &" ".repeat(indent)).replace("{f}", fraction);
    let foreground = "\"Dice\": NaN,\n{i}\"FN\": 0.5,\n{i}\"FP\": 0.0,\n{i}\"IoU\": NaN,\n{i}\"TN\": 6.0,\n{i}\"TP\": 1.5,\n{i}\"n_pred\": 1.5,\n{i}\"n_ref\": 2.0";
    let expected = format!(
        "{{\n    \"foreground_mean\": {{\n        {}\n    }},\n    \"mean\": {{\n        \"1\": {{\n            {}\n        }},\n        \"2\": {{\n            {}\n        }}\n    }},\n    \"metric_per_case\": [\n        {{\n            \"metrics\": {{\n                \"1\": {{\n                    {}\n                }},\n                \"2\": {{\n                    {}\n                }}\n            }},\n            \"prediction_file\": \"out/a.nii\",\n            \"reference_file\": \"truth/a.nii\"\n        }}\n    ]\n}}",
        filled(foreground, 8, ".0"),
        filled(&found, 12, ".0"),
        filled(absent, 12, ".0"),
        filled(&found, 20, ""),
        filled(absent, 20, "")
    );
    assert_eq!(fs::read_to_string(folder.path().join("summary.json")).unwrap(), expected);
}

#[test]
fn folders_and_options_that_make_no_sense_are_bad_input() {
    let folder = cohort();
    fs::create_dir(folder.path().join("empty")).unwrap();
    for (more, expected) in [
        (&["--tolerance", "-1"][..], "unexpected argument"),
        (
            &["--tolerance", "nan"],
            "error: --tolerance NaN: give a distance in mm, 0 or more, such as 3\n",
        ),
        (&["--tolerance", "1.5,2,1.50"], "error: --tolerance 1.5: is given twice\n"),
        (
            &["--tolerance", "2", "--preset", "nnunet"],
            "error: --tolerance: this --preset has no NSD; leave --tolerance out",
        ),
        (
            &["--classes", "0,1"],
            "error: --classes: 0 is the background, which is not compared",
        ),
        (
            &["--classes", "1,9", "--ignore-label", "9"],
            "error: --ignore-label 9: --classes asks for the same label; take it out of one of them\n",
        ),
        (
            &["--group-regex", "^B"],
            "error: 7 cases have no group: A_1, A_2, A_broken, A_extra, A_lonely and 2 more",
        ),
    ] {
        let output = evaluate(folder.path(), more);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(expected), "{more:?}: {said}");
    }
    for (folders, expected) in [
        (["gone", "truth"], "error: --predictions gone: there is no such folder\n"),
        (
            ["out", "empty"],
            "error: --references empty: holds no label map; give the folder with CASE.nii.gz",
        ),
    ] {
        let arguments = ["evaluate", "--predictions", folders[0], "--references", folders[1]];
        let output = Command::new(env!("CARGO_BIN_EXE_hpc-seg"))
            .current_dir(folder.path())
            .args(arguments)
            .output()
            .unwrap();
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(expected), "{said}");
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    let folder = cohort();
    let files = ["1", "3"].map(|threads| {
        let name = format!("{threads}.json");
        evaluate(folder.path(), &["--threads", threads, "--json", &name, "--tolerance", "1,3"]);
        fs::read(folder.path().join(name)).unwrap()
    });
    assert!(files[0] == files[1]);
    assert!(text(&files[0]).contains("nsd_1mm"));
}

#[test]
fn a_table_with_strangers_and_a_header_that_contradicts_itself_are_told() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["out/a.nii", "truth/a.nii"] {
        put(folder.path(), name, &[0, 1, 1, 0], 0.0);
        let path = folder.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[80..84].copy_from_slice(&9_f32.to_le_bytes()); // pixdim[1], 2 mm by the affine
        fs::write(path, bytes).unwrap();
    }
    fs::write(folder.path().join("groups.csv"), "a,A\nold,A\n").unwrap();
    let output = evaluate(folder.path(), &["--groups", "groups.csv"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for expected in [
        "groups.csv names cases that are in neither folder: old",
        "truth/a.nii: its header gives voxels of 9.0000 x",
    ] {
        assert!(said.contains(expected), "{said}");
    }
}
