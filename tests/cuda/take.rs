//! `take` against plain loops over the definitions of `src/tffs/ensemble.rs`.

use super::conformance::Bench;
use super::guards::{content, guarded, plain};
use anyhow::{Context, Result, ensure};
use hpc_seg::cuda::take::{Labels, Take};
use hpc_seg::ops::ensemble::ONE;
use hpc_seg::ops::take::entropy;

/// Voxels, runs; sizes about a thread's four and a block's 4096.
const CASES: &[(usize, usize)] = &[(1, 1), (3, 0), (5, 2), (1023, 7), (4096, 10), (4099, 255), (8193, 3)];
const THRESHOLD: f32 = 0.5;

/// Bugs that [`check`] must notice.
pub const MUTATIONS: &[super::suites::Mutation] = &[
    (
        "four voxels at once at the end",
        "take.cu",
        "if (at + 4 <= (u64)voxels)",
        "if (at < (u64)voxels)",
    ),
    (
        "the class taken last wins",
        "take.cu",
        "if (mean > fmaxf(best, threshold))",
        "if (mean >= fmaxf(best, threshold))",
    ),
    ("no threshold", "take.cu", "fmaxf(best, threshold)", "best"),
    (
        "smallest uncertainty",
        "take.cu",
        "fmaxf(uncertainty, entropy(mean))",
        "fminf(uncertainty, entropy(mean))",
    ),
    ("runs that vote alone count", "take.cu", "v * (v - (v > 0))", "v * v"),
    ("no barrier before the warps' sums", "take.cu", "    __syncthreads();\n", ""),
    ("one warp's votes", "take.cu", "warp < THREADS / LANES; warp++", "warp < 1; warp++"),
    ("no mean at the end", "take.cu", "if (mean) mean[i] = m;", ""),
];

/// Every case on this device.
pub fn check(bench: &Bench) -> Result<()> {
    for &(voxels, runs) in CASES {
        check_case(bench, voxels, runs).with_context(|| format!("voxels {voxels} runs {runs}"))?;
    }
    Ok(())
}

/// Sums and votes of a class: ends, the threshold, ties between the classes (every seventh voxel), and what lies between.
fn class(seed: usize, voxels: usize, runs: usize) -> (Vec<u32>, Vec<u16>) {
    let most = (runs as u32) << 24;
    let sum = |i: usize| match i % 7 {
        0 => most / 3 * 2,
        1 => most,
        2 => most / 2,
        _ => ((i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(seed as u32 * 13) >> 16) as u32 % (most + 1),
    };
    let votes = |i: usize| ((i * 7 + seed) % (runs + 1)) as u16;
    ((0..voxels).map(sum).collect(), (0..voxels).map(votes).collect())
}

fn check_case(bench: &Bench, voxels: usize, runs: usize) -> Result<()> {
    let (mut best, mut label, mut uncertainty) = (vec![0_f32; voxels], vec![0_u8; voxels], vec![0_f32; voxels]);
    let buffers = (guarded(bench, &best), guarded(bench, &label), guarded(bench, &uncertainty));
    let aligned = voxels.next_multiple_of(4);
    let means = guarded(bench, &vec![f32::NAN; 2 * aligned]);
    for (number, kind) in [3_u8, 200, 7].into_iter().enumerate() {
        let (sum, votes) = class(number, voxels, runs);
        let take = Take {
            voxels,
            runs,
            class: kind,
            threshold: THRESHOLD,
        };
        let mean: Vec<f32> = sum
            .iter()
            .map(|sum| {
                if runs == 0 {
                    0.0
                } else {
                    (f64::from(*sum) / (f64::from(ONE) * runs as f64)) as f32
                }
            })
            .collect();
        for (i, &p) in mean.iter().enumerate() {
            uncertainty[i] = uncertainty[i].max(entropy(p));
            if p > best[i].max(THRESHOLD) {
                (best[i], label[i]) = (p, kind);
            }
        }
        let partial = guarded(bench, &vec![0xee_u8; take.partial_bytes()]);
        let labels = Labels {
            best: &buffers.0,
            label: &buffers.1,
            uncertainty: &buffers.2,
        };
        // The third class's means are not kept.
        let kept = (number < 2).then_some((&means, 4 * number * aligned));
        take.launch(&bench.runtime, (&plain(bench, &sum), &plain(bench, &votes)), labels, kept, &partial)?;
        content::<u8>(&partial)?;
        let wide = votes.iter().map(|votes| u64::from(*votes));
        let expected = wide.fold((0, 0), |(shared, all), votes| {
            (shared + votes * votes.saturating_sub(1), all + votes)
        });
        ensure!(
            take.votes(&partial)? == expected,
            "votes {:?} for {expected:?}",
            take.votes(&partial)?
        );
        if number < 2 {
            ensure!(
                content::<f32>(&means)?[number * aligned..][..voxels] == mean,
                "other means of class {kind}"
            );
        }
    }
    ensure!(content::<u8>(&buffers.1)? == label, "other labels");
    ensure!(content::<f32>(&buffers.0)? == best, "other probabilities");
    for (at, (new, own)) in content::<f32>(&buffers.2)?.iter().zip(&uncertainty).enumerate() {
        // One unit in the last place, where two libraries' logarithms round to either side.
        ensure!((new - own).abs() <= own * f32::EPSILON, "uncertainty {at}: {new} for {own}");
    }
    Ok(())
}

#[cfg(feature = "emu")]
#[test]
fn classes_are_taken_as_on_the_cpu_in_every_schedule() {
    Bench::all().for_each(|bench| check(&bench).unwrap());
}
