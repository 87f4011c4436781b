//! The runner goes on after failures, skips what is finished, stops when asked to, and leaves nothing half-written.

mod folder;
mod order;

use super::{files_below, put, some_settings};
use anyhow::{Context, Result, bail};
use hpc_seg::atomic_file;
use hpc_seg::cohort::journal::Journal;
use hpc_seg::cohort::output::{self, CaseFiles};
use hpc_seg::cohort::runner::{self, CaseOutcome, Conditions, Exit, Summary, Task, Worked, Worker};
use hpc_seg::messages::{self, Progress, Talk};
use hpc_seg::stop::Stop;
use serde_json::Value;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

/// A cohort of images a, b, c and an output folder, all made up.
struct Bench {
    folder: tempfile::TempDir,
    conditions: Conditions,
    stop: Stop,
}

impl Bench {
    fn new() -> Self {
        messages::set_talk(Talk::Nothing);
        let folder = tempfile::tempdir().unwrap();
        ["a", "b", "c"]
            .iter()
            .for_each(|name| put(folder.path(), &format!("in/{name}.nii"), name));
        Self {
            folder,
            conditions: Conditions {
                device: "cpu".into(),
                weights_sha256: "w".into(),
                settings: some_settings(),
            },
            stop: Stop::new(),
        }
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    fn tasks(&self) -> Vec<Task<()>> {
        let task = |name: &str| Task {
            name: name.to_string(),
            inputs: vec![("image".to_string(), self.folder.path().join(format!("in/{name}.nii")))],
            outputs: vec![
                PathBuf::from(format!("uncertainty/{name}.nii.gz")),
                PathBuf::from(format!("{name}.nii.gz")),
            ],
            unwanted: vec![PathBuf::from(format!("probability/{name}.nii.gz"))],
            payload: (),
        };
        ["a", "b", "c"].into_iter().map(task).collect()
    }

    fn try_run(&self, work: impl FnMut(&Task<()>, &Stop, &Progress) -> Result<CaseOutcome> + Send) -> Result<Summary> {
        self.try_run_on(vec![work])
    }

    fn try_run_on(&self, workers: Vec<impl Worker<()>>) -> Result<Summary> {
        let tasks = self.tasks();
        output::prepare(&self.out(), &[], tasks.iter().flat_map(|task| &task.outputs))?;
        let mut journal = Journal::open(&self.out())?;
        runner::run(&self.out(), &mut journal, &tasks, &self.conditions, &self.stop, workers)
    }

    fn run(&self, work: impl FnMut(&Task<()>, &Stop, &Progress) -> Result<CaseOutcome> + Send) -> Summary {
        self.try_run(work).unwrap()
    }
}

/// Writes all outputs of a task.
fn write_all(out: &Path, task: &Task<()>) -> Result<CaseOutcome> {
    for file in &task.outputs {
        atomic_file::write_bytes(&out.join(file), task.name.as_bytes())?;
    }
    Ok(CaseOutcome {
        line: format!("labelled {}", task.name),
        warnings: vec![],
    })
}

fn names(list: &[(String, String)]) -> Vec<&str> {
    list.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn all_cases_are_done_once_and_skipped_from_then_on() {
    let bench = Bench::new();
    let summary = bench.run(|task, _, _| write_all(&bench.out(), task));
    assert_eq!((summary.done.len(), summary.exit()), (3, Exit::Done));
    let files = [
        "a.nii.gz",
        "b.nii.gz",
        "c.nii.gz",
        "journal.jsonl",
        "uncertainty/a.nii.gz",
        "uncertainty/b.nii.gz",
        "uncertainty/c.nii.gz",
    ];
    assert_eq!(files_below(&bench.out()), files);

    let again = bench.run(|task, _, _| bail!("{} was not skipped", task.name));
    assert_eq!((again.skipped.len(), again.exit().code()), (3, 0));
    assert_eq!(again.line(&bench.out()), "0 done, 3 were finished before");
}

#[test]
fn a_changed_image_and_a_lost_mask_are_done_again_and_nothing_else() {
    let bench = Bench::new();
    bench.run(|task, _, _| write_all(&bench.out(), task));
    put(bench.folder.path(), "in/b.nii", "edited");
    fs::remove_file(bench.out().join("c.nii.gz")).unwrap();
    let again = bench.run(|task, _, _| write_all(&bench.out(), task));
    assert_eq!(
        (again.done, again.skipped),
        (vec!["b".to_string(), "c".to_string()], vec!["a".to_string()])
    );
}

#[test]
fn changed_weights_or_settings_redo_everything() {
    let mut bench = Bench::new();
    bench.run(|task, _, _| write_all(&bench.out(), task));
    bench.conditions.weights_sha256 = "other".into();
    assert_eq!(bench.run(|task, _, _| write_all(&bench.out(), task)).done.len(), 3);
    bench.conditions.settings["threshold"] = Value::from(0.4);
    assert_eq!(bench.run(|task, _, _| write_all(&bench.out(), task)).done.len(), 3);
}

#[test]
fn an_error_and_a_panic_are_listed_and_the_others_go_on() {
    let bench = Bench::new();
    let failing = |task: &Task<()>, _: &Stop, progress: &Progress| {
        progress.stage("reading", 1);
        match task.name.as_str() {
            "a" => Err::<CaseOutcome, _>(anyhow::anyhow!("file ends, early")).context("cannot read a.nii"),
            "b" => {
                progress.stage("tracking", 1);
                panic!("index 4 of 3")
            }
            _ => write_all(&bench.out(), task),
        }
    };
    let summary = bench.run(failing);
    assert_eq!(
        (names(&summary.failed), &summary.done[..]),
        (vec!["a", "b"], &["c".to_string()][..])
    );
    assert_eq!((summary.exit(), summary.exit().code()), (Exit::SomeFailed, 3));
    let table = fs::read_to_string(bench.out().join("failed.csv")).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(
        lines[..2],
        ["case,stage,error", "a,reading,\"cannot read a.nii: file ends, early\""]
    );
    assert!(
        lines[2].starts_with("b,tracking,") && lines[2].contains("internal error") && lines[2].contains("index 4 of 3"),
        "{table}"
    );

    // A case that works in the next run leaves the list; the last one takes the list along.
    let better = |task: &Task<()>, _: &Stop, _: &Progress| {
        if task.name == "b" {
            bail!("still no")
        } else {
            write_all(&bench.out(), task)
        }
    };
    assert_eq!(names(&bench.run(better).failed), ["b"]);
    assert_eq!(
        fs::read_to_string(bench.out().join("failed.csv")).unwrap(),
        "case,stage,error\nb,start,still no\n"
    );
    assert_eq!(bench.run(|task, _, _| write_all(&bench.out(), task)).exit(), Exit::Done);
    assert!(!bench.out().join("failed.csv").exists());
}

#[test]
fn an_unreadable_image_fails_alone() {
    let bench = Bench::new();
    fs::remove_file(bench.folder.path().join("in/a.nii")).unwrap();
    let summary = bench.run(|task, _, _| write_all(&bench.out(), task));
    assert_eq!((names(&summary.failed), summary.done.len()), (vec!["a"], 2));
    assert!(summary.failed[0].1.contains("a.nii"), "{:?}", summary.failed);
}

#[test]
fn a_case_that_claims_to_be_done_without_its_files_has_failed() {
    let bench = Bench::new();
    let summary = bench.run(|task, _, _| {
        if task.name == "b" {
            Ok(CaseOutcome::default())
        } else {
            write_all(&bench.out(), task)
        }
    });
    assert_eq!(names(&summary.failed), ["b"]);
    assert!(summary.failed[0].1.contains("uncertainty/b.nii.gz was not written"));
}

#[test]
fn results_of_other_settings_do_not_stay_when_the_new_attempt_fails() {
    let mut bench = Bench::new();
    bench.run(|task, _, _| write_all(&bench.out(), task));
    bench.conditions.settings["threshold"] = Value::from(0.4);
    let summary = bench.run(|task, _, _| {
        if task.name == "b" {
            bail!("no")
        } else {
            write_all(&bench.out(), task)
        }
    });
    assert_eq!(names(&summary.failed), ["b"]);
    assert!(!bench.out().join("b.nii.gz").exists() && bench.out().join("a.nii.gz").exists());
}

#[test]
fn a_stop_ends_the_run_cleanly_and_the_same_command_goes_on() {
    let bench = Bench::new();
    let summary = bench.run(|task, stop, _| {
        if task.name == "b" {
            // The signal comes while the second of two files is being written.
            atomic_file::write_bytes(&bench.out().join(&task.outputs[0]), b"whole")?;
            stop.request(15);
            atomic_file::write_with(&bench.out().join(&task.outputs[1]), |file| {
                file.write_all(b"half")?;
                stop.check()
            })?;
        }
        write_all(&bench.out(), task)
    });
    assert_eq!(
        (summary.done.len(), &summary.open[..]),
        (1, &["b".to_string(), "c".to_string()][..])
    );
    assert_eq!((summary.exit(), summary.exit().code()), (Exit::Stopped, 75));
    assert_eq!(
        files_below(&bench.out()),
        ["a.nii.gz", "journal.jsonl", "uncertainty/a.nii.gz", "uncertainty/b.nii.gz"]
    );

    let next = Bench {
        stop: Stop::new(),
        ..bench
    };
    let summary = next.run(|task, _, _| write_all(&next.out(), task));
    assert_eq!((summary.skipped.len(), summary.done.len(), summary.exit()), (1, 2, Exit::Done));
}

#[test]
fn a_full_disk_ends_the_run_with_the_remedy_instead_of_failing_every_case() {
    let bench = Bench::new();
    let mut attempts = 0;
    let error = bench
        .try_run(|_, _, _| {
            attempts += 1;
            Err(io::Error::from(io::ErrorKind::StorageFull)).context("cannot write a.nii.gz")
        })
        .unwrap_err();
    assert_eq!(attempts, 1);
    assert!(
        error.to_string().contains("free some and give the same command again to go on"),
        "{error}"
    );
    assert!(!bench.out().join("failed.csv").exists());
}

#[test]
fn leftovers_of_a_killed_run_are_removed() {
    let bench = Bench::new();
    put(&bench.out(), &format!("{}xyz", atomic_file::TEMPORARY_PREFIX), "half");
    put(&bench.out(), &format!("uncertainty/{}xyz", atomic_file::TEMPORARY_PREFIX), "half");
    bench.run(|task, _, _| write_all(&bench.out(), task));
    assert!(
        files_below(&bench.out())
            .iter()
            .all(|file| !file.contains(atomic_file::TEMPORARY_PREFIX))
    );
}

#[test]
fn somebody_elses_mask_is_never_replaced() {
    let bench = Bench::new();
    put(&bench.out(), "b.nii.gz", "a day of manual work");
    let error = bench.try_run(|task, _, _| write_all(&bench.out(), task)).unwrap_err();
    assert!(hpc_seg::error::is_input_error(&error), "{error}");
    assert!(
        error.to_string().contains("b.nii.gz exists and was not written by a run into"),
        "{error}"
    );
    assert_eq!(fs::read(bench.out().join("b.nii.gz")).unwrap(), b"a day of manual work");
}

#[test]
fn an_output_folder_that_is_an_input_folder_or_cannot_be_written_is_refused_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let files = CaseFiles::new("a", true).all();
    let error = output::prepare(folder.path(), &[folder.path().join(".")], files.iter()).unwrap_err();
    assert!(error.to_string().contains("is a folder that volumes are read from"), "{error}");

    put(folder.path(), "file", "in the way");
    let error = output::prepare(&folder.path().join("file/out"), &[], files.iter()).unwrap_err();
    assert!(
        error.to_string().contains("cannot write to the output folder") && error.to_string().contains("Choose another --out"),
        "{error}"
    );

    let out = folder.path().join("new/out");
    output::prepare(&out, &[folder.path().to_path_buf()], files.iter()).unwrap();
    assert!(
        ["uncertainty", "probability", "cases", "timings"]
            .iter()
            .all(|name| out.join(name).is_dir())
    );
    assert_eq!(files_below(&out), Vec::<String>::new(), "the probe leaves nothing");
}

/// Leaves the writing of a case to the runner; `a` is written only when work on `b` has begun.
struct Leaves<'a> {
    bench: &'a Bench,
    begun: Sender<()>,
    waits: Option<Receiver<()>>,
    nexts: Vec<Option<String>>,
}

