//! Intensities made comparable, channel by channel, as the plan says.

use super::fingerprint::Intensities;
use super::plan::{Normalisation, Scheme};

/// Below this a standard deviation or a range counts as this.
const LEAST: f32 = 1e-8;

/// Normalises a cropped channel in place; `label` is -1 outside the nonzero mask, `known` the data set's statistics of the channel.
///
/// Statistics are the volume's own, over the whole crop or, with the mask, over what lies inside, which alone is changed; the standard deviation is the population's.
pub fn normalise(channel: &mut [f32], label: &[i16], how: Normalisation, known: &Intensities) {
    match how.scheme {
        Scheme::None => {}
        Scheme::ZScore => {
            let is_in = |label: i16| !how.uses_mask || label >= 0;
            let inside = || {
                channel
                    .iter()
                    .zip(label)
                    .filter(|(_, label)| is_in(**label))
                    .map(|(v, _)| f64::from(*v))
            };
            let n = inside().count().max(1) as f64;
            let mean = inside().sum::<f64>() / n;
            let std = (inside().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
            let (mean, std) = (mean as f32, (std as f32).max(LEAST));
            for (v, label) in channel.iter_mut().zip(label) {
                if is_in(*label) {
                    *v = (*v - mean) / std;
                }
            }
        }
        Scheme::Ct => {
            let (low, high) = (known.percentile_00_5 as f32, known.percentile_99_5 as f32);
            let (mean, std) = (known.mean as f32, (known.std as f32).max(LEAST));
            channel.iter_mut().for_each(|v| *v = (v.max(low).min(high) - mean) / std);
        }
        Scheme::RescaleTo01 => {
            let low = channel.iter().copied().fold(f32::INFINITY, f32::min);
            channel.iter_mut().for_each(|v| *v -= low);
            let high = channel.iter().copied().fold(0.0, f32::max).max(LEAST);
            channel.iter_mut().for_each(|v| *v /= high);
        }
        Scheme::RgbTo01 => channel.iter_mut().for_each(|v| *v /= 255.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(scheme: Scheme, uses_mask: bool, channel: &[f32], label: &[i16]) -> Vec<f32> {
        let known = Intensities {
            mean: 10.0,
            std: 2.0,
            percentile_00_5: 4.0,
            percentile_99_5: 20.0,
            ..Intensities::default()
        };
        let mut channel = channel.to_vec();
        normalise(&mut channel, label, Normalisation { scheme, uses_mask }, &known);
        channel
    }

    #[test]
    fn every_scheme_does_what_its_formula_says() {
        let (volume, label) = ([0.0, 2.0, 4.0, 30.0], [-1, 0, 1, 0]);
        assert_eq!(done(Scheme::None, false, &volume, &label), volume);
        assert_eq!(done(Scheme::Ct, false, &volume, &label), [-3.0, -3.0, -3.0, 5.0]);
        assert_eq!(done(Scheme::RescaleTo01, false, &[2.0, 4.0, 6.0], &[0; 3]), [0.0, 0.5, 1.0]);
        assert_eq!(done(Scheme::RgbTo01, false, &[0.0, 255.0], &[0; 2]), [0.0, 1.0]);
        assert_eq!(done(Scheme::ZScore, false, &[1.0, 3.0], &[-1, 0]), [-1.0, 1.0]);
        // With the mask neither counts nor changes what lies outside.
        assert_eq!(done(Scheme::ZScore, true, &[0.0, 1.0, 3.0], &[-1, 0, 2]), [0.0, -1.0, 1.0]);
    }

    #[test]
    fn a_constant_volume_becomes_zero() {
        assert_eq!(done(Scheme::ZScore, false, &[5.0; 3], &[0; 3]), [0.0; 3]);
        assert_eq!(done(Scheme::RescaleTo01, false, &[5.0; 3], &[0; 3]), [0.0; 3]);
    }
}
