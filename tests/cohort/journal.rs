//! The journal remembers what is finished, survives a crash, and names what changed.

use super::{fingerprint, put, some_settings};
use hpc_seg::cohort::journal::{Cost, Event, FILE_NAME, Fingerprint, History, Journal, Status};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

fn finished_case() -> (tempfile::TempDir, Fingerprint, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "a.nii.gz", "mask");
    let (print, outputs) = (
        fingerprint(&[("image", "1"), ("labelled b labels", "2")], "w", some_settings()),
        vec![folder.path().join("a.nii.gz")],
    );
    let mut journal = Journal::open(folder.path()).unwrap();
    journal.append("a", Event::Started, None, "").unwrap();
    journal.append("a", Event::Done, Some(print.clone()), "").unwrap();
    (folder, print, outputs)
}

#[test]
fn a_finished_case_is_finished_in_the_next_run_too() {
    let (folder, print, outputs) = finished_case();
    let journal = Journal::open(folder.path()).unwrap();
    assert_eq!(journal.history().status("a", &print, &outputs), Status::Finished);
    assert_eq!(journal.history().status("b", &print, &outputs), Status::Open);
    assert!(journal.history().knows("a") && !journal.history().knows("b"));
}

#[test]
fn every_kind_of_change_is_named() {
    let (folder, _, outputs) = finished_case();
    let journal = Journal::open(folder.path()).unwrap();
    let changes = |print: &Fingerprint| match journal.history().status("a", print, &outputs) {
        Status::Changed(changes) => changes,
        other => panic!("{other:?}"),
    };
    let inputs = [("image", "1"), ("labelled b labels", "2")];
    let lower = json!({"insertions": 5, "threshold": 0.4, "seed": 1});
    assert_eq!(
        changes(&fingerprint(&inputs, "w", lower)),
        ["seed was unset and is 1", "threshold was 0.5 and is 0.4"]
    );
    assert_eq!(changes(&fingerprint(&inputs, "v", some_settings())), ["the weights changed"]);
    let others = [("image", "7"), ("labelled c labels", "2")];
    assert_eq!(
        changes(&fingerprint(&others, "w", some_settings())),
        [
            "image (somewhere.nii) changed",
            "labelled b labels is no longer used",
            "labelled c labels is new"
        ]
    );
    fs::remove_file(&outputs[0]).unwrap();
    assert!(changes(&fingerprint(&inputs, "w", some_settings()))[0].ends_with("a.nii.gz is not there"));
}

#[test]
fn the_same_content_at_another_place_is_no_change() {
    let (folder, mut print, outputs) = finished_case();
    print.inputs.values_mut().for_each(|file| file.path = "moved.nii".into());
    assert_eq!(
        Journal::open(folder.path()).unwrap().history().status("a", &print, &outputs),
        Status::Finished
    );
}

#[test]
fn a_torn_last_line_is_passed_over_wherever_it_was_torn() {
    let (folder, print, outputs) = finished_case();
    let path = folder.path().join(FILE_NAME);
    let whole = fs::read(&path).unwrap();
    let first_line = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for length in [first_line + 1, first_line + 40, whole.len() - 2] {
        fs::write(&path, &whole[..length]).unwrap();
        let mut journal = Journal::open(folder.path()).unwrap();
        assert_eq!(journal.history().unreadable_lines(), 1);
        assert_eq!(journal.history().status("a", &print, &outputs), Status::Open);
        // What comes after the torn line stands alone.
        journal.append("a", Event::Done, Some(print.clone()), "").unwrap();
        drop(journal);
        assert_eq!(
            Journal::open(folder.path()).unwrap().history().status("a", &print, &outputs),
            Status::Finished
        );
    }
    // A line that lost nothing but its newline is whole.
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(
        Journal::open(folder.path()).unwrap().history().status("a", &print, &outputs),
        Status::Finished
    );
}

#[test]
fn an_attempt_takes_the_finish_back_and_what_is_said_without_one_does_not() {
    for event in [Event::Started, Event::Failed, Event::Stopped, Event::Skipped] {
        let (folder, print, outputs) = finished_case();
        let expected = if event == Event::Started { Status::Open } else { Status::Finished };
        let mut journal = Journal::open(folder.path()).unwrap();
        journal.append("a", event, None, "").unwrap();
        assert_eq!(journal.history().status("a", &print, &outputs), expected, "{event:?}");
        drop(journal);
        let mut again = Journal::open(folder.path()).unwrap();
        assert_eq!(again.history().status("a", &print, &outputs), expected, "{event:?}");
        again.append("a", Event::Started, None, "").unwrap();
        again.append("a", Event::Failed, None, "no").unwrap();
        assert_eq!(again.history().status("a", &print, &outputs), Status::Open);
    }
}

