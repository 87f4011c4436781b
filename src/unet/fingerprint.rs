//! What a data set is like: spacings, sizes and foreground intensities (nnU-Net's `dataset_fingerprint.json`), from which the plan is made.

use super::crop;
use super::dataset::{CaseFiles, Dataset};
use super::numpy_random::RandomState;
use crate::bad_input;
use crate::stop::Stop;
use anyhow::Result;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Intensities that are drawn in all, for every channel: 0.4 GB.
const DRAWS: usize = 100_000_000;
const SEED: u32 = 1234;

/// The fingerprint; keys as nnU-Net writes them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// By channel.
    pub foreground_intensity_properties_per_channel: BTreeMap<String, Intensities>,
    /// Median of voxels after cropping over voxels before.
    pub median_relative_size_after_cropping: f64,
    /// Sizes after cropping, along z, y, x.
    pub shapes_after_crop: Vec<[usize; 3]>,
    /// Along z, y, x in mm.
    pub spacings: Vec<[f64; 3]>,
}

/// Statistics of a channel's intensities where the label is foreground.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Intensities {
    pub max: f64,
    pub mean: f64,
    pub median: f64,
    pub min: f64,
    pub percentile_00_5: f64,
    pub percentile_99_5: f64,
    pub std: f64,
}

/// Its file beside the plans.
pub const FILE: &str = "dataset_fingerprint.json";

/// What one case adds.
struct Part {
    shape: [usize; 3],
    spacing: [f64; 3],
    relative_size: f64,
    /// Draws per channel.
    intensities: Vec<Vec<f32>>,
}

/// Takes the fingerprint of a data set's training cases, several at a time.
///
/// # Errors
/// A case that cannot be used, a stop.
pub fn fingerprint(dataset: &Dataset, cases: &[CaseFiles], stop: &Stop, done: impl Fn() + Sync) -> Result<Fingerprint> {
    let draws = DRAWS / cases.len().max(1);
    let part = |case: &CaseFiles| {
        stop.check()?;
        let part = part(dataset, case, draws);
        done();
        part
    };
    let parts: Vec<Part> = cases.par_iter().map(part).collect::<Result<_>>()?;
    let mut relative: Vec<f64> = parts.iter().map(|part| part.relative_size).collect();
    let properties = (0..dataset.channels.len()).map(|channel| {
        let drawn = parts.iter().map(|part| &part.intensities[channel][..]);
        let found = statistics(drawn.clone().collect::<Vec<_>>().concat());
        if !(found.mean.is_finite() && found.std.is_finite()) {
            let most = |values: &[f32]| values.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
            let (value, case) = drawn.map(most).zip(cases).fold((0.0, None), |most, (value, case)| if value > most.0 { (value, Some(case)) } else { most });
            bad_input!(
                "{}: channel {channel} has intensities up to {value:e} in the labelled region, whose spread cannot be told in single precision; mend the image (a fill value?), or leave the case out",
                case.map_or("", |case| case.name.as_str())
            );
        }
        Ok((channel.to_string(), found))
    });
    Ok(Fingerprint {
        foreground_intensity_properties_per_channel: properties.collect::<Result<_>>()?,
        median_relative_size_after_cropping: percentile(&mut relative, 0.5),
        shapes_after_crop: parts.iter().map(|part| part.shape).collect(),
        spacings: parts.iter().map(|part| part.spacing).collect(),
    })
}

fn part(dataset: &Dataset, case: &CaseFiles, draws: usize) -> Result<Part> {
    let raw = dataset.load(case)?;
    let Some(label) = &raw.label else {
        bad_input!("{}: a training case without a label", case.name);
    };
    let bounds = crop::bounds(&crop::outside(&raw.image, raw.shape), raw.shape);
    let label = crop::cut(label, raw.shape, &bounds);
    let shape = crop::size(&bounds);
    let mut random = RandomState::new(SEED);
    let mut intensities = Vec::with_capacity(raw.image.len());
    for channel in &raw.image {
        let channel = crop::cut(channel, raw.shape, &bounds);
        let foreground: Vec<f32> = channel
            .iter()
            .zip(&label)
            .filter(|(_, label)| **label > 0)
            .map(|(v, _)| *v)
            .collect();
        intensities.push(match foreground.is_empty() {
            true => Vec::new(),
            false => random.draw(&foreground, draws).collect(),
        });
    }
    Ok(Part {
        relative_size: shape.iter().product::<usize>() as f64 / raw.shape.iter().product::<usize>() as f64,
        shape,
        spacing: raw.spacing,
        intensities,
    })
}

