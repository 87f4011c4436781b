//! Unusable weights, configurations and output folders: exit code 2 before any case is touched.

use super::{Answer, Phantoms};
use crate::support::full_disk::FullDisk;
use hpc_seg::weights::{Checkpoint, demo_network, write_safetensors};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

const POSITION: &str = "maskmem_tpos_enc";

/// Rewrites the demo network and labels with it.
fn label_with(change: impl FnOnce(&mut Tensors, &mut BTreeMap<String, String>)) -> (Phantoms, Answer) {
    let phantoms = Phantoms::new(2, 1, [6, 64, 64]);
    let demo = Checkpoint::from_bytes("demo", demo_network()).unwrap();
    let tensor = |name: &str| (name.to_owned(), demo.shape(name).unwrap().to_vec(), demo.f32(name).unwrap());
    let mut tensors: Tensors = demo.names().map(tensor).collect();
    let mut metadata = demo.all_metadata().clone();
    change(&mut tensors, &mut metadata);
    write_safetensors(&phantoms.at("demo.safetensors"), &tensors, &metadata).unwrap();
    let answer = phantoms.label("out", &[]);
    nothing_is_done(&phantoms);
    (phantoms, answer)
}

fn nothing_is_done(phantoms: &Phantoms) {
    assert!(!phantoms.at("out/phantom_001.nii.gz").exists() && !phantoms.at("out/failed.csv").exists());
}

fn place(tensors: &Tensors) -> usize {
    tensors.iter().position(|(name, ..)| name == POSITION).unwrap()
}

#[test]
fn a_rewritten_network_is_the_same_network() {
    let phantoms = Phantoms::new(2, 1, [6, 64, 64]);
    let demo = Checkpoint::from_bytes("demo", demo_network()).unwrap();
    let tensors: Tensors = demo
        .names()
        .map(|n| (n.to_owned(), demo.shape(n).unwrap().to_vec(), demo.f32(n).unwrap()))
        .collect();
    phantoms.label("demo", &[]).expect(0, &[]);
    write_safetensors(&phantoms.at("demo.safetensors"), &tensors, demo.all_metadata()).unwrap();
    phantoms.label("out", &[]).expect(0, &[]);
    assert!(phantoms.mask("demo", 1) == phantoms.mask("out", 1));
}

#[test]
fn a_missing_and_an_extra_tensor_are_listed_with_the_nearest_names() {
    let (_, answer) = label_with(|tensors, _| {
        let at = place(tensors);
        tensors[at].0 = "maskmem_tpos_encoding".to_owned();
    });
    answer.expect(2, &["demo.safetensors", POSITION, "maskmem_tpos_encoding", "missing", "nearest"]);
}

#[test]
fn a_misshapen_tensor_is_listed_with_both_shapes() {
    let (_, answer) = label_with(|tensors, _| {
        let at = place(tensors);
        let (_, shape, values) = &mut tensors[at];
        let row = values.len() / shape[0];
        shape[0] -= 1;
        values.truncate(row * shape[0]);
    });
    answer.expect(2, &["demo.safetensors", &format!("{POSITION}: expected ["), "found ["]);
}

#[test]
fn weights_that_are_no_numbers_are_refused() {
    let (_, answer) = label_with(|tensors, _| {
        let at = place(tensors);
        tensors[at].2[3] = f32::NAN;
    });
    answer.expect(2, &["demo.safetensors", &format!("{POSITION}: element 3 is NaN")]);
}

#[test]
fn a_network_of_unknown_size_without_configuration_asks_for_one() {
    let (_, answer) = label_with(|_, metadata| drop(metadata.remove("config")));
    answer.expect(
        2,
        &[
            "demo.safetensors: the network is none of the published SAM 2.1 models",
            "--config FILE",
        ],
    );
}

#[test]
fn a_damaged_configuration_in_the_weights_is_bad_input() {
    for config in ["{", "{\"image_size\": \"big\"}"] {
        let (_, answer) = label_with(|_, metadata| drop(metadata.insert("config".to_owned(), config.to_owned())));
        answer.expect(2, &["demo.safetensors: the metadata key `config` is not a configuration"]);
    }
}

#[test]
fn a_hostile_checkpoint_runs_nothing() {
    let phantoms = Phantoms::new(2, 1, [6, 64, 64]);
    let hostile = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints/hostile.pt");
    let before = crate::cohort::files_below(phantoms.at("").as_path());
    let answer = Answer::of(
        phantoms
            .command("out", &["--weights", hostile.to_str().unwrap()])
            .current_dir(phantoms.at(""))
            .output()
            .unwrap(),
    );
    answer.expect(2, &["hostile.pt"]);
    nothing_is_done(&phantoms);
    let made: Vec<_> = crate::cohort::files_below(phantoms.at("").as_path());
    let other = made
        .iter()
        .filter(|file| !before.contains(file) && !file.starts_with("out/"))
        .collect::<Vec<_>>();
    assert!(other.is_empty(), "{other:?}");
}

