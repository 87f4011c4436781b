//! Measuring: every op at the network's sizes, a whole volume from its file to its results, and two measurements side by side.

pub mod ceilings;
pub mod compare;
mod energy;
pub mod entries;
pub mod ops;
pub mod volume;

use crate::device::Device;
use crate::sam2::{Config, Sam2};
use crate::weights::{Checkpoint, formula_checkpoint, read_tensor_list};
use anyhow::Result;
use std::time::Instant;

/// SAM 2.1 Hiera-tiny at 512 x 512, as MedSAM2 uses it, with formula weights: as fast as real ones, and no file is needed.
///
/// # Errors
/// None that an intact program meets.
pub fn formula_weights() -> Result<(Checkpoint, Config)> {
    let list = read_tensor_list("tensors", include_str!("../../weights/expected/sam2_hiera_t512_tensors.json"))?;
    let config = serde_json::from_str(include_str!("../../weights/expected/sam2_hiera_t512_config.json"))?;
    Ok((formula_checkpoint(&list, 4)?, config))
}

/// That network on a device.
///
/// # Errors
/// When the device's budget has no room for it.
pub fn network(device: &Device) -> Result<Sam2> {
    let (checkpoint, config) = formula_weights()?;
    Sam2::load(&checkpoint, config, device)
}

/// Median seconds of `runs` calls, after one that is not counted. What a call leaves to the device is waited for.
///
/// # Errors
/// Those of the calls.
pub fn median(device: &Device, runs: usize, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut once = || {
        let start = Instant::now();
        call()?;
        device.synchronise()?;
        Ok(start.elapsed().as_secs_f64())
    };
    once()?;
    let times = (0..runs).map(|_| once()).collect::<Result<Vec<f64>>>()?;
    Ok(percentile(&times, 0.5))
}

/// The value below which this share of them lies; the nearest one.
fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
        .get((share * sorted.len().saturating_sub(1) as f64).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_nearest_of_the_values() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(percentile(&values, 0.5), 3.0);
        assert_eq!(percentile(&values, 0.95), 5.0);
        assert_eq!(percentile(&values, 0.0), 1.0);
        assert!(percentile(&[], 0.5).is_nan());
    }
}
