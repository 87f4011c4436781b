use super::{file, float_tensor, message, torch_zip};
use hpc_seg::weights::{Checkpoint, StrictLoader};

fn checkpoint(tensors: &[(&str, &[usize], f32)]) -> Checkpoint {
    let tensors = tensors
        .iter()
        .map(|(n, s, v)| (n.to_string(), s.to_vec(), vec![*v; s.iter().product()]))
        .collect();
    Checkpoint::from_tensors("net.safetensors", tensors).unwrap()
}

#[test]
fn a_network_that_takes_everything_loads() {
    let checkpoint = checkpoint(&[
        ("trunk.a.weight", &[2, 3], 1.5),
        ("trunk.a.bias", &[2], 0.5),
        ("old.x", &[1], 0.0),
        ("old.y.z", &[1], 0.0),
    ]);
    let loader = StrictLoader::new(&checkpoint);
    let a = loader.path("trunk").path("a");
    assert_eq!(a.prefix(), "trunk.a");
    assert_eq!(a.shape("weight"), Some(vec![2, 3]));
    assert_eq!(a.tensor("weight", &[2, 3]), [1.5; 6]);
    assert_eq!(a.tensor("bias", &[2]), [0.5; 2]);
    loader.ignore("old");
    loader.finish().unwrap();
}

#[test]
fn looking_at_a_shape_is_not_using_the_tensor() {
    let checkpoint = checkpoint(&[("a", &[1], 0.0)]);
    let loader = StrictLoader::new(&checkpoint);
    assert_eq!(loader.shape("a"), Some(vec![1]));
    assert_eq!(loader.shape("b"), None);
    assert!(message(loader.finish()).contains("unused (not part of this network) (1):\n    a"));
}

#[test]
fn everything_that_does_not_fit_is_said_at_once_with_the_nearest_names() {
    let checkpoint = checkpoint(&[
        ("sam_mask_decoder.conv_s0.weight", &[4, 8, 1, 1], 1.0),
        ("sam_mask_decoder.conv_s0.bias", &[4], f32::NAN),
        ("trunk.blocks.0.norm1.weight", &[8], 1.0),
        ("extra.weight", &[3], 1.0),
    ]);
    let loader = StrictLoader::new(&checkpoint);
    assert_eq!(loader.path("mask_decoder.conv_s0").tensor("weight", &[4, 8, 1, 1]), vec![0.0; 32]);
    assert_eq!(loader.path("sam_mask_decoder").tensor("conv_s0.bias", &[4]), [0.0; 4]);
    assert_eq!(loader.tensor("trunk.blocks.0.norm1.weight", &[16]), [0.0; 16]);
    assert_eq!(loader.tensor("nothing_like_it", &[1]), [0.0]);
    let text = message(loader.finish());
    let expected = "net.safetensors: the weights do not fit the network
  missing (2):
    mask_decoder.conv_s0.weight (nearest: sam_mask_decoder.conv_s0.weight)
    nothing_like_it
  wrongly shaped (1):
    trunk.blocks.0.norm1.weight: expected [16], found [8]
  not finite (1):
    sam_mask_decoder.conv_s0.bias: element 0 is NaN
  unused (not part of this network) (2):
    extra.weight
    sam_mask_decoder.conv_s0.weight
Give the checkpoint that belongs to this network (of SAM 2: or its settings, with --config); `hpc-seg weights inspect net.safetensors` lists what the file holds.";
    assert_eq!(text, expected);
}

#[test]
fn long_lists_are_cut_and_counted() {
    let checkpoint = checkpoint(&[("a", &[1], 0.0)]);
    let loader = StrictLoader::new(&checkpoint);
    loader.tensor("a", &[1]);
    for i in 0..40 {
        loader.tensor(&format!("blocks.{i}.weight"), &[1]);
    }
    let text = message(loader.finish());
    assert!(text.contains("missing (40):") && text.contains("... and 28 more"), "{text}");
    assert_eq!(text.matches("blocks.").count(), 12);
}

#[test]
fn an_impossible_shape_allocates_nothing() {
    let checkpoint = checkpoint(&[("a", &[1], 0.0)]);
    let loader = StrictLoader::new(&checkpoint);
    assert!(loader.tensor("a", &[usize::MAX, 2]).is_empty());
    assert!(loader.tensor("a", &[1 << 40]).is_empty());
    assert!(message(loader.finish()).contains("no tensor can have the expected shape"));
}

#[test]
fn an_object_where_a_tensor_is_wanted_is_named_and_not_run() {
    let trace = std::env::temp_dir().join(format!("hpc_seg_ran_{}", std::process::id()));
    let command = format!("touch {}", trace.display());
    let call = [
        b"cposix\nsystem\nX".as_slice(),
        &(command.len() as u32).to_le_bytes(),
        command.as_bytes(),
        b"\x85R",
    ]
    .concat();
    let tensor = float_tensor(b"K\x02\x85", b"K\x01\x85");
    let pickle = [
        b"\x80\x02}X\x05\0\0\0model}(X\x01\0\0\0a".as_slice(),
        &tensor,
        b"X\x01\0\0\0w",
        &call,
        b"us.",
    ]
    .concat();
    let file = file(".pt", &torch_zip(&pickle, &[("0", &[0; 8])]));
    let checkpoint = Checkpoint::open(file.path()).unwrap();
    let loader = StrictLoader::new(&checkpoint);
    loader.tensor("a", &[2]);
    loader.tensor("w", &[2]);
    let text = message(loader.finish());
    assert!(
        text.contains("w (the file has a Python object there, posix.system, which is never executed)"),
        "{text}"
    );
    assert!(!trace.exists());
}
