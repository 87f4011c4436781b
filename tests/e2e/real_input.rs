//! CT volumes and a network of the published size. The weights are made by a formula, so labels mean nothing; files and numbers do.

use super::{Answer, Phantoms, header_bytes, read};
use crate::support::golden::shared;
use hpc_seg::weights::{formula_tensor, read_tensor_list, write_safetensors};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Writes the formula weights of the full-size network, with its configuration.
fn write_weights(path: &Path) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/expected");
    let text = |kind: &str| fs::read_to_string(folder.join(format!("sam2_hiera_t512_{kind}.json"))).unwrap();
    let list = read_tensor_list("hiera_t512", &text("tensors")).unwrap();
    let tensors: Vec<_> = list
        .into_iter()
        .map(|(name, shape)| (name.clone(), shape.clone(), formula_tensor(&name, 4, &shape)))
        .collect();
    let metadata = BTreeMap::from([("config".to_owned(), text("config"))]);
    write_safetensors(path, &tensors, &metadata).unwrap();
}

/// Links to the CT volumes, the first two with their labels.
fn link_volumes(phantoms: &Phantoms, root: &Path) {
    let mut names: Vec<String> = fs::read_dir(root.join("data/ct-lesion"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.retain(|name| name.ends_with("_image.nii.gz"));
    names.sort();
    assert_eq!(names.len(), 4);
    for folder in ["ct/imagesTr", "ct/labelsTr", "ct/imagesTs"] {
        fs::create_dir_all(phantoms.at(folder)).unwrap();
    }
    for (number, name) in names.iter().enumerate() {
        let source = root.join("data/ct-lesion").join(name);
        let folder = if number < 2 { "imagesTr" } else { "imagesTs" };
        std::os::unix::fs::symlink(&source, phantoms.at(&format!("ct/{folder}/ct{number}_0000.nii.gz"))).unwrap();
        if number < 2 {
            let labels = root.join("data/ct-lesion").join(name.replace("_image", "_label"));
            std::os::unix::fs::symlink(labels, phantoms.at(&format!("ct/labelsTr/ct{number}.nii.gz"))).unwrap();
        }
    }
}

#[test]
fn ct_volumes_go_through_the_whole_method_at_full_size() {
    let Some(root) = shared("CT volumes at full size") else { return };
    let phantoms = Phantoms::new(1, 1, [1, 8, 8]);
    link_volumes(&phantoms, &root);
    write_weights(&phantoms.at("full.safetensors"));
    let (ct, weights) = (phantoms.at("ct"), phantoms.at("full.safetensors"));
    let (ct, weights) = (ct.to_str().unwrap(), weights.to_str().unwrap());
    let out = phantoms.at("result");
    let mut run = Command::new(env!("CARGO_BIN_EXE_hpc-seg"));
    run.args([
        "run",
        "--labelled",
        ct,
        "--unlabelled",
        ct,
        "--weights",
        weights,
        "--rounds",
        "1",
        "--out",
    ])
    .arg(&out);
    run.args(["--label-options", "--insert-at 6 --window 40,400"]);
    run.args(["--plan-options", "--patch 12,64,64 --batch 2 --features 4 --spacing 5,4,4"]);
    run.args(["--train-options", "--epochs 1 --iterations 2 --no-mirroring"]);
    let answer = Answer::of(run.output().unwrap()).expect(0, &["ct3: done.", "round_1/fold_1: done in"]);
    println!("{}", answer.stdout);
    for file in [
        "model/fold_1/checkpoint_final.pth",
        "pseudo_labels/round_1/ct2.nii.gz",
        "report.html",
    ] {
        assert!(out.join(file).is_file(), "{file}");
    }
    let summary: serde_json::Value = serde_json::from_slice(&fs::read(out.join("summary.json")).unwrap()).unwrap();
    for stage in summary["rounds"].as_array().unwrap() {
        assert!(
            stage["seconds"].as_f64().unwrap() > 0.0 && stage["peak_memory_bytes"].as_u64().unwrap() > 1 << 20,
            "{stage}"
        );
    }
    check_labels(&phantoms);
}

/// What TFFS made of the last volume.
fn check_labels(phantoms: &Phantoms) {
    let input = phantoms.at("ct/imagesTs/ct3_0000.nii.gz");
    let (header, _) = read(&input);
    for file in [
        "result/pseudo_labels/round_0/ct3.nii.gz",
        "result/pseudo_labels/round_0/uncertainty/ct3.nii.gz",
    ] {
        let path = phantoms.at(file);
        let (like, input) = (header_bytes(&path), header_bytes(&input));
        assert_eq!((&like[76..92], &like[252..328]), (&input[76..92], &input[252..328]), "{file}");
        let (own, voxels) = read(&path);
        assert_eq!(own.dims(), header.dims());
        assert!(
            voxels.iter().all(|v| (0.0..=1.0).contains(v)),
            "{file}: masks are 0 or 1, entropies 0 to ln 2"
        );
    }
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(phantoms.at("result/pseudo_labels/round_0/cases/ct3.json")).unwrap()).unwrap();
    let (_, mask) = read(&phantoms.at("result/pseudo_labels/round_0/ct3.nii.gz"));
    let millilitres = mask.iter().filter(|v| **v > 0.0).count() as f64 * header.geometry().voxel_ml();
    let told = record["classes"][0]["volume_ml"].as_f64().unwrap();
    assert!(
        (told - millilitres).abs() <= 1e-9 * millilitres.max(1.0),
        "{told} told, {millilitres} in the mask"
    );
    assert_eq!(
        (record["classes"][0]["runs"].as_u64(), record["supports"].as_array().unwrap().len()),
        (Some(2), 2)
    );
    let uncertainty = record["mean_uncertainty"].as_f64().unwrap();
    assert!(uncertainty > 0.0 && uncertainty <= std::f64::consts::LN_2, "{uncertainty}");
    assert!(
        fs::metadata(phantoms.at("result/pseudo_labels/round_0/cases/ct3.png"))
            .unwrap()
            .len()
            > 1000
    );
}
