//! Checkpoints and configurations that no network has: refused with a message, never with a panic or a huge allocation.

use crate::support::golden::{formula_list, formula_weights};
use hpc_seg::device::Device;
use hpc_seg::sam2::{Config, Sam2};
use hpc_seg::weights::Checkpoint;

/// The tiny network with `name` replaced by an empty tensor of `shape`.
fn damaged(name: &str, shape: &[usize]) -> Checkpoint {
    let (checkpoint, _) = formula_weights("tiny", 1);
    let tensors = formula_list("tiny").into_iter().map(|(tensor, dims)| match tensor == name {
        true => (tensor, shape.to_vec(), Vec::new()),
        false => {
            let values = checkpoint.f32(&tensor).unwrap();
            (tensor, dims, values)
        }
    });
    Checkpoint::from_tensors("damaged", tensors.collect()).unwrap()
}

fn refusal(checkpoint: &Checkpoint, config: Config) -> String {
    let device = Device::cpu(1).unwrap();
    format!(
        "{:#}",
        Sam2::load(checkpoint, config, &device).err().expect("a damaged network was loaded")
    )
}

#[test]
fn tensors_of_absurd_shapes_are_listed() {
    let (_, config) = formula_weights("tiny", 1);
    for (name, shape) in [
        ("memory_attention.layers.0.linear1.weight", vec![1 << 40, 0]),
        ("memory_attention.layers.0.linear1.weight", vec![0, 64]),
        ("image_encoder.trunk.blocks.0.mlp.layers.0.weight", vec![1 << 30, 0]),
        ("memory_encoder.mask_downsampler.encoder.0.weight", vec![1 << 33, 0, 3, 3]),
        ("sam_mask_decoder.iou_prediction_head.layers.0.weight", vec![0]),
        ("maskmem_tpos_enc", vec![0, 1, 1, 16]),
    ] {
        let text = refusal(&damaged(name, &shape), config.clone());
        assert!(text.contains(name), "{name} {shape:?}: {text}");
    }
}

#[test]
fn absurd_settings_are_refused_by_name() {
    let (checkpoint, _) = formula_weights("tiny", 1);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    for (json, expected) in [
        (r#"{"image_size": 100}"#, "image_size 100"),
        (r#"{"image_size": 0}"#, "image_size 0"),
        (r#"{"stages": [1, 2, 3]}"#, "four stages"),
        (r#"{"stages": [1, 2, 3000000, 1]}"#, "larger than any network's"),
        (r#"{"embed_dim": 1000000}"#, "larger than any network's"),
        (
            r#"{"window_pos_embed_bkg_spatial_size": [7]}"#,
            "window_pos_embed_bkg_spatial_size [7]",
        ),
        (r#"{"window_spec": [7, 4, 8, 4]}"#, "must be even"),
        (r#"{"window_spec": [8, 4, 8, 100000]}"#, "no window is larger"),
        (r#"{"decoder_heads": 7}"#, "heads do not divide"),
        (r#"{"num_maskmem": 1}"#, "num_maskmem must be"),
    ] {
        std::fs::write(&file, json).unwrap();
        let error = Config::of(&checkpoint, Some(&file)).unwrap_err();
        assert!(format!("{error:#}").contains(expected), "{json}: {error:#}");
        assert!(hpc_seg::error::is_input_error(&error), "{json}");
    }
}
