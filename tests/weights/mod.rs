//! Weights: reading, strict loading, conversion, the manifest, and what damaged or hostile files do (nothing).

mod bad_files;
mod convert;
mod mutations;
mod reading;
mod strict;

use std::path::PathBuf;

/// A file of `tests/golden/checkpoints/`, made by torch.save (see goldens/README.md of the project's material: nested, flat and legacy hold
/// the tensors of expected.safetensors; hostile tries to run a command).
fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/checkpoints")
        .join(name)
}

/// The error's whole text; the test fails when there is none.
fn message<T>(result: anyhow::Result<T>) -> String {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(error) => {
            assert!(hpc_seg::error::is_input_error(&error), "not an input error: {error:#}");
            format!("{error:#}")
        }
    }
}

/// A zip archive like torch.save's: `data.pkl`, `version` and storages.
fn torch_zip(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    use std::io::Write;
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut add = |name: &str, bytes: &[u8]| {
        zip.start_file(format!("archive/{name}"), stored).unwrap();
        zip.write_all(bytes).unwrap();
    };
    add("data.pkl", pickle);
    add("version", b"3\n");
    for (name, bytes) in storages {
        add(&format!("data/{name}"), bytes);
    }
    zip.finish().unwrap().into_inner()
}

/// A temporary file with these bytes and this ending.
fn file(suffix: &str, bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(suffix).tempfile().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

/// Opcodes that push the tensor `_rebuild_tensor_v2(storage '0' of 2 floats, offset 0, size, stride)`; size and stride as opcodes.
fn float_tensor(size: &[u8], stride: &[u8]) -> Vec<u8> {
    let mut ops =
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x02tQK\0".to_vec();
    ops.extend_from_slice(size);
    ops.extend_from_slice(stride);
    ops.extend_from_slice(b"\x89ccollections\nOrderedDict\n)RtR");
    ops
}
