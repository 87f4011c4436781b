//! Builds the CUDA emulator, for the tests (features `emu` and `emu-check`). Without them nothing is built and no C++ compiler is needed.

// Cargo is spoken to on stdout, and shows stderr when a build fails.
#![allow(clippy::print_stdout, clippy::print_stderr)]

#[path = "kernels/host/build_emulator.rs"]
mod build_emulator;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

fn folder(variable: &str) -> PathBuf {
    PathBuf::from(env::var_os(variable).unwrap_or_default())
}

fn main() -> ExitCode {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_EMU").is_none() {
        return ExitCode::SUCCESS;
    }
    println!("cargo:rerun-if-changed=kernels");
    println!("cargo:rerun-if-env-changed=CXX");
    let kernels = folder("CARGO_MANIFEST_DIR").join("kernels");
    let out = folder("OUT_DIR").join("emulator");
    let checked = env::var_os("CARGO_FEATURE_EMU_CHECK").is_some();
    match build_emulator::build(&kernels, &kernels.join("host"), &out, checked, &|_| None) {
        Ok(library) => {
            println!("cargo:rustc-env=HPC_SEG_EMULATOR={}", library.display());
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}
