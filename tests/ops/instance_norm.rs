//! `ops::instance_norm` against plain loops, its gradient against differences.

use crate::support::ops::{assert_close, noise, on_any_threads, poison, wide};
use hpc_seg::device::Device;
use hpc_seg::ops::conv3d::Channels;
use hpc_seg::ops::instance_norm::{Case, Norm, Source, activate, backward, cases, statistics};
use hpc_seg::tensor::Tensor;

const EPS: f64 = 1e-5;

fn voxels(c: &Case) -> usize {
    c.size.iter().product()
}

/// a [N, voxels, C] of y, gamma and beta.
fn oracle(y: &[f64], gamma: &[f64], beta: &[f64], n: usize, slope: f64) -> Vec<f64> {
    let c = gamma.len();
    let voxels = y.len() / (n * c);
    let mut out = vec![0.0; y.len()];
    for item in 0..n {
        for channel in 0..c {
            let at = |voxel: usize| (item * voxels + voxel) * c + channel;
            let mean = (0..voxels).map(|v| y[at(v)]).sum::<f64>() / voxels as f64;
            let variance = (0..voxels).map(|v| (y[at(v)] - mean).powi(2)).sum::<f64>() / voxels as f64;
            for v in 0..voxels {
                let normed = (y[at(v)] - mean) / (variance + EPS).sqrt() * gamma[channel] + beta[channel];
                out[at(v)] = if normed > 0.0 { normed } else { slope * normed };
            }
        }
    }
    out
}

fn tensor(device: &Device, c: &Case, width: usize, values: &[f32]) -> Tensor {
    Tensor::from_slice(device, &[c.items, c.size[0], c.size[1], c.size[2], width], values).unwrap()
}

/// Where voxel `v` of an item stands once it is padded.
fn place(c: &Case, item: usize, v: usize) -> usize {
    let outer: [usize; 3] = std::array::from_fn(|axis| c.size[axis] + 2 * c.padding[axis]);
    let (z, y, x) = (v / (c.size[1] * c.size[2]), v / c.size[2] % c.size[1], v % c.size[2]);
    ((item * outer[0] + z + c.padding[0]) * outer[1] + y + c.padding[1]) * outer[2] + x + c.padding[2]
}

fn outer_voxels(c: &Case) -> usize {
    (0..3).map(|axis| c.size[axis] + 2 * c.padding[axis]).product()
}

#[test]
fn a_convolutions_input_is_made_of_normed_and_plain_channels() {
    for (c, slope) in cases().into_iter().flat_map(|c| [(c, 0.01), (c, 1.0)]) {
        let [first, second] = c.channels;
        let (a, b) = (noise(c.items * voxels(&c) * first, 1), noise(c.items * voxels(&c) * second, 2));
        let (gamma, beta) = (noise(first, 3), noise(first, 4));
        let normed = oracle(&wide(&a), &wide(&gamma), &wide(&beta), c.items, f64::from(slope));
        let all = first + second;
        let mut want = vec![0.0; c.items * outer_voxels(&c) * all];
        for item in 0..c.items {
            for v in 0..voxels(&c) {
                let (to, from) = (place(&c, item, v) * all, item * voxels(&c) + v);
                want[to + second..to + all].copy_from_slice(&normed[from * first..][..first]);
                for i in 0..second {
                    want[to + i] = f64::from(b[from * second + i]);
                }
            }
        }
        let got = on_any_threads(c.name, |device| {
            let (a, b) = (tensor(device, &c, first, &a), tensor(device, &c, second, &b));
            let statistics = statistics(&a);
            let norm = Some(Norm {
                statistics: &statistics,
                gamma: &gamma,
                beta: &beta,
                slope,
            });
            let sources = [Source { y: &b, norm: None }, Source { y: &a, norm }];
            let sources = if second == 0 { &sources[1..] } else { &sources };
            poison(device, want.len());
            activate(sources, c.padding).unwrap().values().to_vec()
        });
        assert_close(c.name, &got, &want);
    }
}

