use super::{file, float_tensor, golden, torch_zip};
use hpc_seg::weights::{Checkpoint, Dtype, Format, formula_checkpoint, inventory, read_tensor_list};
use safetensors::SafeTensors;

/// Every tensor of the file equals the reference, byte by byte, and there is no other.
fn equals_expected(name: &str, format: Format) {
    let bytes = std::fs::read(golden("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let checkpoint = Checkpoint::open(&golden(name)).unwrap();
    assert_eq!(checkpoint.format(), format);
    let mut names: Vec<&str> = expected.names();
    names.sort_unstable();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), names, "{name}");
    for tensor in names {
        let reference = expected.tensor(tensor).unwrap();
        assert_eq!(checkpoint.shape(tensor).unwrap(), reference.shape(), "{name} {tensor}");
        assert_eq!(
            checkpoint.dtype(tensor).unwrap().name(),
            format!("{:?}", reference.dtype()),
            "{name} {tensor}"
        );
        assert_eq!(checkpoint.raw(tensor).unwrap().as_ref(), reference.data(), "{name} {tensor}");
        assert_eq!(
            checkpoint.f32(tensor).unwrap().len(),
            reference.shape().iter().product::<usize>(),
            "{name} {tensor}"
        );
    }
}

#[test]
fn a_state_dict_under_model_beside_an_optimizer_is_read_exactly() {
    equals_expected("nested.pt", Format::Torch);
}

#[test]
fn a_state_dict_at_top_level_is_read_exactly() {
    equals_expected("flat.pt", Format::Torch);
}

#[test]
fn the_format_before_pytorch_1_6_is_read_exactly() {
    equals_expected("legacy.pt", Format::TorchLegacy);
}

#[test]
fn safetensors_are_read_exactly() {
    equals_expected("expected.safetensors", Format::Safetensors);
}

#[test]
fn a_transposed_view_is_gathered_in_c_order() {
    // stored 6 x 8 and viewed 8 x 6: neighbours in a row lie 8 apart in the storage that shared.view looks at too.
    let checkpoint = Checkpoint::open(&golden("nested.pt")).unwrap();
    let transposed = checkpoint.f32("transposed.weight").unwrap();
    let shared = checkpoint.f32("shared.view").unwrap();
    // shared.view is the storage from element 8 on, 4 x 4; the storage's element 8 + j is transposed[j][1].
    for j in 0..8 {
        assert_eq!(transposed[j * 6 + 1], shared[j]);
    }
}

#[test]
fn a_hostile_file_runs_nothing_and_its_harmless_part_is_read() {
    let trace = std::path::Path::new("/tmp/pwned_by_checkpoint");
    assert!(!trace.exists(), "left over from elsewhere: remove {}", trace.display());
    let checkpoint = Checkpoint::open(&golden("hostile.pt")).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a"]);
    assert_eq!(checkpoint.f32("a").unwrap().len(), 2);
    let _ = inventory(&golden("hostile.pt")).unwrap();
    assert!(!trace.exists(), "reading the file ran its command");
}

#[test]
fn wrapper_prefixes_of_a_torch_file_are_removed() {
    let tensor = float_tensor(b"K\x02\x85", b"K\x01\x85");
    let pickle = [b"\x80\x02}X\x05\0\0\0model}X\x08\0\0\0module.w".as_slice(), &tensor, b"ss."].concat();
    let file = file(".pt", &torch_zip(&pickle, &[("0", &[0, 0, 128, 63, 0, 0, 0, 64])]));
    let checkpoint = Checkpoint::open(file.path()).unwrap();
    assert_eq!(checkpoint.f32("w").unwrap(), [1.0, 2.0]);
}

#[test]
fn a_parameter_and_other_keys_for_the_state_dict_are_understood() {
    for key in ["state_dict", "model_state_dict", "network_weights"] {
        let tensor = float_tensor(b"K\x02\x85", b"K\x01\x85");
        let parameter = [
            b"ctorch._utils\n_rebuild_parameter\n(".as_slice(),
            &tensor,
            b"\x88ccollections\nOrderedDict\n)RtR",
        ]
        .concat();
        let head = [
            b"\x80\x02}X".as_slice(),
            &(key.len() as u32).to_le_bytes(),
            key.as_bytes(),
            b"}X\x01\0\0\0w",
        ]
        .concat();
        let file = file(
            ".pth",
            &torch_zip(
                &[head, parameter, b"ss.".to_vec()].concat(),
                &[("0", &[0, 0, 128, 63, 0, 0, 0, 64])],
            ),
        );
        assert_eq!(Checkpoint::open(file.path()).unwrap().f32("w").unwrap(), [1.0, 2.0], "{key}");
    }
}

#[test]
fn an_inventory_counts_and_lists_and_is_json() {
    let stock = inventory(&golden("nested.pt")).unwrap();
    assert_eq!(stock.tensors.len(), 11);
    assert_eq!(stock.parameters, 36 + 48 + 16 + 10 + 5 + 14 + 3 + 1 + 3 + 1);
    assert_eq!(stock.sha256, Checkpoint::open(&golden("nested.pt")).unwrap().sha256().unwrap());
    let entry = stock.tensors.iter().find(|t| t.name == "bfloat").unwrap();
    assert_eq!((entry.dtype, entry.shape.as_slice()), (Dtype::BF16, [2, 7].as_slice()));
    let table = stock.to_string();
    assert!(
        table.contains("11, 137 parameters") && table.contains("plain.weight       F32   [4, 3, 3]"),
        "{table}"
    );
    let json: serde_json::Value = serde_json::to_value(&stock).unwrap();
    assert_eq!(
        json["tensors"][0],
        serde_json::json!({"name": "bfloat", "dtype": "BF16", "shape": [2, 7]})
    );
}

#[test]
fn a_formula_checkpoint_has_the_tensors_of_its_list_in_shape_and_value() {
    let text = include_str!("../../weights/expected/sam2_tiny_tensors.json");
    let list = read_tensor_list("sam2_tiny_tensors.json", text).unwrap();
    assert_eq!(list.len(), 359);
    assert_eq!(list[0].0, "maskmem_tpos_enc");
    let checkpoint = formula_checkpoint(&list, 1).unwrap();
    assert_eq!(checkpoint.names().count(), 359);
    assert_eq!(checkpoint.shape("no_mem_embed"), Some([1, 1, 64].as_slice()));
    assert!((checkpoint.f32("no_mem_embed").unwrap()[3] - 0.21123044).abs() < 5e-9);
    let full = read_tensor_list("t512", include_str!("../../weights/expected/sam2_hiera_t512_tensors.json")).unwrap();
    assert_eq!(full.len(), 471);
}
