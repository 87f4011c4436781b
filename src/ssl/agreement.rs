//! How far two rounds' pseudo-labels agree, which tells when they have settled, and which cases to look at.

use crate::bad_input;
use crate::metrics::dice::dice_per_class;
use crate::stop::Stop;
use crate::volume::Volume;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Of two rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Mean Dice of the foreground classes, over all cases and classes that either round has; 1 if there are none.
    pub mean_dice: f64,
    /// Of each case: mean Dice over its classes; 1 where both are empty.
    pub cases: BTreeMap<String, f64>,
}

/// The agreement of the label maps `A/NAME.nii.gz` and `B/NAME.nii.gz`.
///
/// # Errors
/// Maps that are missing or of different sizes, a stop.
pub fn agreements(a: &Path, b: &Path, names: &[String], classes: u8, stop: &Stop) -> Result<Agreement> {
    let wanted: Vec<u8> = (1..classes).collect();
    let (mut all, mut cases) = (Vec::new(), BTreeMap::new());
    for name in names {
        stop.check()?;
        let labels = |folder: &Path| Volume::open(&folder.join(format!("{name}.nii.gz")))?.labels_u8();
        let [first, second] = [labels(a)?, labels(b)?];
        if first.len() != second.len() {
            bad_input!("{name}: has other sizes in {} than in {}", a.display(), b.display());
        }
        let found: Vec<f64> = dice_per_class(&first, &second, &wanted)?.into_iter().flatten().collect();
        cases.insert(name.clone(), mean(&found));
        all.extend(found);
    }
    Ok(Agreement {
        mean_dice: mean(&all),
        cases,
    })
}

fn mean(values: &[f64]) -> f64 {
    match values.len() {
        0 => 1.0,
        count => values.iter().sum::<f64>() / count as f64,
    }
}
