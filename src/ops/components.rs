//! Connected components, by runs: small holes of a slice's logits are filled, and of a volume's class the largest part is kept.
//!
//! A run is a stretch of wanted pixels within a row. Runs of neighbouring rows that touch (diagonals count) are joined by union-find whose
//! root is always the earlier run, so a component is named by its first pixel in raster order. Time is linear in the pixels.

use std::ops::Range;

use super::rows;
use crate::cuda::fill_holes::FillHoles;
use crate::tensor::Tensor;
use anyhow::{Result, ensure};
use rayon::prelude::*;

/// Runs and their union-find forest; kept between calls, it allocates only to grow.
#[derive(Debug, Default, Clone)]
pub struct Runs {
    start: Vec<usize>, // position in the array of a run's first pixel
    end: Vec<usize>,   // and of the pixel behind its last
    parent: Vec<u32>,
    rows: Vec<usize>, // rows[r]..rows[r + 1] are the runs of row r
    size: Vec<usize>, // pixels of a root's component
}

impl Runs {
    fn clear(&mut self) {
        self.start.clear();
        self.end.clear();
        self.parent.clear();
        self.rows.clear();
        self.rows.push(0);
    }

    /// Appends one row that starts at position `base` of the array.
    fn push_row<T: Copy>(&mut self, base: usize, row: &[T], wanted: impl Fn(T) -> bool) {
        let mut x = 0;
        while let Some(skip) = row[x..].iter().position(|&v| wanted(v)) {
            let first = x + skip;
            x = row[first..]
                .iter()
                .position(|&v| !wanted(v))
                .map_or(row.len(), |length| first + length);
            self.parent.push(self.start.len() as u32);
            self.start.push(base + first);
            self.end.push(base + x);
        }
        self.rows.push(self.start.len());
    }

    /// Joins the runs of two rows that overlap or touch diagonally. `offset` is how far the later row lies behind the earlier one.
    fn join_rows(&mut self, earlier: usize, later: usize, offset: usize) {
        let (mut a, mut b) = (self.rows[earlier], self.rows[later]);
        let (a_end, b_end) = (self.rows[earlier + 1], self.rows[later + 1]);
        while a < a_end && b < b_end {
            // Ends are one past the last pixel: touching at a corner is start <= end.
            let (a_run, b_run) = (self.start[a] + offset..self.end[a] + offset, self.start[b]..self.end[b]);
            if a_run.start <= b_run.end && b_run.start <= a_run.end {
                self.join(a as u32, b as u32);
            }
            if a_run.end < b_run.end { a += 1 } else { b += 1 }
        }
    }

    fn root(&mut self, mut run: u32) -> u32 {
        while self.parent[run as usize] != run {
            let grandparent = self.parent[self.parent[run as usize] as usize];
            self.parent[run as usize] = grandparent;
            run = grandparent;
        }
        run
    }

    fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.root(a), self.root(b));
        let (first, second) = (a.min(b), a.max(b));
        self.parent[second as usize] = first;
    }

    /// Points every run at its root and counts the roots' pixels.
    fn settle(&mut self) {
        self.size.clear();
        self.size.resize(self.start.len(), 0);
        for run in 0..self.start.len() {
            // A parent comes before its children, so it is settled already: one step leads to the root.
            let root = self.parent[self.parent[run] as usize];
            self.parent[run] = root;
            self.size[root as usize] += self.end[run] - self.start[run];
        }
    }

    /// Each run with its component's root, after [`Runs::settle`].
    fn settled(&self) -> impl Iterator<Item = (Range<usize>, u32)> + '_ {
        self.start
            .iter()
            .zip(&self.end)
            .zip(&self.parent)
            .map(|((&start, &end), &root)| (start..end, root))
    }
}

