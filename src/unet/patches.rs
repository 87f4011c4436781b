//! Where training cuts its patches: the rules of nnU-Net's data loader, and the box that they choose, read straight from the case's (mapped) arrays.
//!
//! A patch is cut larger than it is trained on, so that rotating and scaling it finds voxels; of what lies beyond that box, or beyond the volume, the image is 0 and the label -1.

use super::case::CaseView;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// A patch this many times as long as along its first axis is augmented in-plane only.
const ANISOTROPY: f64 = 3.0;
/// Rotations go this far, in degrees; in-plane ones all around, for which a quarter needs the most room.
const ROTATION: f64 = 30.0;
const ROTATION_IN_PLANE: f64 = 90.0;
/// Boxes are cut as if patches were shrunk to this.
const SHRINKING: f64 = 0.85;
/// Of a batch, this share is sure to hold foreground.
const FORCED: f64 = 0.33;

/// Whether patches of these sizes are augmented slice by slice ("dummy 2-D").
pub fn is_flat(patch: [usize; 3]) -> bool {
    let longest = patch.iter().copied().max().unwrap_or(0);
    longest as f64 / patch[0] as f64 > ANISOTROPY
}

/// Sizes of the box from which a patch is cut after rotating and scaling.
pub fn box_size(patch: [usize; 3]) -> [usize; 3] {
    let [a, b, c] = patch.map(|size| size as f64);
    let degrees = if is_flat(patch) { ROTATION_IN_PLANE } else { ROTATION };
    let (sin, cos) = degrees.to_radians().sin_cos();
    let most = [
        a.max(a * cos + b * sin).max((a * cos - c * sin).abs()),
        b.max(b * cos + c * sin).max((b * cos - a * sin).abs()),
        c.max(c * cos + a * sin).max((c * cos - b * sin).abs()),
    ];
    let mut size = most.map(|edge| (edge / SHRINKING) as usize);
    if is_flat(patch) {
        size[0] = patch[0];
    }
    size
}

/// Whether this patch of a batch must hold foreground: the last third of them.
pub fn is_forced(at: usize, batch: usize) -> bool {
    at >= (batch as f64 * (1.0 - FORCED)).round_ties_even() as usize
}

/// A box of a case, which may reach beyond the volume.
#[derive(Clone, Copy, Debug)]
pub struct Window<'a> {
    /// The case.
    pub case: &'a CaseView<'a>,
    /// Its first voxel, along each axis.
    pub origin: [i64; 3],
    /// Voxels along each axis.
    pub size: [usize; 3],
}

impl<'a> Window<'a> {
    /// A box of `size` voxels for a patch of `patch`, drawn at random; with `forced` around a voxel of a class that the case has.
    pub fn draw(case: &'a CaseView<'a>, size: [usize; 3], patch: [usize; 3], forced: bool, rng: &mut ChaCha8Rng) -> Self {
        let bounds: [(i64, i64); 3] = std::array::from_fn(|axis| bounds(case.shape[axis], size[axis], patch[axis]));
        let origin = match locations(case, forced, rng) {
            Some(places) => {
                let voxel = places[rng.random_range(0..places.len())];
                std::array::from_fn(|axis| bounds[axis].0.max(i64::from(voxel[axis]) - size[axis] as i64 / 2))
            }
            None => bounds.map(|(least, most)| rng.random_range(least..=most)),
        };
        Self { case, origin, size }
    }

    /// The voxel's place in the case's arrays, given its indices in the box; none outside of box or volume.
    pub fn place(&self, at: [i64; 3]) -> Option<usize> {
        let mut place = 0;
        for axis in 0..3 {
            let in_case = at[axis] + self.origin[axis];
            if !(0..self.size[axis] as i64).contains(&at[axis]) || !(0..self.case.shape[axis] as i64).contains(&in_case) {
                return None;
            }
            place = place * self.case.shape[axis] + in_case as usize;
        }
        Some(place)
    }

    /// Of `count` voxels of the box's row (z, y) from x on, those inside the volume: which, and their place in the case's arrays.
    pub fn row(&self, [z, y, x]: [i64; 3], count: usize) -> Option<(std::ops::Range<usize>, usize)> {
        let width = self.case.shape[2] as i64;
        let start = x + self.origin[2];
        let (first, end) = (start.clamp(0, width), (start + count as i64).clamp(0, width));
        let place = self.place([z, y, (first - self.origin[2]).clamp(0, self.size[2] as i64 - 1)])?;
        (first < end).then(|| ((first - start) as usize..(end - start) as usize, place))
    }
}

/// The least and the largest first voxel of a box along an axis.
fn bounds(shape: usize, size: usize, patch: usize) -> (i64, i64) {
    let (shape, size, patch) = (shape as i64, size as i64, patch as i64);
    let need = (size - patch).max(size - shape);
    ((-need).div_euclid(2), shape + need.div_euclid(2) + need.rem_euclid(2) - size)
}

