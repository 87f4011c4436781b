//! Bootstrap: how sure a mean over cases is, by drawing the cases again with replacement (Efron 1979), percentile interval.

use super::surface::percentile;
use crate::keyed_rng::keyed_rng;
use rand_chacha::rand_core::Rng;

/// Draws of as many cases as there are.
pub const DRAWS: usize = 2000;

/// The interval that holds 95 % of the means of [`DRAWS`] draws; none of fewer than two values. `key` says what the values are: the same seed,
/// key and values give the same interval.
pub fn interval_of_mean(values: &[f64], seed: u64, key: &[&str]) -> Option<[f64; 2]> {
    if values.len() < 2 {
        return None;
    }
    let mut rng = keyed_rng(seed, &[&["bootstrap"], key].concat());
    let n = values.len() as u64;
    let mut means: Vec<f64> = (0..DRAWS)
        .map(|_| {
            // A 32-bit number times n, shifted down, favours no index by more than n / 2^32.
            let drawn = (0..n).map(|_| values[((u64::from(rng.next_u32()) * n) >> 32) as usize]);
            drawn.sum::<f64>() / n as f64
        })
        .collect();
    means.sort_unstable_by(f64::total_cmp);
    Some([2.5, 97.5].map(|percent| percentile(&means, percent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_that_of_the_normal_law_and_repeats() {
        // 400 values of mean 0.5 and variance 1/12: the mean's standard deviation is 1 / sqrt(12 * 400).
        let values: Vec<f64> = (0..400).map(|i| (f64::from(i) + 0.5) / 400.0).collect();
        let [low, high] = interval_of_mean(&values, 0, &["a"]).unwrap();
        let expected = 1.96 / (12.0_f64 * 400.0).sqrt();
        // The ends of 2000 draws scatter by about 5 % of the half width.
        assert!((0.5 - low - expected).abs() < 0.2 * expected, "{low}");
        assert!((high - 0.5 - expected).abs() < 0.2 * expected, "{high}");
        assert_eq!(interval_of_mean(&values, 0, &["a"]), Some([low, high]));
        assert_ne!(interval_of_mean(&values, 1, &["a"]), Some([low, high]));
        assert_ne!(interval_of_mean(&values, 0, &["b"]), Some([low, high]));
    }

    #[test]
    fn one_value_has_no_interval_and_equal_values_a_point() {
        assert_eq!(interval_of_mean(&[0.3], 0, &[]), None);
        assert_eq!(interval_of_mean(&[0.25; 5], 0, &[]), Some([0.25, 0.25]));
    }
}
