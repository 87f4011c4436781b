//! Bugs put into the kernels one at a time: the conformance tests under the checker must notice nearly all of them.

// Also read by build.rs.
#[path = "../../kernels/host/build_emulator.rs"]
mod build_emulator;

use super::conformance::Bench;
use super::{linear, max_pool, norm};
use anyhow::Result;
use hpc_seg::cuda::emulator::Schedule;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// What it is, the file, the text replaced wherever it stands, and by what.
type Mutation = (&'static str, &'static str, &'static str, &'static str);

const MUTATIONS: &[Mutation] = &[
    ("rows beyond the last are read", "norm.cu", "if (row >= rows) return;", ""),
    (
        "variance about zero",
        "norm.cu",
        "(v[i][e] - mean) * (v[i][e] - mean)",
        "v[i][e] * v[i][e]",
    ),
    (
        "the padding counts in the variance",
        "norm.cu",
        "if ((i * LANES + lane) * WIDTH < channels) {",
        "{",
    ),
    (
        "one access too many per row",
        "norm.cu",
        "if (at < channels) {",
        "if (at <= channels) {",
    ),
    ("mean over rows", "norm.cu", "warp_sum(sum) / channels", "warp_sum(sum) / rows"),
    (
        "sum over half a warp",
        "common.cuh",
        "int offset = LANES / 2",
        "int offset = LANES / 4",
    ),
    (
        "shuffle of half a warp",
        "common.cuh",
        "__shfl_xor_sync(WHOLE_WARP, v",
        "__shfl_xor_sync(0x0000ffffu, v",
    ),
    ("no barrier", "linear.cu", "__syncthreads();  // this", "// this"),
    (
        "barrier for half the block",
        "linear.cu",
        "__syncthreads();  // this",
        "if (threadIdx.x < 64) __syncthreads();  // this",
    ),
    (
        "early exit before the barrier",
        "linear.cu",
        "float sum[BLOCKS_DOWN]",
        "if (first_row + warp_row >= rows) return;\n    float sum[BLOCKS_DOWN]",
    ),
    (
        "one group of copies not waited for",
        "linear.cu",
        "cp_async_wait<STAGES - 2>",
        "cp_async_wait<STAGES - 1>",
    ),
    (
        "the stage in use is refilled",
        "linear.cu",
        "load(step + STAGES - 1)",
        "load(step + STAGES)",
    ),
    (
        "the next stage is read",
        "linear.cu",
        "left + step % STAGES *",
        "left + (step + 1) % STAGES *",
    ),
    (
        "operands overlap",
        "linear.cu",
        "left + STAGES * TILE_ROWS * DEPTH",
        "left + (STAGES - 1) * TILE_ROWS * DEPTH",
    ),
    ("rows beyond the last are written", "linear.cu", "if (row >= rows) continue;", ""),
    (
        "columns beyond the last are written",
        "linear.cu",
        "if (in_pairs && column < columns)",
        "if (in_pairs)",
    ),
    ("pairs in odd rows", "linear.cu", "columns % 2 == 0;", "true;"),
    (
        "residual rows do not repeat",
        "linear.cu",
        "(size_t)(row % residual_rows) * columns",
        "(size_t)row * columns",
    ),
    ("bias of the neighbour", "linear.cu", "bias[column + e]", "bias[column]"),
    (
        "rows beyond the last are loaded",
        "tile.cuh",
        "has_row = first + row < rows",
        "has_row = true",
    ),
    (
        "columns beyond the last are loaded",
        "tile.cuh",
        "has_row && from < width",
        "has_row",
    ),
    ("swizzle out of the row", "tile.cuh", "(row >> 1) & 3", "(row >> 1) & 7"),
    (
        "fragments in another order",
        "tile.cuh",
        "lane / 16 * 8, step * 2 + lane / 8 % 2",
        "lane / 8 % 2 * 8, step * 2 + lane / 16",
    ),
    (
        "one value beyond the last",
        "max_pool.cu",
        "if (index >= (u64)",
        "if (index > (u64)",
    ),
    ("three of four", "max_pool.cu", "fmaxf(c[e], d[e])", "c[e]"),
    (
        "rows one pixel longer",
        "max_pool.cu",
        "pixel % out_width",
        "pixel % (out_width + 1)",
    ),
];

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
    let sees = |object: &str| object == format!("{file}.o") || (object.contains(".cu") && file.ends_with(".cuh"));
    let reuse = |object: &str| Some(made.join(object)).filter(|_| !sees(object));
    build_emulator::build(&changed, &changed.join("host"), &folder.join("out"), true, &reuse).unwrap()
}

/// The complaint about a build's kernels in the first schedule that has one.
fn complaint(library: &Path, file: &str) -> Option<String> {
    let run = |check: fn(&Bench) -> Result<()>| {
        let mut errors = Schedule::ALL.into_iter().map(|schedule| check(&Bench::of(library, schedule)));
        errors.find_map(|result| result.err().map(|error| format!("{error:#}")))
    };
    match file {
        "norm.cu" | "common.cuh" => run(norm::check),
        "max_pool.cu" => run(max_pool::check),
        _ => run(linear::check).or_else(|| run(linear::check_tiles_agree)),
    }
}

#[test]
fn bugs_put_into_the_kernels_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut missed = Vec::new();
        while let Some(mutation) = MUTATIONS.get(next.fetch_add(1, Ordering::Relaxed)) {
            let library = build(*mutation, &folder.path().join(mutation.0.replace(' ', "_")));
            match complaint(&library, mutation.1) {
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
    println!("{} of {} noticed", MUTATIONS.len() - missed.len(), MUTATIONS.len());
    assert!(missed.len() * 20 <= MUTATIONS.len(), "not noticed: {missed:?}");
}

#[test]
fn kernels_without_a_bug_pass_when_they_are_built_the_same_way() {
    let folder = tempfile::tempdir().unwrap();
    let library = build(("no change", "max_pool.cu", "KERNEL", "KERNEL"), folder.path());
    assert_eq!(complaint(&library, "max_pool.cu"), None);
}
