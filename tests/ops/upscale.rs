//! `ops::upscale` against a scattered transposed convolution.

use crate::support::ops::{assert_rows, assert_same, gelu, layer_norm, noise, on_any_threads, poison, takes};
use hpc_seg::device::Device;
use hpc_seg::ops::norm::Norm;
use hpc_seg::ops::upscale::{Case, Upscale, cases, upscale};
use hpc_seg::tensor::Tensor;

const EPS: f32 = 1e-3;

struct Data {
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    skips: Vec<Vec<f32>>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

impl Data {
    fn new(c: &Case) -> Self {
        let pixels = c.size.0 * c.size.1;
        Self {
            x: noise(c.items * pixels * c.c, 1),
            weight: noise(c.c * c.o * 4, 2),
            bias: noise(c.o, 3),
            skips: (0..c.items).map(|item| noise(4 * pixels * c.o, 40 + item as u64)).collect(),
            gamma: noise(c.o, 5),
            beta: noise(c.o, 6),
        }
    }

    fn run(&self, device: &Device, c: &Case, items: std::ops::Range<usize>) -> Vec<f32> {
        let norm = c
            .norm
            .then(|| Norm::new(device, self.gamma.clone(), self.beta.clone(), EPS).unwrap());
        let weights = Upscale::new(device, &self.weight, c.c, c.o, &self.bias, norm).unwrap();
        let len = self.x.len() / c.items;
        let x = Tensor::from_slice(
            device,
            &[items.len(), c.size.0, c.size.1, c.c],
            &self.x[items.start * len..items.end * len],
        )
        .unwrap();
        let skip = self.skips[items.clone()].concat();
        let skip = Tensor::from_slice(device, &[skip.len() / c.o, c.o], &skip).unwrap();
        poison(device, 4 * items.len() * c.size.0 * c.size.1 * c.o);
        upscale(&x, &weights, &skip).unwrap().values().to_vec()
    }

    fn oracle(&self, c: &Case, row: usize) -> Vec<f64> {
        let (h, w) = c.size;
        let (item, oy, ox) = (row / (4 * h * w), row / (2 * w) % (2 * h), row % (2 * w));
        let pixel = &self.x[((item * h + oy / 2) * w + ox / 2) * c.c..][..c.c];
        let value = |o: usize| {
            let tap = |i: usize| f64::from(self.weight[((i * c.o + o) * 2 + oy % 2) * 2 + ox % 2]);
            let product: f64 = pixel.iter().enumerate().map(|(i, v)| f64::from(*v) * tap(i)).sum();
            product + f64::from(self.bias[o]) + f64::from(self.skips[item][(oy * 2 * w + ox) * c.o + o])
        };
        let mut out: Vec<f64> = (0..c.o).map(value).collect();
        if c.norm {
            out = layer_norm(&out, &self.gamma, &self.beta, EPS);
        }
        out.into_iter().map(gelu).collect()
    }
}

#[test]
fn upscale_equals_plain_loops() {
    for case in cases().into_iter().filter(|case| takes(case.name)) {
        let data = Data::new(&case);
        let got = on_any_threads(case.name, |device| data.run(device, &case, 0..case.items));
        assert_rows(&format!("{case:?}"), &got, case.o, (case.c * case.o) as f64, |row| {
            data.oracle(&case, row)
        });
    }
}

#[test]
fn a_map_is_upscaled_alike_alone_and_in_a_batch() {
    let device = Device::cpu(2).unwrap();
    for case in cases().into_iter().filter(|case| case.items > 1) {
        let data = Data::new(&case);
        let alone: Vec<f32> = (0..case.items).flat_map(|i| data.run(&device, &case, i..i + 1)).collect();
        assert_same(case.name, &alone, &data.run(&device, &case, 0..case.items));
    }
}
