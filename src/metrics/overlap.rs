//! Overlap: voxels of each class in the prediction, in the reference, and in both, with the box that holds them.

use anyhow::{Result, ensure};
use std::collections::BTreeMap;

/// Voxels of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overlap {
    /// In both maps.
    pub tp: u64,
    /// In the prediction only.
    pub fp: u64,
    /// In the reference only.
    pub fn_: u64,
    /// In neither.
    pub tn: u64,
}

impl Overlap {
    /// Voxels of the class in the prediction.
    pub fn predicted(&self) -> u64 {
        self.tp + self.fp
    }

    /// Voxels of the class in the reference.
    pub fn referred(&self) -> u64 {
        self.tp + self.fn_
    }

    /// 2 TP / (2 TP + FP + FN); NaN where neither map holds the class.
    pub fn dice(&self) -> f64 {
        2.0 * self.tp as f64 / (2 * self.tp + self.fp + self.fn_) as f64
    }

    /// TP / (TP + FP + FN); NaN where neither map holds the class.
    pub fn iou(&self) -> f64 {
        self.tp as f64 / (self.tp + self.fp + self.fn_) as f64
    }
}

/// Where a class lies, in either map: first and last voxel (inclusive) along each axis.
pub type Extent = [[usize; 2]; 3];

/// All classes of a pair of label maps of the same voxels.
#[derive(Clone, Debug)]
pub struct Overlaps {
    counted: u64,
    classes: BTreeMap<u16, (Overlap, Extent)>,
}

impl Overlaps {
    /// Counts in one pass. Maps are [D, H, W]; voxels that the reference labels `ignored` are left out of everything.
    ///
    /// # Errors
    /// Maps that do not have `shape`.
    pub fn count(prediction: &[u16], reference: &[u16], shape: [usize; 3], ignored: Option<u16>) -> Result<Self> {
        let voxels = shape.iter().product::<usize>();
        ensure!(
            prediction.len() == voxels && reference.len() == voxels,
            "two label maps of {voxels} voxels are compared; one has {}, the other {}",
            prediction.len(),
            reference.len()
        );
        let [_, rows, columns] = shape;
        let mut counts: Vec<Option<(Overlap, Extent)>> = Vec::new(); // by label; 0 stays empty
        let mut note = |label: u16, place: [usize; 3], predicted: bool, referred: bool| {
            let label = usize::from(label);
            if counts.len() <= label {
                counts.resize(label + 1, None);
            }
            let (overlap, extent) = counts[label].get_or_insert((Overlap::default(), place.map(|at| [at, at])));
            match (predicted, referred) {
                (true, true) => overlap.tp += 1,
                (true, false) => overlap.fp += 1,
                _ => overlap.fn_ += 1,
            }
            for (range, at) in extent.iter_mut().zip(place) {
                *range = [range[0].min(at), range[1].max(at)];
            }
        };
        let mut counted = 0;
        for (row, (a, b)) in prediction.chunks(columns.max(1)).zip(reference.chunks(columns.max(1))).enumerate() {
            for (x, (&a, &b)) in a.iter().zip(b).enumerate() {
                if ignored == Some(b) {
                    continue;
                }
                counted += 1;
                let place = [row / rows, row % rows, x];
                if a == b && a != 0 {
                    note(a, place, true, true);
                } else if a != b {
                    if a != 0 {
                        note(a, place, true, false);
                    }
                    if b != 0 {
                        note(b, place, false, true);
                    }
                }
            }
        }
        let filled = counts.into_iter().enumerate().filter_map(|(label, found)| {
            let (mut overlap, extent) = found?;
            overlap.tn = counted - overlap.tp - overlap.fp - overlap.fn_;
            Some((label as u16, (overlap, extent)))
        });
        Ok(Self {
            counted,
            classes: filled.collect(),
        })
    }

    /// Labels other than 0 in either map, ascending.
    pub fn classes(&self) -> impl Iterator<Item = u16> {
        self.classes.keys().copied()
    }

    /// Counts of one class; a class that neither map holds has true negatives only.
    pub fn of(&self, class: u16) -> Overlap {
        let absent = Overlap {
            tn: self.counted,
            ..Overlap::default()
        };
        self.classes.get(&class).map_or(absent, |(overlap, _)| *overlap)
    }

    /// The box around a class in both maps together; none if neither holds it.
    pub fn extent(&self, class: u16) -> Option<Extent> {
        self.classes.get(&class).map(|(_, extent)| *extent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_counted_with_their_boxes_and_ignored_voxels_are_not_there() {
        // [2, 2, 2]
        let prediction = [0, 1, 1, 2, 0, 0, 2, 3];
        let reference = [0, 1, 2, 2, 0, 1, 9, 0];
        let all = Overlaps::count(&prediction, &reference, [2, 2, 2], Some(9)).unwrap();
        assert_eq!(all.classes().collect::<Vec<_>>(), [1, 2, 3]);
        let one = all.of(1);
        assert_eq!((one.tp, one.fp, one.fn_, one.tn), (1, 1, 1, 4));
        assert_eq!((one.dice(), one.iou()), (0.5, 1.0 / 3.0));
        assert_eq!((all.of(2).tp, all.of(2).fp, all.of(2).fn_), (1, 0, 1));
        assert_eq!(all.extent(1), Some([[0, 1], [0, 1], [0, 1]]));
        assert_eq!(all.extent(3), Some([[1, 1], [1, 1], [1, 1]]));
        assert_eq!((all.of(7).tn, all.extent(7)), (7, None));
        assert!(all.of(7).dice().is_nan() && all.of(7).iou().is_nan());
        assert_eq!(all.of(3).dice(), 0.0);
    }

    #[test]
    fn maps_of_another_size_are_refused() {
        let error = Overlaps::count(&[1, 2], &[1], [1, 1, 2], None).unwrap_err().to_string();
        assert!(error.contains("one has 2, the other 1"), "{error}");
    }
}
