//! The U-Net is PyTorch's: logits, losses, every gradient, parameters after two steps.

use crate::support::golden::shared;
use hpc_seg::device::Device;
use hpc_seg::tensor::Tensor;
use hpc_seg::unet::architecture::{Architecture, Family};
use hpc_seg::unet::loss::{Settings, Targets, head_weights, loss};
use hpc_seg::unet::network::Network;
use hpc_seg::unet::optimiser::{Optimiser, norm};
use hpc_seg::weights::{Checkpoint, StrictLoader, formula_checkpoint, formula_tensor};
use serde::de::DeserializeOwned;

/// nnU-Net's, of all goldens.
const RATE: f64 = 0.01;
/// Relative to the largest of a tensor.
const TOLERANCE: f32 = 1e-4;

struct Golden {
    checkpoint: Checkpoint,
    network: Network,
    architecture: Architecture,
    image: Vec<f32>,
    size: [usize; 3],
    targets: Vec<Vec<i16>>,
    settings: Settings,
}

impl Golden {
    fn open(name: &str) -> Option<Self> {
        let path = shared(name)?.join(format!("goldens/{name}.safetensors"));
        let checkpoint = Checkpoint::open(&path).unwrap();
        let architecture = Architecture {
            family: Family::PlainConv,
            features: said(&checkpoint, "features"),
            kernel_sizes: said(&checkpoint, "kernels"),
            strides: said(&checkpoint, "strides"),
            convs_per_stage: vec![2; said::<Vec<usize>>(&checkpoint, "features").len()],
            convs_per_stage_decoder: vec![2; said::<Vec<usize>>(&checkpoint, "features").len() - 1],
        };
        let (classes, seed) = (said(&checkpoint, "classes"), said(&checkpoint, "seed"));
        let mut network = Network::new(&architecture, 1, classes, 0);
        for (parameter, values) in network.parameters.iter().zip(&mut network.values) {
            *values = formula_tensor(&parameter.name, seed, &parameter.shape);
        }
        let shape = checkpoint.shape("input").unwrap();
        let heads = architecture.features.len() - 1;
        let target = |head| {
            checkpoint
                .raw(&format!("target{head}"))
                .unwrap()
                .iter()
                .map(|label| i16::from(*label))
                .collect()
        };
        Some(Self {
            size: [shape[2], shape[3], shape[4]],
            image: checkpoint.f32("input").unwrap(),
            targets: (0..heads).map(target).collect(),
            settings: Settings {
                batch_dice: checkpoint.metadata("batch_dice") == Some("True"),
                ignore: None,
            },
            network,
            architecture,
            checkpoint,
        })
    }

    fn image(&self, device: &Device) -> Tensor {
        let [d, h, w] = self.size;
        Tensor::from_slice(device, &[2, d, h, w, 1], &self.image).unwrap()
    }

    fn targets(&self) -> Vec<Targets<'_>> {
        self.targets.iter().map(|labels| Targets { labels, weights: None }).collect()
    }

    fn number(&self, name: &str) -> f64 {
        f64::from(self.checkpoint.f32(name).unwrap()[0])
    }
}

fn said<T: DeserializeOwned>(checkpoint: &Checkpoint, key: &str) -> T {
    serde_json::from_str(checkpoint.metadata(key).unwrap()).unwrap()
}

/// [N, D, H, W, C] from PyTorch's [N, C, D, H, W].
pub fn channels_last(values: &[f32], n: usize, classes: usize) -> Vec<f32> {
    let voxels = values.len() / (n * classes);
    let at = |i: usize| (i / (voxels * classes) * classes + i % classes) * voxels + i / classes % voxels;
    (0..values.len()).map(|i| values[at(i)]).collect()
}

/// Largest difference and largest magnitude.
fn compare(got: &[f32], want: &[f32]) -> (f32, f32) {
    assert_eq!(got.len(), want.len());
    let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(got.iter().all(|v| v.is_finite()));
    (worst, want.iter().fold(0.0, |most, v| most.max(v.abs())))
}

