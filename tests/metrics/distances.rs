//! Distances are exact, and every preset's numbers are its tool's.

use crate::support::golden::shared;
use crate::support::ops::noise;
use hpc_seg::metrics::distance::{border, borders, largest_between_masks, squared};
use hpc_seg::metrics::preset::Preset;
use hpc_seg::metrics::scores::Pair;
use hpc_seg::volume::{AxisMap, Volume};
use serde_json::Value;
use std::fs;

/// Every index below `size`, in order.
fn indices(size: [usize; 3]) -> Vec<[usize; 3]> {
    (0..size.iter().product())
        .map(|i| [i / (size[1] * size[2]), i / size[2] % size[1], i % size[2]])
        .collect()
}

#[test]
fn distances_equal_plain_loops_for_any_threads() {
    for (shape, spacing, share) in [
        ([1, 1, 1], [1.0, 1.0, 1.0], 0.5),
        ([1, 1, 17], [2.0, 3.0, 0.7], 0.2),
        ([7, 1, 5], [0.9, 1.0, 1.1], 0.1),
        ([5, 6, 7], [6.0, 2.3, 2.3], 0.05),
        ([9, 8, 11], [0.5, 4.0, 1.3], 0.02),
    ] {
        let values = noise(shape.iter().product(), 3);
        let sites: Vec<bool> = values.iter().map(|v| f64::from(v.abs()) < share).collect();
        let places = indices(shape);
        let want: Vec<f64> = places
            .iter()
            .map(|a| {
                let to = places.iter().zip(&sites).filter(|(_, site)| **site);
                let distance = |b: &[usize; 3]| {
                    (0..3)
                        .map(|axis| ((a[axis] as f64 - b[axis] as f64) * spacing[axis]).powi(2))
                        .sum::<f64>()
                };
                to.map(|(b, _)| distance(b)).fold(f64::INFINITY, f64::min)
            })
            .collect();
        for threads in [1, 4] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let got = pool.install(|| squared(&sites, shape, spacing));
            let near = |(a, b): (&f64, &f64)| a == b || (a - b).abs() <= 1e-12 * b;
            assert!(got.iter().zip(&want).all(near), "{shape:?}");
        }
    }
}

#[test]
fn a_border_voxel_has_a_neighbour_outside() {
    let shape = [3, 4, 5];
    let inner = |[z, y, x]: &[usize; 3]| *z == 1 && (1..3).contains(y) && (1..4).contains(x);
    assert!(
        border(&[true; 60], shape)
            .iter()
            .zip(indices(shape))
            .all(|(is, at)| *is != inner(&at))
    );
    let mut mask = [true; 60];
    mask[(4 + 1) * 5 + 2] = false; // (1, 1, 2)
    let got = border(&mask, shape);
    let at = |z: usize, y: usize, x: usize| got[(z * 4 + y) * 5 + x];
    assert!(at(1, 2, 2) && at(1, 1, 1) && !at(1, 1, 2) && !at(1, 2, 1));
}

#[test]
fn empty_masks_have_no_distance_and_one_inside_the_other_has_one_by_its_border_only() {
    let (shape, spacing) = ([5, 5, 5], [1.0, 2.0, 3.0]);
    let large = vec![true; 125];
    let mut small = vec![false; 125];
    small[62] = true;
    assert_eq!(borders(&[false; 125], &large, shape, spacing), None);
    assert_eq!(largest_between_masks(&large, &[false; 125], shape, spacing), None);
    let of = borders(&small, &large, shape, spacing).unwrap();
    // From the middle to the nearest border along the first axis; from a corner to the middle.
    let corner = (4.0f64 + 16.0 + 36.0).sqrt();
    assert_eq!(of.of_prediction, [2.0]);
    assert_eq!(of.of_reference.iter().copied().fold(0.0, f64::max), corner);
    assert_eq!(largest_between_masks(&small, &large, shape, spacing), Some(corner));
    assert_eq!(largest_between_masks(&small, &small, shape, spacing), Some(0.0));
}

#[test]
fn presets_give_the_values_of_their_tools() {
    let Some(shared) = shared("other tools' metrics") else { return };
    let folder = shared.join("goldens/metrics");
    let expected: Value = serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let axes = AxisMap::default();
    for (case, expected) in expected.as_object().unwrap() {
        let open = |name: &str| Volume::open(&folder.join(format!("{name}_{case}.nii.gz"))).unwrap();
        let (prediction, reference) = (open("prediction"), open("reference"));
        let (p, r) = (prediction.labels(&axes).unwrap(), reference.labels(&axes).unwrap());
        // The header's spacing is single precision; the tools were given these.
        let [x, y, z]: [f64; 3] = serde_json::from_value(expected["spacing_xyz"].clone()).unwrap();
        let pair = Pair {
            prediction: &p,
            reference: &r,
            shape: axes.permute(reference.dims()),
            spacing: [z, y, x],
            ignore: None,
        };
        let near = |key: &str, got: Option<f64>| {
            let want = expected[key].as_f64().unwrap();
            assert!(
                got.is_some_and(|got| (got - want).abs() <= 1e-6 * want),
                "case {case}, {key}: {got:?}, wanted {want}"
            );
        };
        let scores = |preset| pair.scores(1, preset, 2.0);
        let medpy = scores(Preset::Medpy);
        near("dice", medpy.dice);
        near("iou", medpy.iou);
        near("volume_reference_ml", Some(medpy.reference_ml));
        near("volume_prediction_ml", Some(medpy.prediction_ml));
        near("medpy_hd", medpy.hd);
        near("medpy_hd95", medpy.hd95);
        near("medpy_assd", medpy.assd);
        let monai = scores(Preset::Monai);
        near("monai_hd", monai.hd);
        near("monai_hd95", monai.hd95);
        near("simpleitk_hd", scores(Preset::Simpleitk).hd);
        near("medpy_hd", scores(Preset::Care).hd);
        assert_eq!(scores(Preset::Nnunet).hd, None);
    }
}
