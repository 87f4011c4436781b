//! The memory of a training step is counted to the byte before there is one.

use hpc_seg::device::Device;
use hpc_seg::tensor::Tensor;
use hpc_seg::unet::architecture::{Architecture, Family};
use hpc_seg::unet::loss::{Settings, Targets};
use hpc_seg::unet::memory::step_memory;
use hpc_seg::unet::network::Network;
use hpc_seg::unet::trainer::batches::reductions;

fn counted_is_measured(architecture: &Architecture, channels: usize, classes: usize, batch: usize, patch: [usize; 3]) {
    let device = Device::cpu(2).unwrap();
    let network = Network::new(architecture, channels, classes, 1);
    let [d, h, w] = patch;
    let voxels = d * h * w;
    let labels: Vec<Vec<i16>> = reductions(architecture)
        .iter()
        .map(|by| vec![1; batch * voxels / by.iter().product::<usize>()])
        .collect();
    let targets: Vec<Targets<'_>> = labels.iter().map(|labels| Targets { labels, weights: None }).collect();
    let settings = Settings {
        batch_dice: false,
        ignore: None,
    };
    let noise = crate::support::ops::noise(batch * voxels * channels, 3);
    let image = Tensor::from_slice(&device, &[batch, d, h, w, channels], &noise).unwrap();
    device.install(|| network.step(&image, &targets, settings).map(drop)).unwrap();
    let counted = step_memory(architecture, channels, classes, batch, patch);
    assert_eq!(counted.live, device.memory().peak, "{architecture:?}");
    assert_eq!(counted.held, device.held(), "{architecture:?}");
    let values: usize = network.values.iter().map(Vec::len).sum();
    assert_eq!(counted.parameters, 12 * values);
}

#[test]
fn a_step_takes_what_was_counted() {
    let mut architecture = Architecture {
        family: Family::PlainConv,
        features: vec![4, 6, 8],
        kernel_sizes: vec![[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        strides: vec![[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        convs_per_stage: vec![1, 3, 2],
        convs_per_stage_decoder: vec![1, 2],
    };
    counted_is_measured(&architecture, 2, 3, 2, [4, 8, 12]);
    architecture.convs_per_stage_decoder = vec![2, 1];
    counted_is_measured(&architecture, 1, 2, 1, [8, 8, 8]);
    let two = Architecture {
        features: vec![5, 7],
        kernel_sizes: vec![[3; 3]; 2],
        strides: vec![[1; 3], [2; 3]],
        convs_per_stage: vec![2; 2],
        convs_per_stage_decoder: vec![2],
        ..architecture
    };
    counted_is_measured(&two, 1, 4, 3, [4, 6, 8]);
    let deep = Architecture {
        features: vec![8, 16, 24, 32, 32],
        kernel_sizes: vec![[3; 3]; 5],
        strides: vec![[1; 3], [2; 3], [2; 3], [2; 3], [1, 2, 2]],
        convs_per_stage: vec![2; 5],
        convs_per_stage_decoder: vec![2; 4],
        ..two
    };
    counted_is_measured(&deep, 1, 2, 2, [16, 32, 32]);
    // Wide enough that inputs are not written.
    let wide = Architecture {
        features: vec![16, 32, 32],
        strides: vec![[1; 3], [1, 2, 2], [2; 3]],
        kernel_sizes: vec![[3; 3]; 3],
        convs_per_stage: vec![2; 3],
        convs_per_stage_decoder: vec![2; 2],
        family: Family::PlainConv,
    };
    counted_is_measured(&wide, 1, 2, 2, [8, 16, 32]);
    counted_is_measured(&super::residual::architecture(), 2, 3, 2, [4, 16, 12]);
}
