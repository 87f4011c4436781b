//! A geometry says where a volume's voxels lie in the patient: sizes, spacing in mm, and the affine from voxel indices to mm
//! (R, A, S: x grows to the right, y to the front, z upwards).

use anyhow::Result;

use super::layout::{self, Layout};
use super::orientation::{AxisMap, Orientation};
use crate::bad_input;

/// Rows x, y, z of the map from voxel indices (i, j, k, 1) to mm.
pub type Affine = [[f64; 4]; 3];

/// Where an affine came from, best first (nifti1.h, methods 3, 2, 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AffineSource {
    /// the header's sform
    Sform,
    /// the header's qform
    Qform,
    /// only the spacing is known: the orientation is not
    Spacing,
}

/// Sizes, spacing and place of a volume.
#[derive(Clone, Debug, PartialEq)]
pub struct Geometry {
    /// sizes (x, y, z) as stored, x fastest
    pub dims: [usize; 3],
    /// distance of neighbouring voxels along x, y, z in mm, positive
    pub spacing: [f64; 3],
    /// voxel indices to mm, invertible
    pub affine: Affine,
    /// which of the header's fields the affine is
    pub source: AffineSource,
}

impl Geometry {
    /// Whether rows and columns of slices along `axes` must be turned to be seen as radiologists are used to: front or top up, the patient's right on the left.
    pub fn upright(&self, axes: &AxisMap) -> [bool; 2] {
        if !self.is_oriented() {
            return [false; 2];
        }
        let [_, rows, columns] = axes.permute(self.orientation().positive);
        [rows, columns]
    }

    /// The volume of one voxel in millilitres.
    pub fn voxel_ml(&self) -> f64 {
        self.spacing.iter().product::<f64>() / 1000.0
    }

    /// Whether the file says how its axes lie in the patient; without sform and qform it does not.
    pub fn is_oriented(&self) -> bool {
        self.source != AffineSource::Spacing
    }

    /// The patient direction each stored axis is nearest to.
    pub fn orientation(&self) -> Orientation {
        Orientation::of(&self.affine)
    }

    /// What is wrong, in words, where pixdim and the affine tell of voxels whose sizes are more than a hundredth apart: distances and volumes then differ from program to program.
    pub fn contradiction(&self) -> Option<String> {
        let steps = [0, 1, 2].map(|axis| column_length(&self.affine, axis));
        let is_apart = |axis: usize| are_apart(self.spacing[axis], steps[axis]);
        let shown = |[x, y, z]: [f64; 3]| format!("{x:.4} x {y:.4} x {z:.4} mm");
        (0..3).any(is_apart).then(|| {
            format!(
                "its header gives voxels of {} (pixdim, by which distances and volumes are measured here), but its affine places them {} apart; mend the one that is wrong",
                shown(self.spacing),
                shown(steps)
            )
        })
    }

    /// Position in mm of the voxel with these indices.
    pub fn position(&self, index: [f64; 3]) -> [f64; 3] {
        self.affine
            .map(|row| row[0] * index[0] + row[1] * index[1] + row[2] * index[2] + row[3])
    }

    /// How far apart in mm the two volumes place the same corner voxel, at the corner where that is most: the largest distance anywhere,
    /// because it is convex in the indices. Corners are those of `self`.
    pub fn corner_distance_mm(&self, other: &Geometry) -> f64 {
        let far = self.dims.map(|n| (n - 1) as f64);
        (0..8)
            .map(|corner| {
                let index = [0, 1, 2].map(|axis| if corner >> axis & 1 == 1 { far[axis] } else { 0.0 });
                let (a, b) = (self.position(index), other.position(index));
                (0..3).map(|i| (a[i] - b[i]).powi(2)).sum::<f64>().sqrt()
            })
            .fold(0.0, f64::max)
    }

