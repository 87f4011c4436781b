//! Geometry: which of sform, qform and pixdim is believed, and how two volumes are compared.

use hpc_seg::volume::{AffineSource, Datatype, Geometry, Header, Volume};

use super::made::Made;

fn geometry(made: &Made) -> Geometry {
    let folder = tempfile::tempdir().unwrap();
    Volume::open(&made.save(folder.path(), "a.nii")).unwrap().geometry().clone()
}

#[test]
fn the_sform_is_believed_before_the_qform_and_that_before_the_spacing() {
    for version in [1, 2] {
        let all = Made {
            qform: Some([0.0, 0.0, 1.0, 10.0, 20.0, 30.0]),
            ..Made::new(version, true, Datatype::U8)
        };
        let sform = geometry(&all);
        assert_eq!(sform.source, AffineSource::Sform);
        assert_eq!(
            sform.affine,
            [[-0.75, 0.0625, 0.0, 90.5], [0.0, -0.8125, 0.125, 126.25], [0.0, 0.0, 3.0, -72.0]]
        );
        assert_eq!(
            (sform.orientation().to_string(), sform.spacing),
            ("LPS".to_string(), [0.75, 0.8125, 3.0])
        );
        let qform = geometry(&Made {
            sform: None,
            ..all.clone()
        });
        assert_eq!(qform.source, AffineSource::Qform); // half a turn about z
        assert_eq!(
            qform.affine,
            [[-0.75, 0.0, 0.0, 10.0], [0.0, -0.8125, 0.0, 20.0], [0.0, 0.0, 3.0, 30.0]]
        );
        let mirrored = geometry(&Made {
            sform: None,
            pixdim: [-1.0, 0.75, 0.8125, 3.0, 0.0, 0.0, 0.0, 0.0],
            ..all.clone()
        });
        assert_eq!(mirrored.orientation().to_string(), "LPI");
        let singular = geometry(&Made {
            sform: Some([0.0; 12]),
            ..all.clone()
        });
        assert_eq!(singular.source, AffineSource::Qform);
        let neither = geometry(&Made {
            sform: None,
            qform: None,
            ..all
        });
        assert_eq!((neither.source, neither.is_oriented()), (AffineSource::Spacing, false));
        assert_eq!(neither.affine[2], [0.0, 0.0, 3.0, 0.0]);
    }
}

#[test]
fn spacing_is_in_mm_whatever_the_unit_and_comes_from_the_sform_when_pixdim_is_broken() {
    let micrometres = Made {
        units: 3 + 8,
        pixdim: [1.0, 750.0, 812.5, 3000.0, 1.0, 0.0, 0.0, 0.0],
        sform: None,
        ..Made::new(1, false, Datatype::U8)
    };
    assert_eq!(geometry(&micrometres).spacing, [0.75, 0.8125, 3.0]);
    assert!((geometry(&micrometres).voxel_ml() - 0.75 * 0.8125 * 3.0 / 1000.0).abs() < 1e-15);
    for broken in [0.0, f64::NAN, f64::INFINITY] {
        let mut made = Made::new(1, false, Datatype::U8);
        made.pixdim[1] = broken;
        assert_eq!(geometry(&made).spacing, [0.75, 0.8125, 3.0], "pixdim[1] = {broken}");
    }
    let unset = Made {
        sform: None,
        pixdim: [0.0; 8],
        ..Made::new(1, false, Datatype::U8)
    };
    assert_eq!(geometry(&unset).spacing, [1.0; 3]);
}

#[test]
fn a_difference_is_said_in_voxels_or_in_mm_at_the_far_corner_and_rounding_is_none() {
    let made = Made::new(2, false, Datatype::U8);
    let here = geometry(&made);
    assert_eq!(here.difference(&here), None);
    let mut rounded = here.clone();
    rounded.affine[0][3] += 1e-3;
    assert_eq!(here.difference(&rounded), None);
    let mut stretched = here.clone();
    stretched.affine[2][2] = 3.5; // 0.5 mm more per slice, four steps
    assert_eq!(here.difference(&stretched).unwrap(), "positions 2.00 mm apart at the far corner");
    let mut mirrored = here.clone();
    mirrored.affine[0][0] = 0.75; // two steps of 0.75 mm to the other side
    assert_eq!(
        here.difference(&mirrored).unwrap(),
        "positions 3.00 mm apart at the far corner (orientation LPS against RPS)"
    );
    let other = geometry(&Made {
        dim: vec![5, 4, 3],
        ..made.clone()
    });
    assert_eq!(here.difference(&other).unwrap(), "3 x 4 x 5 voxels against 5 x 4 x 3");
    let silent = geometry(&Made { sform: None, ..made });
    assert_eq!(
        here.difference(&silent),
        None,
        "a file that says nothing of its place contradicts nothing"
    );
}

#[test]
fn a_pixdim_that_contradicts_the_affine_is_told_and_is_a_difference() {
    let made = Made::new(1, false, Datatype::U8);
    let right = geometry(&made);
    assert_eq!(right.contradiction(), None);
    let with_step = |step: f32| {
        let mut wrong = made.clone();
        wrong.pixdim[3] = step.into();
        geometry(&wrong)
    };
    assert_eq!(with_step(3.02).contradiction(), None);
    let wrong = with_step(1.0);
    let told = wrong.contradiction().unwrap();
    assert!(
        told.contains("0.7500 x 0.8125 x 1.0000 mm (pixdim") && told.contains("x 3.0026 mm apart"),
        "{told}"
    );
    let difference = right.difference(&wrong).unwrap();
    assert!(
        difference.starts_with("the same positions, but spacing (pixdim) 0.7500 x 0.8125 x 3.0000 mm against"),
        "{difference}"
    );
    assert_eq!(right.difference(&with_step(3.001)), None, "rounded otherwise");
}

#[test]
fn a_new_header_carries_its_affine_in_both_forms() {
    let (s, c) = 0.3_f64.sin_cos();
    let affine = [[0.7 * c, -0.8 * s, 0.0, -5.0], [0.7 * s, 0.8 * c, 0.0, 6.0], [0.0, 0.0, -2.5, 7.0]];
    for dims in [[4, 3, 2], [40_000, 1, 2]] {
        let header = Header::new(dims, &affine).unwrap();
        let by_sform = header.geometry().clone();
        let mut bytes = header.bytes().to_vec();
        let sform_code_at = if dims[0] > 32_767 { 348 } else { 254 };
        assert_eq!(bytes[sform_code_at], 1);
        bytes[sform_code_at] = 0;
        let by_qform = Header::parse(&bytes, "a".as_ref()).unwrap().geometry().clone();
        assert_eq!((by_sform.source, by_qform.source), (AffineSource::Sform, AffineSource::Qform));
        for geometry in [by_sform, by_qform] {
            for (row, expected) in geometry.affine.iter().zip(affine) {
                for (v, e) in row.iter().zip(expected) {
                    assert!((v - e).abs() < 1e-5, "{:?} is not {affine:?}", geometry.affine);
                }
            }
            assert_eq!(geometry.dims, dims);
        }
    }
    let error = Header::new([1, 1, 1], &[[0.0; 4]; 3]).unwrap_err().to_string();
    assert!(error.contains("must be finite and invertible"), "{error}");
}