/// Sets background components (logit <= 0, 8-connected) of at most `max_area` pixels of a `[h, w]` slice to `fill`.
/// Returns how many pixels it filled. Source: SAM 2's `fill_hole_area` (8, filled with 0.1).
///
/// # Errors
/// A slice that is not h x w, or of 2^32 pixels or more.
pub fn fill_holes_2d(logits: &mut [f32], h: usize, w: usize, max_area: usize, fill: f32, runs: &mut Runs) -> Result<usize> {
    ensure!(
        h.checked_mul(w) == Some(logits.len()),
        "hole filling: {} logits for {h} x {w} pixels",
        logits.len()
    );
    ensure!(u32::try_from(logits.len()).is_ok(), "hole filling: {h} x {w} pixels are too many");
    if max_area == 0 || logits.is_empty() {
        return Ok(0);
    }
    runs.clear();
    for (y, row) in logits.chunks_exact(w).enumerate() {
        runs.push_row(y * w, row, |logit| logit <= 0.0);
        if y > 0 {
            runs.join_rows(y - 1, y, w);
        }
    }
    runs.settle();
    let mut filled = 0;
    for (run, root) in runs.settled() {
        if runs.size[root as usize] <= max_area {
            filled += run.len();
            logits[run].fill(fill);
        }
    }
    Ok(filled)
}

/// Planes number `chosen` of `logits` [.., h, w], with holes filled as [`fill_holes_2d`] does: [chosen, h, w], f32 on every device.
///
/// # Errors
/// Those of [`fill_holes_2d`], and of a CUDA device.
pub fn holes_filled(logits: &Tensor, chosen: &[usize], max_area: usize, fill: f32) -> Result<Tensor> {
    let &[.., h, w] = logits.shape() else {
        panic!("holes_filled: {logits:?} is not [.., h, w]");
    };
    let rows = rows::gather(logits, h, chosen)?;
    let mut filled = rows.reshaped(&[chosen.len(), h, w]);
    let fill_all = |planes: &mut [f32]| {
        let planes = planes.par_chunks_exact_mut((h * w).max(1));
        planes.try_for_each_init(Runs::default, |runs, plane| {
            fill_holes_2d(plane, h, w, max_area, fill, runs).map(drop)
        })
    };
    let problem = FillHoles {
        items: chosen.len(),
        height: h,
        width: w,
        area: max_area,
        fill,
    };
    match filled.device().cuda() {
        Some(cuda) if problem.fits() => problem.launch(&cuda.runtime, filled.buffer())?,
        // Of slices beyond 1024 x 1024: by the host.
        Some(_) => {
            let mut planes = filled.to_vec()?;
            fill_all(&mut planes)?;
            filled = Tensor::from_slice_f32(logits.device(), &[chosen.len(), h, w], &planes)?;
        }
        None => fill_all(filled.values_mut())?,
    }
    Ok(filled)
}

/// What [`largest_component`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Components {
    /// Voxels of each component, in raster order of the components' first voxels.
    pub sizes: Vec<usize>,
    /// The component that was kept: the largest, the first of equals. `None` if there was no voxel.
    pub kept: Option<usize>,
}

/// Keeps the largest 26-connected component of `class` in a label map `[z, y, x]` and sets the class's other voxels to 0.
/// As `skimage.measure.label(mask, connectivity=3)` and `argmax` over the sizes: of equals the first in raster order stays.
///
/// # Errors
/// A map that does not have z x y x x voxels, or one of 2^32 runs or more.
pub fn largest_component(labels: &mut [u8], dims: [usize; 3], class: u8) -> Result<Components> {
    let runs = components(labels, dims, |label| label == class)?;
    let mut found = Components {
        sizes: Vec::new(),
        kept: None,
    };
    let mut kept_root = (u32::MAX, 0); // (root, its size)
    for run in 0..runs.start.len() {
        if runs.parent[run] as usize == run {
            if runs.size[run] > kept_root.1 {
                kept_root = (run as u32, runs.size[run]);
                found.kept = Some(found.sizes.len());
            }
            found.sizes.push(runs.size[run]);
        }
    }
    for (run, root) in runs.settled() {
        if root != kept_root.0 {
            labels[run].fill(0);
        }
    }
    Ok(found)
}

/// Keeps the largest 26-connected component of the voxels with any of these labels, and all that are as large; the others become 0. nnU-Net's
/// `remove_all_but_largest_component_from_segmentation`.
///
/// # Errors
/// As [`largest_component`].
pub fn keep_largest(labels: &mut [u8], dims: [usize; 3], of: &[u8]) -> Result<()> {
    let runs = components(labels, dims, |label| of.contains(&label))?;
    let most = runs.size.iter().copied().max().unwrap_or(0);
    for (run, root) in runs.settled() {
        if runs.size[root as usize] < most {
            labels[run].fill(0);
        }
    }
    Ok(())
}

