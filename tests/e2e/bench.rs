//! `bench --volume`: what it measures, how it is written, and how two measurements are compared.

use super::{Answer, Phantoms};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// Of a warm volume: the first one has "supports" beside them.
const STAGES: [&str; 10] = [
    "attend",
    "components",
    "decode",
    "decode masks",
    "encode",
    "encode memory",
    "ensemble",
    "normalise",
    "read",
    "write",
];

fn command(phantoms: &Phantoms, repeats: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hpc-seg"));
    command.args([
        "bench",
        "--volume",
        "--device",
        "cpu",
        "--size",
        "6,64,64",
        "--labelled",
        "2",
        "--insertions",
        "1",
    ]);
    command
        .args(["--repeats", repeats, "--weights"])
        .arg(phantoms.at("demo.safetensors"));
    command.args(more);
    command
}

fn bench(phantoms: &Phantoms, more: &[&str]) -> Answer {
    Answer::of(command(phantoms, "2", more).output().unwrap())
}

#[test]
fn a_measurement_that_is_stopped_takes_its_folder_along() {
    let phantoms = Phantoms::new(1, 1, [6, 64, 64]);
    let folder = phantoms.at("temporary");
    fs::create_dir(&folder).unwrap();
    let entries = || fs::read_dir(&folder).unwrap().count();
    // So many that they are not over before they are stopped, and so few that a stop that is not heard is seen.
    let mut child = command(&phantoms, "500", &[])
        .env("TMPDIR", &folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while entries() == 0 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it had a folder");
        sleep(Duration::from_millis(10));
    }
    let asked = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(asked.success());
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert_eq!(entries(), 0);
}

#[test]
fn a_volume_is_measured_stage_by_stage_and_compared_with_another_measurement() {
    let phantoms = Phantoms::new(1, 1, [6, 64, 64]);
    let file = phantoms.at("volume.json");
    let path = file.to_str().unwrap();
    let shown = bench(&phantoms, &["--json", path, "--as", "rtx-3090"]).expect(0, &[]);
    assert!(shown.stdout.contains("rtx-3090 (82 multiprocessors"), "{}", shown.stdout);
    let report: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let seconds = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("no {key} in {report}"));
    let stages = report["stage_seconds"].as_object().unwrap();
    assert_eq!(stages.keys().map(String::as_str).collect::<BTreeSet<_>>(), BTreeSet::from(STAGES));
    for stage in ["encode", "attend"] {
        assert!(stages[stage].as_f64().unwrap() > 0.0, "{stage}: {report}");
    }
    assert!(report["first_stage_seconds"]["supports"].as_f64().unwrap() > 0.0, "{report}");
    assert!(seconds("open_seconds") <= seconds("first_kernel_seconds"));
    assert!(seconds("p50_seconds") > 0.0 && seconds("p50_seconds") <= seconds("p95_seconds"));
    assert_eq!(report["warm_seconds"].as_array().map(Vec::len), Some(2));
    assert!(
        report["memory"]["planned"].as_u64() >= report["memory"]["counted_peak"].as_u64(),
        "{report}"
    );

    let mut diff = Command::new(env!("CARGO_BIN_EXE_hpc-seg"));
    let same = Answer::of(diff.args(["bench", "diff", path, path]).output().unwrap()).expect(0, &[]);
    assert!(
        same.stdout.contains("encode memory") && same.stdout.contains("1.00") && !same.stdout.contains("NaN"),
        "{}",
        same.stdout
    );
}

#[test]
fn what_cannot_be_measured_or_compared_is_refused_with_the_remedy() {
    let phantoms = Phantoms::new(1, 1, [6, 64, 64]);
    bench(&phantoms, &["--as", "voodoo"]).expect(2, &["no card is known as voodoo", "a100-1g.10gb"]);
    let diff = |file: &std::path::Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hpc-seg"));
        Answer::of(command.args(["bench", "diff"]).args([file, file]).output().unwrap())
    };
    diff(&phantoms.at("nowhere.json")).expect(2, &["nowhere.json", "check the path"]);
    diff(&phantoms.at("demo.safetensors")).expect(2, &["demo.safetensors"]);
    fs::write(phantoms.at("other.json"), "{}").unwrap();
    diff(&phantoms.at("other.json")).expect(2, &["is no measurement", "take one with bench"]);
}

#[test]
fn a_volume_is_planned_without_being_measured() {
    let phantoms = Phantoms::new(1, 1, [6, 64, 64]);
    let plan = bench(&phantoms, &["--dry-run"]).expect(0, &[]);
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
    assert!(
        plan["flops"].as_f64().unwrap() > 0.0 && plan["bytes"]["total"].as_u64().unwrap() > 0,
        "{plan}"
    );
}
