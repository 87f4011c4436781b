//! The published models (Hiera small, base plus, large): recognised by their shapes, loaded strictly, encoders equal to Meta's own.
//! Recipe of the golden: `benches/peers/published.py`.

use crate::support::golden::{assert_close, formula_list, golden};
use hpc_seg::device::Device;
use hpc_seg::sam2::{Config, Sam2};
use hpc_seg::tensor::Tensor;
use hpc_seg::weights::formula_checkpoint;
use std::path::PathBuf;

fn check(model: &str) {
    let file = golden(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sam2_published_seed3.safetensors"));
    let checkpoint = formula_checkpoint(&formula_list(&format!("hiera_{model}")), 3).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let smaller = folder.path().join("config.json");
    std::fs::write(&smaller, r#"{"image_size": 256}"#).unwrap();
    let device = Device::cpu(0).unwrap();
    let net = Sam2::load(&checkpoint, Config::of(&checkpoint, Some(&smaller)).unwrap(), &device).unwrap();
    drop(checkpoint);
    let slice: Vec<f32> = (0..256 * 256).map(|i| ((i * 7919) % 251) as f32).collect();
    let x = Tensor::from_slice(&device, &[1, 256, 256, 1], &slice).unwrap();
    let features = device.install(|| net.encoder.forward(&x, &mut |_, _| {})).unwrap();
    for (name, level) in [
        ("fpn0", &features.skips.fine),
        ("fpn1", &features.skips.middle),
        ("fpn2", &features.top),
    ] {
        let sampled: Vec<f32> = level.values().iter().step_by(997).copied().collect();
        assert_close(&format!("{model}.{name}"), &sampled, &file.f32(&format!("{model}.{name}")).unwrap());
    }
}

#[test]
fn hiera_small_is_recognised_and_equals_metas() {
    check("small");
}

#[test]
fn hiera_base_plus_is_recognised_and_equals_metas() {
    check("base_plus");
}

#[test]
fn hiera_large_is_recognised_and_equals_metas() {
    check("large");
}