fn near(name: &str, got: f64, want: f64) {
    assert!(
        (got - want).abs() <= f64::from(TOLERANCE) * want.abs(),
        "{name}: {got}, wanted {want}"
    );
}

fn equals_pytorch(name: &str) {
    let Some(mut golden) = Golden::open(name) else { return };
    let device = Device::cpu(2).unwrap();
    let heads = golden.targets.len();
    let image = golden.image(&device);
    let done = golden.network.forward(&image).unwrap();
    for (head, logits) in done.logits.iter().enumerate() {
        let want = golden.checkpoint.f32(&format!("logits{head}")).unwrap();
        let want = channels_last(&want, 2, golden.network.classes());
        let (worst, largest) = compare(logits.values(), &want);
        assert!(worst <= TOLERANCE * largest, "{name}, logits {head}: {worst} of {largest}");
        let mut unused = vec![0.0; want.len()];
        let got = loss(logits.values(), golden.targets()[head], 2, golden.settings, 1.0, &mut unused).unwrap();
        let want = f64::from(golden.checkpoint.f32("loss_per_output").unwrap()[head]);
        near(&format!("{name}, loss {head}"), got, want);
    }
    let (worst, largest) = compare(golden.network.infer(&image).unwrap().values(), done.logits[0].values());
    assert!(worst == 0.0 && largest > 0.0, "the short way gives other logits");
    drop(done);
    let bytes = golden.checkpoint.raw("loss_weights").unwrap();
    let wanted: Vec<f64> = bytemuck::pod_collect_to_vec(&bytes);
    for (got, want) in head_weights(heads).iter().zip(wanted) {
        near("weight of a head", *got, want);
    }

    let step = golden.network.step(&image, &golden.targets(), golden.settings).unwrap();
    near(&format!("{name}, loss"), step.loss, golden.number("loss"));
    near(
        &format!("{name}, length of the gradient"),
        norm(&step.gradients),
        golden.number("grad_norm"),
    );
    for (at, (parameter, gradient)) in golden.network.parameters.iter().zip(&step.gradients).enumerate() {
        let key = format!("grad.{}", parameter.name);
        let Some(gradient) = gradient else {
            assert!(!golden.checkpoint.contains(&key), "{name}: {key} is missing");
            continue;
        };
        let (worst, mut largest) = compare(gradient, &golden.checkpoint.f32(&key).unwrap());
        if parameter.name.ends_with("conv.bias") {
            // A norm follows: this gradient is nothing but the rounding of the weights' own.
            let weights = step.gradients[at - 1].as_ref().unwrap();
            largest = weights.iter().fold(largest, |most, v| most.max(v.abs()));
        }
        assert!(worst <= TOLERANCE * largest, "{name}, {key}: {worst} of {largest}");
    }

    let mut optimiser = Optimiser::default();
    let (targets, settings) = (golden.targets.clone(), golden.settings);
    let targets: Vec<Targets<'_>> = targets.iter().map(|labels| Targets { labels, weights: None }).collect();
    optimiser.step(&mut golden.network.values, &step.gradients, RATE);
    let second = golden.network.step(&image, &targets, settings).unwrap();
    near(
        &format!("{name}, loss after a step"),
        second.loss,
        golden.number("loss_after_1_step"),
    );
    optimiser.step(&mut golden.network.values, &second.gradients, RATE);
    let third = golden.network.step(&image, &targets, settings).unwrap();
    near(
        &format!("{name}, loss after two steps"),
        third.loss,
        golden.number("loss_after_2_steps"),
    );
    for (parameter, values) in golden.network.parameters.iter().zip(&golden.network.values) {
        let key = format!("param_after_2_steps.{}", parameter.name);
        let (worst, largest) = compare(values, &golden.checkpoint.f32(&key).unwrap());
        assert!(worst <= TOLERANCE * largest, "{name}, {key}: {worst} of {largest}");
    }
    assert_eq!(golden.architecture.features.len(), heads + 1);
}

#[test]
fn an_isotropic_network_equals_pytorch() {
    equals_pytorch("unet_isotropic");
}

