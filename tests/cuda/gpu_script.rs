//! benches/gpu.sh, as far as it goes without a GPU: what it would run, and what it leaves when steps end well, fail, or find nothing to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/gpu.sh");
    let mut command = Command::new("bash");
    // No Python: PyTorch is not to be started by a test.
    command.arg(script).args(arguments).env("PYTHON", "false").output().unwrap()
}

/// The summary that a run with these stand-ins leaves in its archive, and its exit code.
fn summary(part: &str, tests: &str, program: &str) -> (String, Option<i32>) {
    let folder = tempfile::tempdir().unwrap();
    let stand_in = |name: &str, body: &str| {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_string()
    };
    let (tests, program) = (stand_in("tests", tests), stand_in("program", program));
    let out = folder.path().join("out");
    let output = run(&["--out", out.to_str().unwrap(), "--tests", &tests, "--program", &program, part]);
    let left: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left.len(), 1, "one archive and nothing else: {left:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), left[0].to_str().unwrap());
    let read = Command::new("tar")
        .args(["-xzOf", left[0].to_str().unwrap(), "--wildcards", "*/summary.csv"])
        .output()
        .unwrap();
    (String::from_utf8(read.stdout).unwrap(), output.status.code())
}

#[test]
fn the_script_lists_what_each_part_would_run_within_eight_minutes() {
    for (part, expected) in [
        (
            "correctness",
            &[
                "HPC_SEG_REQUIRE_CUDA=1",
                "compute-sanitizer --tool racecheck",
                "HPC_SEG_RECORD_PTX=",
                "sam2::gpu::",
            ][..],
        ),
        ("kernels", &["bench --ops", "--sm-limit 14", "--json", "peers/gpu.py --kernels"]),
        (
            "volumes",
            &["bench --volume", "--memory 10GiB", "--dry-run", "peers/gpu.py --authors"],
        ),
    ] {
        let output = run(&["--list", part]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && expected.iter().all(|word| text.contains(word)),
            "{part}: {text}"
        );
    }
    assert!(
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/gpu.sh"))
            .unwrap()
            .contains("budget=460 ")
    );
}

#[test]
fn the_script_refuses_what_it_does_not_know() {
    for arguments in [&[][..], &["everything"], &["--list"], &["kernels", "--out"]] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    let output = run(&["--tests", "/no/tests", "kernels"]);
    assert!(output.status.code() == Some(2) && String::from_utf8_lossy(&output.stderr).contains("cargo build --release"));
}

#[test]
fn every_step_is_tried_and_its_outcome_is_in_the_archive() {
    let (rows, code) = summary("volumes", "exit 0", "case $* in *sm-limit*) exit 7;; esac");
    assert!(rows.contains("\nplan,done,") && rows.contains("\nvolume,done,"), "{rows}");
    assert!(rows.contains("\nvolume_14_sms,failed: exit code 7,"), "{rows}");
    assert!(rows.contains("\npeer_volume,absent: no PyTorch"), "{rows}");
    assert_eq!(code, Some(1));
}

#[test]
fn every_test_has_a_process_and_a_log_of_its_own() {
    let tests = "case $* in *--list*) echo 'cuda::gpu::good: test'; echo 'cuda::gpu::bad: test';; *bad*) exit 101;; esac";
    let (rows, code) = summary("correctness", tests, "exit 0");
    assert!(rows.contains("\nkernels,failed: exit code 123,"), "{rows}");
    assert_eq!(code, Some(1));
    let (rows, _) = summary("correctness", &tests.replace("exit 101", "exit 0"), "exit 0");
    assert!(rows.contains("\nkernels,done,") && rows.contains("\ngolden,done,"), "{rows}");
}

#[test]
fn a_test_binary_without_the_tests_asked_for_has_failed() {
    let (rows, code) = summary("correctness", "exit 0", "exit 0");
    assert!(rows.contains("\nkernels,failed: no such test,"), "{rows}");
    assert_eq!(code, Some(1));
}
