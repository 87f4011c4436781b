//! Every specialisation compiled by NVIDIA's compiler, without a GPU: no spills, and the resources of kernels/registers.csv.

use hpc_seg::cuda::cache::KernelCache;
use hpc_seg::cuda::cubins::Cubins;
use hpc_seg::cuda::dynamic_shared_bytes;
use hpc_seg::cuda::linear::TILES;
use hpc_seg::cuda::nvrtc::Nvrtc;
use hpc_seg::cuda::nvrtc_log::resources;
use hpc_seg::cuda::sources::{Specialisation, specialisation, specialisations};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

const TABLE: &str = include_str!("../../kernels/registers.csv");
/// The compiler whose registers the table holds; others allot them a little differently.
const VERSION: (i32, i32) = (12, 9);
const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_89", "sm_90a"];

/// The compiler; none, visibly, if this machine has none. One that was asked for must be there.
fn compiler() -> Option<Nvrtc> {
    match Nvrtc::load_for("sm_80") {
        Ok(found) => Some(found),
        Err(error) => {
            assert!(std::env::var_os("HPC_SEG_NVRTC").is_none(), "{error:#}");
            println!("skipped: no NVRTC on this machine (pip install nvidia-cuda-nvrtc-cu12)");
            None
        }
    }
}

/// The row of a kernel in the table.
fn row(compiler: &Nvrtc, kernel: &Specialisation, architecture: &str) -> String {
    let compiled = compiler.compile(kernel, architecture).unwrap();
    assert_eq!(&compiled.cubin[..4], b"\x7fELF", "{} for {architecture}", kernel.name);
    let used = resources(&compiled.log, kernel.name).unwrap();
    assert_eq!(used.spilled_bytes, 0, "{} for {architecture} spills", kernel.name);
    let shared = used.shared_bytes as usize + dynamic_shared_bytes(kernel.name);
    format!("{architecture},{},{},{shared}\n", kernel.name, used.registers)
}

#[test]
fn every_specialisation_compiles_without_spills_to_the_resources_of_the_table() {
    let Some(compiler) = compiler() else { return };
    let kernels: Vec<_> = ARCHITECTURES
        .iter()
        .flat_map(|architecture| specialisations().iter().map(move |kernel| (kernel, *architecture)))
        .collect();
    // NVRTC may be called from several threads: each takes the next kernel.
    let next = AtomicUsize::new(0);
    let work = || {
        let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|at| *at < kernels.len());
        std::iter::from_fn(take)
            .map(|at| (at, row(&compiler, kernels[at].0, kernels[at].1)))
            .collect::<Vec<_>>()
    };
    let rows: BTreeMap<usize, String> = thread::scope(|scope| {
        let cores = thread::available_parallelism().unwrap().get();
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    let table: String = ["architecture,name,registers,shared_bytes\n".to_string()]
        .into_iter()
        .chain(rows.into_values())
        .collect();
    if compiler.version() != VERSION {
        println!(
            "skipped: the table of registers is NVRTC {VERSION:?}'s, this is {:?}",
            compiler.version()
        );
        return;
    }
    let changed: Vec<&str> = table.lines().filter(|row| !TABLE.lines().any(|was| was == *row)).collect();
    let new = concat!(env!("CARGO_TARGET_TMPDIR"), "/registers.csv");
    if table != TABLE {
        std::fs::write(new, &table).unwrap();
    }
    assert!(
        table == TABLE,
        "{changed:#?} changed; if this is meant, cp {new} kernels/registers.csv"
    );
}

#[test]
fn the_table_of_registers_has_every_specialisation_for_every_architecture() {
    let expected = ARCHITECTURES.iter().flat_map(|architecture| {
        specialisations()
            .iter()
            .map(move |kernel| format!("{architecture},{},", kernel.name))
    });
    let rows: Vec<&str> = TABLE.lines().skip(1).collect();
    assert_eq!(rows.len(), expected.clone().count());
    expected
        .zip(&rows)
        .for_each(|(start, row)| assert!(row.starts_with(&start), "{row} for {start}"));
    // The blocks that a tile counts on must fit into the 65536 registers of a multiprocessor, which are given out to warps 256 at a time.
    for row in rows.iter().filter(|row| row.contains("linear_")) {
        let fields: Vec<&str> = row.split(',').collect();
        let tile = TILES.iter().find(|tile| tile.name == fields[1]).unwrap();
        let registers: usize = fields[2].parse().unwrap();
        let of_a_warp = (32 * registers).next_multiple_of(256);
        assert!(tile.blocks * tile.threads() / 32 * of_a_warp <= 65536, "{row}");
    }
}

#[test]
fn a_compiler_that_does_not_know_the_gpu_is_refused_before_any_work() {
    if compiler().is_none() {
        return;
    }
    assert!(Nvrtc::load_for("sm_90a").is_ok());
    let folder = tempfile::tempdir().unwrap();
    let refused = Cubins::new(KernelCache::new(folder.path()), "sm_999", 227 << 10);
    let message = refused.err().unwrap().to_string();
    for piece in ["makes no code for sm_999", "NVRTC 1", "pip install nvidia-cuda-nvrtc-cu12"] {
        assert!(message.contains(piece), "{piece}: {message}");
    }
}

#[test]
fn source_that_does_not_compile_gives_the_compilers_words() {
    let Some(compiler) = compiler() else { return };
    let broken = Specialisation {
        source: "#include \"common.cuh\"\nint x = y;\n",
        ..specialisation("norm_8x1").unwrap().clone()
    };
    let message = compiler.compile(&broken, "sm_80").unwrap_err().to_string();
    assert!(
        message.contains("norm.cu does not compile for sm_80 as norm_8x1") && message.contains("norm.cu(2)"),
        "{message}"
    );
    let message = compiler
        .compile(specialisation("norm_8x1").unwrap(), "sm_1")
        .unwrap_err()
        .to_string();
    assert!(message.contains("for sm_1"), "{message}");
}

#[test]
fn the_first_kernel_a_machine_needs_brings_those_of_the_networks_along() {
    if compiler().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let shared_bytes = 227 << 10;
    let cubins = || Cubins::new(KernelCache::new(folder.path()), "sm_90", shared_bytes).unwrap();
    let first = cubins().of(specialisation("norm_8x1").unwrap()).unwrap();
    assert_eq!(&first[..4], b"\x7fELF");
    let kept = || std::fs::read_dir(folder.path()).unwrap().count();
    let is_other = |name: &str| name.ends_with("_any") || name.ends_with("_small") || name == "ptx_probe";
    let wanted = specialisations().iter().filter(|kernel| !is_other(kernel.name)).count();
    assert_eq!(kept(), wanted);
    assert!(cubins().of(specialisation("norm_8x1").unwrap()).unwrap() == first);
    cubins().of(specialisation("ptx_probe").unwrap()).unwrap();
    assert_eq!(kept(), wanted + 1);
}
