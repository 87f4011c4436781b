//! `ops::linear` against plain loops.

use crate::support::ops::{assert_rows, assert_same, gelu, layer_norm, noise, on_any_threads, poisoned, takes, tensor};
use hpc_seg::cpu::gemm;
use hpc_seg::device::Device;
use hpc_seg::ops::linear::{Activation, Case, Epilogue, Input, Linear, cases, linear};
use hpc_seg::ops::norm::Norm;
use hpc_seg::tensor::Tensor;

/// One of each kind of input and epilogue.
#[derive(Clone, Copy, Debug)]
struct Kind {
    norm_before: bool,
    position: bool,
    activation: After,
    scaled: bool,
    residual: bool,
    accumulate: bool,
    norm_after: bool,
    gelu_after: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum After {
    None,
    Relu,
    Gelu,
}

const PLAIN: Kind = Kind {
    norm_before: false,
    position: false,
    activation: After::None,
    scaled: false,
    residual: false,
    accumulate: false,
    norm_after: false,
    gelu_after: false,
};

const KINDS: [Kind; 5] = [
    PLAIN,
    Kind {
        norm_before: true,
        activation: After::Gelu,
        scaled: true,
        residual: true,
        ..PLAIN
    },
    Kind {
        position: true,
        activation: After::Relu,
        accumulate: true,
        ..PLAIN
    },
    Kind {
        norm_after: true,
        accumulate: true,
        ..PLAIN
    },
    Kind {
        norm_after: true,
        gelu_after: true,
        residual: true,
        ..PLAIN
    },
];

/// Factors and offsets of a norm.
type Affine = (Vec<f32>, Vec<f32>);

const EPS: f32 = 1e-3;

fn affine(c: usize, seed: u64) -> Affine {
    (noise(c, seed), noise(c, seed + 1))
}

fn make_norm(device: &Device, (gamma, beta): &Affine) -> Norm {
    Norm::new(device, gamma.clone(), beta.clone(), EPS).unwrap()
}

struct Data {
    x: Vec<f32>,
    position: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    scale: Vec<f32>,
    residual: Vec<f32>,
    old: Vec<f32>,
    before: Affine,
    after: Affine,
}

/// Rows of position and residual: fewer than m, so that they repeat.
fn period(m: usize) -> usize {
    m.div_ceil(2)
}

impl Data {
    fn new(Case { m, n, k, .. }: Case) -> Self {
        Self {
            x: noise(m * k, 1),
            position: noise(period(m) * k, 2),
            weight: noise(n * k, 3),
            bias: noise(n, 4),
            scale: noise(n, 5),
            residual: noise(period(m) * n, 6),
            old: noise(m * n, 7),
            before: affine(k, 8),
            after: affine(n, 10),
        }
    }

    fn run(&self, device: &Device, Case { m, n, k, .. }: Case, kind: Kind) -> Vec<f32> {
        let x = Tensor::from_slice(device, &[m, k], &self.x).unwrap();
        let position = Tensor::from_slice(device, &[period(m), k], &self.position).unwrap();
        let residual = Tensor::from_slice(device, &[period(m), n], &self.residual).unwrap();
        let weights = match kind.scaled {
            true => Linear::scaled(device, &self.weight, n, k, Some(&self.bias), &self.scale).unwrap(),
            false => Linear::new(device, &self.weight, n, k, Some(&self.bias)).unwrap(),
        };
        let (before, after) = (make_norm(device, &self.before), make_norm(device, &self.after));
        let input = match (kind.norm_before, kind.position) {
            (true, _) => Input::Norm(&x, &before),
            (_, true) => Input::Sum(&x, &position),
            _ => Input::Plain(&x),
        };
        let epilogue = Epilogue {
            activation: [Activation::None, Activation::Relu, Activation::Gelu][kind.activation as usize],
            residual: kind.residual.then_some(&residual),
            accumulate: kind.accumulate,
            norm: kind.norm_after.then_some(&after),
            gelu: kind.gelu_after,
        };
        let mut y = poisoned(device, &[m, n]);
        if kind.accumulate {
            y.values_mut().copy_from_slice(&self.old);
        }
        linear(input, &weights, epilogue, &mut y).unwrap();
        y.values().to_vec()
    }

