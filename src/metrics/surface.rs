//! Surfaces of a class in two label maps, and how far each is from the other.
//!
//! Three things are called a mask's surface: its outermost voxels ([`Masks::voxels`]: MedPy, MONAI), the cubes its boundary passes through
//! ([`Masks::surfels`]: surface-distance), and the whole body ([`Masks::solids`]: SimpleITK). Memory: 13 bytes per voxel of the box around both masks.

use super::distance::{Grid, to_nearest};
use super::overlap::Extent;
use super::surfels;
use rayon::prelude::*;

/// A class of both maps, cropped to the box around them; never empty.
#[derive(Debug)]
pub struct Masks {
    prediction: Vec<bool>,
    reference: Vec<bool>,
    grid: Grid,
}

/// Distances in mm each way, ascending: from the prediction's surface to the reference's, then from the reference's to the prediction's.
pub type BothWays<T> = [Vec<T>; 2];

impl Masks {
    /// Takes `class` out of two maps [D, H, W] of `grid`; `extent` is its box, as [`super::overlap::Overlaps`] found it.
    pub fn crop(prediction: &[u16], reference: &[u16], grid: Grid, class: u16, ignored: Option<u16>, extent: Extent) -> Self {
        let [planes, rows, columns] = extent;
        let [_, height, width] = grid.shape;
        let cropped = |is_in: &(dyn Fn(usize) -> bool + Sync)| -> Vec<bool> {
            (planes[0]..=planes[1])
                .into_par_iter()
                .flat_map_iter(|z| {
                    let starts = (rows[0]..=rows[1]).map(move |y| (z * height + y) * width);
                    starts.flat_map(|start| (columns[0]..=columns[1]).map(move |x| is_in(start + x)))
                })
                .collect()
        };
        Self {
            prediction: cropped(&|at| prediction[at] == class && ignored != Some(reference[at])),
            reference: cropped(&|at| reference[at] == class && ignored != Some(class)),
            grid: Grid {
                shape: extent.map(|[first, last]| last + 1 - first),
                ..grid
            },
        }
    }

    /// Between outermost voxels: those of the mask with one of their six neighbours outside it, or outside the volume.
    pub fn voxels(&self) -> BothWays<f64> {
        let [a, b] = [&self.prediction, &self.reference].map(|mask| outermost(mask, self.grid));
        [(&a, &b), (&b, &a)].map(|(from, to)| {
            let mut distances: Vec<f64> = to_nearest(to, from, self.grid).into_iter().map(|(_, distance)| distance).collect();
            distances.par_sort_unstable_by(f64::total_cmp);
            distances
        })
    }

    /// Between surfels: (distance, area in mm^2).
    pub fn surfels(&self) -> BothWays<(f64, f64)> {
        let (areas, cubes) = (surfels::areas(self.grid.spacing), surfels::cubes(self.grid));
        let codes = [&self.prediction, &self.reference].map(|mask| surfels::codes(mask, self.grid));
        let [a, b] = [0, 1].map(|i| codes[i].iter().map(|&code| code != 0 && code != 255).collect::<Vec<bool>>());
        [(0, &a, &b), (1, &b, &a)].map(|(own, from, to)| {
            let found = to_nearest(to, from, cubes).into_iter();
            let mut weighed: Vec<(f64, f64)> = found
                .map(|(index, distance)| (distance, areas[usize::from(codes[own][index])]))
                .collect();
            weighed.par_sort_unstable_by(|x, y| x.0.total_cmp(&y.0).then(x.1.total_cmp(&y.1)));
            weighed
        })
    }

    /// From every voxel of one mask to the nearest voxel of the other, which is 0 where they overlap: the larger of the two largest.
    pub fn solids(&self) -> f64 {
        let (a, b) = (&self.prediction, &self.reference);
        let farthest = |from: &[bool], to: &[bool]| {
            let outside: Vec<bool> = from.iter().zip(to).map(|(&own, &other)| own && !other).collect();
            to_nearest(to, &outside, self.grid)
                .into_iter()
                .map(|(_, distance)| distance)
                .fold(0.0, f64::max)
        };
        farthest(a, b).max(farthest(b, a))
    }
}

