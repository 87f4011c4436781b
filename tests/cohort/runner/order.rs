//! In which order cases are taken.

use super::{Bench, write_all};
use hpc_seg::cohort::journal::{Event, Journal};

/// A cohort with the last that was heard of some cases.
fn after(events: &[(&str, Event)]) -> Bench {
    let bench = Bench::new();
    std::fs::create_dir(bench.out()).unwrap();
    let mut journal = Journal::open(&bench.out()).unwrap();
    for (case, event) in events {
        journal.append(case, *event, None, "").unwrap();
    }
    bench
}

#[test]
fn what_failed_or_was_never_heard_of_again_comes_last() {
    let bench = after(&[("a", Event::Failed), ("b", Event::Started)]);
    let mut taken = Vec::new();
    let summary = bench.run(|task, _, _| {
        taken.push(task.name.clone());
        write_all(&bench.out(), task)
    });
    assert_eq!(taken, ["c", "a", "b"]);
    assert_eq!(summary.done.len(), 3, "{summary:?}");
}

#[test]
fn a_stop_leaves_those_that_were_not_taken() {
    let bench = after(&[("a", Event::Failed)]);
    let summary = bench.run(|task, stop, _| {
        stop.request(15);
        write_all(&bench.out(), task)
    });
    assert_eq!(
        (summary.done, summary.open),
        (vec!["b".to_owned()], vec!["a".to_owned(), "c".to_owned()])
    );
}
