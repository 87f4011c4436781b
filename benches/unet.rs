//! The U-Net: a training step, an inference pass, and its convolutions with their gradients. `cargo bench --bench unet [-- FILTER]`.
//!
//! The network is the yardstick: PlainConvUNet 32-64-128-256-320, patch 32 x 64 x 64, batch 2, every stage after the first at stride 2, deep supervision;
//! `benches/peers/unet_step.py` runs the same in PyTorch.

#![allow(clippy::print_stdout)] // the memory of a step

use anyhow::Result;
use criterion::{Criterion, Throughput};
use hpc_seg::bench::entries::noise;
use hpc_seg::device::Device;
use hpc_seg::ops::conv3d::{Channels, Geometry, conv3d, cost, d_input, d_weight};
use hpc_seg::ops::instance_norm::{Norm, SLOPE, Source, activate, backward, statistics};
use hpc_seg::tensor::Tensor;
use hpc_seg::unet::architecture::{Architecture, Family};
use hpc_seg::unet::augment::Augmentation;
use hpc_seg::unet::labelling::Labelling;
use hpc_seg::unet::loss::{Settings, Targets};
use hpc_seg::unet::network::Network;
use hpc_seg::unet::resample::PlaneResampler;
use hpc_seg::unet::store::{Preprocessed, Properties, StoredCase};
use hpc_seg::unet::trainer::batches::{Case, Feed, Purpose, reductions};
use std::hint::black_box;
use std::time::Duration;

const PATCH: [usize; 3] = [32, 64, 64];
const BATCH: usize = 2;
const CLASSES: usize = 2;

fn architecture() -> Architecture {
    let mut strides = vec![[2; 3]; 5];
    strides[0] = [1; 3];
    Architecture {
        family: Family::PlainConv,
        features: vec![32, 64, 128, 256, 320],
        kernel_sizes: vec![[3; 3]; 5],
        strides,
        convs_per_stage: vec![2; 5],
        convs_per_stage_decoder: vec![2; 4],
    }
}

fn network(criterion: &mut Criterion, device: &Device) -> Result<()> {
    let network = Network::new(&architecture(), 1, CLASSES, 1);
    let [d, h, w] = PATCH;
    let batch = Tensor::from_slice(device, &[BATCH, d, h, w, 1], &noise(BATCH * d * h * w, 1))?;
    let one = Tensor::from_slice(device, &[1, d, h, w, 1], &noise(d * h * w, 1))?;
    let labels: Vec<Vec<i16>> = (0..4)
        .map(|head| (0..(BATCH * d * h * w) >> (3 * head)).map(|i| (i / 7 % CLASSES) as i16).collect())
        .collect();
    let targets: Vec<Targets<'_>> = labels.iter().map(|labels| Targets { labels, weights: None }).collect();
    let settings = Settings {
        batch_dice: false,
        ignore: None,
    };
    let mut group = criterion.benchmark_group("unet");
    group.sample_size(10).measurement_time(Duration::from_secs(20));
    group.bench_function("step", |bencher| {
        bencher.iter(|| device.install(|| network.step(&batch, &targets, settings).map(|step| black_box(step.loss))));
    });
    group.bench_function("infer", |bencher| {
        bencher.iter(|| device.install(|| network.infer(&one).map(|logits| black_box(logits.len()))));
    });
    println!("unet: {:.0} MiB at most", device.memory().peak as f64 / f64::from(1 << 20));
    Ok(())
}

/// A layer's three products; throughput in floating-point operations.
fn convolutions(criterion: &mut Criterion, device: &Device) -> Result<()> {
    for (name, size, channels, outputs, stride) in [
        ("stage0.0", [32, 64, 64], 1, 32, 1),
        ("stage0.1", [32, 64, 64], 32, 32, 1),
        ("stage1.0", [32, 64, 64], 32, 64, 2),
        ("stage1.1", [16, 32, 32], 64, 64, 1),
        ("stage3.1", [4, 8, 8], 256, 256, 1),
        ("stage4.1", [2, 4, 4], 320, 320, 1),
        ("narrow", [32, 64, 64], 16, 16, 1),
        ("decoder1.0", [8, 16, 16], 256, 128, 1),
        ("decoder3.0", [32, 64, 64], 64, 32, 1),
    ] {
        let geometry = Geometry {
            kernel: [3; 3],
            stride: [stride; 3],
        };
        let out = geometry.output(size);
        let padded = |size: [usize; 3], width: usize| {
            let [d, h, w] = size.map(|edge| edge + 2);
            Tensor::from_slice(device, &[BATCH, d, h, w, width], &noise(BATCH * d * h * w * width, 1))
        };
        let (x, d_y) = (padded(size, channels)?, padded(out, outputs)?);
        let weight = noise(outputs * channels * 27, 2);
        let bias = vec![0.0; outputs];
        let mut group = criterion.benchmark_group(format!("conv3d/{name}"));
        group.sample_size(10).measurement_time(Duration::from_secs(2));
        group.throughput(Throughput::Elements(cost(BATCH, out, channels, outputs, geometry).flops as u64));
        group.bench_function("forward", |bencher| {
            bencher.iter(|| device.install(|| conv3d(&x, &weight, &bias, geometry).map(|y| black_box(y.len()))));
        });
        group.bench_function("d_input", |bencher| {
            bencher.iter(|| device.install(|| d_input(&d_y, &weight, size, geometry).map(|y| black_box(y.len()))));
        });
        group.bench_function("d_weight", |bencher| {
            bencher.iter(|| device.install(|| black_box(d_weight(&x, &d_y, geometry).len())));
        });
    }
    Ok(())
}

