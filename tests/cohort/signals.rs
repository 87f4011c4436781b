//! Asked once, the program stops at the next step; asked twice by Ctrl-C, at once.

use hpc_seg::cohort::signals::{EXIT_STOPPED, install};
use hpc_seg::stop::Stop;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::low_level::raise;
use std::process::Command;

/// Runs one of the helpers below in a process of its own, because signals are for a whole process.
fn exit_code_of(helper: &str) -> Option<i32> {
    let helper = format!("cohort::signals::{helper}");
    let run = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &helper, "--ignored", "--test-threads=1"])
        .output();
    run.unwrap().status.code()
}

#[test]
fn each_signal_sets_the_flag_and_the_process_lives_on() {
    assert_eq!(exit_code_of("helper_three_signals"), Some(0));
}

#[test]
fn a_second_ctrl_c_ends_the_process_at_once() {
    assert_eq!(exit_code_of("helper_two_interrupts"), Some(EXIT_STOPPED));
}

#[test]
#[ignore = "run by each_signal_sets_the_flag_and_the_process_lives_on"]
fn helper_three_signals() {
    for signal in [SIGTERM, SIGUSR1, SIGINT] {
        let stop = Stop::new();
        install(&stop).unwrap();
        assert!(stop.check().is_ok());
        raise(signal).unwrap();
        let error = stop.check().unwrap_err();
        assert!(error.to_string().contains(&format!("signal {signal}")), "{error}");
    }
}

#[test]
#[ignore = "run by a_second_ctrl_c_ends_the_process_at_once"]
fn helper_two_interrupts() {
    let stop = Stop::new();
    install(&stop).unwrap();
    raise(SIGINT).unwrap();
    assert!(stop.is_requested());
    raise(SIGINT).unwrap();
    unreachable!("the second Ctrl-C did not end the process");
}
