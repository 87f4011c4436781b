//! Every specialisation compiled by NVIDIA's compiler, without a GPU: no spills, and the resources of kernels/registers.csv.

use hpc_seg::cuda::linear::TILES;
use hpc_seg::cuda::nvrtc::Nvrtc;
use hpc_seg::cuda::nvrtc_log::resources;
use hpc_seg::cuda::sources::{Specialisation, specialisation, specialisations};

const TABLE: &str = include_str!("../../kernels/registers.csv");
/// The compiler whose registers the table holds; others allot them a little differently.
const VERSION: (i32, i32) = (12, 9);
const ARCHITECTURES: [&str; 2] = ["sm_80", "sm_90a"];

/// The compiler; none, visibly, if this machine has none. One that was asked for must be there.
fn compiler() -> Option<Nvrtc> {
    match Nvrtc::load() {
        Ok(found) => Some(found),
        Err(error) => {
            assert!(std::env::var_os("HPC_SEG_NVRTC").is_none(), "{error:#}");
            println!("skipped: no NVRTC on this machine (pip install nvidia-cuda-nvrtc-cu12)");
            None
        }
    }
}

#[test]
fn every_specialisation_compiles_without_spills_to_the_resources_of_the_table() {
    let Some(compiler) = compiler() else { return };
    let mut table = String::from("architecture,name,registers,shared_bytes\n");
    for architecture in ARCHITECTURES {
        for kernel in specialisations() {
            let compiled = compiler.compile(kernel, architecture).unwrap();
            assert_eq!(&compiled.cubin[..4], b"\x7fELF", "{} for {architecture}", kernel.name);
            let used = resources(&compiled.log, kernel.name).unwrap();
            assert_eq!(used.spilled_bytes, 0, "{} for {architecture} spills", kernel.name);
            let dynamic = TILES
                .iter()
                .find(|tile| tile.name == kernel.name)
                .map_or(0, |tile| tile.shared_bytes());
            let shared = used.shared_bytes as usize + dynamic;
            table += &format!("{architecture},{},{},{shared}\n", kernel.name, used.registers);
        }
    }
    if compiler.version() != VERSION {
        println!(
            "skipped: the table of registers is NVRTC {VERSION:?}'s, this is {:?}",
            compiler.version()
        );
        return;
    }
    assert_eq!(table, TABLE, "if this is meant, it is the new kernels/registers.csv:\n{table}");
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
    // Two blocks of the largest kernels must fit into the 65536 registers of a multiprocessor.
    for row in rows.iter().filter(|row| row.contains("linear_128x128")) {
        let registers: u32 = row.split(',').nth(2).unwrap().parse().unwrap();
        assert!(2 * 256 * registers <= 65536, "{row}");
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