/// Statistics in single precision, summed as numpy sums; all 0 if there is nothing.
fn statistics(mut values: Vec<f32>) -> Intensities {
    if values.is_empty() {
        return Intensities::default();
    }
    let n = values.len() as f32;
    let mean = pairwise(&values, &|v| v) / n;
    let variance = pairwise(&values, &|v| (v - mean) * (v - mean)) / n;
    let range = values
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)));
    let mut quantile = |share: f64| f64::from(quantile_f32(&mut values, share));
    Intensities {
        max: f64::from(range.1),
        mean: f64::from(mean),
        median: quantile(0.5),
        min: f64::from(range.0),
        percentile_00_5: quantile(0.005),
        percentile_99_5: quantile(0.995),
        std: f64::from(variance.sqrt()),
    }
}

/// numpy's sum of a contiguous array: halves (cut at a multiple of 8) down to 128 values, which eight accumulators share.
pub(super) fn pairwise(values: &[f32], of: &dyn Fn(f32) -> f32) -> f32 {
    let n = values.len();
    if n < 8 {
        return values.iter().fold(-0.0, |sum, &v| sum + of(v));
    }
    if n > 128 {
        let half = n / 2 / 8 * 8;
        return pairwise(&values[..half], of) + pairwise(&values[half..], of);
    }
    let (eights, rest) = values.as_chunks::<8>();
    let mut sums = eights[0].map(of);
    for eight in &eights[1..] {
        for (sum, &v) in sums.iter_mut().zip(eight) {
            *sum += of(v);
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    rest.iter().fold(((a + b) + (c + d)) + ((e + f) + (g + h)), |sum, &v| sum + of(v))
}

/// numpy's `percentile` of single-precision values, linear between neighbours.
fn quantile_f32(values: &mut [f32], share: f64) -> f32 {
    let place = share * (values.len() - 1) as f64;
    let (below, part) = (place.floor() as usize, place.fract());
    let (_, &mut low, above) = values.select_nth_unstable_by(below, f32::total_cmp);
    let high = above.iter().copied().fold(f32::INFINITY, f32::min);
    if part == 0.0 {
        low
    } else {
        interpolate(f64::from(low), f64::from(high), part) as f32
    }
}

/// numpy's `percentile`, linear between neighbours; the values are sorted.
pub(super) fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = share * values.len().saturating_sub(1) as f64;
    let (below, part) = (place.floor() as usize, place.fract());
    let at = |index: usize| values.get(index).or(values.last()).copied().unwrap_or(f64::NAN);
    interpolate(at(below), at(below + 1), part)
}

/// numpy's `_lerp`: from the nearer end.
fn interpolate(low: f64, high: f64, part: f64) -> f64 {
    if part < 0.5 {
        low + (high - low) * part
    } else {
        high - (high - low) * (1.0 - part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_linear_between_neighbours() {
        assert_eq!(percentile(&mut [4.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(percentile(&mut [4.0, 1.0], 0.1), 1.3);
        assert_eq!(quantile_f32(&mut [5.0, 1.0, 3.0, 2.0], 0.5), 2.5);
        assert_eq!(quantile_f32(&mut [7.0], 0.995), 7.0);
    }

    #[test]
    fn sums_are_numpys() {
        // numpy 2.4: a = (arange(1000) % 7 * 0.1).astype(float32); a.sum(), a[:130].sum(), a[:7].sum()
        let values: Vec<f32> = (0..1000).map(|i| (f64::from(i % 7) * 0.1) as f32).collect();
        let sum = |n: usize| pairwise(&values[..n], &|v| v);
        assert_eq!([sum(1000), sum(130), sum(7)].map(f32::to_bits), SUMS);
    }

    const SUMS: [u32; 3] = [1_133_894_042, 1_108_973_978, 1_074_161_254];

    #[test]
    fn nothing_has_no_statistics() {
        assert_eq!(statistics(vec![]), Intensities::default());
    }
}