#[test]
fn an_attempt_begins_only_where_nobody_has_finished_meanwhile() {
    let (folder, print, outputs) = finished_case();
    let mut first = Journal::open(folder.path()).unwrap();
    first.presence().let_others_in("").unwrap();
    let mut second = Journal::open(folder.path()).unwrap();
    assert!(first.start_unless_done("b").unwrap());
    assert!(first.start_unless_done("b").unwrap(), "begun is not done");
    second.append("b", Event::Done, Some(print.clone()), "").unwrap();
    assert!(!first.start_unless_done("b").unwrap());
    assert_eq!(first.history().status("b", &print, &outputs), Status::Finished);
}

#[test]
fn what_processes_put_into_a_case_is_summed_until_it_is_done() {
    let (folder, print, outputs) = finished_case();
    let mut journal = Journal::open(folder.path()).unwrap();
    journal.presence().let_others_in("").unwrap();
    let mut other = Journal::open(folder.path()).unwrap();
    let cost = |seconds, bytes| Cost {
        seconds,
        peak_memory_bytes: Some(bytes),
    };
    let share = |journal: &mut Journal, cost| journal.append_with("b", Event::Shared, None, Some(cost), "").unwrap();
    journal.append("b", Event::Started, None, "").unwrap();
    share(&mut journal, cost(2.0, 7));
    share(&mut other, cost(3.5, 5));
    journal.refresh().unwrap();
    assert_eq!(journal.history().shared("b"), Some(cost(5.5, 7)));
    assert_eq!(
        journal.history().latest()["b"].event,
        Event::Started,
        "nothing has become of it yet"
    );
    other.append("b", Event::Done, Some(print.clone()), "").unwrap();
    journal.refresh().unwrap();
    assert_eq!(
        (journal.history().shared("b"), journal.history().status("b", &print, &outputs)),
        (None, Status::Finished)
    );
    share(&mut journal, cost(1.0, 9));
    assert_eq!(journal.history().shared("b"), None, "it came too late");
    assert_eq!(History::of(folder.path()).unwrap().latest()["b"].event, Event::Done);
}

#[test]
fn what_another_process_appends_is_taken_in() {
    let (folder, print, outputs) = finished_case();
    let mut first = Journal::open(folder.path()).unwrap();
    first.presence().let_others_in("").unwrap();
    let mut second = Journal::open(folder.path()).unwrap();
    second.append("b", Event::Done, Some(print.clone()), "").unwrap();
    assert_eq!(first.history().status("b", &print, &outputs), Status::Open);
    first.append("a", Event::Started, None, "").unwrap();
    assert_eq!(first.history().status("b", &print, &outputs), Status::Finished);
    assert_eq!(second.history().status("a", &print, &outputs), Status::Finished);
    second.refresh().unwrap();
    assert_eq!(second.history().status("a", &print, &outputs), Status::Open);
    let history = History::of(folder.path()).unwrap();
    let latest = history.latest();
    assert_eq!((latest["a"].event, latest["b"].event), (Event::Started, Event::Done));
    assert!(latest["a"].process.ends_with(&format!(":{}", std::process::id())));
}

#[test]
fn a_line_holds_what_a_reader_needs() {
    let (folder, ..) = finished_case();
    let text = fs::read_to_string(folder.path().join(FILE_NAME)).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (lines[0]["case"].as_str(), lines[0]["event"].as_str()),
        (Some("a"), Some("started"))
    );
    let done = &lines[1];
    assert_eq!(done["event"], "done");
    assert_eq!(done["inputs"]["image"]["sha256"], "1");
    assert_eq!(done["weights_sha256"], "w");
    assert_eq!(done["settings"]["threshold"], 0.5);
    assert_eq!(done["settings_sha256"].as_str().unwrap().len(), 64);
    assert_eq!(done["time"].as_str().unwrap().len(), "2026-11-23T20:12:55Z".len());
}