    fn oracle(&self, Case { m, n, k, .. }: Case, kind: Kind, row: usize) -> Vec<f64> {
        let mut x: Vec<f64> = self.x[row * k..][..k].iter().map(|&v| f64::from(v)).collect();
        if kind.norm_before {
            x = layer_norm(&x, &self.before.0, &self.before.1, EPS);
        }
        if kind.position {
            x.iter_mut()
                .zip(&self.position[row % period(m) * k..])
                .for_each(|(v, p)| *v += f64::from(*p));
        }
        let column = |j: usize| {
            let product: f64 = x.iter().zip(&self.weight[j * k..][..k]).map(|(a, b)| a * f64::from(*b)).sum();
            let mut y = product + f64::from(self.bias[j]);
            y = match kind.activation {
                After::None => y,
                After::Relu => y.max(0.0),
                After::Gelu => gelu(y),
            };
            if kind.scaled {
                y *= f64::from(self.scale[j]);
            }
            if kind.residual {
                y += f64::from(self.residual[row % period(m) * n + j]);
            }
            if kind.accumulate {
                y += f64::from(self.old[row * n + j]);
            }
            y
        };
        let mut y: Vec<f64> = (0..n).map(column).collect();
        if kind.norm_after {
            y = layer_norm(&y, &self.after.0, &self.after.1, EPS);
        }
        if kind.gelu_after {
            y.iter_mut().for_each(|v| *v = gelu(*v));
        }
        y
    }
}

#[test]
fn linear_equals_plain_loops_for_every_input_and_epilogue() {
    for case in cases().into_iter().filter(|case| takes(case.name)) {
        let data = Data::new(case);
        // A norm of one column is its offset, whatever the sum: nothing to divide by.
        for kind in KINDS
            .into_iter()
            .filter(|kind| case.m * case.n * case.k < 1 << 22 || !kind.norm_after)
        {
            let name = format!("{case:?} {kind:?}");
            let got = on_any_threads(&name, |device| data.run(device, case, kind));
            assert_rows(&name, &got, case.n, (case.n * case.k) as f64, |row| data.oracle(case, kind, row));
        }
    }
}

#[test]
fn rows_do_not_depend_on_how_many_there_are() {
    let case = Case {
        name: "whole",
        m: 101,
        n: 75,
        k: 40,
    };
    let (data, device) = (Data::new(case), Device::cpu(2).unwrap());
    let all = data.run(&device, case, PLAIN);
    for (first, m) in [(0, 1), (47, 2), (5, 53), (100, 1)] {
        let part = Data {
            x: data.x[first * case.k..][..m * case.k].to_vec(),
            ..Data::new(Case { m, ..case })
        };
        let got = part.run(&device, Case { m, ..case }, PLAIN);
        assert_same(&format!("{m} rows from {first}"), &got, &all[first * case.n..][..m * case.n]);
    }
}

#[test]
fn the_product_writes_nothing_beside_its_output() {
    const GUARD: usize = 64;
    for Case { m, n, k, .. } in cases().into_iter().filter(|case| case.m * case.n < 1 << 16) {
        let weights = gemm::Weights::new(&noise(n * k, 1), n, k, None, None);
        let x = noise(m * k, 2);
        let mut buffer = vec![-7.5; m * n + 2 * GUARD];
        buffer[GUARD..GUARD + m * n].fill(f32::NAN);
        gemm::gemm(
            m,
            gemm::Rows::Plain { x: &x, stride: k },
            &weights,
            gemm::Epilogue::default(),
            &mut buffer[GUARD..GUARD + m * n],
        );
        assert!(
            buffer[..GUARD].iter().chain(&buffer[GUARD + m * n..]).all(|&v| v == -7.5),
            "{m} x {n} x {k}"
        );
        assert!(buffer[GUARD..GUARD + m * n].iter().all(|v| v.is_finite()), "{m} x {n} x {k}");
    }
}

#[test]
#[should_panic(expected = "residual")]
fn a_residual_of_another_width_is_refused() {
    let device = Device::cpu(1).unwrap();
    let (x, residual) = (tensor(&device, &[4, 3], 1), tensor(&device, &[4, 2], 2));
    let weights = Linear::new(&device, &noise(9, 3), 3, 3, None).unwrap();
    let _ = linear(
        Input::Plain(&x),
        &weights,
        Epilogue {
            residual: Some(&residual),
            ..Epilogue::NONE
        },
        &mut poisoned(&device, &[4, 3]),
    );
}
