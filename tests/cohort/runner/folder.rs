//! What is found in an output folder before the work begins, and what is removed from it.

use super::super::{files_below, put};
use super::{Bench, write_all};
use hpc_seg::cohort::journal::{History, Status};
use hpc_seg::cohort::runner;
use std::fs;

#[test]
fn a_result_that_was_cut_to_nothing_is_done_again() {
    let bench = Bench::new();
    bench.run(|task, _, _| write_all(&bench.out(), task));
    fs::write(bench.out().join("uncertainty/b.nii.gz"), "").unwrap();
    let again = bench.run(|task, _, _| write_all(&bench.out(), task));
    assert_eq!((again.done, again.skipped.len()), (vec!["b".to_owned()], 2));
}

#[test]
fn files_of_other_options_do_not_stay_beside_new_results_and_strangers_do() {
    let bench = Bench::new();
    put(&bench.out(), "probability/a.nii.gz", "somebody's");
    bench.run(|task, _, _| write_all(&bench.out(), task));
    put(&bench.out(), "probability/b.nii.gz", "of the earlier image");
    put(&bench.out(), "probability/c.nii.gz", "of the same image");
    put(bench.folder.path(), "in/b.nii", "edited");
    assert_eq!(bench.run(|task, _, _| write_all(&bench.out(), task)).done, ["b"]);
    let left = ["a", "b", "c"].map(|name| bench.out().join(format!("probability/{name}.nii.gz")).exists());
    assert_eq!(left, [true, false, true]);
}

#[test]
fn the_outlook_is_what_a_run_finds_and_writes_nothing() {
    let bench = Bench::new();
    let outlook = || runner::outlook(&bench.out(), &bench.tasks(), &bench.conditions);
    assert_eq!(outlook().unwrap(), [Status::Open, Status::Open, Status::Open]);
    assert!(!bench.out().exists());
    bench.run(|task, _, _| write_all(&bench.out(), task));
    let before = files_below(&bench.out());
    put(bench.folder.path(), "in/b.nii", "edited");
    fs::remove_file(bench.folder.path().join("in/c.nii")).unwrap();
    let found = outlook().unwrap();
    assert_eq!((&found[0], &found[2]), (&Status::Finished, &Status::Open), "c cannot be read");
    assert!(
        matches!(&found[1], Status::Changed(changes) if changes[0].contains("b.nii) changed")),
        "{found:?}"
    );
    assert_eq!(files_below(&bench.out()), before);
}

#[test]
fn another_kind_of_device_is_no_reason_to_do_a_case_again_and_is_told() {
    let mut bench = Bench::new();
    bench.run(|task, _, _| write_all(&bench.out(), task));
    bench.conditions.device = "cuda".into();
    put(bench.folder.path(), "in/b.nii", "edited");
    let again = bench.run(|task, _, _| write_all(&bench.out(), task));
    assert_eq!((again.done, again.skipped.len()), (vec!["b".to_owned()], 2));
    let history = History::of(&bench.out()).unwrap();
    assert_eq!(["cpu", "cuda"].map(|device| history.count_of_other_devices(device)), [1, 2]);
}

#[test]
fn the_outlook_refuses_what_a_run_would() {
    let bench = Bench::new();
    put(&bench.out(), "b.nii.gz", "a day of manual work");
    let error = runner::outlook(&bench.out(), &bench.tasks(), &bench.conditions).unwrap_err();
    assert!(
        hpc_seg::error::is_input_error(&error) && error.to_string().contains("b.nii.gz exists"),
        "{error}"
    );
}
