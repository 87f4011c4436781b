//! `ops::take`, and the sums it takes, against Algorithm 2's formula in f64.

use crate::support::ops::{noise, on_any_threads};
use hpc_seg::device::Device;
use hpc_seg::ops::ensemble::{ONE, Run, Sums, ensemble};
use hpc_seg::ops::resize::ResizePlan;
use hpc_seg::ops::take::{Maps, Votes, entropy};
use hpc_seg::tensor::Tensor;

/// Slices of a volume and their size, and the logits'.
const SLICES: usize = 3;
const PLANE: (usize, usize) = (13, 11);
const LOGITS: (usize, usize) = (5, 7);
const VOXELS: usize = SLICES * PLANE.0 * PLANE.1;

fn plan() -> ResizePlan {
    ResizePlan::bilinear(LOGITS, PLANE).unwrap()
}

/// Logits of `runs` runs of every slice, [run, slice, h, w], loud enough that some are certain.
fn logits(runs: usize, seed: u64) -> Vec<f32> {
    noise(runs * SLICES * LOGITS.0 * LOGITS.1, seed)
        .into_iter()
        .map(|v| 12.0 * v)
        .collect()
}

/// Sums of the runs, their slices in descending order and one run at a time.
fn sums(device: &Device, runs: usize, logits: &[f32]) -> Sums {
    let mut sums = Sums::new(device, SLICES, PLANE.0 * PLANE.1, runs).unwrap();
    let x = Tensor::from_slice_f32(device, &[runs, SLICES, LOGITS.0, LOGITS.1], logits).unwrap();
    for run in 0..runs {
        let planes: Vec<Run> = (0..SLICES)
            .rev()
            .map(|slice| Run {
                plane: run * SLICES + slice,
                slice,
            })
            .collect();
        sums.add(&x, &planes, &plan()).unwrap();
    }
    assert_eq!(sums.runs(), runs);
    sums
}

/// The same by `ensemble`, which has a test of its own: sums and votes of every voxel.
fn summed(logits: &[f32]) -> (Vec<u32>, Vec<u16>) {
    let (mut sum, mut votes, plane) = (vec![0; VOXELS], vec![0; VOXELS], PLANE.0 * PLANE.1);
    for (i, x) in logits.chunks_exact(LOGITS.0 * LOGITS.1).enumerate() {
        let range = i % SLICES * plane..(i % SLICES + 1) * plane;
        ensemble(x, &plan(), &mut sum[range.clone()], &mut votes[range]).unwrap();
    }
    (sum, votes)
}

/// -(p ln p + (1 - p) ln(1 - p)) with the guard against ln 0.
fn entropy_of(p: f64) -> f64 {
    (-(p * (p + 1e-8).ln() + (1.0 - p) * (1.0 - p + 1e-8).ln())).max(0.0)
}

#[test]
fn classes_are_taken_by_the_formula() {
    const THRESHOLD: f32 = 0.3;
    // Runs of each class, and the class; one has none.
    let classes = [(3, 2), (1, 1), (0, 9), (5, 4), (3, 3)];
    let data: Vec<Vec<f32>> = classes.iter().map(|&(runs, class)| logits(runs, u64::from(class))).collect();
    let (mut label, mut best, mut uncertainty) = (vec![0u8; VOXELS], vec![f64::from(THRESHOLD); VOXELS], vec![0f64; VOXELS]);
    let (mut want_p, mut want_votes) = (Vec::new(), Vec::new());
    for (&(runs, class), logits) in classes.iter().zip(&data) {
        let (sum, votes) = summed(logits);
        for i in 0..VOXELS {
            let mut p = 0.0;
            if runs > 0 {
                p = f64::from(sum[i]) / (f64::from(ONE) * runs as f64);
            }
            want_p.push(p as f32);
            uncertainty[i] = uncertainty[i].max(entropy_of(p));
            if p > best[i] {
                (best[i], label[i]) = (p, class);
            }
        }
        want_votes.push(Votes {
            shared: votes.iter().map(|&v| u64::from(v) * (u64::from(v).max(1) - 1)).sum(),
            all: votes.iter().map(|&v| u64::from(v)).sum(),
        });
    }
    assert!((1..5).all(|class| label.contains(&class)));
    let got = on_any_threads("take", |device| {
        let mut maps = Maps::new(device, VOXELS, THRESHOLD).unwrap();
        let mut probabilities = Vec::new();
        for ((&(runs, class), logits), want) in classes.iter().zip(&data).zip(&want_votes) {
            // Asked for or not, probabilities do not change the maps.
            let votes = maps.take(class, &sums(device, runs, logits), Some(&mut probabilities)).unwrap();
            assert_eq!(votes, *want, "class {class}");
        }
        assert_eq!(probabilities, want_p);
        let (labels, uncertainty) = maps.finish().unwrap();
        assert_eq!(labels, label);
        uncertainty
    });
    for (i, (got, want)) in got.iter().zip(&uncertainty).enumerate() {
        // p is rounded to f32, and the entropy's slope is at most ln 1e8.
        assert!((f64::from(*got) - want).abs() <= 2e-6, "voxel {i}: {got}, wanted {want}");
    }
}

