//! Which cases exist, what each became: discovery, groups, journal, runner, signals.

mod case_record;
mod changed_meanwhile;
mod discover;
mod failing_device;
mod groups;
mod journal;
mod runner;
mod signals;

use hpc_seg::cohort::discover::{Cohort, discover};
use hpc_seg::cohort::hashes::HashedFile;
use hpc_seg::cohort::journal::Fingerprint;
use hpc_seg::cohort::phantoms::{self, Request};
use hpc_seg::messages::Progress;
use hpc_seg::stop::Stop;
use hpc_seg::volume::phantom::Sequence;
use hpc_seg::weights::demo_network;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// One labelled and two unlabelled phantoms in `FOLDER/data`, and the demo network as `FOLDER/demo.safetensors`.
pub fn phantoms_and_network(folder: &Path, size: [usize; 3]) -> Cohort {
    let data = folder.join("data");
    let request = Request {
        cases: 3,
        first: 0,
        labelled: 1,
        out: data.clone(),
        seed: 0,
        sequence: Sequence::Ged4,
        size: Some(size),
        organ: Some(1),
    };
    phantoms::write(&request, &Stop::new(), &Progress::silent()).unwrap();
    fs::write(folder.join("demo.safetensors"), demo_network()).unwrap();
    discover(&data, &data, 0).unwrap()
}

/// A folder with these files (each holds its own name).
pub fn folder_of(files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    files.iter().for_each(|file| put(folder.path(), file, file));
    folder
}

/// Writes a file and the folders above it.
pub fn put(folder: &Path, file: &str, content: &str) {
    let path = folder.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// All files below a folder, relative to it, sorted.
pub fn files_below(folder: &Path) -> Vec<String> {
    fn walk(folder: &Path, root: &Path, files: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, files);
            } else {
                files.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_string());
            }
        }
    }
    let mut files = Vec::new();
    walk(folder, folder, &mut files);
    files.sort();
    files
}

/// A fingerprint of made-up inputs (role, hash).
pub fn fingerprint(inputs: &[(&str, &str)], weights: &str, settings: Value) -> Fingerprint {
    let file = |hash: &str| HashedFile {
        path: "somewhere.nii".into(),
        bytes: 1,
        modified_ns: 1,
        sha256: hash.to_string(),
    };
    let inputs = inputs.iter().map(|(role, hash)| (role.to_string(), file(hash))).collect();
    Fingerprint::new(inputs, weights.to_string(), settings).unwrap()
}

/// Settings for tests that do not care.
pub fn some_settings() -> Value {
    json!({"insertions": 5, "threshold": 0.5})
}