#[test]
fn an_anisotropic_network_equals_pytorch() {
    equals_pytorch("unet_anisotropic");
}

fn small(family: Family) -> Architecture {
    Architecture {
        family,
        features: vec![4, 6, 8],
        kernel_sizes: vec![[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        strides: vec![[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        convs_per_stage: vec![1, 3, 2],
        convs_per_stage_decoder: vec![1, 2],
    }
}

#[test]
fn threads_do_not_change_a_byte_of_a_step_and_items_do_not_touch_each_other() {
    let network = Network::new(&small(Family::PlainConv), 2, 3, 5);
    let image = crate::support::ops::noise(2 * 4 * 8 * 12 * 2, 7);
    let labels: Vec<i16> = (0..2 * 4 * 8 * 12).map(|i| (i / 5 % 3) as i16).collect();
    let coarse: Vec<i16> = (0..2 * 4 * 4 * 6).map(|i| (i % 3) as i16).collect();
    let run = |threads: usize| {
        let device = Device::cpu(threads).unwrap();
        device.install(|| {
            let image = Tensor::from_slice(&device, &[2, 4, 8, 12, 2], &image).unwrap();
            let targets = [&labels, &coarse].map(|labels| Targets { labels, weights: None });
            let settings = Settings {
                batch_dice: false,
                ignore: None,
            };
            let step = network.step(&image, &targets, settings).unwrap();
            (step.loss, step.gradients, step.logits.values().to_vec())
        })
    };
    let one = run(1);
    assert!(one == run(2) && one == run(5));
    let device = Device::cpu(1).unwrap();
    let half = Tensor::from_slice(&device, &[1, 4, 8, 12, 2], &image[image.len() / 2..]).unwrap();
    assert!(network.infer(&half).unwrap().values() == &one.2[one.2.len() / 2..]);
}

#[test]
fn drawn_weights_have_he_s_spread_and_are_the_seeds() {
    let network = |seed| Network::new(&small(Family::PlainConv), 1, 2, seed);
    let first = network(1);
    assert!(first.values == network(1).values && first.values != network(2).values);
    let large = Architecture {
        features: vec![64, 64, 64],
        ..small(Family::PlainConv)
    };
    let network = Network::new(&large, 1, 2, 1);
    for (parameter, values) in network.parameters.iter().zip(&network.values) {
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let variance = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n;
        if parameter.shape.len() == 5 {
            let want = 2.0 / 1.0001 / parameter.shape[1..].iter().product::<usize>() as f64;
            // Five standard errors of a variance and of a mean.
            assert!(
                (variance / want - 1.0).abs() < 5.0 * (2.0 / n).sqrt(),
                "{}: {variance}, wanted {want}",
                parameter.name
            );
            assert!(mean.abs() < 5.0 * (want / n).sqrt(), "{}: mean {mean}", parameter.name);
        } else {
            let want = f64::from(u8::from(parameter.name.ends_with("norm.weight")));
            assert_eq!((mean, variance), (want, want), "{}", parameter.name);
        }
    }
}

#[test]
fn parameters_are_loaded_by_name_and_what_is_missing_is_said() {
    let architecture = small(Family::PlainConv);
    let network = Network::new(&architecture, 1, 2, 3);
    let mut list: Vec<(String, Vec<usize>)> = network.parameters.iter().map(|p| (p.name.clone(), p.shape.clone())).collect();
    let checkpoint = formula_checkpoint(&list, 9).unwrap();
    let loader = StrictLoader::new(&checkpoint);
    let loaded = Network::load(&architecture, 1, 2, &loader);
    loader.finish().unwrap();
    assert!(
        loaded
            .parameters
            .iter()
            .zip(&loaded.values)
            .all(|(p, v)| *v == formula_tensor(&p.name, 9, &p.shape))
    );
    let lost = list.swap_remove(2).0;
    let checkpoint = formula_checkpoint(&list, 9).unwrap();
    let loader = StrictLoader::new(&checkpoint);
    Network::load(&architecture, 1, 2, &loader);
    assert!(loader.finish().unwrap_err().to_string().contains(&lost));
}
