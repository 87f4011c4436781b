//! Reference tensors and how close to them we must be.

use hpc_seg::device::Device;
use hpc_seg::sam2::{Config, Sam2};
use hpc_seg::weights::{Checkpoint, formula_checkpoint, read_tensor_list};
use std::path::PathBuf;

/// The team's reference folder, or `None` with a visible line saying that `what` is skipped. With `HPC_SEG_REQUIRE_SHARED` set, its absence is a failure.
pub fn shared(what: &str) -> Option<PathBuf> {
    let root =
        std::env::var_os("HPC_SEG_SHARED").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    if root.is_dir() {
        return Some(root);
    }
    assert!(
        std::env::var_os("HPC_SEG_REQUIRE_SHARED").is_none(),
        "{what}: {} is absent",
        root.display()
    );
    println!("skipped: {what} ({} is absent)", root.display());
    None
}

/// A golden file.
pub fn golden(path: PathBuf) -> Checkpoint {
    Checkpoint::open(&path).unwrap()
}

/// The tensor list and configuration of "tiny" or "hiera_t512".
pub fn formula_network(model: &str, seed: u64, device: &Device) -> Sam2 {
    let (checkpoint, config) = formula_weights(model, seed);
    Sam2::load(&checkpoint, config, device).unwrap()
}

/// Its checkpoint and configuration.
pub fn formula_weights(model: &str, seed: u64) -> (Checkpoint, Config) {
    let config = std::fs::read_to_string(expected(&format!("sam2_{model}_config.json"))).unwrap();
    (
        formula_checkpoint(&formula_list(model), seed).unwrap(),
        serde_json::from_str(&config).unwrap(),
    )
}

/// Names and shapes of a network's tensors.
pub fn formula_list(model: &str) -> Vec<(String, Vec<usize>)> {
    read_tensor_list(
        model,
        &std::fs::read_to_string(expected(&format!("sam2_{model}_tensors.json"))).unwrap(),
    )
    .unwrap()
}

fn expected(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("weights/expected").join(file)
}

/// How far `got` is from `want`: (normalised mean squared error, largest difference over the largest magnitude).
pub fn distance(got: &[f32], want: &[f32]) -> (f64, f64) {
    assert_eq!(got.len(), want.len(), "lengths differ");
    let (mut error, mut power, mut worst, mut largest) = (0f64, 0f64, 0f64, 0f64);
    for (&a, &b) in got.iter().zip(want) {
        assert!(a.is_finite(), "a value is {a}, wanted {b}");
        let d = f64::from(a) - f64::from(b);
        error += d * d;
        power += f64::from(b) * f64::from(b);
        worst = worst.max(d.abs());
        largest = largest.max(f64::from(b).abs());
    }
    (error / power.max(1e-30), worst / largest.max(1e-30))
}

/// Demands NMSE <= 1e-7 and relative maximum error <= 1e-4.
pub fn assert_close(name: &str, got: &[f32], want: &[f32]) {
    let (nmse, worst) = distance(got, want);
    let at = got
        .iter()
        .zip(want)
        .enumerate()
        .max_by(|(_, (a, b)), (_, (c, d))| (*a - *b).abs().total_cmp(&(*c - *d).abs()));
    assert!(
        nmse <= 1e-7 && worst <= 1e-4,
        "{name}: NMSE {nmse:.2e} (1e-7), worst {worst:.2e} (1e-4) at {at:?}"
    );
}

/// Demands bf16 values within one unit in the last place, at least 99 % equal. A value far below the tensor's largest is a difference of large f32 sums, whose own
/// rounding (1e-5 of the largest, in PyTorch's as in ours) exceeds its bf16 unit: there that is the bound.
pub fn assert_close_bf16(name: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{name}: lengths differ");
    let order = |v: f32| {
        let bits = (v.to_bits() >> 16) as i32;
        if bits & 0x8000 != 0 { 0x8000 - bits } else { bits }
    };
    let noise = 1e-5 * want.iter().fold(0f32, |top, v| top.max(v.abs()));
    let mut equal = 0;
    for (i, (&a, &b)) in got.iter().zip(want).enumerate() {
        assert_eq!(a.to_bits() & 0xffff, 0, "{name}[{i}] = {a} is no bf16 value");
        let ulps = (order(a) - order(b)).abs();
        assert!(
            ulps <= 1 || (a - b).abs() <= noise,
            "{name}[{i}]: {a} against {b}, {ulps} units in the last place"
        );
        equal += usize::from(a == b);
    }
    assert!(equal * 100 >= got.len() * 99, "{name}: only {equal} of {} equal", got.len());
}

/// [C, P] to [P, C], as the goldens are channels-first.
pub fn channels_last(values: &[f32], channels: usize) -> Vec<f32> {
    let p = values.len() / channels;
    (0..p * channels).map(|i| values[i % channels * p + i / channels]).collect()
}
