//! Reorientation is a permutation with flips: exact, and undone by its inverse.

use hpc_seg::volume::{AxisMap, Header, Volume, Voxels};

const DIMS: [usize; 3] = [4, 3, 2];

fn all_maps() -> Vec<AxisMap> {
    let permutations = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let flips = (0..8).map(|bits| [bits & 1 == 1, bits & 2 == 2, bits & 4 == 4]);
    flips
        .flat_map(|flipped| permutations.map(|axes| AxisMap::new(axes, flipped).unwrap()))
        .collect()
}

/// A volume with `dims` whose affine sends stored axis a to patient axis `to[a]`, backwards where `back[a]`, 1, 2 and 3 mm apart in the patient.
fn oriented(dims: [usize; 3], to: [usize; 3], back: [bool; 3], voxels: &[u16]) -> Volume {
    let mut affine = [[0.0; 4]; 3];
    for axis in 0..3 {
        let step = (to[axis] + 1) as f64;
        affine[to[axis]][axis] = if back[axis] { -step } else { step };
        affine[to[axis]][3] = if back[axis] { step * (dims[axis] - 1) as f64 } else { 0.0 };
    }
    Volume::in_memory("made", &Header::new(dims, &affine).unwrap(), Voxels::U16(voxels)).unwrap()
}

#[test]
fn all_48_maps_are_exact_and_undone_by_their_inverse() {
    let voxels: Vec<u16> = (0..24).collect();
    let volume = oriented(DIMS, [0, 1, 2], [false; 3], &voxels);
    let mut seen = std::collections::HashSet::new();
    for map in all_maps() {
        let view = map.to_view(&voxels, DIMS).unwrap();
        let [slices, rows, columns] = map.permute(DIMS);
        for (i, &value) in view.iter().enumerate() {
            // Straight from the definition: the view's place, flipped, is the stored place.
            let place = [i / (rows * columns), i / columns % rows, i % columns];
            let mut stored = [0; 3];
            for k in 0..3 {
                let last = [slices, rows, columns][k] - 1;
                stored[map.axes()[k]] = if map.flipped()[k] { last - place[k] } else { place[k] };
            }
            assert_eq!(usize::from(value), stored[0] + DIMS[0] * (stored[1] + DIMS[1] * stored[2]), "{map}");
            assert_eq!(map.stored_index(DIMS, place), stored, "{map}");
        }
        assert_eq!(map.to_stored(&view, DIMS).unwrap(), voxels, "{map}");
        assert_eq!(map.inverse().inverse(), map);
        assert_eq!(volume.labels(&map).unwrap(), view, "{map}: slice by slice");
        seen.insert((view, map.permute(DIMS)));
    }
    assert_eq!(seen.len(), 48);
}

#[test]
fn a_labelled_volume_is_brought_exactly_to_the_querys_axes() {
    let voxels: Vec<u16> = (0..24).collect();
    let query = oriented(DIMS, [0, 1, 2], [false; 3], &voxels);
    for stored in all_maps() {
        // The same patient, stored in another order: array axes (z, y, x) of the labelled file are slice, row, column of the view `stored`.
        let labelled_voxels = stored.to_view(&voxels, DIMS).unwrap();
        let [slices, rows, columns] = stored.permute(DIMS);
        let (to, back) = (stored.axes(), stored.flipped());
        let labelled = oriented(
            [columns, rows, slices],
            [to[2], to[1], to[0]],
            [back[2], back[1], back[0]],
            &labelled_voxels,
        );
        for query_axes in all_maps() {
            let map = AxisMap::to_match(labelled.geometry(), query.geometry(), &query_axes);
            assert_eq!(
                labelled.labels(&map).unwrap(),
                query.labels(&query_axes).unwrap(),
                "stored as {stored}, asked for {query_axes}"
            );
            assert_eq!(
                map.permute(labelled.geometry().spacing),
                query_axes.permute(query.geometry().spacing)
            );
        }
    }
}

#[test]
fn axis_codes_name_the_nearest_patient_direction() {
    let code = |affine: [[f64; 4]; 3]| Header::new([2, 2, 2], &affine).unwrap().geometry().orientation().to_string();
    assert_eq!(code([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]), "RAS");
    assert_eq!(code([[-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]), "LPS");
    assert_eq!(code([[0.0, 0.0, -5.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0]]), "AIL");
    let (s, c) = 0.6_f64.sin_cos(); // 34 degrees: still nearest to its own axis
    assert_eq!(code([[1.0, 0.0, 0.0, 0.0], [0.0, c, -9.0 * s, 0.0], [0.0, s, 9.0 * c, 0.0]]), "RAS");
}

#[test]
fn a_file_without_orientation_is_not_reoriented() {
    let voxels: Vec<u16> = (0..24).collect();
    let query = oriented(DIMS, [0, 1, 2], [true, false, true], &voxels);
    let mut silent = query.geometry().clone();
    silent.source = hpc_seg::volume::AffineSource::Spacing;
    silent.affine[0][0] *= -1.0;
    let axes = AxisMap::slice_axis(1).unwrap();
    assert_eq!(AxisMap::to_match(&silent, query.geometry(), &axes), axes);
}

#[test]
fn slice_axes_keep_the_stored_order_of_the_others_and_a_fourth_is_refused() {
    assert!(AxisMap::slice_axis(2).unwrap().is_stored_order());
    assert_eq!(AxisMap::slice_axis(0).unwrap().axes(), [0, 2, 1]);
    assert_eq!(
        AxisMap::slice_axis(1).unwrap().to_string(),
        "slices along y, rows along z, columns along x"
    );
    let error = AxisMap::slice_axis(3).unwrap_err().to_string();
    assert!(
        error.contains("--slice-axis 3: a volume has the axes 0 (x), 1 (y) and 2 (z, the default)"),
        "{error}"
    );
    assert!(AxisMap::new([0, 0, 1], [false; 3]).is_err());
}