#[test]
fn maps_are_the_same_whether_probabilities_are_wanted_or_not() {
    let device = Device::cpu(2).unwrap();
    let sums = sums(&device, 2, &logits(2, 1));
    let run = |probabilities: Option<&mut Vec<f32>>| {
        let mut maps = Maps::new(&device, VOXELS, 0.5).unwrap();
        let votes = maps.take(7, &sums, probabilities).unwrap();
        (votes, maps.finish().unwrap())
    };
    let mut probabilities = vec![-1.0];
    assert_eq!(run(None), run(Some(&mut probabilities)));
    // They are added behind what is there.
    assert_eq!((probabilities.len(), probabilities[0]), (VOXELS + 1, -1.0));
}

#[test]
fn of_equal_classes_the_first_wins_and_the_threshold_itself_is_not_enough() {
    let device = Device::cpu(2).unwrap();
    let run = |threshold: f32, logits: &[f32], classes: &[u8]| {
        let mut maps = Maps::new(&device, VOXELS, threshold).unwrap();
        let sums = sums(&device, 2, logits);
        for &class in classes {
            maps.take(class, &sums, None).unwrap();
        }
        maps.finish().unwrap().0
    };
    let zeros = vec![0.0; 2 * SLICES * LOGITS.0 * LOGITS.1];
    // A probability of one half.
    assert_eq!(run(0.5, &zeros, &[3, 1]), vec![0; VOXELS]);
    assert_eq!(run(0.499, &zeros, &[3, 1]), vec![3; VOXELS]);
    assert_eq!(run(0.499, &zeros, &[1, 3]), vec![1; VOXELS]);
    let data = logits(2, 5);
    let (first, second) = (run(0.5, &data, &[2, 8]), run(0.5, &data, &[8, 2]));
    assert!(first.contains(&2) && first.contains(&0) && !first.contains(&8));
    assert_eq!(second, first.iter().map(|&label| 4 * label).collect::<Vec<_>>());
}

#[test]
fn a_class_without_runs_is_nowhere_and_certain_of_it() {
    let device = Device::cpu(1).unwrap();
    let mut maps = Maps::new(&device, VOXELS, 0.0).unwrap();
    let mut probabilities = Vec::new();
    let sums = Sums::new(&device, SLICES, PLANE.0 * PLANE.1, 0).unwrap();
    assert_eq!(maps.take(1, &sums, Some(&mut probabilities)).unwrap(), Votes::default());
    assert_eq!(probabilities, vec![0.0; VOXELS]);
    assert_eq!(maps.finish().unwrap(), (vec![0; VOXELS], vec![0.0; VOXELS]));
}

#[test]
fn votes_count_the_runs_of_a_voxel_and_its_ordered_pairs() {
    let device = Device::cpu(1).unwrap();
    // Of four runs, slice z is seen whole by z of them, but the last by all four.
    let seen = [0, 1, 4];
    let x: Vec<f32> = (0..4 * SLICES)
        .flat_map(|i| vec![if i / SLICES < seen[i % SLICES] { 2.0 } else { -2.0 }; LOGITS.0 * LOGITS.1])
        .collect();
    let plane = (PLANE.0 * PLANE.1) as u64;
    let votes = Maps::new(&device, VOXELS, 0.5)
        .unwrap()
        .take(1, &sums(&device, 4, &x), None)
        .unwrap();
    assert_eq!(
        votes,
        Votes {
            shared: 12 * plane,
            all: 5 * plane
        }
    );
}

#[test]
#[should_panic(expected = "ensemble: planes")]
fn a_plane_that_is_not_there_is_refused() {
    let device = Device::cpu(1).unwrap();
    let x = Tensor::from_slice_f32(&device, &[1, LOGITS.0, LOGITS.1], &noise(35, 1)).unwrap();
    let mut sums = Sums::new(&device, SLICES, PLANE.0 * PLANE.1, 1).unwrap();
    let _ = sums.add(&x, &[Run { plane: 1, slice: 0 }], &plan());
}

#[test]
fn entropy_is_zero_when_certain_and_ln_2_when_not() {
    assert_eq!((entropy(0.0), entropy(1.0)), (0.0, 0.0));
    assert!((entropy(0.5) - std::f32::consts::LN_2).abs() < 1e-7);
    assert!((entropy(0.2) - 0.500_402_4).abs() < 1e-6);
}
