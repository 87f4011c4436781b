//! Asked once, the program stops at the next step; asked twice by Ctrl-C, at once. A run can be ended at any moment and continued.

use super::{files_below, some_settings};
use hpc_seg::atomic_file;
use hpc_seg::cohort::journal::Journal;
use hpc_seg::cohort::runner::{self, CaseOutcome, Conditions, Summary, Task};
use hpc_seg::cohort::signals::{EXIT_STOPPED, install};
use hpc_seg::messages::{self, Talk};
use hpc_seg::stop::Stop;
use signal_hook::consts::{SIGINT, SIGKILL, SIGTERM, SIGUSR1};
use signal_hook::low_level::raise;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Exit code of a helper that came to its end, which no test harness gives.
const SURVIVED: i32 = 42;

/// Set for helper processes only; tells the slow one where to work.
const OUT_VARIABLE: &str = "HPC_SEG_TEST_OUT";

fn is_helper() -> bool {
    std::env::var_os(OUT_VARIABLE).is_some()
}

/// Runs one of the helpers below in a process of its own, because signals are for a whole process.
fn exit_code_of(helper: &str) -> Option<i32> {
    let helper = format!("cohort::signals::{helper}");
    let run = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &helper, "--ignored", "--test-threads=1"])
        .env(OUT_VARIABLE, "")
        .output();
    run.unwrap().status.code()
}

#[test]
fn each_signal_sets_the_flag_and_the_process_lives_on() {
    assert_eq!(exit_code_of("helper_three_signals"), Some(SURVIVED));
}

#[test]
fn a_second_ctrl_c_ends_the_process_at_once() {
    assert_eq!(exit_code_of("helper_two_interrupts"), Some(EXIT_STOPPED));
}

#[test]
#[ignore = "run by each_signal_sets_the_flag_and_the_process_lives_on"]
fn helper_three_signals() {
    if !is_helper() {
        return; // `cargo test -- --ignored` must not end its own process
    }
    let stop = Stop::new();
    install(&stop).unwrap();
    assert!(stop.check().is_ok());
    for signal in [SIGTERM, SIGUSR1, SIGINT] {
        raise(signal).unwrap();
        let told = |stop: &Stop| stop.check().unwrap_err().to_string().contains(&format!("signal {signal}"));
        assert!(told(&stop));
        // A command that another one begins just now is told as well.
        let inner = Stop::new();
        install(&inner).unwrap();
        assert!(told(&inner));
    }
    std::process::exit(SURVIVED);
}

#[test]
#[ignore = "run by a_second_ctrl_c_ends_the_process_at_once"]
fn helper_two_interrupts() {
    if !is_helper() {
        return; // `cargo test -- --ignored` must not end its own process
    }
    let stop = Stop::new();
    install(&stop).unwrap();
    raise(SIGINT).unwrap();
    assert!(stop.is_requested());
    raise(SIGINT).unwrap();
    unreachable!("the second Ctrl-C did not end the process");
}

/// Writes three masks into `out`; the second one slowly, in steps of 10 ms.
fn slow_run(out: &Path, stop: &Stop) -> Summary {
    let task = |name: &&str| Task {
        name: name.to_string(),
        unwanted: vec![],
        inputs: vec![],
        outputs: vec![PathBuf::from(format!("{name}.nii"))],
        payload: (),
    };
    let tasks: Vec<Task<()>> = ["a", "b", "c"].iter().map(task).collect();
    let conditions = Conditions {
        device: "cpu".into(),
        weights_sha256: "w".into(),
        settings: some_settings(),
    };
    let steps = if is_helper() { 3000 } else { 3 };
    let mut journal = Journal::open(out).unwrap();
    let work = |task: &Task<()>, stop: &Stop, _: &messages::Progress| {
        atomic_file::write_with(&out.join(&task.outputs[0]), |file| {
            for _ in 0..if task.name == "b" { steps } else { 1 } {
                file.write_all(b"a slice")?;
                file.flush()?;
                sleep(Duration::from_millis(10));
                stop.check()?;
            }
            Ok(())
        })?;
        Ok(CaseOutcome::default())
    };
    runner::run(out, &mut journal, &tasks, &conditions, stop, vec![work]).unwrap()
}

#[test]
#[ignore = "run by a_run_can_be_ended_by_any_signal_and_continued"]
fn helper_slow_run() {
    if !is_helper() {
        return; // `cargo test -- --ignored` must not end its own process
    }
    messages::set_talk(Talk::Nothing);
    let stop = Stop::new();
    install(&stop).unwrap();
    let summary = slow_run(Path::new(&std::env::var_os(OUT_VARIABLE).unwrap()), &stop);
    std::process::exit(summary.exit().code());
}

/// Starts the slow run in a process of its own and waits until it is in the middle of writing the second mask.
fn started_run(out: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "cohort::signals::helper_slow_run", "--ignored"])
        .env(OUT_VARIABLE, out)
        .stdout(Stdio::null());
    let child = command.spawn().unwrap();
    let begun = || files_below(out).iter().any(|file| file.starts_with(atomic_file::TEMPORARY_PREFIX)) && out.join("a.nii").exists();
    let start = Instant::now();
    while !begun() {
        assert!(start.elapsed() < Duration::from_secs(20), "the run did not start");
        sleep(Duration::from_millis(5));
    }
    child
}

fn end_with(signal: i32, mut child: Child) -> ExitStatus {
    let sent = Command::new("kill")
        .args([format!("-{signal}"), child.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > Duration::from_secs(20) {
            child.kill().unwrap();
            panic!("the run did not end");
        }
        sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_run_can_be_ended_by_any_signal_and_continued() {
    messages::set_talk(Talk::Nothing);
    for signal in [SIGTERM, SIGINT, SIGUSR1, SIGKILL] {
        let folder = tempfile::tempdir().unwrap();
        let status = end_with(signal, started_run(folder.path()));
        if signal != SIGKILL {
            assert_eq!(status.code(), Some(EXIT_STOPPED), "signal {signal}");
            assert_eq!(
                files_below(folder.path()),
                ["a.nii", "journal.jsonl"],
                "nothing half-written after signal {signal}"
            );
        }
        let summary = slow_run(folder.path(), &Stop::new());
        assert_eq!(
            (summary.skipped, summary.done),
            (vec!["a".to_string()], vec!["b".to_string(), "c".to_string()]),
            "signal {signal}"
        );
        assert_eq!(
            files_below(folder.path()),
            ["a.nii", "b.nii", "c.nii", "journal.jsonl"],
            "signal {signal}"
        );
    }
}
