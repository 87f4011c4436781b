//! An orientation is how stored axes lie in the patient (axis codes such as RAS); an axis map is the exact permutation and flip through which
//! a stored volume is looked at: as slices, rows and columns.

use std::fmt;

use anyhow::Result;

use super::geometry::{Affine, Geometry};
use crate::bad_input;

/// For each stored axis (x, y, z) the patient direction it is nearest to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orientation {
    /// patient axis: 0 left-right, 1 back-front, 2 bottom-top; a permutation
    pub patient_axis: [usize; 3],
    /// whether the stored axis runs to the right, front or top
    pub positive: [bool; 3],
}

const PERMUTATIONS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

impl Orientation {
    /// The orientation of an invertible affine: the permutation whose direction cosines have the largest sum of squares (oblique volumes get
    /// the nearest axes; of equal ones the first).
    pub fn of(affine: &Affine) -> Self {
        let lengths = [0, 1, 2].map(|axis| affine.iter().map(|row| row[axis] * row[axis]).sum::<f64>());
        let score = |permutation: &[usize; 3]| {
            (0..3)
                .map(|axis| affine[permutation[axis]][axis].powi(2) / lengths[axis])
                .sum::<f64>()
        };
        let best = PERMUTATIONS
            .iter()
            .fold(&PERMUTATIONS[0], |best, p| if score(p) > score(best) + 1e-12 { p } else { best });
        Self {
            patient_axis: *best,
            positive: [0, 1, 2].map(|axis| affine[best[axis]][axis] >= 0.0),
        }
    }
}

/// The three axis codes: `RAS` means x runs to the right, y to the front (anterior), z to the top (superior).
impl fmt::Display for Orientation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (axis, positive) in self.patient_axis.into_iter().zip(self.positive) {
            let codes = [["L", "R"], ["P", "A"], ["I", "S"]][axis];
            f.write_str(codes[usize::from(positive)])?;
        }
        Ok(())
    }
}

/// A view of a stored volume as an array [slice, row, column]: which stored axis (0 = x, 1 = y, 2 = z) each of the three is, and whether it
/// is walked backwards. The default is the stored order itself: slices along z, rows along y, columns along x.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AxisMap {
    axes: [usize; 3],
    flipped: [bool; 3],
}

impl Default for AxisMap {
    fn default() -> Self {
        Self {
            axes: [2, 1, 0],
            flipped: [false; 3],
        }
    }
}

impl AxisMap {
    /// A view with these stored axes as slice, row and column axis, each walked backwards where `flipped`.
    ///
    /// # Errors
    /// `axes` that are no permutation of 0, 1, 2.
    pub fn new(axes: [usize; 3], flipped: [bool; 3]) -> Result<Self> {
        if !PERMUTATIONS.contains(&axes) {
            bad_input!("the axes {axes:?} are no permutation of 0 (x), 1 (y) and 2 (z)");
        }
        Ok(Self { axes, flipped })
    }

    /// Slices along stored axis `axis` (0 = x, 1 = y, 2 = z); rows and columns are the other two in the stored order, nothing flipped.
    ///
    /// # Errors
    /// An axis above 2.
    pub fn slice_axis(axis: usize) -> Result<Self> {
        let axes = match axis {
            0 => [0, 2, 1],
            1 => [1, 2, 0],
            2 => [2, 1, 0],
            _ => bad_input!("--slice-axis {axis}: a volume has the axes 0 (x), 1 (y) and 2 (z, the default)"),
        };
        Ok(Self { axes, flipped: [false; 3] })
    }

    /// The view of `labelled` whose slices, rows and columns run along the same patient directions as those of `query` under `query_axes`.
    /// A pure permutation and flip, so no voxel changes its value. If one of the two does not say how it lies in the patient (no sform, no
    /// qform), nothing is known to differ, and the answer is `query_axes`.
    pub fn to_match(labelled: &Geometry, query: &Geometry, query_axes: &AxisMap) -> AxisMap {
        if !(labelled.is_oriented() && query.is_oriented()) {
            return *query_axes;
        }
        let (from, to) = (labelled.orientation(), query.orientation());
        let mut matched = *query_axes;
        for view in 0..3 {
            let wanted = query_axes.axes[view];
            for axis in 0..3 {
                if from.patient_axis[axis] == to.patient_axis[wanted] {
                    matched.axes[view] = axis;
                    matched.flipped[view] = query_axes.flipped[view] != (from.positive[axis] != to.positive[wanted]);
                }
            }
        }
        matched
    }