impl Worker<()> for &mut Leaves<'_> {
    fn work(&mut self, task: &Task<()>, next: Option<&Task<()>>, _: &Stop, _: &Progress) -> Result<Worked> {
        self.nexts.push(next.map(|task| task.name.clone()));
        let _ = self.begun.send(());
        let (out, task, waits) = (self.bench.out(), task.clone(), self.waits.take());
        Ok(Worked::Left(Box::new(move || {
            if let Some(waits) = waits {
                waits.recv()?;
                waits.recv()?;
            }
            if task.name == "c" {
                panic!("no ink");
            }
            write_all(&out, &task)
        })))
    }
}

#[test]
fn what_is_left_of_a_case_is_done_beside_the_next_one_and_may_fail_like_the_rest() {
    let bench = Bench::new();
    let (begun, waits) = channel();
    let mut worker = Leaves {
        bench: &bench,
        begun,
        waits: Some(waits),
        nexts: vec![],
    };
    let summary = bench.try_run_on(vec![&mut worker]).unwrap();
    assert_eq!(worker.nexts, [Some("b".into()), Some("c".into()), None]);
    assert_eq!((summary.done, names(&summary.failed)), (vec!["a".into(), "b".into()], vec!["c"]));
    let table = fs::read_to_string(bench.out().join("failed.csv")).unwrap();
    assert!(table.contains("c,writing,") && table.contains("no ink"), "{table}");
    let again = bench.run(|task, _, _| write_all(&bench.out(), task));
    assert_eq!((again.done.len(), again.skipped.len()), (1, 2));
}