/// The 26-connected components of the wanted voxels of a label map [z, y, x].
fn components(labels: &[u8], dims: [usize; 3], is_wanted: impl Fn(u8) -> bool) -> Result<Runs> {
    let [depth, height, width] = dims;
    let voxels = depth.checked_mul(height).and_then(|n| n.checked_mul(width));
    ensure!(
        voxels == Some(labels.len()),
        "largest component: {} labels for {depth} x {height} x {width} voxels",
        labels.len()
    );
    let mut runs = Runs::default();
    runs.clear();
    for (r, row) in labels.chunks_exact(width.max(1)).enumerate() {
        runs.push_row(r * width, row, &is_wanted);
        ensure!(
            runs.start.len() < u32::MAX as usize,
            "largest component: the voxels fall into more than 2^32 runs"
        );
        let (z, y) = (r / height, r % height);
        if y > 0 {
            runs.join_rows(r - 1, r, width);
        }
        if z > 0 {
            let above = r - height;
            for other in above - usize::from(y > 0)..=above + usize::from(y + 1 < height) {
                runs.join_rows(other, r, (r - other) * width);
            }
        }
    }
    runs.settle();
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_of_several_labels_stay_with_all_that_are_as_large() {
        // Labels 1 and 2 touch at a corner; label 3 is no part of the mask and stays.
        let before = [1, 1, 0, 0, 3, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 2, 1];
        let mut labels = before;
        keep_largest(&mut labels, [1, 3, 6], &[1, 2]).unwrap();
        assert_eq!(labels, before);
        labels[11] = 0;
        keep_largest(&mut labels, [1, 3, 6], &[1, 2]).unwrap();
        assert_eq!(labels, [1, 1, 0, 0, 3, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        keep_largest(&mut labels, [1, 3, 6], &[]).unwrap();
        assert!(labels.contains(&3) && keep_largest(&mut labels, [1, 3, 5], &[1]).is_err());
    }
    use crate::keyed_rng::keyed_rng;
    use rand_chacha::rand_core::Rng;

    /// Flood fill over all neighbours, in raster order of first voxels.
    fn oracle(wanted: &[bool], [depth, height, width]: [usize; 3]) -> Vec<Vec<usize>> {
        let near = |v: usize, n: usize| v.saturating_sub(1)..(v + 2).min(n);
        let mut seen = vec![false; wanted.len()];
        let mut components = Vec::new();
        for first in 0..wanted.len() {
            if !wanted[first] || seen[first] {
                continue;
            }
            let (mut component, mut stack) = (Vec::new(), vec![first]);
            seen[first] = true;
            while let Some(voxel) = stack.pop() {
                component.push(voxel);
                let (z, y, x) = (voxel / (height * width), voxel / width % height, voxel % width);
                for (z, y, x) in near(z, depth).flat_map(|z| near(y, height).flat_map(move |y| near(x, width).map(move |x| (z, y, x)))) {
                    let next = (z * height + y) * width + x;
                    if wanted[next] && !seen[next] {
                        seen[next] = true;
                        stack.push(next);
                    }
                }
            }
            components.push(component);
        }
        components
    }

    const SHAPES: [[usize; 3]; 9] = [
        [1, 1, 1],
        [1, 1, 17],
        [1, 19, 1],
        [23, 1, 1],
        [2, 3, 5],
        [5, 7, 11],
        [1, 31, 33],
        [13, 2, 29],
        [9, 32, 8],
    ];

    #[test]
    fn the_largest_component_is_that_of_a_flood_fill_on_random_maps_of_every_density() {
        let mut rng = keyed_rng(1, &["components"]);
        let mut several = 0;
        for dims in SHAPES {
            for density in [3, 8, 16, 24, 60] {
                let labels: Vec<u8> = (0..dims.iter().product())
                    .map(|_| {
                        if rng.next_u32() % 64 < density {
                            2
                        } else {
                            (rng.next_u32() % 2) as u8
                        }
                    })
                    .collect();
                let components = oracle(&labels.iter().map(|&l| l == 2).collect::<Vec<_>>(), dims);
                let sizes: Vec<usize> = components.iter().map(Vec::len).collect();
                let kept = (0..sizes.len()).rev().max_by_key(|&i| sizes[i]);
                let mut expected = labels.clone();
                for (_, component) in components.iter().enumerate().filter(|(i, _)| Some(*i) != kept) {
                    component.iter().for_each(|&voxel| expected[voxel] = 0);
                }
                let mut result = labels;
                let found = largest_component(&mut result, dims, 2).unwrap();
                several += usize::from(sizes.len() > 1);
                assert_eq!(found, Components { sizes, kept }, "{dims:?} at density {density}");
                assert_eq!(result, expected, "{dims:?} at density {density}");
            }
        }
        assert!(several > 20, "only {several} maps had several components");
    }

    #[test]
    fn the_first_of_equal_components_stays() {
        let mut labels = [1, 1, 0, 1, 1, 0, 1];
        assert_eq!(
            largest_component(&mut labels, [1, 1, 7], 1).unwrap(),
            Components {
                sizes: vec![2, 2, 1],
                kept: Some(0)
            }
        );
        assert_eq!(labels, [1, 1, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn voxels_that_share_only_a_corner_are_one_component() {
        let mut labels = [1, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(largest_component(&mut labels, [2, 2, 2], 1).unwrap().sizes, [2]);
        // The end of a row does not touch the start of the next.
        let mut labels = [0, 0, 1, 0, 0, 0, 1, 0, 0];
        assert_eq!(largest_component(&mut labels, [1, 3, 3], 1).unwrap().sizes, [1, 1]);
    }

    #[test]
    fn a_class_that_is_absent_has_no_components() {
        let mut labels = [3, 0, 3];
        assert_eq!(
            largest_component(&mut labels, [1, 1, 3], 1).unwrap(),
            Components { sizes: vec![], kept: None }
        );
        assert_eq!(labels, [3, 0, 3]);
        assert!(largest_component(&mut [], [0, 5, 0], 1).unwrap().sizes.is_empty());
    }

    #[test]
    fn small_holes_are_filled_as_a_flood_fill_finds_them() {
        let mut rng = keyed_rng(2, &["holes"]);
        let mut runs = Runs::default();
        let (mut filled_somewhere, mut left_somewhere) = (0, 0);
        for [_, h, w] in [[1, 1, 1], [1, 1, 37], [1, 41, 1], [1, 31, 33], [1, 64, 64], [1, 127, 129]] {
            for density in [8, 16, 24, 60] {
                let logits: Vec<f32> = (0..h * w).map(|_| if rng.next_u32() % 64 < density { -0.5 } else { 2.0 }).collect();
                let mut expected = logits.clone();
                for hole in oracle(&logits.iter().map(|&l| l <= 0.0).collect::<Vec<_>>(), [1, h, w]) {
                    if hole.len() <= 8 {
                        hole.iter().for_each(|&pixel| expected[pixel] = 0.1);
                    } else {
                        left_somewhere += hole.len();
                    }
                }
                let changed = logits.iter().zip(&expected).filter(|(a, b)| a != b).count();
                let mut result = logits;
                assert_eq!(fill_holes_2d(&mut result, h, w, 8, 0.1, &mut runs).unwrap(), changed);
                assert_eq!(result, expected, "{h} x {w} at density {density}");
                filled_somewhere += changed;
            }
        }
        assert!(filled_somewhere > 100 && left_somewhere > 100);
    }

    #[test]
    fn a_logit_of_zero_is_background_and_area_zero_fills_nothing() {
        let mut runs = Runs::default();
        let mut logits = [1.0, 0.0, 1.0, f32::NAN];
        assert_eq!(fill_holes_2d(&mut logits, 1, 4, 0, 0.1, &mut runs).unwrap(), 0);
        assert_eq!(fill_holes_2d(&mut logits, 1, 4, 1, 0.1, &mut runs).unwrap(), 1);
        assert_eq!(logits[..3], [1.0, 0.1, 1.0]);
    }

    #[test]
    fn sizes_that_do_not_fit_the_data_are_refused() {
        assert!(fill_holes_2d(&mut [0.0; 5], 2, 3, 8, 0.1, &mut Runs::default()).is_err());
        assert!(largest_component(&mut [0; 5], [1, 2, 3], 1).is_err());
        assert!(largest_component(&mut [0; 5], [usize::MAX, usize::MAX, 3], 1).is_err());
    }
}
