//! The sliding window: where its tiles lie, and how much each voxel of one counts.

use half::f16;

/// The share of a tile by which the window moves, at most.
const STEP: f64 = 0.5;
/// Standard deviation of the weights, as a share of the patch, and where they are cut off, in standard deviations.
const SIGMA: f64 = 1.0 / 8.0;
const TRUNCATED: f64 = 4.0;
/// Weight of the middle.
const MOST: f64 = 10.0;

/// Where tiles of `patch` voxels begin along an axis of `size` voxels, at least as many: evenly spread, the last one at the end.
pub fn starts(size: usize, patch: usize) -> Vec<usize> {
    let room = (size - patch) as f64;
    let count = (room / (STEP * patch as f64)).ceil() as usize + 1;
    let step = if count > 1 { room / (count - 1) as f64 } else { 0.0 };
    (0..count).map(|i| (step * i as f64).round_ties_even() as usize).collect()
}

/// Where all tiles begin, along (a0, a1, a2), the last axis fastest.
pub fn tiles(size: [usize; 3], patch: [usize; 3]) -> Vec<[usize; 3]> {
    let [a, b, c] = [0, 1, 2].map(|axis| starts(size[axis], patch[axis]));
    let rows = a.iter().flat_map(|&z| b.iter().map(move |&y| (z, y)));
    rows.flat_map(|(z, y)| c.iter().map(move |&x| [z, y, x])).collect()
}

/// Weights of a tile's voxels [D, H, W]: scipy's Gaussian filter of a peak in the middle, as half precision holds it, scaled to at most 10; what half precision takes for zero has the
/// least weight that is not.
pub fn gaussian(patch: [usize; 3]) -> Vec<f32> {
    let lines = patch.map(line);
    let most: f64 = lines.iter().map(|line| line.iter().copied().fold(0.0, f64::max)).product();
    let rows = lines[0].iter().flat_map(|a| lines[1].iter().map(move |b| a * b));
    let values = rows.flat_map(|row| lines[2].iter().map(move |c| f16::from_f32((row * c / most * MOST) as f32).to_f32()));
    let mut weights: Vec<f32> = values.collect();
    let least = weights.iter().copied().filter(|weight| *weight > 0.0).fold(f32::INFINITY, f32::min);
    weights
        .iter_mut()
        .filter(|weight| **weight == 0.0)
        .for_each(|weight| *weight = least);
    weights
}

fn line(size: usize) -> Vec<f64> {
    let sigma = size as f64 * SIGMA;
    let radius = (TRUNCATED * sigma + 0.5) as i64;
    let kernel = |at: i64| (-0.5 * (at as f64 / sigma).powi(2)).exp();
    let sum: f64 = (-radius..=radius).map(kernel).sum();
    let away = |at: usize| at as i64 - (size / 2) as i64;
    let weight = |at: i64| if at.abs() <= radius { kernel(at) / sum } else { 0.0 };
    (0..size).map(|at| weight(away(at))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_lie_where_nnu_net_puts_them() {
        assert_eq!(starts(110, 64), [0, 23, 46]);
        assert_eq!(starts(160, 160), [0]);
        assert_eq!(starts(201, 96), [0, 35, 70, 105]);
        assert_eq!(tiles([4, 6, 4], [4, 4, 4]), [[0, 0, 0], [0, 2, 0]]);
    }

    #[test]
    fn weights_are_nnu_nets() {
        let weights = gaussian([64; 3]);
        let at = |z: usize, y: usize, x: usize| weights[(z * 64 + y) * 64 + x];
        assert_eq!(at(32, 32, 32), 10.0);
        let half = |v: f32| f16::from_f32(v).to_f32();
        assert_eq!((at(0, 32, 32), at(32, 32, 63)), (half(0.003_354_626_3), half(0.005_487_802_3)));
        assert!((at(32, 24, 32) - 6.066).abs() < 5e-4);
        let least = f16::from_bits(1).to_f32();
        assert_eq!(at(0, 0, 0), least);
        // What underflows: below half of the least, beside what rounds to it.
        let exact = |i: usize| (-0.5 * ((i as f64 - 32.0) / 8.0).powi(2)).exp();
        let product = |z: usize, y: usize, x: usize| 10.0 * exact(z) * exact(y) * exact(x);
        let is_lost = |i: usize| product(i / 4096, i / 64 % 64, i % 64) < f64::from(least) / 2.0;
        assert_eq!((0..weights.len()).filter(|&i| is_lost(i)).count(), 1189);
        assert!(weights.iter().all(|weight| *weight >= least));
    }
}
