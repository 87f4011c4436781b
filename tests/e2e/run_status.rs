//! What `status` says of a run that is killed, and that it goes on from there.

use super::rounds::{cohort, command, run, state, status};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

#[test]
fn a_fold_is_running_then_interrupted_and_other_options_do_not_touch_it() {
    let phantoms = cohort();
    let long = ["--rounds", "1", "--train-options", "--epochs 1000 --iterations 2 --no-mirroring"];
    let mut child = command(&phantoms, "out", &long);
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let training = phantoms.at("out/rounds/round_1/model/fold_0/training.json");
    while !(training.is_file() && state(&status(&phantoms, "out"), "round_1/fold_0") == "running") {
        assert!(
            child.try_wait().unwrap().is_none() && Instant::now() < deadline,
            "no fold was begun"
        );
        sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    assert_eq!(state(&status(&phantoms, "out"), "round_1/fold_0"), "interrupted");
    run(&phantoms, "out", &["--rounds", "1"]).expect(2, &["train_options was", "--redo"]);
    assert_eq!(state(&status(&phantoms, "out"), "round_1/fold_0"), "interrupted");
    run(&phantoms, "out", &["--rounds", "1", "--redo"]).expect(0, &["begun with other epochs", "round_1/fold_0: done in"]);
    assert_eq!(state(&status(&phantoms, "out"), "round_1/fold_0"), "done");
}
