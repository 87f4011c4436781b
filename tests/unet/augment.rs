//! Augmentation is nnU-Net's: each transform equals batchgeneratorsv2's for the same parameters (`benches/peers/augment_golden.py` made the golden), and is drawn as often.

use hpc_seg::keyed_rng::keyed_rng;
use hpc_seg::unet::augment::{Augmentation, blur, contrast, cut, gamma, low_resolution, rotation_and_scale};
use hpc_seg::unet::case::CaseView;
use hpc_seg::unet::patches::Window;
use hpc_seg::weights::Checkpoint;
use std::path::Path;

const BOX: [usize; 3] = [15, 22, 24];
const PATCH: [usize; 3] = [8, 12, 13];

fn golden() -> Checkpoint {
    Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/augment.safetensors")).unwrap()
}

/// The golden's image and label.
fn made() -> (Vec<f32>, Vec<i16>) {
    let places = (0..BOX.iter().product()).map(|at: usize| [at / (BOX[1] * BOX[2]), at / BOX[2] % BOX[1], at % BOX[2]]);
    let voxel = |[z, y, x]: [usize; 3]| {
        let [fz, fy, fx] = [z, y, x].map(|at| at as f64);
        let ripple = 0.01 * ((z * 31 + y * 17 + x * 7) % 13) as f64;
        let value = (0.7 * fz + 0.3 * fy).sin() + (0.5 * fx - 0.2 * fz).cos() + ripple;
        (value as f32, ((z + 2 * y + 3 * x) / 9 % 4) as i16 - 1)
    };
    places.map(voxel).unzip()
}

fn view<'a>(image: &'a [f32], label: &'a [i16]) -> CaseView<'a> {
    CaseView {
        shape: BOX,
        channels: 1,
        image,
        label,
        uncertainty: None,
        locations: vec![],
    }
}

fn window<'a>(case: &'a CaseView<'a>) -> Window<'a> {
    Window {
        case,
        origin: [0; 3],
        size: BOX,
    }
}

fn parameters(golden: &Checkpoint, name: &str) -> Vec<f64> {
    serde_json::from_str(golden.metadata(name).unwrap()).unwrap()
}

#[track_caller]
fn assert_close(got: &[f32], golden: &Checkpoint, name: &str, tolerance: f32) {
    let expected = golden.f32(name).unwrap();
    assert_eq!(got.len(), expected.len(), "{name}");
    let worst = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance, "{name}: {worst:e}");
}

#[test]
fn patches_are_turned_and_scaled_as_the_reference_does() {
    let (golden, (image, label)) = (golden(), made());
    let case = view(&image, &label);
    for name in ["crop", "turned", "scaled", "both"] {
        let drawn = parameters(&golden, &format!("spatial.{name}"));
        let matrix = (name != "crop").then(|| rotation_and_scale([drawn[0], drawn[1], drawn[2]], [drawn[3]; 3]));
        let sample = cut(&window(&case), PATCH, matrix);
        // The reference's coordinates are in single precision.
        assert_close(&sample.image[0], &golden, &format!("spatial.{name}.image"), 2e-5);
        let expected = golden.f32(&format!("spatial.{name}.label")).unwrap();
        let differing = sample.label.iter().zip(&expected).filter(|(a, b)| f32::from(**a) != **b).count();
        assert!(
            differing <= expected.len() / 1000,
            "{name}: {differing} of {} labels",
            expected.len()
        );
    }
}

#[test]
fn intensities_are_changed_as_the_reference_does() {
    let (golden, (image, _)) = (golden(), made());
    let (image, label) = (image, vec![0; BOX.iter().product()]);
    let case = view(&image, &label);
    let corner = Window {
        size: PATCH,
        ..window(&case)
    };
    let patch = cut(&corner, PATCH, None).image.swap_remove(0);
    for at in 0..2 {
        let of = |name: &str| {
            let name = format!("{name}.{at}");
            (parameters(&golden, &name), patch.clone(), name)
        };
        let (drawn, mut channel, name) = of("blur");
        blur(&mut channel, PATCH, [drawn[0], drawn[1], drawn[2]]);
        assert_close(&channel, &golden, &name, 2e-6);
        let (drawn, mut channel, name) = of("contrast");
        contrast(&mut channel, drawn[0] as f32);
        assert_close(&channel, &golden, &name, 2e-6);
        let (drawn, mut channel, name) = of("low_resolution");
        low_resolution(&mut channel, PATCH, [drawn[0]; 3]);
        assert_close(&channel, &golden, &name, 2e-6);
        let (drawn, mut channel, name) = of("gamma");
        gamma(&mut channel, drawn[0] as f32, drawn[1] == 1.0);
        assert_close(&channel, &golden, &name, 1e-5);
    }
}

