//! Second starts, chosen cases, plans, summaries, groups.

use super::{Phantoms, read};
use serde_json::{Value, json};
use std::fs;

#[test]
fn a_second_start_skips_finished_cases_and_says_so() {
    let phantoms = Phantoms::small();
    phantoms
        .label("out", &[])
        .expect(0, &["phantom_001: done.", "phantom_002: done.", "2 done"]);
    let before = phantoms.results("out");
    phantoms.label("out", &[]).expect(
        0,
        &[
            "phantom_001: finished before, skipped",
            "phantom_002: finished before, skipped",
            "0 done, 2 were finished before",
        ],
    );
    assert!(before == phantoms.results("out"));
}

#[test]
fn what_changed_is_named_and_done_again() {
    let phantoms = Phantoms::small();
    phantoms.label("out", &[]).expect(0, &[]);
    phantoms
        .label("out", &["--insertions", "2"])
        .expect(0, &["phantom_001: done again, because ", "insertions", "2 done"]);
    assert_eq!(phantoms.record("out", 1)["classes"][0]["runs"], 2);
    fs::copy(phantoms.query(2), phantoms.query(1)).unwrap();
    let answer = phantoms
        .label("out", &["--insertions", "2"])
        .expect(0, &["phantom_001: done again, because ", "image", "1 done, 1 were finished"]);
    assert!(!answer.stderr.contains("phantom_002: done again"), "{}", answer.stderr);
    let demo = hpc_seg::weights::Checkpoint::open(&phantoms.at("demo.safetensors")).unwrap();
    let tensors: Vec<_> = demo
        .names()
        .map(|n| (n.to_owned(), demo.shape(n).unwrap().to_vec(), demo.f32(n).unwrap()))
        .collect();
    hpc_seg::weights::write_safetensors(&phantoms.at("other.safetensors"), &tensors, demo.all_metadata()).unwrap();
    let other = phantoms.at("other.safetensors");
    phantoms
        .label("out", &["--insertions", "2", "--weights", other.to_str().unwrap()])
        .expect(0, &["phantom_001: done again, because ", "weights", "2 done"]);
}

#[test]
fn only_the_chosen_case_is_labelled() {
    let phantoms = Phantoms::small();
    // A GPU's memory bounds nothing on the CPU, which is said.
    let one = ["--case", "phantom_002", "--device", "cpu", "--memory", "10MiB"];
    phantoms.label("out", &one).expect(0, &["1 done", "--memory is for a GPU"]);
    assert!(!phantoms.at("out/phantom_001.nii.gz").exists() && phantoms.at("out/phantom_002.nii.gz").is_file());
    phantoms
        .label("out", &["--case", "phantom_000"])
        .expect(2, &["there is no unlabelled case of this name; there are phantom_001, phantom_002"]);
}

#[test]
fn a_dry_run_writes_nothing_and_both_answers_are_json() {
    let phantoms = Phantoms::small();
    let plan: Value = serde_json::from_str(&phantoms.label("out", &["--dry-run", "--json"]).expect(0, &[]).stdout).unwrap();
    assert_eq!(plan["cases"].as_array().unwrap().len(), 2);
    assert!(!phantoms.at("out").exists());
    fs::write(phantoms.query(1), "").unwrap();
    let summary: Value = serde_json::from_str(&phantoms.label("out", &["--json"]).expect(3, &[]).stdout).unwrap();
    assert_eq!(summary["done"], json!(["phantom_002"]));
    assert!(summary["failed"].to_string().contains("is empty (0 bytes)"), "{summary}");
}

#[test]
fn failures_of_cases_that_are_gone_are_forgotten() {
    let phantoms = Phantoms::small();
    fs::write(phantoms.query(1), "").unwrap();
    phantoms.label("out", &[]).expect(3, &["1 done, 1 failed"]);
    fs::remove_file(phantoms.query(1)).unwrap();
    phantoms.label("out", &["--case", "phantom_002"]).expect(0, &[]);
    assert!(phantoms.at("out/failed.csv").is_file(), "one case was looked at, not all");
    phantoms.label("out", &[]).expect(0, &["1 were finished before"]);
    assert!(!phantoms.at("out/failed.csv").exists());
}

#[test]
fn a_cohort_that_was_begun_on_another_kind_of_device_is_told_so() {
    let phantoms = Phantoms::small();
    phantoms.label("out", &["--case", "phantom_001"]).expect(0, &["1 done"]);
    let journal = phantoms.at("out/journal.jsonl");
    let text = fs::read_to_string(&journal).unwrap();
    assert!(text.contains("\"device\":\"cpu\""), "{text}");
    fs::write(&journal, text.replace("\"device\":\"cpu\"", "\"device\":\"cuda\"")).unwrap();
    let told = "1 finished cases in";
    phantoms
        .label("out", &[])
        .expect(0, &[told, "were made on another kind of device than cpu", "1 were finished before"]);
}

#[test]
fn a_dry_run_tells_what_is_finished_and_what_would_be_done_again() {
    let phantoms = Phantoms::small();
    phantoms.label("out", &[]).expect(0, &["2 done"]);
    let foreseen = phantoms.label("out", &["--dry-run"]).expect(0, &[]).stdout;
    assert_eq!(foreseen.matches("finished before, would be skipped").count(), 2, "{foreseen}");
    fs::copy(phantoms.query(1), phantoms.query(2)).unwrap();
    let foreseen = phantoms.label("out", &["--dry-run", "--json"]).expect(0, &[]).stdout;
    let plan: Value = serde_json::from_str(&foreseen).unwrap();
    let [one, two] = [&plan["cases"][0], &plan["cases"][1]];
    assert!(one["is_finished"] == true && one["estimate"].is_null(), "{plan}");
    assert!(two["is_finished"] == false && two["estimate"].is_object(), "{plan}");
    assert!(two["changes"][0].as_str().unwrap().starts_with("image ("), "{plan}");
    phantoms
        .label("out", &[])
        .expect(0, &["1 done, 1 were finished before", "phantom_002: done again, because image ("]);
}

