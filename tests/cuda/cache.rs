//! The disk cache of compiled kernels: hits, damage, other processes, folders that take no files.

use crate::support::full_disk::FullDisk;
use hpc_seg::cuda::cache::KernelCache;
use std::fs;
use std::path::Path;
use std::process::Command;

const FOLDER: &str = "HPC_SEG_CACHE_TEST_FOLDER";

fn content(index: usize) -> Vec<u8> {
    (0..5000 + index).map(|at| (at * 7 + index) as u8).collect()
}

/// Gets what the cache holds, and whether it had to be built.
fn get(cache: &KernelCache, index: usize) -> (Vec<u8>, bool) {
    let mut built = false;
    let build = || {
        built = true;
        Ok(content(index))
    };
    let found = cache.get_or_build(&KernelCache::key(&[&index.to_string()]), build).unwrap();
    (found, built)
}

fn path(cache: &KernelCache, index: usize) -> std::path::PathBuf {
    cache.path(&KernelCache::key(&[&index.to_string()]))
}

#[test]
fn what_was_built_once_is_found_by_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("a/b");
    assert_eq!(get(&KernelCache::new(&below), 1), (content(1), true));
    assert_eq!(get(&KernelCache::new(&below), 1), (content(1), false));
    assert_eq!(get(&KernelCache::new(&below), 2), (content(2), true), "another key");
}

#[test]
fn every_part_of_the_key_counts_and_so_do_the_borders_between_them() {
    let keys = [
        &["ab", "c"][..],
        &["a", "bc"],
        &["abc"],
        &["ab", "d"],
        &["ab", "c", ""],
        &["c", "ab"],
    ]
    .map(KernelCache::key);
    let different: std::collections::BTreeSet<_> = keys.iter().collect();
    assert_eq!(different.len(), keys.len());
    assert_eq!(KernelCache::key(&["ab", "c"]), keys[0]);
}

#[test]
fn a_damaged_file_is_built_anew_and_mended() {
    let folder = tempfile::tempdir().unwrap();
    let cache = KernelCache::new(folder.path());
    get(&cache, 1);
    let whole = fs::read(path(&cache, 1)).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let mut damaged = vec![
        vec![],
        whole[..10].to_vec(),
        whole[..80].to_vec(),
        whole[..whole.len() - 1].to_vec(),
        [&whole[..], b"x"].concat(),
    ];
    damaged.extend([0, 20, 79, 81, 90, whole.len() - 1].map(flipped));
    for bytes in damaged {
        fs::write(path(&cache, 1), &bytes).unwrap();
        assert_eq!(get(&cache, 1), (content(1), true), "{} bytes", bytes.len());
        assert_eq!(get(&cache, 1), (content(1), false), "mended");
    }
}

#[test]
fn a_folder_that_takes_no_files_costs_only_the_time_to_build() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "in the way").unwrap();
    let cache = KernelCache::new(&folder.path().join("file/kernels"));
    assert_eq!(get(&cache, 1), (content(1), true));
    assert_eq!(get(&cache, 1), (content(1), true));
}

#[test]
fn a_full_disk_costs_only_the_time_to_build_and_keeps_no_half_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = FullDisk::over(folder.path(), 4096) else { return };
    let cache = KernelCache::new(folder.path());
    for _ in 0..2 {
        assert_eq!(get(&cache, 1), (content(1), true));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the ballast");
    }
    disk.free();
    assert_eq!(get(&cache, 1), (content(1), true));
    assert_eq!(get(&cache, 1), (content(1), false));
}

#[test]
fn a_failed_build_keeps_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cache = KernelCache::new(folder.path());
    let key = KernelCache::key(&["1"]);
    assert!(cache.get_or_build(&key, || anyhow::bail!("syntax error")).is_err());
    assert!(!cache.path(&key).exists());
    assert_eq!(get(&cache, 1), (content(1), true));
}

#[test]
fn processes_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let child = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "cuda::cache::one_of_several_processes", "--ignored"])
            .env(FOLDER, folder.path());
        command.stdout(std::process::Stdio::null()).spawn().unwrap()
    };
    let children: Vec<_> = (0..4).map(|_| child()).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let cache = KernelCache::new(folder.path());
    for index in 0..4 {
        assert!(path(&cache, index).exists(), "the processes wrote nothing");
        assert_eq!(get(&cache, index).0, content(index));
    }
    let mut names = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(names.all(|name| name.ends_with(".cubin")), "nothing else is left behind");
}

#[test]
#[ignore = "run by processes_share_a_folder"]
fn one_of_several_processes() {
    let folder = std::env::var(FOLDER).unwrap();
    let cache = KernelCache::new(Path::new(&folder));
    for turn in 0..40 {
        let index = turn % 4;
        assert_eq!(get(&cache, index).0, content(index));
        if turn % 7 == 0 {
            // Another process may be about to replace or read it.
            let _ = fs::write(path(&cache, index), &content(index)[..100 * (turn % 3)]);
        }
    }
}

#[test]
fn without_home_kernels_are_kept_in_the_users_own_folder_and_not_in_everybodys() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "cuda::cache::a_process_without_home", "--ignored"]);
    command.env_remove("HOME").env_remove("XDG_CACHE_HOME");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
#[ignore = "run by without_home_kernels_are_kept_in_the_users_own_folder_and_not_in_everybodys"]
fn a_process_without_home() {
    let folder = KernelCache::default_folder();
    match std::env::home_dir() {
        Some(home) => assert_eq!(folder, home.join(".cache/hpc-seg/kernels")),
        None => println!("skipped: the system knows no home of this user"),
    }
}
