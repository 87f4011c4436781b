//! What a device can do at most, measured: the rate of its matrix products with operands in registers, and of a copy within its memory.

use crate::cuda::mma_rate;
use crate::device::{Cuda, Device};
use crate::ops::linear::{Epilogue, Input, Linear, linear};
use crate::tensor::Tensor;
use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::median;

/// Measured ceilings.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Ceilings {
    /// Operations per second, in 10^12: of `mma.sync` on a GPU, of this program's own product on the CPU.
    pub teraflops: f64,
    /// Bytes read and written per second by a large copy, in 10^9.
    pub gigabytes_per_second: f64,
}

impl Ceilings {
    /// Measures them, in a fraction of a second.
    ///
    /// # Errors
    /// Those of the device.
    pub fn measure(device: &Device) -> Result<Self> {
        match device.cuda() {
            Some(cuda) => cuda_ceilings(device, cuda),
            None => device.install(|| cpu_ceilings(device)),
        }
    }

    /// The least seconds that this work takes.
    pub fn seconds(&self, flops: f64, bytes: f64) -> f64 {
        (flops / (self.teraflops * 1e12)).max(bytes / (self.gigabytes_per_second * 1e9))
    }
}

fn cuda_ceilings(device: &Device, cuda: &Cuda) -> Result<Ceilings> {
    const ROUNDS: usize = 4096;
    let blocks = 4 * cuda.runtime.driver().limits().multiprocessors as usize;
    let sums = cuda.arena.buffer(mma_rate::bytes(blocks))?;
    let products = median(device, 5, || mma_rate::launch(&cuda.runtime, blocks, ROUNDS, &sums))?;
    // Far more than a cache holds, and half of what is free.
    let used = cuda.arena.usage();
    let bytes = ((used.budget - used.live) / 4).min(1 << 30);
    let (from, to) = (cuda.arena.buffer(bytes)?, cuda.arena.buffer(bytes)?);
    let copy = median(device, 5, || to.copy_from(0, &from, 0, bytes))?;
    Ok(Ceilings {
        teraflops: mma_rate::flops(blocks, ROUNDS) / products / 1e12,
        gigabytes_per_second: 2.0 * bytes as f64 / copy / 1e9,
    })
}

fn cpu_ceilings(device: &Device) -> Result<Ceilings> {
    const SIDE: usize = 1024;
    const VALUES: usize = 1 << 25;
    let weights = Linear::new(device, &vec![0.5; SIDE * SIDE], SIDE, SIDE, None)?;
    let (x, mut y) = (Tensor::zeros(device, &[SIDE, SIDE])?, Tensor::empty(device, &[SIDE, SIDE])?);
    let products = median(device, 9, || linear(Input::Plain(&x), &weights, Epilogue::NONE, &mut y))?;
    let (from, mut to) = (vec![1f32; VALUES], vec![0f32; VALUES]);
    let copy = median(device, 5, || {
        to.copy_from_slice(&from);
        Ok(())
    })?;
    Ok(Ceilings {
        teraflops: 2.0 * (SIDE as f64).powi(3) / products / 1e12,
        gigabytes_per_second: 8.0 * VALUES as f64 / copy / 1e9,
    })
}
