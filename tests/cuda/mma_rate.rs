//! `mma_rate`, whose sums are known.

use super::conformance::Bench;
use anyhow::{Result, ensure};
use hpc_seg::cuda::mma_rate;

/// Bugs that [`check`] must notice.
pub const MUTATIONS: &[super::suites::Mutation] = &[(
    "a chain is left out",
    "mma_rate.cu",
    "chain < CHAINS; chain++) mma",
    "chain < CHAINS - 1; chain++) mma",
)];

/// Blocks and rounds of one and several.
pub fn check(bench: &Bench) -> Result<()> {
    for (blocks, rounds) in [(1, 1), (3, 5)] {
        let sums = bench.f32(&vec![f32::NAN; mma_rate::bytes(blocks) / 4]);
        mma_rate::launch(&bench.runtime, blocks, rounds, &sums)?;
        let bytes = sums.to_vec()?;
        let sums: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
        ensure!(
            sums.iter().all(|&sum| sum == 128.0 * rounds as f32),
            "{blocks} blocks, {rounds} rounds: {:?}",
            &sums[..4]
        );
    }
    Ok(())
}

#[cfg(feature = "emu")]
#[test]
fn mma_rate_sums_what_it_should_in_every_schedule() {
    Bench::all().for_each(|bench| check(&bench).unwrap());
}
