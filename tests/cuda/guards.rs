//! Buffers of any bytes with guards after them.

use super::conformance::Bench;
use anyhow::{Result, ensure};
use hpc_seg::cuda::arena::Buffer;

const GUARD: [u8; 256] = [0xa5; 256];

/// A buffer with this content, and guards.
pub fn guarded<T: bytemuck::NoUninit>(bench: &Bench, content: &[T]) -> Buffer {
    bench.arena.filled(&[bytemuck::cast_slice(content), &GUARD[..]].concat()).unwrap()
}

/// A buffer with exactly this content.
pub fn plain<T: bytemuck::NoUninit>(bench: &Bench, content: &[T]) -> Buffer {
    bench.arena.filled(bytemuck::cast_slice(content)).unwrap()
}

/// The content of a buffer, whose guards must be as they were.
pub fn content<T: bytemuck::AnyBitPattern>(buffer: &Buffer) -> Result<Vec<T>> {
    let mut bytes = buffer.to_vec()?;
    let guards = bytes.split_off(bytes.len() - GUARD.len());
    ensure!(guards == GUARD, "bytes after the content were overwritten");
    Ok(bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect())
}
