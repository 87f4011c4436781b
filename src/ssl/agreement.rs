//! How far two rounds' pseudo-labels agree, which tells when they have settled.

use crate::bad_input;
use crate::metrics::dice::dice_per_class;
use crate::stop::Stop;
use crate::volume::Volume;
use anyhow::Result;
use std::path::Path;

/// Mean Dice of the foreground classes between the label maps `A/NAME.nii.gz` and `B/NAME.nii.gz`, over all cases and classes that either has; 1 if there are none.
///
/// # Errors
/// Maps that are missing or of different sizes, a stop.
pub fn mean_dice(a: &Path, b: &Path, names: &[String], classes: u8, stop: &Stop) -> Result<f64> {
    let wanted: Vec<u8> = (1..classes).collect();
    let mut found = Vec::new();
    for name in names {
        stop.check()?;
        let labels = |folder: &Path| Volume::open(&folder.join(format!("{name}.nii.gz")))?.labels_u8();
        let [first, second] = [labels(a)?, labels(b)?];
        if first.len() != second.len() {
            bad_input!("{name}: has other sizes in {} than in {}", a.display(), b.display());
        }
        found.extend(dice_per_class(&first, &second, &wanted)?.into_iter().flatten());
    }
    Ok(if found.is_empty() {
        1.0
    } else {
        found.iter().sum::<f64>() / found.len() as f64
    })
}
