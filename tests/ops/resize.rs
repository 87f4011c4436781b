//! `ops::resize` against plain loops in f64 and against PyTorch.

use anyhow::Result;
use hpc_seg::ops::Cost;
use hpc_seg::ops::resize::{Case, ResizePlan, cases};

type Maker = fn((usize, usize), (usize, usize)) -> Result<ResizePlan>;

fn plane(n: usize) -> Vec<f32> {
    (0..n as u64)
        .map(|i| ((i * i * 2_654_435_761 + i * 40_503) >> 13) as u8 as f32 / 16.0 - 8.0)
        .collect()
}

fn resized(plan: &ResizePlan, channels: usize, src: &[f32]) -> Vec<f32> {
    let (h, w) = plan.output();
    let mut out = vec![f32::NAN; h * w * channels];
    plan.resize_channels(channels, src, &mut vec![f32::NAN; plan.scratch_len(channels)], &mut out)
        .unwrap();
    out
}

/// sum over y, x of k(y) k(x) src, with k given as all weights of an output position, in f64.
fn oracle(src: &[f32], input: (usize, usize), output: (usize, usize), weights: impl Fn(usize, usize, usize) -> Vec<f64>) -> Vec<f64> {
    let across: Vec<Vec<f64>> = (0..output.1).map(|i| weights(i, input.1, output.1)).collect();
    let mut out = Vec::new();
    for i in 0..output.0 {
        let down = weights(i, input.0, output.0);
        for row in &across {
            let mut sum = 0.0;
            for (y, wy) in down.iter().enumerate().filter(|(_, wy)| **wy != 0.0) {
                for (x, wx) in row.iter().enumerate() {
                    sum += wy * wx * f64::from(src[y * input.1 + x]);
                }
            }
            out.push(sum);
        }
    }
    out
}

