//! A run that is stopped or killed leaves nothing half-written, and the same command makes the bytes of an unbroken run.

use super::Phantoms;
use crate::cohort::files_below;
use hpc_seg::atomic_file::TEMPORARY_PREFIX;
use signal_hook::consts::{SIGKILL, SIGTERM};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const MORE: [&str; 5] = ["--insertions", "3", "--save-probabilities", "--threads", "2"];

fn cohort() -> Phantoms {
    Phantoms::new(4, 1, [10, 48, 48])
}

fn start(phantoms: &Phantoms, out: &str) -> Child {
    phantoms
        .command(out, &MORE)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn send(signal: i32, child: &Child) {
    assert!(
        Command::new("kill")
            .args([format!("-{signal}"), child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn sigterm_in_the_middle_leaves_whole_files_only_and_the_run_goes_on() {
    let phantoms = cohort();
    phantoms.label("unbroken", &MORE).expect(0, &["3 done"]);
    let mut child = start(&phantoms, "out");
    let begun = Instant::now();
    while !phantoms.at("out/phantom_001.nii.gz").exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the run did not start");
        sleep(Duration::from_millis(1));
    }
    send(SIGTERM, &child);
    assert_eq!(child.wait().unwrap().code(), Some(75));
    let unbroken = phantoms.results("unbroken");
    let part = phantoms.results("out");
    assert!(part.len() < unbroken.len(), "the signal came after the end: {:?}", part.keys());
    for (file, bytes) in &part {
        assert!(unbroken.get(file) == Some(bytes), "{file} is no result of the unbroken run");
    }
    phantoms.label("out", &MORE).expect(0, &["phantom_001: finished before, skipped"]);
    assert!(unbroken == phantoms.results("out"));
}

#[test]
fn a_run_killed_at_any_moment_is_completed_by_the_same_command() {
    let phantoms = cohort();
    let begun = Instant::now();
    phantoms.label("unbroken", &MORE).expect(0, &["3 done"]);
    let whole = begun.elapsed();
    let unbroken = phantoms.results("unbroken");
    let mut killed = 0;
    for (round, share) in [0.15, 0.35, 0.5, 0.65, 0.85].into_iter().enumerate() {
        let out = format!("out{round}");
        let mut child = start(&phantoms, &out);
        sleep(whole.mul_f64(share));
        if child.try_wait().unwrap().is_none() {
            send(SIGKILL, &child);
            killed += 1;
        }
        child.wait().unwrap();
        phantoms.label(&out, &MORE).expect(0, &[]);
        assert!(
            unbroken == phantoms.results(&out),
            "killed after {share} of the run: {:?}",
            files_below(&phantoms.at(&out))
        );
        assert!(!files_below(&phantoms.at(&out)).iter().any(|file| file.contains(TEMPORARY_PREFIX)));
    }
    assert!(killed >= 2, "only {killed} of the kills came before the end");
}
