use super::{file, float_tensor, golden, message, torch_zip};
use hpc_seg::weights::Checkpoint;
use std::path::Path;

fn refused(suffix: &str, bytes: &[u8], with: &str) {
    let file = file(suffix, bytes);
    let text = message(Checkpoint::open(file.path()));
    assert!(text.contains(with), "expected ...{with}... in: {text}");
    assert!(text.contains(&*file.path().to_string_lossy()), "names no file: {text}");
}

#[test]
fn what_is_no_checkpoint_is_refused_with_a_remedy() {
    assert!(message(Checkpoint::open(Path::new("/nonexistent.pt"))).contains("check the path"));
    assert!(message(Checkpoint::open(Path::new("/tmp"))).contains("not a file; give a .pt, .pth or .safetensors checkpoint"));
    refused(".pt", b"", "the file is empty");
    refused(".pt", b"<!DOCTYPE html><html>", "not a readable PyTorch checkpoint");
    refused(".pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:", "git lfs pull");
    refused(".safetensors", b"<!DOCTYPE html><html>", "damaged or incomplete safetensors file");
    let text =
        "no tensors (epoch is a int, not a tensor); give a checkpoint whose state dict is under `model`, `state_dict` or at top level";
    refused(".pt", &torch_zip(b"\x80\x02}X\x05\0\0\0epochK\x03s.", &[]), text);
}

#[test]
fn other_archives_are_refused_by_name() {
    let mut tar = vec![0u8; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    refused(".pt", &tar, "a tar archive (PyTorch before 0.1.10?); re-save it in PyTorch");
    let script = torch_zip(b"\x80\x02}.", &[("../constants.pkl", b"\x80\x02).")]);
    refused(
        ".pt",
        &script,
        "a TorchScript program, not a checkpoint of weights; load it in PyTorch with torch.jit.load and re-save it",
    );
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file(
        "readme.txt",
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored),
    )
    .unwrap();
    refused(".pt", &zip.finish().unwrap().into_inner(), "a zip archive without data.pkl");
}

#[test]
fn an_object_in_place_of_the_state_dict_is_refused_and_not_run() {
    let trace = std::env::temp_dir().join(format!("hpc_seg_state_dict_ran_{}", std::process::id()));
    let command = format!("touch {}", trace.display());
    let call = [
        b"cposix\nsystem\nX".as_slice(),
        &(command.len() as u32).to_le_bytes(),
        command.as_bytes(),
        b"\x85R",
    ]
    .concat();
    let pickle = [b"\x80\x02}X\x05\0\0\0model".as_slice(), &call, b"s."].concat();
    let with = "`model` should be the state dict but is a Python object (posix.system), which is never executed";
    refused(".pt", &torch_zip(&pickle, &[]), with);
    refused(
        ".pt",
        &torch_zip(&[b"\x80\x02".as_slice(), &call, b"."].concat(), &[]),
        "posix.system",
    );
    assert!(!trace.exists());
}

#[test]
fn tensors_that_claim_more_than_the_file_has_are_refused() {
    // 1.9e9 elements from one, by a stride of zero.
    let expanded = float_tensor(b"J\0\0\0\x70\x85", b"K\0\x85");
    let pickle = |tensor: &[u8]| torch_zip(&[b"\x80\x02}X\x01\0\0\0w".as_slice(), tensor, b"s."].concat(), &[("0", &[0; 8])]);
    refused(".pt", &pickle(&expanded), "tensor w claims 7516192768 bytes");
    let long = float_tensor(b"J\0\0\0\x70\x85", b"K\x01\x85");
    refused(".pt", &pickle(&long), "not a readable PyTorch checkpoint");
}

#[test]
fn deep_and_exploding_pickles_are_refused() {
    let deep = [b"\x80\x02}X\x01\0\0\0w".as_slice(), &[b']'; 100_000], &[b'a'; 99_999], b"s."].concat();
    refused(".pt", &torch_zip(&deep, &[]), "nesting");
    let mut laughs = b"\x80\x02}X\x01\0\0\0w)q\0".to_vec();
    for i in 0..60u8 {
        laughs.extend_from_slice(&[b'0', b'h', i, b'h', i, 0x86, b'q', i + 1]);
    }
    laughs.extend_from_slice(b"s.");
    refused(".pt", &torch_zip(&laughs, &[]), "memo bomb");
}

#[test]
fn an_entry_that_would_inflate_beyond_the_file_is_refused() {
    use std::io::Write;
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let deflated = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    zip.start_file("archive/data.pkl", deflated).unwrap();
    zip.write_all(&vec![b'N'; 20_000_000]).unwrap();
    refused(
        ".pt",
        &zip.finish().unwrap().into_inner(),
        "entry archive/data.pkl claims 20000000 bytes, the file has",
    );
}

#[test]
fn lying_safetensors_are_refused() {
    let with_header = |header: &str, data: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    let damaged = "damaged or incomplete safetensors file";
    refused(
        ".safetensors",
        &with_header(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 7),
        damaged,
    );
    refused(
        ".safetensors",
        &with_header(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8),
        damaged,
    );
    refused(
        ".safetensors",
        &with_header(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#, 16),
        damaged,
    );
    let huge = r#"{"a":{"dtype":"F32","shape":[4611686018427387903,4],"data_offsets":[0,8]}}"#;
    refused(".safetensors", &with_header(huge, 8), damaged);
    refused(".safetensors", &u64::MAX.to_le_bytes(), damaged);
    refused(".safetensors", &with_header("{}", 0), "holds no tensors");
    let eight_bits = r#"{"a":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}"#;
    refused(
        ".safetensors",
        &with_header(eight_bits, 8),
        "unsupported dtype F8_E4M3; save it as f32, f16 or bf16",
    );
}

#[test]
fn a_file_cut_anywhere_is_refused_or_reads_less_but_never_panics() {
    for name in ["flat.pt", "nested.pt", "legacy.pt", "expected.safetensors"] {
        let whole = std::fs::read(golden(name)).unwrap();
        for len in (0..whole.len()).step_by(whole.len().div_ceil(150)) {
            let cut = file(name, &whole[..len]);
            let text = message(Checkpoint::open(cut.path()));
            assert!(
                text.contains(" again") || text.contains("the file is empty"),
                "{name} cut at {len}: {text}"
            );
        }
    }
}