/// Fails at its first case and is good for nothing then, or works.
struct Device<'a> {
    bench: &'a Bench,
    fails: bool,
    /// Where both meet at their first cases.
    both: Option<&'a Barrier>,
}

impl Worker<()> for Device<'_> {
    fn work(&mut self, task: &Task<()>, _: Option<&Task<()>>, _: &Stop, _: &Progress) -> Result<Worked> {
        if let Some(both) = self.both.take() {
            both.wait();
        }
        if self.fails {
            bail!("the device failed");
        }
        write_all(&self.bench.out(), task).map(Worked::Done)
    }

    fn is_able(&self) -> bool {
        !self.fails
    }
}

#[test]
fn a_worker_that_cannot_go_on_leaves_its_cases_to_the_others() {
    let bench = Bench::new();
    let both = Barrier::new(2);
    let device = |fails| Device {
        bench: &bench,
        fails,
        both: Some(&both),
    };
    let summary = bench.try_run_on(vec![device(true), device(false)]).unwrap();
    assert_eq!((summary.done.len(), summary.failed.len()), (2, 1), "{summary:?}");
}

#[test]
fn without_a_worker_that_can_go_on_the_run_ends_and_the_same_command_does_the_rest() {
    let bench = Bench::new();
    let device = |fails| Device {
        bench: &bench,
        fails,
        both: None,
    };
    let error = bench.try_run_on(vec![device(true)]).unwrap_err().to_string();
    assert!(error.contains("2 cases are left") && error.contains("the same command"), "{error}");
    let summary = bench.try_run_on(vec![device(false)]).unwrap();
    assert_eq!((summary.done.len(), summary.exit()), (3, Exit::Done));

    // With only finished cases behind it, a case that fails is no reason to end.
    put(bench.folder.path(), "in/a.nii", "another");
    let summary = bench.try_run_on(vec![device(true)]).unwrap();
    assert_eq!((names(&summary.failed), summary.exit()), (vec!["a"], Exit::SomeFailed));
}

