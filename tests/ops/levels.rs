//! Every level of vectors passes the tests of the ops. The level is read once per process, so this binary runs itself again.

use hpc_seg::cpu::simd::{self, Level};
use std::process::Command;

#[test]
fn the_level_is_the_one_asked_for() {
    match std::env::var("HPC_SEG_CPU").as_deref() {
        Ok("portable") => assert_eq!(simd::level(), Level::Portable),
        Ok("avx2") => assert_ne!(simd::level(), Level::Avx512),
        _ => {}
    }
}

#[test]
fn the_ops_pass_their_tests_at_every_lesser_level() {
    if std::env::var_os("HPC_SEG_AWKWARD_ONLY").is_some() {
        return;
    }
    for level in ["avx2", "portable"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["ops::", "--quiet"])
            .envs([("HPC_SEG_CPU", level), ("HPC_SEG_AWKWARD_ONLY", "1")])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "at level {level}:\n{text}");
        let passed = text
            .split("ok. ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
        assert!(
            passed.is_some_and(|n| n >= 30),
            "at level {level} only {passed:?} tests ran:\n{text}"
        );
    }
}
