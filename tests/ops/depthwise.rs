//! `ops::depthwise` against plain loops.

use crate::support::ops::{assert_rows, assert_same, layer_norm, noise, on_any_threads, poison, takes};
use hpc_seg::device::Device;
use hpc_seg::ops::depthwise::{Case, Depthwise, cases, depthwise};
use hpc_seg::ops::norm::Norm;
use hpc_seg::tensor::Tensor;

const EPS: f32 = 1e-3;

struct Data {
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

impl Data {
    fn new(c: &Case) -> Self {
        let n = c.channels;
        Self {
            x: noise(c.items * c.size.0 * c.size.1 * n, 1),
            weight: noise(n * 49, 2),
            bias: noise(n, 3),
            gamma: noise(n, 4),
            beta: noise(n, 5),
        }
    }

    fn run(&self, device: &Device, c: &Case, items: std::ops::Range<usize>) -> Vec<f32> {
        let norm = Norm::new(device, self.gamma.clone(), self.beta.clone(), EPS).unwrap();
        let weights = Depthwise::new(device, &self.weight, self.bias.clone(), norm).unwrap();
        let len = self.x.len() / c.items;
        let shape = [items.len(), c.size.0, c.size.1, c.channels];
        let x = Tensor::from_slice(device, &shape, &self.x[items.start * len..items.end * len]).unwrap();
        poison(device, items.len() * len);
        depthwise(&x, &weights).unwrap().values().to_vec()
    }

    fn oracle(&self, c: &Case, row: usize) -> Vec<f64> {
        let (h, w) = c.size;
        let (item, oy, ox) = (row / (h * w), row / w % h, row % w);
        let channel = |channel: usize| {
            let mut sum = f64::from(self.bias[channel]);
            for ky in 0..7 {
                for kx in 0..7 {
                    let (y, x) = ((oy + ky) as i64 - 3, (ox + kx) as i64 - 3);
                    if (0..h as i64).contains(&y) && (0..w as i64).contains(&x) {
                        let at = ((item * h + y as usize) * w + x as usize) * c.channels + channel;
                        sum += f64::from(self.weight[channel * 49 + ky * 7 + kx]) * f64::from(self.x[at]);
                    }
                }
            }
            sum
        };
        layer_norm(&(0..c.channels).map(channel).collect::<Vec<_>>(), &self.gamma, &self.beta, EPS)
    }
}

#[test]
fn depthwise_equals_plain_loops() {
    for case in cases().into_iter().filter(|case| takes(case.name)) {
        let data = Data::new(&case);
        let got = on_any_threads(case.name, |device| data.run(device, &case, 0..case.items));
        assert_rows(&format!("{case:?}"), &got, case.channels, 49.0 * case.channels as f64, |row| {
            data.oracle(&case, row)
        });
    }
}

#[test]
fn a_map_is_convolved_alike_alone_and_in_a_batch() {
    let device = Device::cpu(2).unwrap();
    for case in cases().into_iter().filter(|case| case.items > 1) {
        let data = Data::new(&case);
        let alone: Vec<f32> = (0..case.items).flat_map(|i| data.run(&device, &case, i..i + 1)).collect();
        assert_same(case.name, &alone, &data.run(&device, &case, 0..case.items));
    }
}