    /// The distance up to which two affines count as equal: a hundredth of the smallest spacing. Tools disagree at 1e-7 relative (rounding to
    /// single precision), far below it; a shift that could be seen lies far above.
    pub fn tolerance_mm(&self) -> f64 {
        0.01 * self.spacing.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// How far, in mm, the rounding of a quaternion may turn the far corner.
    fn turn_mm(&self) -> f64 {
        let side = |axis: usize| self.spacing[axis] * (self.dims[axis] - 1) as f64;
        self.rounding_angle() * (0..3).map(|axis| side(axis).powi(2)).sum::<f64>().sqrt()
    }

    /// How far, in radians, a rotation may be from the one that was meant, because b, c and d of its quaternion are stored in single precision: what is left of 1 for a² has
    /// an error of 1.2e-7, so that near half turns (a = 0) the angle, 2 acos(a), is known to 7e-4 only.
    fn rounding_angle(&self) -> f64 {
        const OF_SQUARE: f64 = 1.2e-7;
        if self.source != AffineSource::Qform {
            return 0.0;
        }
        let lengths = [0, 1, 2].map(|axis| column_length(&self.affine, axis));
        let handed = determinant(&self.affine).signum();
        let trace = self.affine[0][0] / lengths[0] + self.affine[1][1] / lengths[1] + handed * self.affine[2][2] / lengths[2];
        let square = ((1.0 + trace) / 4.0).max(0.0);
        2.0 * ((square + OF_SQUARE).sqrt() - (square - OF_SQUARE).max(0.0).sqrt())
    }

    /// What distinguishes the grids of `self` and `other`, in words with numbers; `None` if they are equal (same sizes, corners within
    /// [`Geometry::tolerance_mm`], and what the rounding of a quaternion turns). Where one of the files does not say how it is oriented, spacings alone are compared; where both do, spacings that are a hundredth apart are a difference too.
    pub fn difference(&self, other: &Geometry) -> Option<String> {
        if self.dims != other.dims {
            let [a, b] = [self, other].map(|g| format!("{} x {} x {}", g.dims[0], g.dims[1], g.dims[2]));
            return Some(format!("{a} voxels against {b}"));
        }
        if self.is_oriented() && other.is_oriented() {
            let apart = self.corner_distance_mm(other);
            if apart > self.tolerance_mm() + self.turn_mm().max(other.turn_mm()) {
                let (a, b) = (self.orientation(), other.orientation());
                let axes = if a == b {
                    String::new()
                } else {
                    format!(" (orientation {a} against {b})")
                };
                return Some(format!("positions {apart:.2} mm apart at the far corner{axes}"));
            }
        }
        let [a, b] = [self, other].map(|g| format!("{:.4} x {:.4} x {:.4} mm", g.spacing[0], g.spacing[1], g.spacing[2]));
        if self.is_oriented() && other.is_oriented() {
            // Where affines agree pixdim still counts: it is what is measured by.
            let is_other = (0..3).any(|axis| are_apart(self.spacing[axis], other.spacing[axis]));
            return is_other.then(|| format!("the same positions, but spacing (pixdim) {a} against {b}; mend the header that is wrong"));
        }
        let apart = (0..3)
            .map(|i| (self.spacing[i] - other.spacing[i]).abs() * (self.dims[i] - 1) as f64)
            .fold(0.0, f64::max);
        (apart > self.tolerance_mm()).then(|| format!("spacing {a} against {b}, {apart:.2} mm apart at the far corner"))
    }
}

/// Whether two sizes of a voxel are more than a hundredth apart.
fn are_apart(a: f64, b: f64) -> bool {
    (a - b).abs() > 0.01 * a.min(b)
}

/// Reads spacing and affine, in mm whatever the header's unit. sform if its code is positive and it is invertible, else qform likewise,
/// else the spacing alone.
pub(crate) fn from_header(bytes: &[u8], layout: &Layout, dims: [usize; 3], path: &str) -> Result<Geometry> {
    let mm = match layout::int(bytes, layout.xyzt_units, 0) & 7 {
        1 => 1000.0, // metres
        3 => 0.001,  // micrometres
        _ => 1.0,
    };
    let sform_code = layout::int(bytes, layout.sform_code, 0);
    let sform = [0, 4, 8].map(|row| [0, 1, 2, 3].map(|column| mm * layout::float(bytes, layout.srow, row + column)));
    let sform = (sform_code > 0 && is_invertible(&sform)).then_some(sform);
    let mut spacing = [0.0; 3];
    for axis in 0..3 {
        let step = layout::float(bytes, layout.pixdim, axis + 1).abs() * mm;
        spacing[axis] = match sform {
            _ if step.is_finite() && step > 0.0 => step,
            Some(affine) => column_length(&affine, axis),
            None if step == 0.0 => mm, // as nifti1_io does: a spacing that was never set is 1
            None => bad_input!(
                "{path}: the spacing of axis {} is {step} (pixdim) and there is no sform to take it from; set pixdim and export the file again",
                axis + 1
            ),
        };
    }
    let qform = (layout::int(bytes, layout.qform_code, 0) > 0).then(|| {
        let number = |i| layout::float(bytes, layout.quatern, i);
        let offsets = [3, 4, 5].map(|i| mm * number(i));
        let handed = if layout::float(bytes, layout.pixdim, 0) < 0.0 { -1.0 } else { 1.0 };
        quaternion_affine(
            [number(0), number(1), number(2)],
            offsets,
            [spacing[0], spacing[1], handed * spacing[2]],
        )
    });
    let (affine, source) = match (sform, qform.filter(is_invertible)) {
        (Some(affine), _) => (affine, AffineSource::Sform),
        (None, Some(affine)) => (affine, AffineSource::Qform),
        (None, None) => {
            let [x, y, z] = spacing;
            ([[x, 0.0, 0.0, 0.0], [0.0, y, 0.0, 0.0], [0.0, 0.0, z, 0.0]], AffineSource::Spacing)
        }
    };
    if !is_invertible(&affine) {
        bad_input!("{path}: the spacing {spacing:?} mm (pixdim) is no spacing of a real volume; set pixdim and export the file again");
    }
    Ok(Geometry {
        dims,
        spacing,
        affine,
        source,
    })
}

/// Sets spacing, sform and, if the affine is a rotation with spacings, qform.
pub(crate) fn into_header(bytes: &mut [u8], layout: &Layout, affine: &Affine) -> Result<()> {
    if !is_invertible(affine) {
        bad_input!("an affine must be finite and invertible, this one is not: {affine:?}");
    }
    let spacing = [0, 1, 2].map(|axis| column_length(affine, axis));
    let handed = if determinant(affine) < 0.0 { -1.0 } else { 1.0 };
    layout::set_float(bytes, layout.pixdim, 0, handed);
    for axis in 0..3 {
        layout::set_float(bytes, layout.pixdim, axis + 1, spacing[axis]);
        for column in 0..4 {
            layout::set_float(bytes, layout.srow, 4 * axis + column, affine[axis][column]);
        }
    }
    layout::set_int(bytes, layout.sform_code, 0, 1);
    let rotation = affine.map(|row| [row[0] / spacing[0], row[1] / spacing[1], handed * row[2] / spacing[2]]);
    if let Some(quaternion) = rotation_quaternion(&rotation) {
        for i in 0..3 {
            layout::set_float(bytes, layout.quatern, i, quaternion[i]);
            layout::set_float(bytes, layout.quatern, 3 + i, affine[i][3]);
        }
        layout::set_int(bytes, layout.qform_code, 0, 1);
    }
    Ok(())
}

/// nifti1.h, method 2: rotation by the unit quaternion (a, b, c, d), a >= 0 implied, times the spacings (the third negative if the axes
/// are left-handed), plus the offset.
fn quaternion_affine([b, c, d]: [f64; 3], offset: [f64; 3], step: [f64; 3]) -> Affine {
    let square = b * b + c * c + d * d;
    // As nifti1_io has it: what is nearer to 1 than single precision tells is a half turn, by 180 degrees.
    let (a, b, c, d) = if 1.0 - square >= 1e-7 {
        ((1.0 - square).sqrt(), b, c, d)
    } else {
        let norm = square.sqrt();
        (0.0, b / norm, c / norm, d / norm)
    };
    let rotation = [
        [a * a + b * b - c * c - d * d, 2.0 * (b * c - a * d), 2.0 * (b * d + a * c)],
        [2.0 * (b * c + a * d), a * a + c * c - b * b - d * d, 2.0 * (c * d - a * b)],
        [2.0 * (b * d - a * c), 2.0 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ];
    [0, 1, 2].map(|i| {
        [
            rotation[i][0] * step[0],
            rotation[i][1] * step[1],
            rotation[i][2] * step[2],
            offset[i],
        ]
    })
}

/// (b, c, d) of a proper rotation, a >= 0; `None` if the columns are not orthonormal to 1e-5. The largest of the four squares is divided by,
/// so that no digits are lost near 180 degrees.
fn rotation_quaternion(r: &[[f64; 3]; 3]) -> Option<[f64; 3]> {
    for i in 0..3 {
        for j in i..3 {
            let dot = (0..3).map(|row| r[row][i] * r[row][j]).sum::<f64>();
            if (dot - f64::from(u8::from(i == j))).abs() > 1e-5 {
                return None;
            }
        }
    }
    let squares = [
        1.0 + r[0][0] + r[1][1] + r[2][2],
        1.0 + r[0][0] - r[1][1] - r[2][2],
        1.0 - r[0][0] + r[1][1] - r[2][2],
        1.0 - r[0][0] - r[1][1] + r[2][2],
    ];
    let largest = (0..4).fold(0, |best, i| if squares[i] > squares[best] { i } else { best });
    let twice = squares[largest].sqrt();
    let (sum, difference) = (|i: usize, j: usize| r[i][j] + r[j][i], |i: usize, j: usize| r[i][j] - r[j][i]);
    let products = match largest {
        0 => [squares[0], difference(2, 1), difference(0, 2), difference(1, 0)],
        1 => [difference(2, 1), squares[1], sum(0, 1), sum(0, 2)],
        2 => [difference(0, 2), sum(0, 1), squares[2], sum(1, 2)],
        _ => [difference(1, 0), sum(0, 2), sum(1, 2), squares[3]],
    };
    let sign = if products[0] < 0.0 { -1.0 } else { 1.0 };
    Some([1, 2, 3].map(|i| sign * products[i] / (2.0 * twice)))
}

fn column_length(affine: &Affine, axis: usize) -> f64 {
    affine.iter().map(|row| row[axis] * row[axis]).sum::<f64>().sqrt()
}

fn determinant(a: &Affine) -> f64 {
    a[0][0] * (a[1][1] * a[2][2] - a[1][2] * a[2][1]) - a[0][1] * (a[1][0] * a[2][2] - a[1][2] * a[2][0])
        + a[0][2] * (a[1][0] * a[2][1] - a[1][1] * a[2][0])
}

/// Finite, and no column within 1e-6 (relative) of the plane of the others.
fn is_invertible(affine: &Affine) -> bool {
    let lengths = [0, 1, 2].map(|axis| column_length(affine, axis));
    let scale = lengths.iter().product::<f64>();
    affine.iter().flatten().all(|v| v.is_finite()) && scale.is_normal() && (determinant(affine) / scale).abs() > 1e-6
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rotation about a unit axis (Rodrigues), independent of quaternions.
    fn rotation(axis: [f64; 3], angle: f64) -> [[f64; 3]; 3] {
        let norm = axis.iter().map(|v| v * v).sum::<f64>().sqrt();
        let [x, y, z] = axis.map(|v| v / norm);
        let (s, c) = angle.sin_cos();
        let t = 1.0 - c;
        [
            [c + x * x * t, x * y * t - z * s, x * z * t + y * s],
            [y * x * t + z * s, c + y * y * t, y * z * t - x * s],
            [z * x * t - y * s, z * y * t + x * s, c + z * z * t],
        ]
    }

    #[test]
    fn a_rotation_survives_its_quaternion_even_near_half_turns() {
        for axis in [
            [1.0, 0.0, 0.0],
            [0.0, 1.0, 0.0],
            [0.0, 0.0, 1.0],
            [1.0, -2.0, 0.5],
            [-1.0, -1.0, -1.0],
        ] {
            for angle in [
                0.0,
                1e-9,
                0.3,
                1.5,
                3.0,
                std::f64::consts::PI - 1e-6,
                std::f64::consts::PI,
                -2.0,
                4.0,
            ] {
                let r = rotation(axis, angle);
                let quaternion = rotation_quaternion(&r).unwrap();
                let back = quaternion_affine(quaternion, [0.0; 3], [1.0; 3]);
                // What single precision cannot tell from a half turn is one.
                let from_half = (angle - std::f64::consts::PI).abs();
                let allowed = if from_half < 3e-4 { 1e-7 + from_half } else { 1e-7 };
                for i in 0..3 {
                    for j in 0..3 {
                        assert!(
                            (back[i][j] - r[i][j]).abs() < allowed,
                            "axis {axis:?} angle {angle}: [{i}][{j}] {} is not {}",
                            back[i][j],
                            r[i][j]
                        );
                    }
                }
            }
        }
    }

    /// The geometries of a file's sform and of its qform, numbers rounded as they are stored.
    fn stored(rotation: &[[f64; 3]; 3], spacing: [f64; 3], dims: [usize; 3]) -> [Geometry; 2] {
        let round = |value: f64| f64::from(value as f32);
        let sform = rotation.map(|row| {
            [
                round(row[0] * spacing[0]),
                round(row[1] * spacing[1]),
                round(row[2] * spacing[2]),
                0.0,
            ]
        });
        let handed = determinant(&sform).signum();
        let proper = rotation.map(|row| [row[0], row[1], handed * row[2]]);
        let qform = quaternion_affine(
            rotation_quaternion(&proper).unwrap().map(round),
            [0.0; 3],
            [spacing[0], spacing[1], handed * spacing[2]],
        );
        [(sform, AffineSource::Sform), (qform, AffineSource::Qform)].map(|(affine, source)| Geometry {
            dims,
            spacing,
            affine,
            source,
        })
    }

    #[test]
    fn axes_in_any_order_and_direction_are_exact_in_a_qform() {
        for [x, y, z] in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            for signs in 0..8 {
                let sign = |bit: usize| if signs >> bit & 1 == 1 { -1.0 } else { 1.0 };
                let mut rotation = [[0.0; 3]; 3];
                (rotation[x][0], rotation[y][1], rotation[z][2]) = (sign(0), sign(1), sign(2));
                let [sform, qform] = stored(&rotation, [1.0; 3], [256, 256, 180]);
                assert!(sform.corner_distance_mm(&qform) < 1e-4, "{rotation:?} {:?}", qform.affine);
                assert_eq!(qform.difference(&sform), None);
            }
        }
    }

    #[test]
    fn a_qform_differs_from_an_sform_by_more_than_its_rounding_only() {
        let turned = |tilt: f64| {
            let [about_x, about_y] = [rotation([1.0, 0.0, 0.0], tilt), rotation([0.0, 1.0, 0.0], 0.7 * tilt)];
            let both = [0, 1, 2].map(|i| [0, 1, 2].map(|j| (0..3).map(|k| about_x[i][k] * about_y[k][j]).sum::<f64>()));
            both.map(|row| [-row[0], -row[1], row[2]]) // a half turn, as scanners store axial slices
        };
        for step in 0..40 {
            let tilt = 1e-4 * 1.2_f64.powi(step);
            let [sform, qform] = stored(&turned(tilt), [0.7, 0.7, 3.0], [512, 512, 60]);
            assert_eq!(sform.difference(&qform), None, "tilt {tilt}");
            assert_eq!(qform.difference(&sform), None, "tilt {tilt}");
            // A tenth of a degree more is another grid.
            let [_, other] = stored(&turned(tilt + 0.002), [0.7, 0.7, 3.0], [512, 512, 60]);
            assert!(
                sform.difference(&other).is_some() && other.difference(&qform).is_some(),
                "tilt {tilt}"
            );
        }
    }

    #[test]
    fn a_sheared_matrix_has_no_quaternion() {
        assert_eq!(rotation_quaternion(&[[1.0, 0.1, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), None);
    }

    #[test]
    fn a_flat_affine_is_not_invertible() {
        assert!(!is_invertible(&[[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]));
        assert!(!is_invertible(&[
            [1.0, 0.0, 0.0, f64::NAN],
            [0.0, 1.0, 0.0, 0.0],
            [0.0, 0.0, 1.0, 0.0]
        ]));
        assert!(is_invertible(&[
            [1e-3, 0.0, 0.0, 0.0],
            [0.0, 1e-3, 0.0, 0.0],
            [0.0, 0.0, 1e-3, 0.0]
        ]));
    }
}
