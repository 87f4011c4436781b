//! Transforms of a channel that lose detail: Gaussian blur and low resolution, axis by axis.

/// A volume [D, H, W] as lines along an axis: voxels before each, along it, and after it.
fn lines(shape: [usize; 3], axis: usize) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}

/// A volume whose `axis` has `size` voxels, each the sum of the (index, weight) that `taps` gives for it.
fn along(volume: &[f32], shape: [usize; 3], axis: usize, taps: &[Vec<(usize, f32)>]) -> Vec<f32> {
    let (before, length, after) = lines(shape, axis);
    let mut out = vec![0.0; before * taps.len() * after];
    for (plane, out) in volume.chunks_exact(length * after).zip(out.chunks_exact_mut(taps.len() * after)) {
        for (out, taps) in out.chunks_exact_mut(after).zip(taps) {
            for &(from, weight) in taps {
                let row = &plane[from * after..][..after];
                out.iter_mut().zip(row).for_each(|(out, v)| *out += weight * v);
            }
        }
    }
    out
}

/// Gaussian blur by these standard deviations in voxels; borders are reflected (the edge is not repeated). Kernels have the odd number of voxels nearest to 6 sigma + 0.5.
pub fn blur(channel: &mut Vec<f32>, shape: [usize; 3], deviations: [f64; 3]) {
    for (axis, deviation) in deviations.into_iter().enumerate() {
        let half = kernel_length(deviation) / 2;
        let weights: Vec<f64> = (0..=2 * half)
            .map(|at| (-((at as f64 - half as f64) / deviation).powi(2) / 2.0).exp())
            .collect();
        let sum: f64 = weights.iter().sum();
        let tap = |k: usize, at: usize| {
            let from = reflect(k as i64 + at as i64 - half as i64, shape[axis] as i64);
            (from, (weights[at] / sum) as f32)
        };
        let taps: Vec<Vec<_>> = (0..shape[axis]).map(|k| (0..=2 * half).map(|at| tap(k, at)).collect()).collect();
        *channel = along(channel, shape, axis, &taps);
    }
}

/// The odd number nearest to 6 sigma + 0.5.
fn kernel_length(deviation: f64) -> usize {
    2 * ((6.0 * deviation - 0.5) / 2.0).round() as usize + 1
}

fn reflect(at: i64, size: i64) -> usize {
    if size == 1 {
        return 0;
    }
    let period = 2 * (size - 1);
    let at = at.rem_euclid(period);
    at.min(period - at) as usize
}

/// The channel at a lower resolution and back: sizes round(n zoom), taken by nearest neighbour; back by linear interpolation, both with voxels' centres aligned.
pub fn low_resolution(channel: &mut Vec<f32>, shape: [usize; 3], zoom: [f64; 3]) {
    let small: [usize; 3] = std::array::from_fn(|axis| ((shape[axis] as f64 * zoom[axis]).round_ties_even() as usize).max(1));
    let mut now = shape;
    for axis in 0..3 {
        let nearest = |k: usize| vec![(((k as f64 + 0.5) * shape[axis] as f64 / small[axis] as f64) as usize, 1.0)];
        *channel = along(channel, now, axis, &(0..small[axis]).map(nearest).collect::<Vec<_>>());
        now[axis] = small[axis];
    }
    for axis in 0..3 {
        let linear = |k: usize| {
            let at = ((k as f64 + 0.5) * small[axis] as f64 / shape[axis] as f64 - 0.5).max(0.0);
            let below = (at as usize).min(small[axis] - 1);
            let (next, share) = ((below + 1).min(small[axis] - 1), (at - below as f64) as f32);
            vec![(below, 1.0 - share), (next, share)]
        };
        *channel = along(channel, now, axis, &(0..shape[axis]).map(linear).collect::<Vec<_>>());
        now[axis] = shape[axis];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_have_nnu_nets_lengths() {
        assert_eq!([0.5, 0.58, 0.6, 0.9, 0.95, 1.0].map(kernel_length), [3, 3, 5, 5, 7, 7]);
    }

    #[test]
    fn reflection_does_not_repeat_the_edge() {
        assert_eq!([-2, -1, 0, 3, 4, 5].map(|at| reflect(at, 4)), [2, 1, 0, 3, 2, 1]);
        assert_eq!([-3, 5].map(|at| reflect(at, 1)), [0, 0]);
        assert_eq!([-3, 3].map(|at| reflect(at, 2)), [1, 1]);
    }
}