#[test]
fn files_that_are_no_weights_are_refused() {
    let phantoms = Phantoms::new(2, 1, [6, 64, 64]);
    for (bytes, piece) in [
        (&b""[..], "demo.safetensors"),
        (b"not weights at all, only text", "demo.safetensors"),
        (&demo_network()[..5000], "demo.safetensors"),
    ] {
        fs::write(phantoms.at("demo.safetensors"), bytes).unwrap();
        phantoms.label("out", &[]).expect(2, &[piece]);
        nothing_is_done(&phantoms);
    }
}

#[test]
fn a_bad_configuration_file_is_named() {
    let phantoms = Phantoms::new(2, 1, [6, 64, 64]);
    let file = phantoms.at("net.json");
    for (text, pieces) in [
        ("{\"image_sizes\": 128}", &["unknown field `image_sizes`", "image_size"][..]),
        ("{\"image_size\": 100}", &["image_size 100 is not a multiple of 32 up to 4096"]),
        ("{\"stages\": [1, 1]}", &["a Hiera trunk has four stages"]),
        ("{\"image_size\": -1}", &["invalid value"]),
        ("[128]", &["a configuration is a JSON object of settings"]),
        ("{", &["not JSON"]),
    ] {
        fs::write(&file, text).unwrap();
        let answer = phantoms.label("out", &["--config", file.to_str().unwrap()]);
        answer.expect(2, &[pieces, &["net.json"]].concat());
        nothing_is_done(&phantoms);
    }
    fs::remove_file(&file).unwrap();
    phantoms
        .label("out", &["--config", file.to_str().unwrap()])
        .expect(2, &["there is no file", "net.json"]);
}

#[test]
fn places_that_cannot_be_written_to_are_named_before_any_work() {
    let phantoms = Phantoms::new(2, 1, [6, 64, 64]);
    fs::write(phantoms.at("file"), "in the way").unwrap();
    fs::create_dir(phantoms.at("half")).unwrap();
    fs::write(phantoms.at("half/uncertainty"), "in the way").unwrap();
    for out in ["file", "file/below", "half"] {
        let named = format!("cannot write to the output folder {}", phantoms.at(out).display());
        phantoms.label(out, &[]).expect(2, &[&named, "Choose another --out"]);
    }
    phantoms
        .label("/proc/hpc-seg", &[])
        .expect(2, &["cannot write to the output folder /proc/hpc-seg"]);
    for command in [&["phantom", "--cases", "2", "--labelled", "1"][..], &["man"], &["demo"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_hpc-seg"))
            .args(command)
            .args(["--out", "/proc/hpc-seg"])
            .output();
        Answer::of(output.unwrap()).expect(2, &["cannot write to the output folder /proc/hpc-seg"]);
    }
    phantoms.label("data", &[]).expect(2, &["is a folder that volumes are read from"]);
    assert_eq!(fs::read_to_string(phantoms.at("file")).unwrap(), "in the way");
}

#[test]
fn somebodys_own_mask_is_not_overwritten() {
    let phantoms = Phantoms::new(2, 1, [6, 64, 64]);
    fs::create_dir(phantoms.at("out")).unwrap();
    fs::write(phantoms.at("out/phantom_001.nii.gz"), "drawn by hand").unwrap();
    phantoms.label("out", &[]).expect(
        2,
        &[
            "phantom_001.nii.gz exists and was not written by a run into",
            "choose another --out",
        ],
    );
    assert_eq!(fs::read(phantoms.at("out/phantom_001.nii.gz")).unwrap(), b"drawn by hand");
}

#[test]
fn a_full_disk_ends_the_run_and_the_same_command_goes_on() {
    let phantoms = Phantoms::new(3, 1, [6, 64, 64]);
    let disk = phantoms.at("disk");
    fs::create_dir(&disk).unwrap();
    let Some(mounted) = FullDisk::over(&disk, 48 << 10) else { return };
    let full = phantoms.label("disk", &[]);
    let left: Vec<String> = crate::cohort::files_below(&disk);
    mounted.free();
    let again = phantoms.label("disk", &[]);
    full.expect(1, &["no space is left for", "free some and give the same command again to go on"]);
    assert!(!left.iter().any(|file| file.contains(".hpc-seg-")), "{left:?}");
    again.expect(0, &["done"]);
}
