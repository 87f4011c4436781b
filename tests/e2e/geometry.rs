//! Results lie in the input's own geometry, bit for bit, whatever axis is sliced.

use super::{Phantoms, edit, header_bytes, read, set_f32, set_i16};
use hpc_seg::volume::Datatype;

/// Bytes of a NIfTI-1 header that say where voxels lie: pixdim 0..3, units, qform and sform with their codes.
fn place(header: &[u8]) -> [&[u8]; 3] {
    [&header[76..92], &header[123..124], &header[252..328]]
}

/// Gives an image an oblique place: both transforms set, with codes of their own.
fn tilt(bytes: &mut [u8]) {
    set_i16(bytes, 252, 3);
    set_i16(bytes, 254, 2);
    bytes[123] = 2 | 8;
    for (at, value) in [(256, 0.03), (260, 0.011), (264, -0.02), (268, 17.5), (272, -31.25), (276, 8.125)] {
        set_f32(bytes, at, value);
    }
    let rows = [[4.7, 0.1, 0.2, 17.5], [-0.15, 4.9, 0.3, -31.25], [0.1, -0.25, 26.5, 8.125]];
    for (i, value) in rows.into_iter().flatten().enumerate() {
        set_f32(bytes, 280 + 4 * i, value);
    }
}

#[test]
fn masks_and_maps_have_the_input_geometry_bit_for_bit_and_types_of_their_own() {
    let phantoms = Phantoms::new(2, 1, [6, 64, 64]);
    for path in [phantoms.image(0), phantoms.labels(0), phantoms.query(1)] {
        edit(&path, |bytes| tilt(bytes));
    }
    phantoms.label("out", &["--save-probabilities"]).expect(0, &[]);
    let input = header_bytes(&phantoms.query(1));
    assert_eq!(place(&input)[1], [10], "the test's own change is there");
    for (file, datatype) in [("", Datatype::U8), ("uncertainty/", Datatype::F32), ("probability/", Datatype::F32)] {
        let path = phantoms.at(&format!("out/{file}phantom_001.nii.gz"));
        assert_eq!(place(&header_bytes(&path)), place(&input), "{file}");
        let (header, _) = read(&path);
        assert_eq!(
            (header.dims(), header.datatype(), header.scale()),
            ([64, 64, 6], datatype, None),
            "{file}"
        );
    }
}

#[test]
fn any_axis_can_be_sliced_and_results_lie_as_the_input() {
    let phantoms = Phantoms::new(2, 1, [12, 16, 20]);
    for (axis, slices) in [("x", 20), ("y", 16), ("z", 12)] {
        phantoms.label(axis, &["--slice-axis", axis, "--save-probabilities"]).expect(0, &[]);
        let path = phantoms.at(&format!("{axis}/phantom_001.nii.gz"));
        assert_eq!(place(&header_bytes(&path)), place(&header_bytes(&phantoms.query(1))), "{axis}");
        assert_eq!(read(&path).0.dims(), [20, 16, 12]);
        let far = slices.to_string();
        phantoms
            .label("far", &["--slice-axis", axis, "--insert-at", &far])
            .expect(3, &[&format!("has {slices} slices; places run from 0 to {}", slices - 1)]);
    }
    let maps = ["x", "y", "z"].map(|axis| read(&phantoms.at(&format!("{axis}/probability/phantom_001.nii.gz"))).1);
    assert!(maps[0] != maps[1] && maps[1] != maps[2]);
}

#[test]
fn slicing_x_is_slicing_z_of_the_transposed_volume() {
    let phantoms = Phantoms::new(2, 1, [12, 14, 16]);
    phantoms
        .label("x", &["--slice-axis", "x", "--insert-at", "3", "--save-probabilities"])
        .expect(0, &[]);
    let (_, x) = read(&phantoms.at("x/probability/phantom_001.nii.gz"));
    // The view of axis x is [x, z, y]: a file whose fastest axis is y, then z, then x.
    for path in [phantoms.image(0), phantoms.labels(0), phantoms.query(1)] {
        let (header, voxels) = read(&path);
        let [nx, ny, nz] = header.dims();
        let at = |i: usize| voxels[(i / ny % nz) * nx * ny + (i % ny) * nx + i / (ny * nz)];
        let turned: Vec<f32> = (0..voxels.len()).map(at).collect();
        let a = header.geometry().affine;
        let affine = a.map(|row| [row[1], row[2], row[0], row[3]]);
        let header = hpc_seg::volume::Header::new([ny, nz, nx], &affine).unwrap();
        hpc_seg::volume::write(&path, &header, hpc_seg::volume::Voxels::F32(&turned), None, &[]).unwrap();
    }
    phantoms.label("z", &["--insert-at", "3", "--save-probabilities"]).expect(0, &[]);
    let (_, z) = read(&phantoms.at("z/probability/phantom_001.nii.gz"));
    let (nx, ny, nz) = (16, 14, 12);
    for i in 0..z.len() {
        let there = (i / ny % nz) * nx * ny + (i % ny) * nx + i / (ny * nz);
        assert_eq!(z[i].to_bits(), x[there].to_bits(), "voxel {i}");
    }
}
