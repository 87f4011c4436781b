//! `ops::normalise` against its formula and against Pillow, bit for bit.

use crate::support::ops::{assert_same, on_any_threads, stored_voxels, takes};
use hpc_seg::device::Device;
use hpc_seg::ops::normalise::{Batches, Map, Normalise, Slice, Voxel, cases};
use hpc_seg::ops::resize_u8::BicubicU8Plan;

/// Leaves numbers as they are.
const PLAIN: Map = Map {
    slope: 1.0,
    intercept: 0.0,
    lower: 0.0,
    upper: 255.0,
    min: 0.0,
    max: 255.0,
    keep_zeros: false,
};

const MAPS: [Map; 4] = [
    // A volume's own percentiles; a header's scale; a window beyond all voxels; one that moves zero, which all the same stays.
    Map {
        lower: -31.25,
        upper: 64.5,
        min: -31.25,
        max: 60.125,
        keep_zeros: true,
        ..PLAIN
    },
    Map {
        slope: 0.37,
        intercept: -12.3,
        lower: -40.0,
        upper: 400.0,
        min: -38.2,
        max: 202.7,
        ..PLAIN
    },
    Map {
        lower: 9e9,
        upper: 1e10,
        min: 9e9,
        max: 9e9,
        ..PLAIN
    },
    Map {
        slope: 1.700_000_047_683_715_8,
        intercept: 3.4,
        lower: -5.0,
        upper: 100.0,
        min: -5.0,
        max: 100.0,
        keep_zeros: true,
    },
];

#[test]
fn slices_are_normalised_and_resized_as_the_formula_says() {
    for case in cases().into_iter().filter(|case| takes(case.name)) {
        let ((h, w), size) = (case.input, case.size);
        let (bytes, numbers) = stored_voxels(case.voxel, 5, case.items * h * w);
        for map in MAPS {
            let formula = |stored: &f64| -> f32 {
                let value = (stored * map.slope + map.intercept) as f32;
                if map.max <= map.min || map.keep_zeros && value == 0.0 {
                    return 0.0;
                }
                ((f64::from(value).clamp(map.lower, map.upper) - map.min) / (map.max - map.min) * 255.0) as f32
            };
            let resize = BicubicU8Plan::new((h, w), (size, size)).unwrap();
            let mut want = Vec::new();
            for slice in numbers.chunks_exact(h * w) {
                if (h, w) == (size, size) {
                    want.extend(slice.iter().map(formula));
                    continue;
                }
                let truncated: Vec<u8> = slice.iter().map(|stored| formula(stored).trunc() as u8).collect();
                let (mut between, mut resized) = (vec![0; resize.scratch_len()], vec![9; size * size]);
                resize.resize(&truncated, &mut between, &mut resized).unwrap();
                want.extend(resized.into_iter().map(f32::from));
            }
            let got = on_any_threads(case.name, |device| {
                let normalise = Normalise::new(device, case.voxel, map, case.input, size).unwrap();
                let slices = bytes.chunks_exact(bytes.len() / case.items);
                let slices: Vec<Slice> = slices.map(|slice| normalise.prepare(slice.to_vec()).unwrap()).collect();
                let y = Batches::new(device, normalise).unwrap().bring(&slices).unwrap();
                assert_eq!(y.shape(), [case.items, size, size, 1]);
                y.to_vec().unwrap()
            });
            assert_same(&format!("{case:?}, {map:?}"), &got, &want);
        }
    }
}

#[test]
fn slices_of_the_networks_size_are_not_truncated_and_others_are_resized_as_pillow_does() {
    let device = Device::cpu(1).unwrap();
    let slice: Vec<f32> = (0..12).map(|i| i as f32 * 20.0 + 0.75).collect();
    let ready = |plane: (usize, usize)| {
        let normalise = Normalise::new(&device, Voxel::F32, PLAIN, plane, 3).unwrap();
        let stored = slice[..plane.0 * plane.1].iter().flat_map(|value| value.to_le_bytes()).collect();
        match normalise.prepare(stored).unwrap() {
            Slice::Ready(numbers) => numbers,
            Slice::Stored(_) => panic!("left to the CPU"),
        }
    };
    assert_eq!(ready((3, 3)), slice[..9]);
    // np.asarray(Image.fromarray((np.arange(12) * 20).astype(np.uint8).reshape(3, 4)).resize((3, 3))), Pillow 11.3.0
    assert_eq!(ready((3, 4)), [4.0, 30.0, 56.0, 84.0, 110.0, 136.0, 164.0, 190.0, 216.0]);
}

#[test]
fn slices_of_another_plane_are_refused() {
    let device = Device::cpu(1).unwrap();
    let normalise = Normalise::new(&device, Voxel::I16, PLAIN, (3, 4), 8).unwrap();
    let error = normalise.prepare(vec![0; 23]).err().unwrap();
    assert_eq!(error.to_string(), "normalise: 23 bytes for slices of 3 x 4 I16");
}
