//! Launching `mma_rate`: products with operands in registers, for the ceiling that benches compare with.

use super::arena::Buffer;
use super::driver::{Arguments, Shape};
use super::launch::{Runtime, Work};
use anyhow::Result;

/// Threads of a block; its launch bound in kernels/mma_rate.cu.
const THREADS: usize = 256;
/// Independent sums of a warp; CHAINS in kernels/specialisations.csv.
const CHAINS: usize = 8;
/// Operations of one `mma.m16n8k16`.
const PRODUCT_FLOPS: usize = 2 * 16 * 8 * 16;

/// Bytes of the sums that so many blocks write.
pub fn bytes(blocks: usize) -> usize {
    blocks * THREADS * 16
}

/// Operations of a launch.
pub fn flops(blocks: usize, rounds: usize) -> f64 {
    (blocks * THREADS / 32 * CHAINS * PRODUCT_FLOPS) as f64 * rounds as f64
}

/// Launches it: every one of `sums` [blocks, 256, 4] f32 becomes 128 `rounds`: 16 ones per product, of 8 chains.
///
/// # Errors
/// A buffer that is too small, and those of [`Runtime::launch`].
pub fn launch(runtime: &Runtime, blocks: usize, rounds: usize, sums: &Buffer) -> Result<()> {
    let problem = format!("blocks {blocks} rounds {rounds}");
    super::check_bytes(&problem, "sums", sums, &[bytes(blocks)])?;
    let arguments = Arguments::new().pointer(sums.pointer()).int(super::int(&problem, rounds)?);
    let shape = Shape {
        blocks: [u32::try_from(blocks)?, 1, 1],
        threads: THREADS as u32,
        shared_bytes: 0,
    };
    let work = Work {
        flops: flops(blocks, rounds),
        bytes: bytes(blocks) as f64,
    };
    runtime.launch("mma_rate_8", shape, arguments, &problem, work)
}
