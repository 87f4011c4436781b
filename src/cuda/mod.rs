//! The CUDA runtime: hand-written kernels (`kernels/*.cu`), compiled at run time for the device they meet, or run by an emulator in the tests.
//!
//! From bottom to top: `sources` (the kernels and their specialisations), `nvrtc`, `cache` and `cubins` (compiling, once per machine), `driver` (the seam, with `transfer` and `graph`) with
//! `gpu`, the emulator and the null driver behind it (and `failure`, what callers can answer), `arena` (memory under a budget), `launch` (the one launch function), and a launcher per kernel.
//! Nothing here is linked against CUDA: its libraries are looked for at run time, and their absence is an ordinary answer.

pub mod add_rows;
pub mod arena;
pub mod attention;
pub mod cache;
pub mod card;
pub mod components;
pub mod conv;
pub mod copy_rows;
pub mod cubins;
pub mod depthwise;
pub mod driver;
#[cfg(feature = "emu")]
pub mod emulator;
pub mod ensemble;
pub mod failure;
pub mod fill_holes;
pub mod gpu;
pub mod graph;
pub mod launch;
pub mod linear;
pub mod mask_product;
pub mod max_pool;
pub mod memory_attention;
pub mod memory_mask;
pub mod mma_rate;
pub mod nearest_add;
pub mod norm;
pub mod normalise;
pub mod null;
pub mod nvrtc;
pub mod nvrtc_log;
pub mod prompt_mask;
pub mod rope;
pub mod sources;
pub mod take;
pub mod transfer;
pub mod upscale;

use anyhow::{Context, Result, ensure};
use arena::Buffer;
use driver::{Arguments, Shape};
use launch::{Runtime, Work};

/// Refuses a buffer that is smaller than the product of `sizes`, the last of which is bytes per element.
fn check_bytes(problem: &str, name: &str, buffer: &Buffer, sizes: &[usize]) -> Result<()> {
    let needed = sizes.iter().try_fold(1_usize, |product, size| product.checked_mul(*size));
    ensure!(
        needed.is_some_and(|needed| needed <= buffer.bytes()),
        "{problem}: {name} of {sizes:?} bytes in a buffer of {}",
        buffer.bytes()
    );
    Ok(())
}

/// As [`check_bytes`], for what begins at byte `at`.
fn check_from(problem: &str, name: &str, buffer: &Buffer, at: usize, sizes: &[usize]) -> Result<()> {
    let needed = sizes.iter().try_fold(1_usize, |product, size| product.checked_mul(*size));
    ensure!(
        needed
            .and_then(|needed| needed.checked_add(at))
            .is_some_and(|end| end <= buffer.bytes()),
        "{problem}: {name} of {sizes:?} bytes from byte {at} of a buffer of {}",
        buffer.bytes()
    );
    Ok(())
}

/// Refuses planes that cannot be resized: without pixels, or beyond what f32 can count.
fn check_planes(problem: &str, input: (usize, usize), output: (usize, usize)) -> Result<()> {
    let sides = [input.0, input.1, output.0, output.1];
    ensure!(
        sides.iter().all(|side| (1..=1 << 24).contains(side)),
        "{problem}: each side must be 1 to 2^24"
    );
    Ok(())
}

/// Launches as many threads, in blocks of 256, with nothing shared; nothing if there are none.
fn launch_threads(runtime: &Runtime, entry: &str, threads: usize, arguments: Arguments, problem: &str, work: Work) -> Result<()> {
    const THREADS: usize = 256;
    if threads == 0 {
        return Ok(());
    }
    let blocks = u32::try_from(threads.div_ceil(THREADS)).with_context(|| format!("{problem}: {threads} threads are too many"))?;
    let shape = Shape {
        blocks: [blocks, 1, 1],
        threads: THREADS as u32,
        shared_bytes: 0,
    };
    runtime.launch(entry, shape, arguments, problem, work)
}

/// A size as a kernel's `int`.
fn int(problem: &str, size: usize) -> Result<i32> {
    i32::try_from(size).with_context(|| format!("{problem}: {size} is more than a kernel can count"))
}

/// Bytes of shared memory that the launcher of a specialisation asks for, beside those the kernel declares; the most, where it depends on the problem.
pub fn dynamic_shared_bytes(name: &str) -> usize {
    let of = [
        attention::dynamic_shared_bytes(name),
        conv::dynamic_shared_bytes(name),
        depthwise::dynamic_shared_bytes(name),
        fill_holes::dynamic_shared_bytes(name),
        linear::dynamic_shared_bytes(name),
        memory_attention::dynamic_shared_bytes(name),
        normalise::dynamic_shared_bytes(name),
        upscale::dynamic_shared_bytes(name),
    ];
    of.into_iter().flatten().sum()
}