#[test]
fn more_runs_than_can_be_averaged_are_refused_before_any_work() {
    let phantoms = Phantoms::new(2, 1, [256, 16, 16]);
    let refusal = "256 runs for one class; at most 255 can be averaged: use fewer insertions";
    let foreseen = phantoms.label("out", &["--insertions", "256", "--dry-run"]).expect(0, &[]);
    assert!(
        foreseen.stdout.contains(&format!("this case will fail: {refusal}")),
        "{}",
        foreseen.stdout
    );
    phantoms
        .label("out", &["--insertions", "256"])
        .expect(3, &[&format!("(reading): {refusal}")]);
}

#[test]
fn probabilities_of_one_class_are_three_dimensional_and_of_several_have_a_last_axis() {
    let phantoms = Phantoms::small();
    phantoms.label("one", &["--save-probabilities"]).expect(0, &[]);
    let (header, one) = read(&phantoms.at("one/probability/phantom_001.nii.gz"));
    assert_eq!(
        (header.dims(), header.channels(), header.datatype()),
        ([64, 64, 6], 1, hpc_seg::volume::Datatype::F32)
    );
    assert!(one.iter().all(|p| (0.0..=1.0).contains(p)) && one.iter().any(|p| *p > 0.5));
    // A second class: the left half of the organ.
    super::change_voxels(&phantoms.labels(0), |voxels| {
        let left = voxels.iter_mut().enumerate().filter(|(i, v)| i % 64 < 24 && **v > 0.0);
        left.for_each(|(_, v)| *v = 9.0);
    });
    phantoms
        .label("two", &["--save-probabilities", "--no-largest-component"])
        .expect(0, &["class 1: ", "class 9: "]);
    let path = phantoms.at("two/probability/phantom_001.nii.gz");
    let (header, first) = read(&path);
    assert_eq!((header.dims(), header.channels()), ([64, 64, 6], 2));
    let second = hpc_seg::volume::Volume::open_channel(&path, 1)
        .unwrap()
        .voxels_f32(&Default::default())
        .unwrap();
    let (_, mask) = read(&phantoms.at("two/phantom_001.nii.gz"));
    for (i, &class) in mask.iter().enumerate() {
        let expected = if first[i].max(second[i]) <= 0.5 {
            0.0
        } else if first[i] >= second[i] {
            1.0
        } else {
            9.0
        };
        assert_eq!(class, expected, "voxel {i}: {} and {}", first[i], second[i]);
    }
    assert!(mask.contains(&1.0) && mask.contains(&9.0));
}

#[test]
fn the_mask_is_where_the_probability_exceeds_the_threshold() {
    let phantoms = Phantoms::small();
    phantoms
        .label("out", &["--save-probabilities", "--no-largest-component", "--threshold", "0.7"])
        .expect(0, &[]);
    let [(_, probability), (_, mask), (_, uncertainty)] =
        ["probability/", "", "uncertainty/"].map(|folder| read(&phantoms.at(&format!("out/{folder}phantom_001.nii.gz"))));
    for i in 0..mask.len() {
        assert_eq!(mask[i] == 1.0, probability[i] > 0.7, "voxel {i}: {}", probability[i]);
        let p = f64::from(probability[i]).clamp(1e-12, 1.0 - 1e-12);
        let entropy = -p * p.ln() - (1.0 - p) * (1.0 - p).ln();
        assert!(
            (f64::from(uncertainty[i]) - entropy).abs() < 1e-3,
            "voxel {i}: p {p}, {} for {entropy}",
            uncertainty[i]
        );
    }
}

#[test]
fn groups_by_table_and_by_expression_keep_supports_apart() {
    let phantoms = Phantoms::new(4, 2, [6, 64, 64]);
    fs::write(
        phantoms.at("groups.csv"),
        "phantom_000,a\nphantom_001,b\nphantom_002,b\nphantom_003,a\n",
    )
    .unwrap();
    let supports = |out: &str, number| {
        let record = phantoms.record(out, number);
        let supports = record["supports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["case"].as_str().unwrap().to_owned());
        (record["group"].as_str().unwrap().to_owned(), supports.collect::<Vec<_>>())
    };
    let of = |group: &str, cases: &[&str]| {
        (
            group.to_owned(),
            cases.iter().map(|case| format!("phantom_{case}")).collect::<Vec<_>>(),
        )
    };
    phantoms
        .label("table", &["--groups", phantoms.at("groups.csv").to_str().unwrap()])
        .expect(0, &[]);
    assert_eq!(supports("table", 2), of("b", &["001"]));
    assert_eq!(supports("table", 3), of("a", &["000"]));
    phantoms.label("expression", &["--group-regex", "(phantom)"]).expect(0, &[]);
    assert_eq!(supports("expression", 2), of("phantom", &["000", "001"]));
    let alone = phantoms.label("alone", &["--group-regex", "_00([013])|_00(?:2)()"]);
    assert_ne!(alone.code, Some(0), "{}", alone.stderr);
}
