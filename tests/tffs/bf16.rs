//! TFFS on a CUDA device, in bf16, against the authors' program in f32: at most twice as far from it as that program is under PyTorch's own bf16 autocast.

use super::goldens::{Case, case, difference, full_size, sampled};
use crate::support::fast::{Prepared, run_as_planned};
use crate::support::golden::{formula_network, golden, shared};
use hpc_seg::device::Device;
use hpc_seg::tffs::ensemble::Labelling;
use hpc_seg::tffs::plan::Plan;

/// How far the authors' program under PyTorch's own bf16 autocast is from itself in f32, on the same golden: largest and mean difference of the probabilities, and voxels on
/// the other side of 0.5 that f32 has more than 1e-2 from it. Recipe: `benches/peers/validate.py --full --bf16 cpu` (the tiny ones: torch 2.15) or `cuda` (the one of full size: torch 2.11, an H200), sam2 1.1.
struct Autocast {
    largest: f64,
    mean: f64,
    flipped: usize,
}

/// A golden's case and mean probabilities, and the seed of its weights.
fn tiny(folder: &str) -> Option<(Case, Vec<f32>)> {
    let root = shared(folder)?.join("goldens").join(folder);
    let file = golden(root.join("expected.safetensors"));
    let places = file.f32("places").unwrap().iter().map(|&place| place as usize).collect();
    let [query, labelled, mask] = ["query", "labelled", "labelled_mask"].map(|name| root.join(format!("{name}.nii.gz")));
    Some((case(&query, &labelled, &mask, 128, places), file.f32("mean_probability").unwrap()))
}

/// Runs a case on this device with the network of these formula weights.
pub fn run(device: &Device, (model, seed): (&str, u64), case: &Case, plan: &Plan, fill_holes: usize) -> Labelling {
    let net = formula_network(model, seed, device);
    let held = device.memory().live;
    let done = device.install(|| {
        let labelled = std::slice::from_ref(&case.labelled);
        run_as_planned(&net, &case.query, case.plane, labelled, plan, fill_holes)
    });
    assert_eq!(device.memory().live, held, "something is left behind");
    done
}

pub fn plan(lanes: usize, batch: usize, spilled: bool) -> Plan {
    Plan {
        batch,
        spilled_query: spilled,
        spilled_supports: spilled,
        ..Plan::cpu(lanes)
    }
}

fn near(name: &str, got: &[f32], want: &[f32], autocast: &Autocast) {
    let (largest, mean) = difference(got.iter().map(|&p| f64::from(p)), want);
    let flipped = got
        .iter()
        .zip(want)
        .filter(|(a, b)| (**a > 0.5) != (**b > 0.5) && (**b - 0.5).abs() > 1e-2);
    let flipped = flipped.count();
    println!("{name}: largest {largest:.2e}, mean {mean:.2e}, {flipped} flipped");
    assert!(
        largest <= 2.0 * autocast.largest && mean <= 2.0 * autocast.mean && flipped <= 2 * autocast.flipped,
        "{name}: largest {largest:.2e}, mean {mean:.2e}, {flipped} flipped"
    );
}

pub fn tiny_seed_10(device: &Device) {
    let name = "tffs_tiny_seed10";
    let Some((case, want)) = tiny(name) else { return };
    let done = run(device, ("tiny", 10), &case, &plan(8, 4, false), 0);
    let autocast = Autocast {
        largest: 9.46e-3,
        mean: 1.06e-3,
        flipped: 0,
    };
    near(name, &done.probabilities.unwrap(), &want, &autocast);
}

/// The flipped voxels come from slices where two of the three masks have nearly the same predicted IoU: which is best is decided by rounding.
pub fn tiny_seed_1_filled(device: &Device) {
    let name = "tffs_tiny_seed1_filled";
    let Some((case, want)) = tiny(name) else { return };
    let done = run(device, ("tiny", 1), &case, &plan(8, 4, false), 8);
    let autocast = Autocast {
        largest: 2.39e-1,
        mean: 5.90e-3,
        flipped: 854,
    };
    near(name, &done.probabilities.unwrap(), &want, &autocast);
}

/// The network at its full size on real CT.
pub fn full(device: &Device) {
    let Some((case, want)) = full_size(512) else { return };
    let done = run(device, ("hiera_t512", 4), &case, &plan(5, 8, false), 0);
    let got: Vec<f32> = sampled(&done.probabilities.unwrap(), case.plane, want.len()).collect();
    let autocast = Autocast {
        largest: 4.53e-2,
        mean: 9.83e-3,
        flipped: 1931,
    };
    near("tffs_hiera_t512_seed4", &got, &want, &autocast);
}

/// Three slices to label from two labelled ones, at two places.
pub fn small() -> Case {
    const SIDE: usize = 128;
    let slice = |seed: usize| -> Vec<f32> { (0..SIDE * SIDE).map(|i| ((i * (7 + seed) + i / SIDE * 31) % 256) as f32).collect() };
    let mask: Vec<u8> = (0..SIDE * SIDE).map(|i| u8::from(i % SIDE < SIDE / 2)).collect();
    Case {
        query: (0..3).map(slice).collect(),
        plane: (40, 36),
        labelled: Prepared {
            slices: (3..6).map(slice).collect(),
            // The last shows nothing: it is tracked, where a pass meets it.
            prompts: vec![vec![Some(mask.clone()), Some(mask), None]],
            places: vec![0, 2],
        },
    }
}
