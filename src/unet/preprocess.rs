//! A case made ready for training: transposed, cropped, normalised, resampled, with locations of its foreground; in nnU-Net's order.

use super::crop::{self, Box3};
use super::dataset::{CaseFiles, Dataset, RawCase};
use super::numpy_random::RandomState;
use super::plan::Plans;
use super::resample::{Order, new_shape, resample, resample_labels, separate_axis};
use super::store::{Preprocessed, Properties};
use crate::bad_input;
use crate::machine::Machine;
use crate::volume::Header;
use anyhow::{Context, Result};

const SEED: u32 = 1234;
/// Of each class so many locations are kept, or this share of all if that is more.
const LOCATIONS: usize = 10_000;
const LOCATIONS_SHARE: f64 = 0.01;

/// Loads a case and makes it ready, and gives its file's header too; without a label (inference) the label is 0 inside the nonzero mask and -1 outside, and there are no locations.
///
/// # Errors
/// Files that cannot be used; a data set of other channels than the plan's.
pub fn preprocess(dataset: &Dataset, plans: &Plans, case: &CaseFiles) -> Result<(Preprocessed, Header)> {
    let channels = plans.configuration.normalisation.len();
    if dataset.channels.len() != channels {
        bad_input!(
            "the plan is for {channels} channels, the data set has {}; plan it anew",
            dataset.channels.len()
        );
    }
    let raw = dataset.load(case)?;
    let header = raw.header.clone();
    let named = || {
        case.images
            .first()
            .map_or_else(|| case.name.clone(), |path| path.display().to_string())
    };
    Ok((make_ready(dataset, plans, raw).with_context(named)?, header))
}

fn make_ready(dataset: &Dataset, plans: &Plans, raw: RawCase) -> Result<Preprocessed> {
    let forward = plans.transpose_forward;
    let shape = forward.map(|axis| raw.shape[axis]);
    let image: Vec<Vec<f32>> = raw
        .image
        .into_iter()
        .map(|channel| transpose(channel, raw.shape, forward))
        .collect();
    let outside = crop::outside(&image, shape);
    let bounds = crop::bounds(&outside, shape);
    let cropped = crop::size(&bounds);
    let has_label = raw.label.is_some();
    let label = raw.label.map(|label| transpose(label, raw.shape, forward));
    let label = mark(label, &outside, shape, &bounds);
    let configuration = &plans.configuration;
    let spacing = forward.map(|axis| raw.spacing[axis]);
    let new = new_shape(cropped, spacing, configuration.spacing);
    check_memory(spacing, configuration.spacing, new, image.len())?;
    let separate = separate_axis(spacing, configuration.spacing);
    let unknown = super::fingerprint::Intensities::default();
    let channels: Vec<Vec<f32>> = image
        .iter()
        .enumerate()
        .map(|(number, channel)| {
            let mut channel = crop::cut(channel, shape, &bounds);
            let known = plans.intensities.get(&number.to_string()).unwrap_or(&unknown);
            super::normalise::normalise(&mut channel, &label, configuration.normalisation[number], known);
            resample(&channel, cropped, new, separate, Order::Cubic).into_owned()
        })
        .collect();
    let uncertainty = raw.uncertainty.map(|map| {
        let map = crop::cut(&transpose(map, raw.shape, forward), shape, &bounds);
        resample(&map, cropped, new, separate, Order::Linear).into_owned()
    });
    let label = resample_labels(&label, cropped, new, separate).into_owned();
    Ok(Preprocessed {
        locations: match has_label {
            true => locations(&label, new, dataset.classes() as i16, dataset.ignore.is_some()),
            false => Vec::new(),
        },
        shape: new,
        image: interleave(channels),
        label,
        uncertainty,
        properties: Properties {
            spacing: raw.spacing,
            shape_before_cropping: shape,
            bbox_used_for_cropping: bounds,
            shape_after_cropping_and_before_resampling: cropped,
        },
    })
}

