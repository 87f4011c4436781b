//! The CUDA runtime: hand-written kernels (`kernels/*.cu`), compiled at run time for the device they meet, or run by an emulator in the tests.
//!
//! From bottom to top: `sources` (the kernels and their specialisations), `nvrtc` and `cache` (compiling, once per machine), `driver` (the seam) with
//! `gpu` and the emulator behind it, `arena` (memory under a budget), `launch` (the one launch function), and a launcher per kernel.
//! Nothing here is linked against CUDA: its libraries are looked for at run time, and their absence is an ordinary answer.

pub mod arena;
pub mod cache;
pub mod driver;
#[cfg(feature = "emu")]
pub mod emulator;
pub mod gpu;
pub mod launch;
pub mod linear;
pub mod max_pool;
pub mod norm;
pub mod nvrtc;
pub mod nvrtc_log;
pub mod sources;

use anyhow::{Context, Result, ensure};
use arena::Buffer;

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

/// A size as a kernel's `int`.
fn int(problem: &str, size: usize) -> Result<i32> {
    i32::try_from(size).with_context(|| format!("{problem}: {size} is more than a kernel can count"))
}
