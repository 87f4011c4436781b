//! Mean probability maps of the authors' program. Recipe: `goldens/README.md` of the team's reference folder.

use crate::support::fast::{self, Prepared};
use crate::support::golden::{formula_network, golden, shared};
use crate::support::literal;
use hpc_seg::device::Device;
use hpc_seg::stop::Stop;
use hpc_seg::tffs::source::{Image, Labels};
use hpc_seg::volume::{AxisMap, Volume};
use std::path::Path;
use std::sync::Arc;

fn open(path: &Path) -> Arc<Volume> {
    Arc::new(Volume::open(path).unwrap())
}

/// (largest, mean) difference.
pub fn difference(got: impl Iterator<Item = f64>, want: &[f32]) -> (f64, f64) {
    let (mut largest, mut sum, mut count) = (0f64, 0f64, 0);
    for (a, &b) in got.zip(want) {
        let d = (a - f64::from(b)).abs();
        largest = largest.max(d);
        sum += d;
        count += 1;
    }
    assert_eq!(count, want.len());
    (largest, sum / count as f64)
}

/// Slices and prompts as the network sees them.
pub struct Case {
    pub query: Vec<Vec<f32>>,
    pub plane: (usize, usize),
    pub labelled: Prepared,
}

/// The case of these files.
pub fn case(query: &Path, labelled: &Path, mask: &Path, size: usize, places: Vec<usize>) -> Case {
    let axes = AxisMap::default();
    let device = Device::cpu(1).unwrap();
    let slices = |image: &Image| -> Vec<Vec<f32>> {
        let wanted: Vec<usize> = (0..image.dims()[0]).collect();
        let mut slices = image.slices(wanted.clone(), 1, (&device, size), &Stop::new()).unwrap();
        wanted.iter().map(|_| slices.next(1).unwrap().to_vec().unwrap()).collect()
    };
    let image = Image::new(open(query), axes, None).unwrap();
    let support = Image::new(open(labelled), axes, None).unwrap();
    let labels = Labels { volume: open(mask), axes };
    assert_eq!(labels.classes().unwrap(), [1]);
    let prompts = vec![labels.prompts(1, image.plane(), size).unwrap()];
    Case {
        query: slices(&image),
        plane: image.plane(),
        labelled: Prepared {
            slices: slices(&support),
            prompts,
            places,
        },
    }
}

fn check_tiny(folder: &str, seed: u64, fill_holes: usize) {
    let Some(root) = shared(folder) else { return };
    let root = root.join("goldens").join(folder);
    let file = golden(root.join("expected.safetensors"));
    let places: Vec<usize> = file.f32("places").unwrap().iter().map(|&p| p as usize).collect();
    let want = file.f32("mean_probability").unwrap();
    let device = Device::cpu(0).unwrap();
    let net = formula_network("tiny", seed, &device);
    let [query, labelled, mask] = ["query", "labelled", "labelled_mask"].map(|name| root.join(format!("{name}.nii.gz")));
    let case = case(&query, &labelled, &mask, net.config.image_size, places);
    device.install(|| {
        let volume = &case.labelled;
        let slow = literal::mean_probability(
            &net,
            &case.query,
            &volume.slices,
            &volume.prompts[0],
            &volume.places,
            case.plane,
            fill_holes,
        );
        let (largest, mean) = difference(slow.iter().copied(), &want);
        assert!(
            largest <= 5e-5 && mean <= 2e-6,
            "{folder}, literal: largest {largest:.2e}, mean {mean:.2e}"
        );
        let done = fast::run(&net, &case.query, case.plane, std::slice::from_ref(volume), 2, fill_holes);
        let (largest, mean) = difference(done.probabilities.unwrap().iter().map(|&p| f64::from(p)), &want);
        assert!(
            largest <= 5e-5 && mean <= 2e-6,
            "{folder}, fast: largest {largest:.2e}, mean {mean:.2e}"
        );
        println!("{folder}: largest {largest:.2e}, mean {mean:.2e}");
    });
}

#[test]
fn tiny_run_equals_the_authors_seed_1() {
    check_tiny("tffs_tiny_seed1", 1, 0);
}

#[test]
fn tiny_run_equals_the_authors_seed_10() {
    check_tiny("tffs_tiny_seed10", 10, 0);
}

#[test]
fn tiny_run_equals_the_authors_with_holes_filled() {
    check_tiny("tffs_tiny_seed1_filled", 1, 8);
}

/// Every fourth row and column of every slice of a map, `count` values in all, as the golden of full size has them.
pub fn sampled(map: &[f32], (h, w): (usize, usize), count: usize) -> impl Iterator<Item = f32> {
    (0..count).map(move |i| {
        let (z, y, x) = (i / (h / 4 * (w / 4)), i / (w / 4) % (h / 4), i % (w / 4));
        map[(z * h + 4 * y) * w + 4 * x]
    })
}

/// The case of full size, real CT, and the mean probabilities that [`sampled`] tells of; slices are seen at `size`.
pub fn full_size(size: usize) -> Option<(Case, Vec<f32>)> {
    let root = shared("full-size run on real CT")?;
    let file = golden(root.join("goldens/tffs_hiera_t512_seed4/expected.safetensors"));
    let places: Vec<usize> = file.f32("places").unwrap().iter().map(|&p| p as usize).collect();
    let ct = |name: &str| root.join(format!("data/ct-lesion/CT_Lesion_{name}.nii.gz"));
    let case = case(
        &ct("000002_03_01_035-047_image"),
        &ct("000015_01_01_103-115_image"),
        &ct("000015_01_01_103-115_label"),
        size,
        places,
    );
    Some((case, file.f32("mean_probability@stride4").unwrap()))
}

#[test]
fn full_size_run_equals_the_authors_on_real_ct() {
    let device = Device::cpu(0).unwrap();
    let net = formula_network("hiera_t512", 4, &device);
    let Some((case, want)) = full_size(net.config.image_size) else {
        return;
    };
    device.install(|| {
        let done = fast::run(&net, &case.query, case.plane, std::slice::from_ref(&case.labelled), 5, 0);
        let map = done.probabilities.unwrap();
        let (largest, mean) = difference(sampled(&map, case.plane, want.len()).map(f64::from), &want);
        println!("full size: largest {largest:.2e}, mean {mean:.2e}");
        assert!(largest <= 2e-4 && mean <= 1e-5, "full size: largest {largest:.2e}, mean {mean:.2e}");
    });
}
