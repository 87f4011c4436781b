//! What the conformance tests of all kernels share: schedules, values, guarded buffers, and the rule for bf16.

use super::faulty::Faulty;
use anyhow::Result;
use half::bf16;
use hpc_seg::cuda::arena::{Arena, Buffer};
use hpc_seg::cuda::driver::{Driver, LEAST_SHARED_BYTES};
#[cfg(feature = "emu")]
use hpc_seg::cuda::emulator::{Emulator, Schedule};
use hpc_seg::cuda::launch::Runtime;
use std::sync::Arc;

/// A device under test.
pub struct Bench {
    pub runtime: Runtime,
    pub arena: Arena,
}

impl Bench {
    pub fn over(driver: impl Driver + 'static) -> Self {
        let driver: Arc<dyn Driver> = Arc::new(driver);
        Self {
            runtime: Runtime::new(driver.clone()),
            arena: Arena::separate(driver, 1 << 30),
        }
    }

    /// The same device with the shared memory of a card for graphics.
    pub fn with_less_shared_memory(&self) -> Bench {
        Self::over(Faulty::with_shared_bytes(self.runtime.driver().clone(), LEAST_SHARED_BYTES))
    }

    /// The emulator with each schedule.
    #[cfg(feature = "emu")]
    pub fn all() -> impl Iterator<Item = Bench> {
        Schedule::ALL
            .into_iter()
            .map(|schedule| Self::over(Emulator::new(schedule).unwrap()))
    }

    /// The emulator of another library with this schedule.
    #[cfg(feature = "emu-check")]
    pub fn of(library: &std::path::Path, schedule: Schedule) -> Self {
        Self::over(Emulator::open(library, schedule).unwrap())
    }

    pub fn bf16(&self, values: &[f32]) -> Buffer {
        let bits: Vec<u8> = values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect();
        self.arena.filled(&bits).unwrap()
    }

    pub fn f32(&self, values: &[f32]) -> Buffer {
        self.arena.filled(bytemuck::cast_slice(values)).unwrap()
    }

    /// An output of this many bf16, poisoned with NaN, with guard values after it.
    pub fn output(&self, len: usize) -> Buffer {
        self.bf16(&[vec![f32::NAN; len], vec![GUARD; GUARDS]].concat())
    }
}

const GUARD: f32 = 12345.0;
const GUARDS: usize = 128;

/// The values of an output, whose guards must be as they were.
pub fn guarded(buffer: &Buffer) -> Result<Vec<f32>> {
    let mut values = all_values(buffer)?;
    let guards = values.split_off(values.len() - GUARDS);
    let kept = bf16::from_f32(GUARD).to_f32();
    anyhow::ensure!(
        guards.iter().all(|guard| *guard == kept),
        "values after the output were overwritten"
    );
    Ok(values)
}

/// All values of a buffer of bf16.
pub fn all_values(buffer: &Buffer) -> Result<Vec<f32>> {
    let bytes = buffer.to_vec()?;
    Ok(bytes
        .chunks_exact(2)
        .map(|pair| bf16::from_le_bytes([pair[0], pair[1]]).to_f32())
        .collect())
}

/// Normally distributed values that bf16 holds exactly, the same for the same seed.
pub fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32
    };
    // The sum of twelve uniform numbers has variance one.
    (0..len).map(|_| rounded((0..12).map(|_| uniform()).sum::<f32>() - 6.0)).collect()
}

pub fn rounded(value: f32) -> f32 {
    bf16::from_f32(value).to_f32()
}

/// The rule of design.md: against the f32 op, the kernel errs at most twice as much as the op's own result rounded to bf16.
pub fn conforms(kernel: &[f32], op: &[f32]) -> Result<()> {
    anyhow::ensure!(kernel.len() == op.len(), "{} values for {}", kernel.len(), op.len());
    let energy = |error: &dyn Fn(usize) -> f32| (0..op.len()).map(|i| f64::from(error(i)).powi(2)).sum::<f64>().sqrt();
    let (own, allowed) = (energy(&|i| kernel[i] - op[i]), 2.0 * energy(&|i| rounded(op[i]) - op[i]));
    anyhow::ensure!(own <= allowed, "error {own:.3e}, allowed {allowed:.3e}");
    // A single wrong value hides in the sum of many: each is held to a few units in its last place, or in that of the largest.
    let largest = op.iter().fold(0_f32, |most, value| most.max(value.abs()));
    for (at, (kernel, op)) in kernel.iter().zip(op).enumerate() {
        let allowed = op.abs() / 128.0 + largest * 1e-5;
        anyhow::ensure!((kernel - op).abs() <= allowed, "value {at}: {kernel} for {op}");
    }
    Ok(())
}

#[test]
fn the_rule_catches_one_wrong_value_and_an_unwritten_one() {
    let op = values(1, 1000);
    let off: Vec<f32> = op.iter().map(|value| value * 1.0001).collect();
    let kernel: Vec<f32> = off.iter().map(|value| rounded(*value)).collect();
    assert!(conforms(&kernel, &off).is_ok());
    for wrong in [kernel[500] + 0.1, f32::NAN] {
        let mut kernel = kernel.clone();
        kernel[500] = wrong;
        assert!(conforms(&kernel, &off).is_err(), "{wrong}");
    }
}