#[test]
fn transforms_are_drawn_as_often_as_by_the_reference() {
    let (image, label) = made();
    let case = view(&image, &label);
    let augmentation = Augmentation {
        patch: PATCH,
        mirrored: vec![],
        masked: vec![false],
    };
    let plain = augmentation.plain(&window(&case));
    let draws = 2000;
    let untouched = (0..draws)
        .filter(|seed| augmentation.train(&window(&case), &mut keyed_rng(*seed, &["augment"])) == plain)
        .count();
    // No rotation or scaling; noise; blur and its channel; brightness, contrast; low resolution and its channel; both gammas.
    let wanted = 0.64 * 0.9 * (1.0 - 0.2 * 0.5) * 0.85 * 0.85 * (1.0 - 0.25 * 0.5) * 0.9 * 0.7;
    let share = untouched as f64 / draws as f64;
    // Four standard deviations.
    assert!(
        (share - wanted).abs() < 4.0 * (wanted * (1.0 - wanted) / draws as f64).sqrt(),
        "{share}, wanted {wanted}"
    );
    let mirrored = Augmentation {
        mirrored: vec![2],
        ..augmentation
    };
    let mut turned = plain.clone();
    turned.mirror(2);
    assert!(turned.label[..13].iter().eq(plain.label[..13].iter().rev()) && turned.image[0][0] == plain.image[0][12]);
    let count = (0..draws)
        .filter(|seed| mirrored.train(&window(&case), &mut keyed_rng(*seed, &["augment"])) == turned)
        .count();
    let wanted = wanted / 2.0;
    assert!(
        (count as f64 / draws as f64 - wanted).abs() < 4.0 * (wanted / draws as f64).sqrt(),
        "{count}"
    );
}

#[test]
fn patches_mirror_along_every_axis_and_masked_channels_are_empty_outside() {
    let (image, label) = made();
    let case = view(&image, &label);
    let sample = cut(&window(&case), PATCH, None);
    let [d, h, w] = PATCH;
    for axis in 0..3 {
        let mut turned = sample.clone();
        turned.mirror(axis);
        for at in 0..d * h * w {
            let mut place = [at / (h * w), at / w % h, at % w];
            place[axis] = PATCH[axis] - 1 - place[axis];
            let from = (place[0] * h + place[1]) * w + place[2];
            assert!(turned.label[at] == sample.label[from] && turned.image[0][at] == sample.image[0][from]);
        }
    }
    let augmentation = Augmentation {
        patch: PATCH,
        mirrored: vec![],
        masked: vec![true],
    };
    assert!(sample.label.contains(&-1));
    let masked = augmentation.train(&window(&case), &mut keyed_rng(7, &["plain"]));
    assert!(masked.label.iter().all(|label| *label >= 0));
    assert!(masked.image[0].iter().filter(|v| **v == 0.0).count() >= sample.label.len() / 8);
}

#[test]
fn flat_patches_are_turned_in_plane_only() {
    let (image, label) = made();
    let case = view(&image, &label);
    // Longest over first axis: 13 / 4 > 3.
    let flat = [4, 12, 13];
    let augmentation = Augmentation {
        patch: flat,
        mirrored: vec![],
        masked: vec![false],
    };
    // A column of slices that are constant each: nothing in-plane changes them, so that slices never mix.
    let image: Vec<f32> = (0..image.len()).map(|at| (at / (BOX[1] * BOX[2])) as f32).collect();
    let case = CaseView { image: &image, ..case };
    let window = Window {
        case: &case,
        origin: [3, 0, 0],
        size: [4, 22, 24],
    };
    let matrix = rotation_and_scale([1.0, 0.0, 0.0], [1.0, 1.1, 1.1]);
    let sample = cut(&window, flat, Some(matrix));
    for (slice, values) in sample.image[0].chunks(12 * 13).enumerate() {
        let middle = values[6 * 13 + 6];
        assert!((middle - (3 + slice) as f32).abs() < 1e-5, "slice {slice}: {middle}");
    }
    // Drawn ones too, whatever the seed; noise is at most about half a slice.
    for seed in 0..50 {
        let sample = augmentation.train(&window, &mut keyed_rng(seed, &["flat"]));
        let means: Vec<f32> = sample.image[0].chunks(12 * 13).map(|slice| slice[6 * 13 + 6]).collect();
        assert!(means.is_sorted(), "{seed}: {means:?}");
    }
}