/// The voxels around one of which a patch is to lie, if it is not to lie anywhere. A forced one: those of a class, drawn out of the classes the case has. Another one: all that is
/// annotated, where there is an ignore label.
fn locations<'a>(case: &CaseView<'a>, forced: bool, rng: &mut ChaCha8Rng) -> Option<&'a [[u32; 3]]> {
    let some = || case.locations.iter().filter(|(_, places)| !places.is_empty());
    let annotated = || some().find(|(key, _)| key.len() > 1).map(|(_, places)| *places);
    if !forced {
        return annotated();
    }
    let classes: Vec<&'a [[u32; 3]]> = some().filter(|(key, _)| key.len() == 1).map(|(_, places)| *places).collect();
    match classes.len() {
        0 => annotated(),
        n => Some(classes[rng.random_range(0..n)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyed_rng::keyed_rng;

    #[test]
    fn boxes_are_nnu_nets() {
        assert_eq!(box_size([128; 3]), [205; 3]);
        assert_eq!(box_size([80, 192, 160]), [194, 289, 210]);
        assert_eq!(box_size([48, 192, 224]), [48, 263, 263]);
        assert!(is_flat([48, 192, 224]) && !is_flat([64, 192, 192]));
    }

    #[test]
    fn the_last_third_of_a_batch_is_forced() {
        let forced = |batch: usize| (0..batch).filter(|&at| is_forced(at, batch)).count();
        assert_eq!([1, 2, 3, 4, 9].map(forced), [0, 1, 1, 1, 3]);
        assert!(is_forced(1, 2) && !is_forced(0, 2));
    }

    #[test]
    fn unforced_boxes_reach_beyond_the_volume_by_half_of_what_rotation_needs() {
        // Large volume: the patch itself stays inside. Small volume: the box covers it whole.
        assert_eq!(bounds(300, 205, 128), (-39, 300 + 39 - 205));
        assert_eq!(bounds(100, 128, 128), (-14, -14));
        assert_eq!(bounds(101, 128, 128), (-14, -13));
        assert_eq!(bounds(128, 128, 128), (0, 0));
    }

    fn case<'a>(image: &'a [f32], label: &'a [i16], locations: Vec<(Vec<i16>, &'a [[u32; 3]])>) -> CaseView<'a> {
        CaseView {
            shape: [4, 5, 6],
            channels: 1,
            image,
            label,
            uncertainty: None,
            locations,
        }
    }

    #[test]
    fn a_forced_patch_lies_around_a_class_that_is_there_and_classes_are_equally_likely() {
        let (image, label) = (vec![0.0; 120], vec![0; 120]);
        let (rare, common) = ([[3u32, 4, 5]], [[1u32, 1, 1]; 50]);
        let case = case(&image, &label, vec![(vec![1], &rare), (vec![2], &[]), (vec![3], &common)]);
        let mut rng = keyed_rng(1, &["patches"]);
        let mut counts = [0; 2];
        for _ in 0..1000 {
            let window = Window::draw(&case, [2; 3], [2; 3], true, &mut rng);
            // Not clamped from above: the box around the last voxel reaches beyond the volume.
            assert!([[2, 3, 4], [0, 0, 0]].contains(&window.origin), "{window:?}");
            counts[usize::from(window.origin == [0; 3])] += 1;
        }
        assert!(counts.iter().all(|count| (400..600).contains(count)), "{counts:?}");
    }

    #[test]
    fn unforced_patches_are_uniform_and_an_ignore_label_restricts_them_to_what_is_annotated() {
        let (image, label) = (vec![0.0; 120], vec![0; 120]);
        let mut rng = keyed_rng(2, &["patches"]);
        let anywhere = case(&image, &label, vec![(vec![1], &[[0, 0, 0]])]);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..2000 {
            seen.insert(Window::draw(&anywhere, [3, 3, 3], [3, 3, 3], false, &mut rng).origin);
        }
        assert_eq!(seen.len(), 2 * 3 * 4);
        let annotated = case(&image, &label, vec![(vec![1], &[]), (vec![-1, 0, 1], &[[2, 2, 2]])]);
        for forced in [false, true] {
            assert_eq!(
                Window::draw(&annotated, [2; 3], [2; 3], forced, &mut rng).origin,
                [1; 3],
                "forced: {forced}"
            );
        }
    }

    #[test]
    fn rows_and_places_end_at_box_and_volume() {
        let (image, label) = (vec![0.0; 120], vec![0; 120]);
        let case = case(&image, &label, Vec::new());
        let window = Window {
            case: &case,
            origin: [-1, 2, -2],
            size: [3, 4, 10],
        };
        assert_eq!(window.place([0, 0, 5]), None, "above the volume");
        assert_eq!(window.place([1, 0, 1]), None, "before the row");
        assert_eq!(window.place([1, 0, 2]), Some(12));
        assert_eq!(window.place([3, 0, 2]), None, "beyond the box");
        assert_eq!(window.row([1, 0, 0], 10), Some((2..8, 12)));
        assert_eq!(window.row([1, 0, 4], 3), Some((0..3, 14)));
        assert_eq!(window.row([1, 3, 0], 10), None, "below the volume");
        assert_eq!(window.row([1, 0, 8], 2), None, "behind the row");
    }
}