    /// The stored axes of slice, row and column.
    pub fn axes(&self) -> [usize; 3] {
        self.axes
    }

    /// Which of slice, row and column are walked backwards.
    pub fn flipped(&self) -> [bool; 3] {
        self.flipped
    }

    /// Whether the view is the stored order itself.
    pub fn is_stored_order(&self) -> bool {
        *self == Self::default()
    }

    /// Per-axis values of a volume, stored order (x, y, z), as [slice, row, column]: sizes, spacings.
    pub fn permute<T: Copy>(&self, stored: [T; 3]) -> [T; 3] {
        self.axes.map(|axis| stored[axis])
    }

    /// The map that undoes this one: applied to the view (as a stored array: x = column, y = row, z = slice) it gives the stored order again.
    pub fn inverse(&self) -> Self {
        let mut inverse = Self::default();
        for view in 0..3 {
            let stored = self.axes[view];
            inverse.axes[2 - stored] = 2 - view;
            inverse.flipped[2 - stored] = self.flipped[view];
        }
        inverse
    }

    /// Element of a stored array of sizes `dims` (x, y, z) where the view starts, and the step to the next slice, row and column.
    pub(crate) fn walk(&self, dims: [usize; 3]) -> (usize, [isize; 3]) {
        let strides = [1, dims[0], dims[0] * dims[1]];
        let mut start = 0;
        let mut steps = [0; 3];
        for view in 0..3 {
            let stride = strides[self.axes[view]];
            steps[view] = stride as isize;
            if self.flipped[view] {
                start += stride * (dims[self.axes[view]] - 1);
                steps[view] = -steps[view];
            }
        }
        (start, steps)
    }

    /// Stored index (x, y, z) of the view's voxel [slice, row, column]; all must lie inside.
    pub fn stored_index(&self, dims: [usize; 3], view: [usize; 3]) -> [usize; 3] {
        let mut stored = [0; 3];
        for k in 0..3 {
            let axis = self.axes[k];
            stored[axis] = if self.flipped[k] { dims[axis] - 1 - view[k] } else { view[k] };
        }
        stored
    }

    /// The view [slice, row, column] of a stored array of sizes `dims` (x, y, z).
    ///
    /// # Errors
    /// An array that has not the size `dims` says.
    pub fn to_view<T: Copy>(&self, stored: &[T], dims: [usize; 3]) -> Result<Vec<T>> {
        let voxels = dims.iter().try_fold(1_usize, |n, &m| n.checked_mul(m));
        if voxels != Some(stored.len()) || stored.is_empty() {
            anyhow::bail!("{} voxels are not a volume of {dims:?}", stored.len());
        }
        let (start, [slice_step, row_step, column_step]) = self.walk(dims);
        let [slices, rows, columns] = self.permute(dims);
        let mut view = Vec::with_capacity(stored.len());
        for slice in 0..slices as isize {
            for row in 0..rows as isize {
                let mut at = start.wrapping_add_signed(slice * slice_step + row * row_step);
                for _ in 0..columns {
                    view.push(stored[at]);
                    at = at.wrapping_add_signed(column_step);
                }
            }
        }
        Ok(view)
    }

    /// The stored array, sizes `dims` (x, y, z), of a view [slice, row, column]: what is written to a file.
    ///
    /// # Errors
    /// An array that has not the size `dims` says.
    pub fn to_stored<T: Copy>(&self, view: &[T], dims: [usize; 3]) -> Result<Vec<T>> {
        let [slices, rows, columns] = self.permute(dims);
        self.inverse().to_view(view, [columns, rows, slices])
    }
}

/// For messages: `slices along z, rows along y reversed, columns along x`.
impl fmt::Display for AxisMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (view, name) in ["slices", "rows", "columns"].into_iter().enumerate() {
            let comma = if view == 0 { "" } else { ", " };
            let reversed = if self.flipped[view] { " reversed" } else { "" };
            write!(f, "{comma}{name} along {}{reversed}", ["x", "y", "z"][self.axes[view]])?;
        }
        Ok(())
    }
}
