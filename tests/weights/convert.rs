use super::{file, golden, message};
use hpc_seg::weights::*;
use std::collections::BTreeMap;

#[test]
fn a_converted_file_has_the_same_tensors_and_says_where_they_come_from() {
    let folder = tempfile::tempdir().unwrap();
    let dst = folder.path().join("kept.safetensors");
    convert(&golden("nested.pt"), &dst, Precision::Keep).unwrap();
    let (before, after) = (Checkpoint::open(&golden("nested.pt")).unwrap(), Checkpoint::open(&dst).unwrap());
    assert_eq!(before.names().collect::<Vec<_>>(), after.names().collect::<Vec<_>>());
    for name in before.names() {
        assert_eq!(before.dtype(name), after.dtype(name), "{name}");
        assert_eq!(before.shape(name), after.shape(name), "{name}");
        assert_eq!(before.raw(name).unwrap(), after.raw(name).unwrap(), "{name}");
    }
    assert_eq!(after.metadata("source"), Some("nested.pt"));
    assert_eq!(after.metadata("source_sha256"), Some(before.sha256().unwrap().as_str()));
    // The crate is the judge of the format.
    let bytes = std::fs::read(&dst).unwrap();
    assert_eq!(safetensors::SafeTensors::deserialize(&bytes).unwrap().len(), 11);
    // Only the file is left: no temporary one.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn precision_changes_floats_and_leaves_integers_alone() {
    let folder = tempfile::tempdir().unwrap();
    for (precision, dtype, step) in [
        (Precision::F32, Dtype::F32, 1e-7),
        (Precision::F16, Dtype::F16, 5e-4),
        (Precision::Bf16, Dtype::BF16, 4e-3),
    ] {
        let dst = folder.path().join("x.safetensors");
        convert(&golden("flat.pt"), &dst, precision).unwrap();
        let (before, after) = (Checkpoint::open(&golden("flat.pt")).unwrap(), Checkpoint::open(&dst).unwrap());
        assert_eq!(after.dtype("steps"), Some(Dtype::I64));
        assert_eq!(after.dtype("mask"), Some(Dtype::Bool));
        for name in ["plain.weight", "half", "bfloat", "double", "scalar", "empty"] {
            assert_eq!(after.dtype(name), Some(dtype), "{name}");
            for (x, y) in before.f32(name).unwrap().iter().zip(after.f32(name).unwrap()) {
                assert!((x - y).abs() <= step * x.abs().max(1e-3), "{name}: {x} became {y}");
            }
        }
    }
}

#[test]
fn the_same_input_gives_the_same_bytes_and_metadata_survives() {
    let folder = tempfile::tempdir().unwrap();
    let demo = folder.path().join("demo.safetensors");
    std::fs::write(&demo, demo_network()).unwrap();
    let (a, b) = (folder.path().join("a.safetensors"), folder.path().join("b.safetensors"));
    convert(&demo, &a, Precision::F32).unwrap();
    convert(&demo, &b, Precision::F32).unwrap();
    assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
    let (before, after) = (Checkpoint::open(&demo).unwrap(), Checkpoint::open(&a).unwrap());
    assert!(
        before
            .metadata("config")
            .is_some_and(|config| config.contains("\"image_size\": 128"))
    );
    assert_eq!(after.metadata("config"), before.metadata("config"));
    assert_eq!(after.metadata("original_source"), before.metadata("source"));
    // f16 to f32 and back is exact.
    let back = folder.path().join("back.safetensors");
    convert(&a, &back, Precision::F16).unwrap();
    let back = Checkpoint::open(&back).unwrap();
    assert!(before.names().all(|name| back.raw(name).unwrap() == before.raw(name).unwrap()));
}

#[test]
fn a_value_that_f16_cannot_hold_is_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (src, dst) = (folder.path().join("big.safetensors"), folder.path().join("out.safetensors"));
    write_safetensors(&src, &[("w".to_owned(), vec![2], vec![1.0, 1e6])], &BTreeMap::new()).unwrap();
    let text = message(convert(&src, &dst, Precision::F16));
    assert!(
        text.ends_with("big.safetensors: w holds 1000000, which f16 cannot; convert to bf16 or f32"),
        "{text}"
    );
    assert!(!dst.exists());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn places_that_cannot_be_written_are_refused() {
    let text = message(convert(
        &golden("flat.pt"),
        std::path::Path::new("/nonexistent/x.safetensors"),
        Precision::Keep,
    ));
    assert!(
        text.starts_with("/nonexistent/x.safetensors: cannot be written") && text.contains("choose another place"),
        "{text}"
    );
    let text = message(convert(&golden("flat.pt"), std::path::Path::new("x.pt"), Precision::Keep));
    assert!(text.contains("give it a name that ends in .safetensors"), "{text}");
}

#[test]
fn the_demo_network_opens_and_is_the_manifests() {
    let demo = Checkpoint::from_bytes("the demo network", demo_network()).unwrap();
    let entry = Manifest::built_in()
        .unwrap()
        .files
        .into_iter()
        .find(|e| e.file == "demo.safetensors")
        .unwrap();
    assert_eq!(Some(demo.sha256().unwrap()), entry.sha256);
    assert!(demo.names().count() > 300);
    assert!(
        demo.f32("image_encoder.trunk.patch_embed.proj.weight")
            .unwrap()
            .iter()
            .all(|v| v.is_finite())
    );
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/demo.safetensors");
    let found = verify(&file, &Manifest::built_in().unwrap()).unwrap();
    assert_eq!(found.verdict, Verdict::Matches);
    assert!(found.to_string().contains("licence  MIT OR Apache-2.0"), "{found}");
}

#[test]
fn verification_tells_damaged_unrecorded_and_unknown_files_apart() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = Manifest::built_in().unwrap();
    let judge = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, b"something else").unwrap();
        verify(&path, &manifest).unwrap()
    };
    let damaged = judge("demo.safetensors");
    assert_eq!(damaged.verdict, Verdict::Differs);
    assert!(
        damaged.to_string().contains("NOT the manifest's file (expected 5d05823c"),
        "{damaged}"
    );
    assert_eq!(judge("MedSAM2_latest.pt").verdict, Verdict::NoHashRecorded);
    assert_eq!(judge("sam2.1_hiera_large.pt").verdict, Verdict::NoHashRecorded);
    assert_eq!(judge("mine.pt").verdict, Verdict::Unknown);
    let renamed = folder.path().join("renamed.safetensors");
    std::fs::write(&renamed, demo_network()).unwrap();
    assert_eq!(verify(&renamed, &manifest).unwrap().verdict, Verdict::Matches);
    assert!(message(verify(&folder.path().join("absent"), &manifest)).contains("absent: cannot open the file"));
}

#[test]
fn a_manifest_of_ones_own_is_read_or_refused() {
    let good = file(".json", serde_json::to_string(&Manifest::built_in().unwrap()).unwrap().as_bytes());
    assert_eq!(Manifest::read(good.path()).unwrap(), Manifest::built_in().unwrap());
    let bad = file(".json", b"{\"files\": 3}");
    assert!(message(Manifest::read(bad.path())).contains("not a manifest"));
}