fn outermost(mask: &[bool], grid: Grid) -> Vec<bool> {
    let [depth, rows, columns] = grid.shape;
    let is_inner = |index: usize| {
        let [z, y, x] = [index / (rows * columns), index / columns % rows, index % columns];
        let all = |at: usize, n: usize, step: usize| at > 0 && at + 1 < n && mask[index - step] && mask[index + step];
        all(x, columns, 1) && all(y, rows, columns) && all(z, depth, rows * columns)
    };
    let outer = |index: usize| mask[index] && !is_inner(index);
    (0..mask.len()).into_par_iter().map(outer).collect()
}

/// NumPy's percentile of ascending values, interpolated linearly; NaN of none.
pub fn percentile(ascending: &[f64], percent: f64) -> f64 {
    let Some(last) = ascending.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = percent / 100.0 * last as f64;
    let below = (place.floor() as usize).min(last);
    let (a, b) = (ascending[below], ascending[(below + 1).min(last)]);
    if a == b { a } else { a + (b - a) * (place - below as f64) }
}

/// The first distance at which the surfels up to it have `percent` of the whole area.
pub fn weighed_percentile(ascending: &[(f64, f64)], percent: f64) -> f64 {
    let wanted = percent / 100.0 * ascending.iter().map(|(_, area)| area).sum::<f64>();
    let mut sum = 0.0;
    let reached = ascending.iter().find(|(_, area)| {
        sum += area;
        sum >= wanted
    });
    reached.or(ascending.last()).map_or(f64::NAN, |(distance, _)| *distance)
}

/// The share of both surfaces' area (or voxels, each of weight 1) that lies within `tolerance_mm` of the other: the normalised surface distance (NSD, surface Dice).
pub fn share_within(surfels: &BothWays<(f64, f64)>, tolerance_mm: f64) -> f64 {
    let area = |wanted: &dyn Fn(f64) -> bool| {
        let all = surfels.iter().map(|side| {
            side.iter()
                .filter(|(distance, _)| wanted(*distance))
                .map(|(_, area)| area)
                .sum::<f64>()
        });
        all.sum::<f64>() + 0.0 // a sum of nothing is -0
    };
    area(&|distance| distance <= tolerance_mm) / area(&|_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    // numpy.percentile([1, 2, 4, 8, 16], 95) = 14.4
    #[test]
    fn percentiles_are_those_of_numpy() {
        let values = [1.0, 2.0, 4.0, 8.0, 16.0];
        for (percent, expected) in [(0.0, 1.0), (50.0, 4.0), (95.0, 14.4), (100.0, 16.0)] {
            assert!((percentile(&values, percent) - expected).abs() < 1e-12);
        }
        assert_eq!(percentile(&[3.0], 95.0), 3.0);
        assert_eq!(percentile(&[f64::INFINITY; 2], 50.0), f64::INFINITY);
        assert!(percentile(&[], 50.0).is_nan());
    }

    #[test]
    fn weighed_percentiles_and_shares_go_by_area() {
        let surfels = [vec![(0.0, 6.0), (1.0, 3.0), (5.0, 1.0)], vec![(0.0, 10.0)]];
        assert_eq!(weighed_percentile(&surfels[0], 60.0), 0.0);
        assert_eq!(weighed_percentile(&surfels[0], 90.0), 1.0);
        assert_eq!(weighed_percentile(&surfels[0], 91.0), 5.0);
        assert_eq!(share_within(&surfels, 1.0), 0.95);
        assert_eq!(share_within(&surfels, -1.0).to_bits(), 0.0_f64.to_bits(), "no -0 in tables");
    }
}
