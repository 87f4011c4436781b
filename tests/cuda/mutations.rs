//! Bugs put into the kernels one at a time: the conformance tests under the checker must notice nearly all of them.
//!
//! Each costs a compilation, so two of every kernel file and header are tried, or all with `HPC_SEG_MUTANTS=all`, or all of one file with its
//! name in the place of `all`.

// Also read by build.rs.
#[path = "../../kernels/host/build_emulator.rs"]
mod build_emulator;

use super::conformance::Bench;
use super::suites::{Check, Mutation, SUITES};
use hpc_seg::cuda::emulator::Schedule;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// The emulator of the kernels with this bug, built below `folder`.
fn build((name, file, from, to): Mutation, folder: &Path) -> PathBuf {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let changed = folder.join("kernels");
    fs::create_dir_all(&changed).unwrap();
    std::os::unix::fs::symlink(kernels.join("host"), changed.join("host")).unwrap();
    for entry in fs::read_dir(&kernels)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_file())
    {
        let mut text = fs::read_to_string(entry.path()).unwrap();
        if entry.file_name() == file {
            assert!(text.contains(from), "{name}: {file} has no `{from}`; mend this mutation");
            text = text.replace(from, to);
        }
        fs::write(changed.join(entry.file_name()), text).unwrap();
    }
    // Objects of the files that do not see the change are those of the build itself.
    let made = Path::new(env!("HPC_SEG_EMULATOR")).parent().unwrap();
    // What build_emulator.rs has every kernel file include is seen by all.
    let is_seen_from = |source: &str| {
        [source, "rows.cuh", "union_find.cuh"]
            .iter()
            .any(|from| includes(&kernels, from, file))
    };
    let sees = |object: &str| {
        object
            .strip_suffix(".o")
            .is_some_and(|source| source.contains(".cu") && is_seen_from(source))
    };
    let reuse = |object: &str| Some(made.join(object)).filter(|_| !sees(object));
    build_emulator::build(&changed, &changed.join("host"), &folder.join("out"), true, &reuse).unwrap()
}

/// Whether a file of kernels is another one or includes it.
fn includes(kernels: &Path, source: &str, other: &str) -> bool {
    source == other
        || fs::read_to_string(kernels.join(source)).unwrap().lines().any(|line| {
            let named = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"'));
            named.is_some_and(|name| kernels.join(name).is_file() && !name.starts_with("host/") && includes(kernels, name, other))
        })
}

/// The complaint about a build's kernels in the first schedule that has one.
fn complaint(library: &Path, check: Check) -> Option<String> {
    let mut errors = Schedule::ALL.into_iter().map(|schedule| check(&Bench::of(library, schedule)));
    errors.find_map(|result| result.err().map(|error| format!("{error:#}")))
}

#[test]
fn bugs_put_into_the_kernels_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let which = std::env::var("HPC_SEG_MUTANTS").unwrap_or_default();
    let mut tried: BTreeMap<&str, usize> = BTreeMap::new();
    let bugs: Vec<(Check, Mutation)> = SUITES
        .iter()
        .flat_map(|(_, check, bugs)| bugs.iter().map(|bug| (*check, *bug)))
        .filter(|(_, (_, file, ..))| {
            let tried = tried.entry(file).or_default();
            *tried += 1;
            match which.as_str() {
                "" => *tried <= 2,
                "all" => true,
                only => only == *file,
            }
        })
        .collect();
    let fewest = if ["", "all"].contains(&which.as_str()) { 40 } else { 1 };
    assert!(bugs.len() >= fewest, "{} bugs", bugs.len());
    let next = AtomicUsize::new(0);
    let work = || {
        let mut missed = Vec::new();
        while let Some(&(check, mutation)) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let library = build(
                mutation,
                &folder.path().join(format!("{}_{}", mutation.1, mutation.0.replace(' ', "_"))),
            );
            match complaint(&library, check) {
                Some(complaint) => println!("{}: {}", mutation.0, complaint.lines().next().unwrap_or("")),
                None => missed.push(mutation.0),
            }
        }
        missed
    };
    let missed: Vec<&str> = thread::scope(|scope| {
        let workers = [scope.spawn(work), scope.spawn(work)];
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    println!("{} of {} noticed", bugs.len() - missed.len(), bugs.len());
    assert!(missed.len() * 20 <= bugs.len(), "not noticed: {missed:?}");
}

#[test]
fn kernels_without_a_bug_pass_when_they_are_built_the_same_way() {
    let folder = tempfile::tempdir().unwrap();
    let library = build(("no change", "max_pool.cu", "KERNEL", "KERNEL"), folder.path());
    assert_eq!(complaint(&library, super::max_pool::check), None);
}