/// Refuses volumes that resampling makes larger than this machine's memory: mostly the spacing is not what it says, as of a file in metres.
fn check_memory(spacing: [f64; 3], target: [f64; 3], new: [usize; 3], channels: usize) -> Result<()> {
    // Channels twice, one after the other and beside each other, and labels.
    let bytes = new.iter().map(|&size| size as f64).product::<f64>() * (8 * channels + 2) as f64;
    let Some(memory) = Machine::detect().memory_available_bytes.filter(|&memory| bytes > memory as f64) else {
        return Ok(());
    };
    let ([a, b, c], [x, y, z], [n, h, w]) = (spacing, target, new);
    let gib = f64::from(1 << 30);
    bad_input!(
        "at the plan's spacing of {x} x {y} x {z} mm it has {n} x {h} x {w} voxels, for which {:.0} GiB of memory are needed and {:.0} are to be had; \
         its own spacing is {a} x {b} x {c} mm: check the header's units, or plan another spacing, or leave the case out",
        bytes / gib,
        memory as f64 / gib
    );
}

/// An array whose axes are those of `volume` in another order.
pub(super) fn transpose<T: Copy>(volume: Vec<T>, shape: [usize; 3], forward: [usize; 3]) -> Vec<T> {
    if forward == [0, 1, 2] {
        return volume;
    }
    let strides = [shape[1] * shape[2], shape[2], 1];
    let [a, b, c] = forward;
    let rows = (0..shape[a]).flat_map(|i| (0..shape[b]).map(move |j| i * strides[a] + j * strides[b]));
    let volume = &volume;
    rows.flat_map(|row| (0..shape[c]).map(move |k| volume[row + k * strides[c]]))
        .collect()
}

/// The cropped label: background outside the mask is -1. Without a label all else is 0.
fn mark(label: Option<Vec<i16>>, outside: &[bool], shape: [usize; 3], bounds: &Box3) -> Vec<i16> {
    let outside = crop::cut(outside, shape, bounds);
    let mut label = match label {
        Some(label) => crop::cut(&label, shape, bounds),
        None => vec![0; outside.len()],
    };
    for (label, outside) in label.iter_mut().zip(outside) {
        if outside && *label == 0 {
            *label = -1;
        }
    }
    label
}

fn interleave(mut channels: Vec<Vec<f32>>) -> Vec<f32> {
    if channels.len() == 1 {
        return channels.swap_remove(0);
    }
    let voxels = channels.first().map_or(0, Vec::len);
    (0..voxels).flat_map(|at| channels.iter().map(move |channel| channel[at])).collect()
}

/// Voxels of each foreground class, drawn without replacement by one generator for all of them; then, where there is an ignore label, of all that is annotated, under the key
/// of -1 and every other label.
fn locations(label: &[i16], shape: [usize; 3], classes: i16, has_ignored: bool) -> Vec<(Vec<i16>, Vec<[u32; 3]>)> {
    let mut random = RandomState::new(SEED);
    let mut keys: Vec<Vec<i16>> = (1..classes).map(|class| vec![class]).collect();
    if has_ignored {
        keys.push((-1..classes).collect());
    }
    let mut drawn = |key: Vec<i16>| {
        // Of several labels one after the other, as nnU-Net numbers them.
        let of_label = |wanted: i16| {
            label
                .iter()
                .enumerate()
                .filter(move |(_, l)| **l == wanted)
                .map(|(at, _)| at as u32)
        };
        let voxels: Vec<u32> = key.iter().copied().flat_map(of_label).collect();
        let share = (LOCATIONS_SHARE * voxels.len() as f64).ceil() as usize;
        let count = LOCATIONS.min(voxels.len()).max(share);
        let place = |&chosen: &u32| {
            let at = voxels[chosen as usize] as usize;
            [at / (shape[1] * shape[2]), at / shape[2] % shape[1], at % shape[2]].map(|index| index as u32)
        };
        let chosen = if voxels.is_empty() {
            Vec::new()
        } else {
            random.choice(voxels.len(), count)
        };
        let places = chosen.iter().map(place).collect();
        (key, places)
    };
    keys.into_iter().map(&mut drawn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_annotated_is_numbered_label_by_label_as_nnu_net_does() {
        let label = [1, 0, 1, 2, -1, 0, 3]; // 3 is ignored
        let found = locations(&label, [1, 1, 7], 3, true);
        let mut random = RandomState::new(SEED);
        for (number, voxels) in [&[0, 2][..], &[3], &[4, 1, 5, 0, 2, 3]].into_iter().enumerate() {
            let chosen = random.choice(voxels.len(), voxels.len());
            let places: Vec<[u32; 3]> = chosen.iter().map(|&chosen| [0, 0, voxels[chosen as usize]]).collect();
            assert_eq!(found[number].1, places, "{:?}", found[number].0);
        }
        assert_eq!(found[2].0, [-1, 0, 1, 2]);
    }
}
