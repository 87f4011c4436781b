//! `ResidualEncoderUNet` is PyTorch's (`benches/peers/residual_golden.py` made the golden): logits, loss, every gradient; and it goes the whole way of a model.

use super::network::channels_last;
use crate::support::ops::noise;
use hpc_seg::device::Device;
use hpc_seg::tensor::Tensor;
use hpc_seg::unet::architecture::{Architecture, Family};
use hpc_seg::unet::loss::{Settings, Targets};
use hpc_seg::unet::network::Network;
use hpc_seg::unet::trainer::batches::reductions;
use hpc_seg::weights::{Checkpoint, formula_tensor};
use std::path::Path;

const SIZE: [usize; 3] = [4, 16, 12];
const CHANNELS: usize = 2;
const CLASSES: usize = 3;
const SEED: u64 = 11;
/// Relative to the largest of a tensor.
const TOLERANCE: f32 = 1e-4;
const SETTINGS: Settings = Settings {
    batch_dice: false,
    ignore: None,
};

/// Units with and without projection and pooling, in every combination.
pub fn architecture() -> Architecture {
    Architecture {
        family: Family::ResidualEncoder,
        features: vec![4, 6, 6, 8],
        kernel_sizes: vec![[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
        strides: vec![[1; 3], [1, 2, 2], [2; 3], [1; 3]],
        convs_per_stage: vec![1, 3, 2, 1],
        convs_per_stage_decoder: vec![1; 3],
    }
}

fn network() -> Network {
    let mut network = Network::new(&architecture(), CHANNELS, CLASSES, 0);
    for (parameter, values) in network.parameters.iter().zip(&mut network.values) {
        *values = formula_tensor(&parameter.name, SEED, &parameter.shape);
    }
    network
}

fn image(device: &Device) -> Tensor {
    let [d, h, w] = SIZE;
    let values = formula_tensor("image", SEED, &[2, CHANNELS, d, h, w]);
    let values: Vec<f32> = channels_last(&values, 2, CHANNELS).into_iter().map(|v| 3.0 * v).collect();
    Tensor::from_slice(device, &[2, d, h, w, CHANNELS], &values).unwrap()
}

fn labels() -> Vec<Vec<i16>> {
    let voxels = |by: &[usize; 3]| 2 * (0..3).map(|axis| SIZE[axis] / by[axis]).product::<usize>();
    let head = |by: &[usize; 3]| (0..voxels(by)).map(|at| (at / 5 % CLASSES) as i16).collect();
    reductions(&architecture()).iter().map(head).collect()
}

#[track_caller]
fn assert_near(name: &str, got: &[f32], want: &[f32], largest: f32) {
    assert_eq!(got.len(), want.len(), "{name}");
    let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= TOLERANCE * largest, "{name}: {worst} of {largest}");
}

#[test]
fn a_residual_network_equals_pytorch() {
    let golden = Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/unet_residual.safetensors")).unwrap();
    let (device, network) = (Device::cpu(2).unwrap(), network());
    let image = image(&device);
    let done = network.forward(&image).unwrap();
    for (head, logits) in done.logits.iter().enumerate() {
        let want = channels_last(&golden.f32(&format!("logits{head}")).unwrap(), 2, CLASSES);
        let largest = want.iter().fold(0f32, |most, v| most.max(v.abs()));
        assert_near(&format!("logits {head}"), logits.values(), &want, largest);
    }
    assert!(
        network.infer(&image).unwrap().values() == done.logits[0].values(),
        "the short way gives other logits"
    );
    let labels = labels();
    let targets: Vec<Targets<'_>> = labels.iter().map(|labels| Targets { labels, weights: None }).collect();
    let step = network.step(&image, &targets, SETTINGS).unwrap();
    let want = f64::from(golden.f32("loss").unwrap()[0]);
    assert!(
        (step.loss - want).abs() <= f64::from(TOLERANCE) * want.abs(),
        "{}, wanted {want}",
        step.loss
    );
    let mut compared = 0;
    for (at, (parameter, gradient)) in network.parameters.iter().zip(&step.gradients).enumerate() {
        let key = format!("grad.{}", parameter.name);
        let Some(gradient) = gradient else {
            assert!(!golden.contains(&key), "{key} is missing");
            continue;
        };
        let every = if gradient.len() < 400 { 1 } else { 7 };
        let got: Vec<f32> = gradient.iter().step_by(every).copied().collect();
        let mut largest = golden.f32(&format!("largest.{}", parameter.name)).unwrap()[0];
        if parameter.name.ends_with("conv.bias") {
            // A norm follows: this gradient is nothing but the rounding of the weights' own.
            let weights = step.gradients[at - 1].as_ref().unwrap();
            largest = weights.iter().fold(largest, |most, v| most.max(v.abs()));
        }
        assert_near(&key, &got, &golden.f32(&key).unwrap(), largest);
        compared += 1;
    }
    assert!(compared > 80, "{compared}");
}

#[test]
fn gradients_of_a_residual_network_equal_differences_and_threads_do_not_change_them() {
    let (device, mut network) = (Device::cpu(1).unwrap(), network());
    let (labels, image) = (labels(), image(&device));
    let targets: Vec<Targets<'_>> = labels.iter().map(|labels| Targets { labels, weights: None }).collect();
    let step = network.step(&image, &targets, SETTINGS).unwrap();
    let three = Device::cpu(3).unwrap();
    let again = three.install(|| network.step(&image, &targets, SETTINGS).unwrap());
    assert!(step.gradients == again.gradients && step.loss == again.loss);
    // Along a random direction in each parameter, in which rounding does not count.
    for at in 0..network.values.len() {
        let Some(gradient) = &step.gradients[at] else { continue };
        let name = network.parameters[at].name.clone();
        if name.ends_with("conv.bias") {
            continue;
        }
        let direction = noise(gradient.len(), 100 + at as u64);
        let along: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
        let before = network.values[at].clone();
        let size = 2e-3 / (gradient.len() as f32).sqrt();
        let mut loss = |sign: f32| {
            network.values[at] = before.iter().zip(&direction).map(|(v, d)| v + sign * size * d).collect();
            network.step(&image, &targets, SETTINGS).unwrap().loss
        };
        let difference = (loss(1.0) - loss(-1.0)) / (2.0 * f64::from(size));
        network.values[at] = before;
        let length: f64 = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        assert!(
            (difference - along).abs() <= 0.03 * length + 2e-3,
            "{name}: {difference}, gradient {along}"
        );
    }
}

#[test]
fn the_last_norm_of_every_unit_begins_at_zero() {
    let network = Network::new(&architecture(), 1, 2, 5);
    for (parameter, values) in network.parameters.iter().zip(&network.values) {
        if parameter.name.ends_with("norm.weight") {
            let want = if parameter.name.contains(".conv2.") { 0.0 } else { 1.0 };
            assert!(values.iter().all(|v| *v == want), "{}", parameter.name);
        }
    }
}