#[test]
fn several_workers_share_the_cases() {
    let bench = Bench::new();
    let (both, taken) = (Barrier::new(2), [AtomicUsize::new(0), AtomicUsize::new(0)]);
    let worker = |own: usize| {
        let (bench, both, taken) = (&bench, &both, &taken);
        move |task: &Task<()>, _: &Stop, _: &Progress| {
            // Neither goes on with its first case before the other has one.
            if taken[own].fetch_add(1, Ordering::SeqCst) == 0 {
                both.wait();
            }
            if task.name == "b" {
                bail!("no")
            } else {
                write_all(&bench.out(), task)
            }
        }
    };
    let summary = bench.try_run_on(vec![worker(0), worker(1)]).unwrap();
    assert_eq!((summary.done, names(&summary.failed)), (vec!["a".into(), "c".into()], vec!["b"]));
    assert_eq!(taken.map(AtomicUsize::into_inner).iter().sum::<usize>(), 3);
}

#[test]
fn runs_of_several_processes_share_the_cases() {
    let bench = Bench::new();
    let (begun, others_done) = (Barrier::new(2), Barrier::new(2));
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            bench.run(|task, _, _| {
                assert_eq!(task.name, "a", "the others were done meanwhile");
                begun.wait();
                others_done.wait();
                write_all(&bench.out(), task)
            })
        });
        begun.wait();
        let second = bench.run(|task, _, _| match task.name.as_str() {
            "c" => bail!("no"),
            _ => write_all(&bench.out(), task),
        });
        let (mut other_weights, mut other_device) = (bench.conditions.clone(), bench.conditions.clone());
        other_weights.weights_sha256 = "v".into();
        other_device.device = "cuda".into();
        for other in [other_weights, other_device] {
            let mut journal = Journal::open(&bench.out()).unwrap();
            let taken = |_: &Task<()>, _: &Stop, _: &Progress| -> Result<CaseOutcome> { panic!("taken") };
            let refused = runner::run(&bench.out(), &mut journal, &bench.tasks(), &other, &bench.stop, vec![taken]);
            let error = format!("{:#}", refused.unwrap_err());
            assert!(error.contains("with other settings, weights or kind of device"), "{error}");
        }
        // What failed elsewhere is tried again.
        fs::write(bench.folder.path().join("in/c.nii"), "mended").unwrap();
        let third = bench.run(|task, _, _| write_all(&bench.out(), task));
        assert_eq!((&third.done, third.exit()), (&vec!["c".to_owned()], Exit::Elsewhere(false)));
        others_done.wait();
        (first.join().unwrap(), second)
    });
    assert_eq!(
        (first.done, first.skipped),
        (vec!["a".to_owned()], vec!["b".to_owned(), "c".to_owned()])
    );
    assert_eq!((&second.done, names(&second.failed)), (&vec!["b".to_owned()], vec!["c"]));
    assert_eq!((&second.elsewhere, second.exit()), (&vec!["a".to_owned()], Exit::Elsewhere(true)));
    assert!(!bench.out().join("failed.csv").exists());
    assert!(!bench.out().join(".claims").exists(), "locks are taken away");
}
