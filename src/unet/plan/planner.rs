//! nnU-Net's default planner for `3d_fullres` (`ExperimentPlanner`): target spacing, patch, topology, batch.

use super::topology::{Topology, topology};
use super::{Configuration, Normalisation, Plans, Scheme};
use crate::bad_input;
use crate::unet::architecture::{Architecture, Family};
use crate::unet::dataset::Dataset;
use crate::unet::fingerprint::{Fingerprint, percentile};
use anyhow::Result;

/// An axis is coarse when its spacing is more than this times the others'.
const ANISOTROPY: f64 = 3.0;
/// Cost of a network that fits into 8 GB, by nnU-Net's own measure.
const REFERENCE_COST: f64 = 560e6;
const REFERENCE_GB: f64 = 8.0;
const REFERENCE_BATCH: f64 = 2.0;
const LEAST_BATCH: f64 = 2.0;
/// Of all the data set's voxels, a batch holds at most this share.
const MOST_OF_DATASET: f64 = 0.05;
const BASE_FEATURES: usize = 32;
const MOST_FEATURES: usize = 320;
/// Of the search for a coarser configuration, which decides `batch_dice`.
const LOWRES_RATIO: f64 = 0.25;
const LOWRES_STEP: f64 = 1.03;

/// What the user decides instead of the planner.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides {
    /// Memory in GB that a training step may take by nnU-Net's measure; 8 unless given.
    pub memory_gb: Option<f64>,
    /// Spacing in mm, along the file's z, y, x.
    pub spacing: Option<[f64; 3]>,
    /// Patch; padded to what the network's strides need.
    pub patch: Option<[usize; 3]>,
    /// Patches of a step.
    pub batch: Option<usize>,
    /// Channels of the first stage.
    pub features: Option<usize>,
}

/// A network for a patch.
struct Network {
    topology: Topology,
    features: Vec<usize>,
    cost: f64,
}

/// What the cost of a network depends on, besides the patch.
struct Measure {
    spacing: [f64; 3],
    base_features: usize,
    label_entries: usize,
}

impl Measure {
    fn network(&self, patch: [f64; 3]) -> Network {
        let topology = topology(self.spacing, patch);
        let stages = topology.strides.len();
        let features: Vec<usize> = (0..stages)
            .map(|stage| (self.base_features << stage.min(16)).min(MOST_FEATURES.max(self.base_features)))
            .collect();
        let mut size = topology.patch;
        let voxels = |size: [usize; 3]| size.iter().product::<usize>() as f64;
        let mut cost = voxels(size) * self.label_entries as f64;
        for stage in 0..stages {
            for axis in 0..3 {
                size[axis] /= topology.strides[stage][axis];
            }
            // Two convolutions going down; going up two more and what brings the stage below to this size.
            let outputs = if stage + 1 < stages { 2 + 3 } else { 2 };
            cost += (outputs * features[stage]) as f64 * voxels(size);
        }
        Network { topology, features, cost }
    }

    /// The largest patch up to the median size whose cost is within the reference.
    fn fit(&self, median: [f64; 3], reference: f64) -> Network {
        let inverse = self.spacing.map(|s| 1.0 / s);
        let edge = (256f64.powi(3) / inverse.iter().product::<f64>()).powf(1.0 / 3.0);
        let first: [f64; 3] = std::array::from_fn(|axis| (inverse[axis] * edge).round_ties_even().min(median[axis]));
        let mut network = self.network(first);
        while network.cost > reference {
            let patch = network.topology.patch;
            let ratio = |axis: usize| patch[axis] as f64 / median[axis];
            // Of equal ratios the last axis.
            let axis = (1..3).fold(0, |best, axis| if ratio(axis) >= ratio(best) { axis } else { best });
            let mut smaller = patch.map(|size| size as f64);
            smaller[axis] -= network.topology.divisor[axis] as f64;
            let step = topology(self.spacing, smaller).divisor[axis];
            let mut next = patch.map(|size| size as f64);
            next[axis] -= step as f64;
            network = self.network(next);
        }
        network
    }
}

