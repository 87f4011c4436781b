//! `ops::conv` against plain loops.

use crate::support::ops::{assert_rows, assert_same, gelu, layer_norm, noise, on_any_threads, poison, takes, tensor};
use hpc_seg::device::Device;
use hpc_seg::ops::conv::{Case, Conv, cases, conv};
use hpc_seg::ops::linear::Epilogue;
use hpc_seg::ops::norm::Norm;

fn out_size(c: &Case) -> (usize, usize) {
    let side = |n: usize| (n + 2 * c.padding - c.kernel) / c.stride + 1;
    (side(c.size.0), side(c.size.1))
}

struct Data {
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

const EPS: f32 = 1e-3;

impl Data {
    fn new(c: &Case) -> Self {
        Self {
            x: noise(c.items * c.size.0 * c.size.1 * c.channels, 1),
            weight: noise(c.n * c.channels * c.kernel * c.kernel, 2),
            bias: noise(c.n, 3),
            gamma: noise(c.n, 4),
            beta: noise(c.n, 5),
        }
    }

    fn run(&self, device: &Device, c: &Case, items: std::ops::Range<usize>, normed: bool) -> Vec<f32> {
        let window = [c.kernel, c.stride, c.padding];
        let weights = Conv::new(device, &self.weight, [c.n, c.channels], window, Some(&self.bias)).unwrap();
        let norm = Norm::new(device, self.gamma.clone(), self.beta.clone(), EPS).unwrap();
        let len = self.x.len() / c.items;
        let shape = [items.len(), c.size.0, c.size.1, c.channels];
        let x = hpc_seg::tensor::Tensor::from_slice(device, &shape, &self.x[items.start * len..items.end * len]).unwrap();
        let (h, w) = out_size(c);
        poison(device, items.len() * h * w * c.n);
        let y = conv(
            &x,
            &weights,
            Epilogue {
                norm: normed.then_some(&norm),
                gelu: normed,
                ..Epilogue::NONE
            },
        )
        .unwrap();
        assert_eq!(y.shape(), [items.len(), h, w, c.n], "{c:?}");
        y.values().to_vec()
    }

    /// y[n, oy, ox, o] = bias[o] + sum over c, ky, kx inside of weight[o, c, ky, kx] x[n, oy stride + ky - padding, ..., c].
    fn oracle(&self, c: &Case, row: usize, normed: bool) -> Vec<f64> {
        let (h, w) = out_size(c);
        let (item, oy, ox) = (row / (h * w), row / w % h, row % w);
        let mut out = wide_bias(&self.bias);
        for (o, out) in out.iter_mut().enumerate() {
            for channel in 0..c.channels {
                for ky in 0..c.kernel {
                    for kx in 0..c.kernel {
                        let (y, x) = (
                            (oy * c.stride + ky) as i64 - c.padding as i64,
                            (ox * c.stride + kx) as i64 - c.padding as i64,
                        );
                        if (0..c.size.0 as i64).contains(&y) && (0..c.size.1 as i64).contains(&x) {
                            let at = ((item * c.size.0 + y as usize) * c.size.1 + x as usize) * c.channels + channel;
                            let weight = self.weight[((o * c.channels + channel) * c.kernel + ky) * c.kernel + kx];
                            *out += f64::from(weight) * f64::from(self.x[at]);
                        }
                    }
                }
            }
        }
        if normed {
            out = layer_norm(&out, &self.gamma, &self.beta, EPS).into_iter().map(gelu).collect();
        }
        out
    }
}

fn wide_bias(bias: &[f32]) -> Vec<f64> {
    crate::support::ops::wide(bias)
}

#[test]
fn conv_equals_plain_loops() {
    for case in cases().into_iter().filter(|case| takes(case.name)) {
        let data = Data::new(&case);
        for normed in [false, true] {
            let name = format!("{case:?}, norm and GELU {normed}");
            let got = on_any_threads(&name, |device| data.run(device, &case, 0..case.items, normed));
            let each = (case.n * case.channels * case.kernel * case.kernel) as f64;
            assert_rows(&name, &got, case.n, each, |row| data.oracle(&case, row, normed));
        }
    }
}

#[test]
fn an_image_is_convolved_alike_alone_and_in_a_batch() {
    let device = Device::cpu(2).unwrap();
    for case in cases().into_iter().filter(|case| case.items > 1) {
        let data = Data::new(&case);
        let all = data.run(&device, &case, 0..case.items, true);
        let alone: Vec<f32> = (0..case.items).flat_map(|i| data.run(&device, &case, i..i + 1, true)).collect();
        assert_same(case.name, &alone, &all);
    }
}

#[test]
#[should_panic(expected = "under a window of 5")]
fn an_image_smaller_than_the_window_is_refused() {
    let device = Device::cpu(1).unwrap();
    let weights = Conv::new(&device, &noise(25, 2), [1, 1], [5, 1, 0], None).unwrap();
    let _ = conv(&tensor(&device, &[1, 3, 9, 1], 1), &weights, Epilogue::NONE);
}
