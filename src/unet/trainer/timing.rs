//! What a training step takes on this machine, measured before there is anything to train on.

use super::batches::reductions;
use crate::device::Device;
use crate::tensor::Tensor;
use crate::unet::loss::{Settings, Targets};
use crate::unet::network::Network;
use crate::unet::plan::Plans;
use anyhow::Result;
use std::time::Instant;

/// Seconds of a step of the planned network with `classes` classes, background included: the second of two, on made-up patches.
///
/// # Errors
/// When the device's budget has no room.
pub fn step_seconds(device: &Device, plans: &Plans, classes: usize) -> Result<f64> {
    let configuration = &plans.configuration;
    let (n, [d, h, w], channels) = (
        configuration.batch_size,
        configuration.patch_size,
        configuration.normalisation.len(),
    );
    let network = Network::new(&configuration.architecture, channels, classes, 0);
    let pattern: Vec<f32> = (0..n * d * h * w * channels).map(|at| (at % 97) as f32 / 97.0).collect();
    let image = Tensor::from_slice(device, &[n, d, h, w, channels], &pattern)?;
    let labels: Vec<Vec<i16>> = reductions(&configuration.architecture)
        .iter()
        .map(|[z, y, x]| vec![0; n * (d / z) * (h / y) * (w / x)])
        .collect();
    let targets: Vec<Targets<'_>> = labels.iter().map(|labels| Targets { labels, weights: None }).collect();
    let settings = Settings {
        batch_dice: configuration.batch_dice,
        ignore: None,
    };
    device.install(|| {
        network.step(&image, &targets, settings)?; // finds memory and fills caches
        let begun = Instant::now();
        network.step(&image, &targets, settings)?;
        Ok(begun.elapsed().as_secs_f64())
    })
}
