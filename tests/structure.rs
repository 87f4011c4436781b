//! What the source must look like. Every check is a function over sources that returns its complaints, so that it can be shown to fail.

mod checks;
mod lexer;
mod self_tests;

use checks::Source;
use std::fs;
use std::path::{Path, PathBuf};

/// The package's folder; cargo tells it at run time too, so one build can look at another checkout.
fn root() -> PathBuf {
    PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").to_string()))
}

/// All Rust and CUDA files of the package, sorted by path.
fn sources() -> Vec<Source> {
    fn walk(folder: &Path, root: &Path, sources: &mut Vec<Source>) {
        let mut paths: Vec<PathBuf> = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                walk(&path, root, sources);
            } else if path
                .extension()
                .is_some_and(|ending| ["rs", "cu", "cuh"].iter().any(|known| ending == *known))
            {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
                sources.push(Source::new(&name, &fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut sources = Vec::new();
    for folder in ["src", "tests", "benches", "kernels"] {
        walk(&root().join(folder), &root(), &mut sources);
    }
    assert!(
        sources.iter().any(|source| source.path == "src/lib.rs"),
        "the sources were not found"
    );
    sources
}

#[track_caller]
fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn imports_point_downwards() {
    assert_none(&checks::upward_imports(&sources()));
}

#[test]
fn nothing_above_ops_names_a_device() {
    assert_none(&checks::named_devices(&sources()));
}

#[test]
fn every_op_has_a_conformance_test_of_its_name() {
    assert_none(&checks::ops_without_test(&sources()));
}

#[test]
fn files_and_functions_are_short() {
    let sources = sources();
    let mut longest: Vec<(usize, &str)> = sources.iter().map(|source| (source.line_count(), source.path.as_str())).collect();
    longest.sort_unstable_by(|a, b| b.cmp(a));
    let total: usize = longest.iter().map(|(lines, _)| lines).sum();
    println!(
        "{} files, {total} lines, median {}; the longest:",
        longest.len(),
        longest[longest.len() / 2].0
    );
    longest.iter().take(10).for_each(|(lines, path)| println!("{lines:5} {path}"));
    assert_none(&checks::too_long(&sources, checks::LENGTH_EXCEPTIONS));
}

#[test]
fn inline_assembly_of_kernels_is_in_one_file() {
    assert_none(&checks::misplaced_assembly(&sources()));
}

#[test]
fn unsafe_code_is_where_it_may_be_and_says_why() {
    assert_none(&checks::misplaced_unsafe(&sources()));
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    for document in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        assert_none(&checks::dead_links(document, &text, &|path| root().join(path).exists()));
    }
}