/// Plans a data set.
///
/// # Errors
/// Overrides that cannot be met; a data set of two-dimensional images, or of images too small for a network.
pub fn plan(dataset: &Dataset, fingerprint: &Fingerprint, overrides: &Overrides) -> Result<Plans> {
    let cases = fingerprint.spacings.len();
    let target = overrides.spacing.unwrap_or_else(|| target_spacing(fingerprint));
    let forward = transposition(target);
    let forwards = |values: [f64; 3]| forward.map(|axis| values[axis]);
    let (spacing, median) = (forwards(target), forwards(median_size(fingerprint, target)));
    if median[0] == 1.0 {
        bad_input!("the images have one slice each at the plan's spacing; a 3-D network needs volumes");
    }
    let measure = Measure {
        spacing,
        base_features: overrides.features.unwrap_or(BASE_FEATURES),
        label_entries: dataset.label_entries(),
    };
    let reference = REFERENCE_COST * overrides.memory_gb.unwrap_or(REFERENCE_GB) / REFERENCE_GB;
    let fitted = measure.fit(median, reference);
    let all_voxels = |median: [f64; 3]| median.iter().product::<f64>() * dataset.training_cases.max(cases) as f64;
    let batch_dice = has_lowres(&measure, &fitted, median, reference);
    let network = match overrides.patch {
        Some(patch) => measure.network(patch.map(|size| size as f64)),
        None => fitted,
    };
    let patch = network.topology.patch;
    if patch.contains(&0) || network.topology.strides.len() < 2 {
        let ([z, y, x], [n, h, w]) = (patch, median);
        bad_input!(
            "a patch of {z} x {y} x {x} voxels (the images have {n} x {h} x {w} in the median, at the plan's spacing) makes no network of two stages, \
             for which an axis needs 8; choose a finer --spacing or a larger --patch, or larger volumes"
        );
    }
    let patch_voxels = patch.iter().product::<usize>() as f64;
    let batch = (reference / network.cost * REFERENCE_BATCH).round_ties_even();
    let batch = batch
        .min((all_voxels(median) * MOST_OF_DATASET / patch_voxels).round_ties_even())
        .max(LEAST_BATCH);
    let stages = network.topology.strides.len();
    let uses_mask = fingerprint.median_relative_size_after_cropping < 0.75;
    let normalisation = dataset.channels.iter().map(|name| {
        let scheme = Scheme::of_channel(name);
        Normalisation {
            scheme,
            uses_mask: uses_mask && scheme == Scheme::ZScore,
        }
    });
    let shapes = fingerprint.shapes_after_crop.iter().map(|shape| shape.map(|size| size as f64));
    let median_shape = forwards(medians(&shapes.collect::<Vec<_>>()));
    Ok(Plans {
        dataset_name: dataset
            .folder
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        plans_name: "nnUNetPlans".to_owned(),
        transpose_forward: forward,
        transpose_backward: std::array::from_fn(|axis| (0..3).find(|&at| forward[at] == axis).unwrap_or(axis)),
        original_median_spacing: forwards(medians(&fingerprint.spacings)),
        original_median_shape: median_shape.map(|size| size.round_ties_even() as usize),
        intensities: fingerprint.foreground_intensity_properties_per_channel.clone(),
        configuration: Configuration {
            data_identifier: super::DATA_IDENTIFIER.to_owned(),
            batch_size: overrides.batch.unwrap_or(batch as usize),
            patch_size: patch,
            median_size: median,
            spacing,
            normalisation: normalisation.collect(),
            architecture: Architecture {
                family: Family::PlainConv,
                features: network.features,
                kernel_sizes: network.topology.kernels,
                strides: network.topology.strides,
                convs_per_stage: vec![2; stages],
                convs_per_stage_decoder: vec![2; stages - 1],
            },
            batch_dice,
        },
        json: None,
    })
}

/// Along z, y, x: medians, but the tenth percentile of a coarse axis.
fn target_spacing(fingerprint: &Fingerprint) -> [f64; 3] {
    let mut target = medians(&fingerprint.spacings);
    let shapes: Vec<[f64; 3]> = fingerprint
        .shapes_after_crop
        .iter()
        .map(|shape| shape.map(|size| size as f64))
        .collect();
    let sizes = medians(&shapes);
    let coarsest = largest(target);
    let others = || (0..3).filter(|&axis| axis != coarsest);
    let next = others().map(|axis| target[axis]).fold(0.0, f64::max);
    let least_size = others().map(|axis| sizes[axis]).fold(f64::INFINITY, f64::min);
    if target[coarsest] > ANISOTROPY * next && sizes[coarsest] * ANISOTROPY < least_size {
        let mut along: Vec<f64> = fingerprint.spacings.iter().map(|spacing| spacing[coarsest]).collect();
        let tenth = percentile(&mut along, 0.1);
        target[coarsest] = if tenth < next { next.max(tenth) + 1e-5 } else { tenth };
    }
    target
}

/// The coarsest axis first, then the others in their order.
fn transposition(spacing: [f64; 3]) -> [usize; 3] {
    match largest(spacing) {
        0 => [0, 1, 2],
        1 => [1, 0, 2],
        _ => [2, 0, 1],
    }
}

/// Of equal ones the first.
fn largest(values: [f64; 3]) -> usize {
    (1..3).fold(0, |best, axis| if values[axis] > values[best] { axis } else { best })
}

fn medians(values: &[[f64; 3]]) -> [f64; 3] {
    std::array::from_fn(|axis| percentile(&mut values.iter().map(|value| value[axis]).collect::<Vec<_>>(), 0.5))
}

/// Median sizes after resampling to `target`, along z, y, x.
fn median_size(fingerprint: &Fingerprint, target: [f64; 3]) -> [f64; 3] {
    let cases = fingerprint.spacings.iter().zip(&fingerprint.shapes_after_crop);
    let resampled = cases.map(|(spacing, shape)| -> [f64; 3] {
        std::array::from_fn(|axis| (spacing[axis] / target[axis] * shape[axis] as f64).round_ties_even())
    });
    medians(&resampled.collect::<Vec<_>>())
}

/// Whether nnU-Net would plan a coarser configuration too: when a patch sees less than a quarter of the median volume, until it does at least half of it in voxels.
fn has_lowres(measure: &Measure, fitted: &Network, median: [f64; 3], reference: f64) -> bool {
    let product = |values: [f64; 3]| values.iter().product::<f64>();
    let patch_voxels = |network: &Network| network.topology.patch.iter().product::<usize>() as f64;
    let (mut spacing, mut coarse) = (measure.spacing, median);
    let mut ratio = patch_voxels(fitted) / product(median);
    while ratio < LOWRES_RATIO {
        let most = spacing.iter().copied().fold(0.0, f64::max);
        let finer = spacing.map(|s| most / s > 2.0);
        let any_finer = finer.contains(&true);
        for axis in 0..3 {
            if !any_finer || finer[axis] {
                spacing[axis] *= LOWRES_STEP;
            }
        }
        coarse = std::array::from_fn(|axis| measure.spacing[axis] / spacing[axis] * median[axis]);
        let measure = Measure { spacing, ..*measure };
        ratio = patch_voxels(&measure.fit(coarse.map(f64::round_ties_even), reference)) / product(coarse);
    }
    coarse != median && product(median) / product(coarse) >= 2.0
}