#[test]
fn gradients_equal_differences() {
    for (c, slope) in cases().into_iter().flat_map(|c| [(c, 0.01), (c, 1.0)]) {
        let [width, other] = c.channels;
        let n = c.items;
        let y = noise(n * voxels(&c) * width, 1);
        let (gamma, beta) = (noise(width, 3), noise(width, 4));
        // Two users: one of these channels alone, one that has them behind others.
        let alone = noise(y.len(), 5);
        let behind = noise(n * voxels(&c) * (width + other), 6);
        let d_a = |at: usize| f64::from(alone[at]) + f64::from(behind[at / width * (width + other) + other + at % width]);
        let loss = |y: &[f64], gamma: &[f64], beta: &[f64]| -> f64 {
            let a = oracle(y, gamma, beta, n, f64::from(slope));
            a.iter().enumerate().map(|(at, a)| a * d_a(at)).sum()
        };
        let (y64, gamma64, beta64) = (wide(&y), wide(&gamma), wide(&beta));
        let step = 1e-6;
        let difference = |which: usize, at: usize| {
            let [mut up, mut down] = [
                [y64.clone(), gamma64.clone(), beta64.clone()],
                [y64.clone(), gamma64.clone(), beta64.clone()],
            ];
            up[which][at] += step;
            down[which][at] -= step;
            (loss(&up[0], &up[1], &up[2]) - loss(&down[0], &down[1], &down[2])) / (2.0 * step)
        };
        let run = |device: &Device| {
            let y = tensor(device, &c, width, &y);
            let (alone, behind) = (tensor(device, &c, width, &alone), tensor(device, &c, width + other, &behind));
            let statistics = statistics(&y);
            let norm = Norm {
                statistics: &statistics,
                gamma: &gamma,
                beta: &beta,
                slope,
            };
            let behind = Channels {
                tensor: &behind,
                first: other,
                count: width,
            };
            poison(device, n * outer_voxels(&c) * width);
            let g = backward(&y, norm, &[Channels::all(&alone), behind], c.padding).unwrap();
            [g.d_y.values().to_vec(), g.d_gamma, g.d_beta, g.d_bias].concat()
        };
        let got = on_any_threads(c.name, run);
        let (d_y, rest) = got.split_at(n * outer_voxels(&c) * width);
        // All of a small case, some of a large one.
        let stride = (y.len() / 200).max(1);
        let chosen: Vec<usize> = (0..y.len()).step_by(stride).collect();
        let want: Vec<f64> = chosen.iter().map(|&at| difference(0, at)).collect();
        let at = |at: usize| place(&c, at / width / voxels(&c), at / width % voxels(&c)) * width + at % width;
        let got: Vec<f32> = chosen.iter().map(|&chosen| d_y[at(chosen)]).collect();
        assert_close(&format!("{}, y", c.name), &got, &want);
        let inside: std::collections::BTreeSet<usize> = (0..y.len()).map(at).collect();
        assert!(
            (0..d_y.len()).all(|at| inside.contains(&at) || d_y[at] == 0.0),
            "{}: padding",
            c.name
        );
        for (which, name) in [(1, "gamma"), (2, "beta")] {
            let want: Vec<f64> = (0..width).map(|at| difference(which, at)).collect();
            assert_close(&format!("{}, {name}", c.name), &rest[(which - 1) * width..which * width], &want);
        }
        // What a bias adds the norm takes away: nothing but rounding is left, a hundredth of which is visible in the values it is the sum of.
        let largest = d_y.iter().fold(0f32, |most, v| most.max(v.abs()));
        assert!(
            rest[2 * width..].iter().all(|d| d.abs() <= 1e-4 * largest * voxels(&c) as f32),
            "{}: bias",
            c.name
        );
    }
}