fn kernel_weights(i: usize, input: usize, output: usize, stretch: f64, kernel: impl Fn(f64) -> f64) -> Vec<f64> {
    let centre = (i as f64 + 0.5) * input as f64 / output as f64;
    (0..input).map(|j| kernel((j as f64 + 0.5 - centre) / stretch)).collect()
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

fn assert_close(out: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(out.len(), expected.len());
    for (i, (&a, &b)) in out.iter().zip(expected).enumerate() {
        assert!(
            (f64::from(a) - b).abs() <= tolerance,
            "{what}: position {i} is {a}, should be {b} within {tolerance:e}"
        );
    }
}

/// What f32 allows: pixels of at most 8, source positions with three roundings of n 2^-24 per axis, and kernels whose weights change by
/// at most 3.5 in sum (Keys) when the position moves by 1; then the sums' own rounding.
fn tolerance(input: (usize, usize)) -> f64 {
    let ulp = 2f64.powi(-24);
    8.0 * 3.5 * 3.0 * ulp * (input.0 + input.1) as f64 + 8.0 * 8.0 * ulp
}

#[test]
fn bilinear_equals_a_plain_loop() {
    for Case { input, output, .. } in cases() {
        let src = plane(input.0 * input.1);
        let plan = ResizePlan::bilinear(input, output).unwrap();
        // Beyond the outermost centres the edge value holds: all weight that falls outside belongs to the edge pixel.
        let expected = oracle(&src, input, output, |i, n, m| {
            let centre = ((i as f64 + 0.5) * n as f64 / m as f64 - 0.5).clamp(0.0, n as f64 - 1.0);
            (0..n).map(|j| triangle(j as f64 - centre)).collect()
        });
        assert_close(
            &resized(&plan, 1, &src),
            &expected,
            tolerance(input),
            &format!("{input:?} to {output:?}"),
        );
    }
}

#[test]
fn antialiased_bilinear_equals_a_plain_loop() {
    for Case { input, output, .. } in cases() {
        let src = plane(input.0 * input.1);
        let plan = ResizePlan::bilinear_antialiased(input, output).unwrap();
        let expected = oracle(&src, input, output, |i, n, m| {
            let weights = kernel_weights(i, n, m, (n as f64 / m as f64).max(1.0), triangle);
            let total: f64 = weights.iter().sum();
            weights.iter().map(|w| w / total).collect()
        });
        assert_close(
            &resized(&plan, 1, &src),
            &expected,
            tolerance(input),
            &format!("{input:?} to {output:?}"),
        );
    }
}

#[test]
fn bicubic_equals_a_plain_loop() {
    let keys = |x: f64| {
        let (a, x) = (-0.75, x.abs());
        if x <= 1.0 {
            (a + 2.0) * x.powi(3) - (a + 3.0) * x.powi(2) + 1.0
        } else if x < 2.0 {
            a * (x.powi(3) - 5.0 * x.powi(2) + 8.0 * x - 4.0)
        } else {
            0.0
        }
    };
    for Case { input, output, .. } in cases() {
        let src = plane(input.0 * input.1);
        let plan = ResizePlan::bicubic(input, output).unwrap();
        let expected = oracle(&src, input, output, |i, n, m| {
            let centre = (i as f64 + 0.5) * n as f64 / m as f64 - 0.5;
            let mut weights = vec![0.0; n];
            for j in centre.floor() as i64 - 1..=centre.floor() as i64 + 2 {
                weights[j.clamp(0, n as i64 - 1) as usize] += if n == m {
                    triangle(j as f64 - centre)
                } else {
                    keys(j as f64 - centre)
                };
            }
            weights
        });
        assert_close(
            &resized(&plan, 1, &src),
            &expected,
            tolerance(input),
            &format!("{input:?} to {output:?}"),
        );
    }
}

#[test]
fn channels_are_resized_each_by_itself() {
    let makers: [Maker; 3] = [ResizePlan::bilinear, ResizePlan::bilinear_antialiased, ResizePlan::bicubic];
    for (maker, Case { input, output, .. }) in makers.iter().flat_map(|maker| cases().into_iter().map(move |case| (maker, case))) {
        let plan = maker(input, output).unwrap();
        let src = plane(input.0 * input.1 * 3);
        let out = resized(&plan, 3, &src);
        for c in 0..3 {
            let one: Vec<f32> = src.iter().skip(c).step_by(3).copied().collect();
            let expected = resized(&plan, 1, &one);
            let channel: Vec<f32> = out.iter().skip(c).step_by(3).copied().collect();
            assert_eq!(channel, expected, "channel {c} of {input:?} to {output:?}");
        }
    }
}

#[test]
fn equal_sizes_copy_bit_for_bit() {
    let src = plane(5 * 7);
    for plan in [
        ResizePlan::bilinear((5, 7), (5, 7)),
        ResizePlan::bilinear_antialiased((5, 7), (5, 7)),
        ResizePlan::bicubic((5, 7), (5, 7)),
    ] {
        assert_eq!(resized(&plan.unwrap(), 1, &src), src);
    }
}

#[test]
fn sizes_of_zero_and_slices_of_another_size_are_refused() {
    assert!(ResizePlan::bilinear((0, 3), (2, 2)).is_err());
    let plan = ResizePlan::bilinear((2, 3), (4, 5)).unwrap();
    assert!(plan.resize(&[0.0; 5], &mut [0.0; 10], &mut [0.0; 20]).is_err());
    assert!(plan.resize(&[0.0; 6], &mut [0.0; 9], &mut [0.0; 20]).is_err());
    assert!(plan.resize(&[0.0; 6], &mut [0.0; 10], &mut [0.0; 19]).is_err());
}

// torch 2.15.0 (AVX512 CPU): i = np.arange(H * W, dtype=np.uint64)
//   x = ((i * i * 2654435761 + i * 40503) >> 13).astype(np.uint8).astype(np.float32) / 16 - 8, as (1, 1, H, W)
//   y = F.interpolate(x, size=(h, w), mode=..., align_corners=False[, antialias=True]).numpy().astype(np.float64).ravel()
//   (y * ((np.arange(y.size) * 37 % 101 - 50) / 50)).sum()    for the first ten cases, in order
#[test]
fn weighted_sums_are_those_of_pytorch() {
    let bilinear = [
        5.76, 2.5625, -4.04755, -130.19062, -20.32858, 6.4413, -6.91938, 33.42238, -14.71764, -7.89663,
    ];
    let antialiased = [
        5.76, 0.15834, -0.48211, -128.92292, -21.66177, -51.07828, -4.63406, 72.49388, -14.71764, -3.13849,
    ];
    let bicubic = [
        5.75999, 2.5625, -1.77783, -165.32541, -17.3015, -9.08999, -7.04915, 20.83758, -13.21043, -8.65882,
    ];
    let makers: [(Maker, [f64; 10]); 3] = [
        (ResizePlan::bilinear, bilinear),
        (ResizePlan::bilinear_antialiased, antialiased),
        (ResizePlan::bicubic, bicubic),
    ];
    for (kind, (maker, sums)) in makers.iter().enumerate() {
        for (Case { input, output, .. }, expected) in cases().into_iter().zip(sums) {
            let out = resized(&maker(input, output).unwrap(), 1, &plane(input.0 * input.1));
            let sum: f64 = out
                .iter()
                .enumerate()
                .map(|(i, v)| f64::from(*v) * ((i * 37 % 101) as f64 - 50.0) / 50.0)
                .sum();
            // Pixels of up to 8 differ by at most about 16 ulp, with random signs; the sums above are rounded to 1e-5.
            let tolerance = 8e-6 * (out.len() as f64).sqrt() + 1e-5;
            assert!(
                (sum - expected).abs() < tolerance,
                "kind {kind}, {input:?} to {output:?}: {sum}, PyTorch {expected}"
            );
        }
    }
}

#[test]
fn cost_counts_both_passes_and_nothing_for_a_copy() {
    // 2 x 3 to 4 x 5, two taps each: 2 x 5 x 2 across, 4 x 5 x 2 down; reads 6, writes and reads 10 between, writes 20 floats.
    assert_eq!(
        ResizePlan::bilinear((2, 3), (4, 5)).unwrap().cost(1),
        Cost {
            flops: 2.0 * 60.0,
            bytes: 4.0 * 46.0
        }
    );
    assert_eq!(
        ResizePlan::bilinear((2, 3), (2, 3)).unwrap().cost(7),
        Cost {
            flops: 0.0,
            bytes: 4.0 * 84.0
        }
    );
}
