//! How well one class of a prediction agrees with a reference.
//!
//! Rules for empty masks: where neither map holds the class, overlaps and distances have no value and do not count in means; where one does, Dice and IoU are 0 and distances have no
//! value (medpy raises an error there, MONAI says infinity): how often that happened is told beside every mean.

use super::distance::{Borders, borders, largest_between_masks};
use super::preset::Preset;
use serde::Serialize;

/// The percentile of HD95.
const SHARE: f64 = 0.95;

/// The scores of one class in one case.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Scores {
    pub true_positive: usize,
    pub false_positive: usize,
    pub false_negative: usize,
    pub true_negative: usize,
    pub dice: Option<f64>,
    pub iou: Option<f64>,
    pub prediction_ml: f64,
    pub reference_ml: f64,
    /// (prediction - reference) / reference.
    pub volume_error: Option<f64>,
    /// Largest Hausdorff distance in mm.
    pub hd: Option<f64>,
    /// 95th percentile in mm.
    pub hd95: Option<f64>,
    /// Average symmetric surface distance in mm.
    pub assd: Option<f64>,
    /// Normalised surface Dice at the tolerance.
    pub nsd: Option<f64>,
}

impl Scores {
    /// Every score that a preset may give.
    pub const NAMES: [&'static str; 7] = ["dice", "iou", "volume_error", "hd", "hd95", "assd", "nsd"];

    /// Of a class that neither map holds, among so many voxels.
    pub fn absent(voxels: usize) -> Self {
        Self {
            true_positive: 0,
            false_positive: 0,
            false_negative: 0,
            true_negative: voxels,
            dice: None,
            iou: None,
            prediction_ml: 0.0,
            reference_ml: 0.0,
            volume_error: None,
            hd: None,
            hd95: None,
            assd: None,
            nsd: None,
        }
    }

    /// In the order of [`Scores::NAMES`].
    pub fn values(&self) -> [Option<f64>; 7] {
        [self.dice, self.iou, self.volume_error, self.hd, self.hd95, self.assd, self.nsd]
    }
}

/// Two label maps [D, H, W] of one grid.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Pair<'a> {
    pub prediction: &'a [u16],
    pub reference: &'a [u16],
    pub shape: [usize; 3],
    /// Along (D, H, W) in mm.
    pub spacing: [f64; 3],
    /// Voxels whose reference is this label count nowhere.
    pub ignore: Option<u16>,
}

impl Pair<'_> {
    /// The scores of a class by a preset, with the tolerance of NSD in mm.
    pub fn scores(&self, class: u16, preset: Preset, tolerance: f64) -> Scores {
        let counts = |at: usize| Some(self.reference[at]) != self.ignore;
        let mask = |map: &[u16]| -> Vec<bool> { (0..map.len()).map(|at| counts(at) && map[at] == class).collect() };
        let (prediction, reference) = (mask(self.prediction), mask(self.reference));
        let (mut tp, mut fp, mut fneg, mut tn) = (0, 0, 0, 0);
        for at in (0..prediction.len()).filter(|at| counts(*at)) {
            match (prediction[at], reference[at]) {
                (true, true) => tp += 1,
                (true, false) => fp += 1,
                (false, true) => fneg += 1,
                (false, false) => tn += 1,
            }
        }
        let voxel_ml = self.spacing.iter().product::<f64>() / 1000.0;
        let share = |part: usize, whole: usize| (whole > 0).then(|| part as f64 / whole as f64);
        let mut scores = Scores {
            true_positive: tp,
            false_positive: fp,
            false_negative: fneg,
            dice: share(2 * tp, 2 * tp + fp + fneg),
            iou: share(tp, tp + fp + fneg),
            prediction_ml: (tp + fp) as f64 * voxel_ml,
            reference_ml: (tp + fneg) as f64 * voxel_ml,
            volume_error: (tp + fneg > 0).then(|| (fp as f64 - fneg as f64) / (tp + fneg) as f64),
            ..Scores::absent(tn)
        };
        match preset {
            Preset::Nnunet => {}
            Preset::Simpleitk => scores.hd = largest_between_masks(&prediction, &reference, self.shape, self.spacing),
            Preset::Care | Preset::Medpy | Preset::Monai => {
                if let Some(borders) = borders(&prediction, &reference, self.shape, self.spacing) {
                    scores.add_distances(&borders, preset, tolerance);
                }
            }
        }
        scores
    }
}

impl Scores {
    fn add_distances(&mut self, of: &Borders, preset: Preset, tolerance: f64) {
        let both = [&of.of_prediction, &of.of_reference];
        self.hd = Some(both.iter().flat_map(|d| d.iter()).copied().fold(0.0, f64::max));
        match preset {
            Preset::Medpy => {
                self.hd95 = percentile(both.iter().flat_map(|d| d.iter()).copied().collect(), SHARE);
                let (sum, count) = (
                    both.iter().flat_map(|d| d.iter()).sum::<f64>(),
                    both.iter().map(|d| d.len()).sum::<usize>(),
                );
                self.assd = Some(sum / count as f64);
            }
            Preset::Monai => {
                self.hd95 = both.iter().filter_map(|d| percentile(d.to_vec(), SHARE)).reduce(f64::max);
                let within = both.iter().flat_map(|d| d.iter()).filter(|d| **d <= tolerance).count();
                self.nsd = Some(within as f64 / both.iter().map(|d| d.len()).sum::<usize>() as f64);
            }
            Preset::Care | Preset::Nnunet | Preset::Simpleitk => {}
        }
    }
}

/// numpy's percentile, linear between neighbours.
pub(super) fn percentile(mut values: Vec<f64>, share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let place = share * values.len().checked_sub(1)? as f64;
    let (low, part) = (values[place.floor() as usize], place.fract());
    let high = values[place.ceil() as usize];
    Some(if part < 0.5 {
        low + (high - low) * part
    } else {
        high - (high - low) * (1.0 - part)
    })
}