/// What stands between convolutions, at the highest resolution; throughput in bytes of y.
fn norms(criterion: &mut Criterion, device: &Device) -> Result<()> {
    let ([d, h, w], c) = (PATCH, 32);
    let volume = |seed| Tensor::from_slice(device, &[BATCH, d, h, w, c], &noise(BATCH * d * h * w * c, seed));
    let (y, d_a) = (volume(1)?, volume(2)?);
    let (gamma, beta) = (noise(c, 3), noise(c, 4));
    let known = device.install(|| statistics(&y));
    let norm = Norm {
        statistics: &known,
        gamma: &gamma,
        beta: &beta,
        slope: SLOPE,
    };
    let sources = [Source { y: &y, norm: Some(norm) }];
    let mut group = criterion.benchmark_group("instance_norm");
    group.sample_size(10).measurement_time(Duration::from_secs(2));
    group.throughput(Throughput::Bytes(4 * y.len() as u64));
    group.bench_function("statistics", |bencher| {
        bencher.iter(|| device.install(|| black_box(statistics(&y))))
    });
    group.bench_function("activate", |bencher| {
        bencher.iter(|| device.install(|| activate(&sources, [1; 3]).map(|x| black_box(x.len()))));
    });
    group.bench_function("backward", |bencher| {
        bencher.iter(|| device.install(|| backward(&y, norm, &[Channels::all(&d_a)], [1; 3]).map(|g| black_box(g.d_y.len()))));
    });
    Ok(())
}

/// Logits of three classes on the plan's grid, labelled on a file's grid of 512 x 512 x 200; `benches/peers/nnunet_preprocess.py` times nnU-Net's export of the same. Throughput in voxels.
fn export(criterion: &mut Criterion, device: &Device) {
    let (shape, new, classes) = ([150, 398, 398], [200, 512, 512], 3);
    let logits = noise(shape.iter().product::<usize>() * classes, 1);
    let mut group = criterion.benchmark_group("export");
    group.sample_size(10).measurement_time(Duration::from_secs(20));
    group.throughput(Throughput::Elements(new.iter().product::<usize>() as u64));
    group.bench_function("labels", |bencher| {
        bencher.iter(|| {
            device.install(|| {
                let mut labelling = PlaneResampler::new(shape, new, None).map(|planes| Labelling::new(planes, classes, false));
                if let Some(labelling) = &mut labelling {
                    labelling.push(0, &logits);
                }
                black_box(labelling.map(|labelling| labelling.finish().len()))
            })
        });
    });
}

/// A batch cut, augmented and put together: what a thread does beside the steps.
fn batches(criterion: &mut Criterion) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let shape = [60, 120, 120];
    let voxels: usize = shape.iter().product();
    let label: Vec<i16> = (0..voxels).map(|at| i16::from(at / 7 % 5 == 0)).collect();
    let case = Preprocessed {
        shape,
        image: noise(voxels, 1),
        uncertainty: None,
        locations: vec![(vec![1], vec![[30, 60, 60], [20, 40, 90]])],
        properties: Properties {
            spacing: [1.0; 3],
            shape_before_cropping: shape,
            bbox_used_for_cropping: shape.map(|size| 0..size),
            shape_after_cropping_and_before_resampling: shape,
        },
        label,
    };
    case.write(folder.path(), "case")?;
    let cases = [Case {
        name: "case".to_owned(),
        stored: StoredCase::open(folder.path(), "case")?,
        weight: 1.0,
    }];
    let feed = Feed {
        training: &cases,
        validation: &cases,
        augmentation: Augmentation {
            patch: PATCH,
            mirrored: vec![0, 1, 2],
            masked: vec![false],
        },
        batch: BATCH,
        reductions: reductions(&architecture()),
        seed: 0,
    };
    let mut group = criterion.benchmark_group("batch");
    group.throughput(Throughput::Elements((BATCH * PATCH.iter().product::<usize>()) as u64));
    let mut number = 0;
    group.bench_function("training", |bencher| {
        bencher.iter(|| {
            number += 1;
            black_box(feed.batch(Purpose::Training, number).image.len())
        });
    });
    Ok(())
}

fn main() -> Result<()> {
    let device = Device::cpu(0)?;
    let mut criterion = Criterion::default().configure_from_args();
    convolutions(&mut criterion, &device)?;
    norms(&mut criterion, &device)?;
    network(&mut criterion, &device)?;
    export(&mut criterion, &device);
    batches(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}
