//! `ops::normed_conv3d` against the ops that it stands for, which have oracles of their own.

use crate::support::ops::{assert_close, noise, on_any_threads, poison, wide};
use hpc_seg::device::Device;
use hpc_seg::ops::conv3d::Channels;
use hpc_seg::ops::conv3d::{conv3d, d_weight};
use hpc_seg::ops::instance_norm::{Norm, Source, activate, backward, statistics};
use hpc_seg::ops::normed_conv3d::{Case, cases, is_fused, normed_conv3d, normed_d_weight};
use hpc_seg::tensor::Tensor;

/// The outputs and the gradient of the weights, fused or by way of the padded input.
fn run(device: &Device, case: &Case, fused: bool) -> Vec<f32> {
    let [d, h, w] = case.size;
    let tensor = |width: usize, seed| {
        Tensor::from_slice(device, &[case.items, d, h, w, width], &noise(case.items * d * h * w * width, seed)).unwrap()
    };
    let all = case.channels[0] + case.channels[1];
    let volumes: Vec<Tensor> = case
        .channels
        .iter()
        .filter(|c| **c > 0)
        .zip(1..)
        .map(|(&c, seed)| tensor(c, seed))
        .collect();
    let known: Vec<_> = volumes.iter().map(statistics).collect();
    let (gamma, beta) = (noise(all, 5), noise(all, 6));
    let source = |at: usize| Source {
        y: &volumes[at],
        norm: (at + 1 == volumes.len()).then(|| Norm {
            statistics: &known[at],
            gamma: &gamma[..volumes[at].width()],
            beta: &beta[..volumes[at].width()],
            slope: 0.01,
        }),
    };
    let sources: Vec<Source<'_>> = (0..volumes.len()).map(source).collect();
    let taps: usize = case.geometry.kernel.iter().product();
    let (weight, bias) = (noise(case.outputs * all * taps, 7), noise(case.outputs, 8));
    let out = case.geometry.output(case.size);
    let raw = noise(case.items * case.outputs * out.iter().product::<usize>(), 9);
    let raw = Tensor::from_slice(device, &[case.items, out[0], out[1], out[2], case.outputs], &raw).unwrap();
    // Padded as the backward pass makes it.
    let known = statistics(&raw);
    let (ones, zeros) = (vec![1.0; case.outputs], vec![0.0; case.outputs]);
    let norm = Norm {
        statistics: &known,
        gamma: &ones,
        beta: &zeros,
        slope: 1.0,
    };
    let d_y = backward(&raw, norm, &[Channels::all(&raw)], case.geometry.padding()).unwrap().d_y;
    poison(device, raw.len());
    if fused {
        let y = normed_conv3d(&sources, &weight, &bias, case.geometry).unwrap();
        return [y.values(), &normed_d_weight(&sources, &d_y, case.geometry).unwrap()].concat();
    }
    let x = activate(&sources, case.geometry.padding()).unwrap();
    let y = conv3d(&x, &weight, &bias, case.geometry).unwrap();
    [y.values(), &d_weight(&x, &d_y, case.geometry)].concat()
}

#[test]
fn normed_conv3d_equals_the_ops_it_stands_for() {
    let mut fused = 0;
    for case in cases() {
        let got = on_any_threads(case.name, |device| run(device, &case, true));
        let want = run(&Device::cpu(1).unwrap(), &case, false);
        assert_close(case.name, &got, &wide(&want));
        let channels: Vec<usize> = case.channels.into_iter().filter(|c| *c > 0).collect();
        fused += usize::from(is_fused(case.items, case.size, &channels, case.outputs, case.geometry));
    }
    assert_eq!(fused, 3);
}
