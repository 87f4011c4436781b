//! Predictions are nnU-Net's, and the sliding window's parts do what they say.

use crate::e2e::{Answer, Phantoms};
use crate::support::golden::shared;
use flate2::read::DeflateDecoder;
use hpc_seg::device::Device;
use hpc_seg::metrics::dice::dice;
use hpc_seg::stop::Stop;
use hpc_seg::unet::dataset::CaseFiles;
use hpc_seg::unet::model::Model;
use hpc_seg::unet::names::parameters;
use hpc_seg::unet::network::Network;
use hpc_seg::unet::plan::Plans;
use hpc_seg::unet::predict::Predictor;
use hpc_seg::unet::preprocess::preprocess;
use hpc_seg::volume::{AxisMap, Volume};
use hpc_seg::weights::{formula_tensor, write_safetensors};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use zip::ZipArchive;

/// Values of an array of an `.npz` of single or half precision.
fn npz(path: &Path, name: &str) -> Vec<f32> {
    let mut archive = ZipArchive::new(fs::File::open(path).unwrap()).unwrap();
    let wanted = format!("{name}.npy");
    let is_wanted = |archive: &mut ZipArchive<fs::File>, at| archive.by_index_raw(at).unwrap().name_raw() == wanted.as_bytes();
    let index = (0..archive.len()).find(|at| is_wanted(&mut archive, *at)).unwrap();
    let mut bytes = Vec::new();
    let mut file = archive.by_index_raw(index).unwrap();
    let mut stored = Vec::new();
    file.read_to_end(&mut stored).unwrap();
    DeflateDecoder::new(&stored[..]).read_to_end(&mut bytes).unwrap();
    let header = u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
    let text = String::from_utf8_lossy(&bytes[10..10 + header]).into_owned();
    let data = &bytes[10 + header..];
    match text.contains("<f2") {
        true => bytemuck::pod_collect_to_vec::<u8, half::f16>(data)
            .iter()
            .map(|v| v.to_f32())
            .collect(),
        false => bytemuck::pod_collect_to_vec(data),
    }
}

#[test]
fn a_case_is_segmented_as_by_nnu_net() {
    let Some(shared) = shared("nnU-Net's prediction") else { return };
    let goldens = shared.join("goldens/nnunet");
    let mut model = Model::open(&goldens.join("model"), &[]).unwrap();
    assert_eq!((model.predictor.networks.len(), &model.predictor.mirrored[..]), (1, &[0, 1, 2][..]));
    let case = CaseFiles {
        name: "ph_008".into(),
        images: vec![goldens.join("Dataset901_Phantom/imagesTs/ph_008_0000.nii.gz")],
        label: None,
        uncertainty: None,
    };
    let device = Device::cpu(2).unwrap();
    let (ready, _) = preprocess(&model.dataset, &model.predictor.plans, &case).unwrap();
    let axes = AxisMap::default();
    let expected = Volume::open(&goldens.join("model/ph_008_expected.nii.gz"))
        .unwrap()
        .labels(&axes)
        .unwrap();
    let expected: Vec<u8> = expected.iter().map(|label| *label as u8).collect();
    let probabilities = npz(&goldens.join("model/ph_008_probabilities.npz"), "p");
    for half in [false, true] {
        model.predictor.half = half;
        let done = device
            .install(|| model.predictor.segment(&device, &ready, true, &Stop::new(), &|| ()))
            .unwrap();
        let got = done.probabilities.unwrap();
        assert_eq!(got.len(), probabilities.len());
        let worst = got.iter().zip(&probabilities).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let different = done.labels.iter().zip(&expected).filter(|(a, b)| a != b).count();
        println!(
            "half {half}: probabilities to {worst:.1e}, {different} of {} voxels differ",
            expected.len()
        );
        assert!(worst <= 2e-3, "half {half}: probabilities differ by {worst}");
        for class in [1, 2] {
            let agreement = dice(&done.labels, &expected, class).unwrap();
            assert!(
                agreement.is_none_or(|dice| dice >= 0.9995),
                "half {half}, class {class}: Dice {agreement:?}"
            );
        }
        assert!(expected.contains(&1), "an empty prediction shows nothing");
    }
}

/// A model of formula weights in `folder`, with these folds.
pub fn make_model(folder: &Path, folds: &[(&str, u64)]) {
    let dataset =
        json!({"channel_names": {"0": "MRI"}, "labels": {"background": 0, "liver": 1}, "numTraining": 2, "file_ending": ".nii.gz"});
    let architecture = json!({
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {"n_stages": 2, "features_per_stage": [4, 6], "kernel_sizes": [[1, 3, 3], [3, 3, 3]], "strides": [[1, 1, 1], [1, 2, 2]],
            "n_conv_per_stage": 1, "n_conv_per_stage_decoder": 1}
    });
    let plans = json!({
        "dataset_name": "Dataset001_Made", "plans_name": "nnUNetPlans", "transpose_forward": [1, 0, 2], "transpose_backward": [1, 0, 2],
        "original_median_spacing_after_transp": [1.0, 5.0, 1.0], "original_median_shape_after_transp": [64, 6, 64],
        "foreground_intensity_properties_per_channel": {},
        "configurations": {"3d_fullres": {
            "data_identifier": "nnUNetPlans_3d_fullres", "batch_size": 2, "patch_size": [12, 8, 16], "median_image_size_in_voxels": [64.0, 6.0, 64.0],
            "spacing": [3.0, 6.0, 3.5], "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [false],
            "architecture": architecture, "batch_dice": false}}
    });
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("dataset.json"), dataset.to_string()).unwrap();
    fs::write(folder.join("plans.json"), plans.to_string()).unwrap();
    let architecture = Plans::read(&folder.join("plans.json")).unwrap().configuration.architecture;
    for (fold, seed) in folds {
        let tensors: Vec<_> = parameters(&architecture, 1, 2)
            .into_iter()
            .map(|p| (p.name.clone(), p.shape.clone(), formula_tensor(&p.name, *seed, &p.shape)))
            .collect();
        let folder = folder.join(format!("fold_{fold}"));
        fs::create_dir_all(&folder).unwrap();
        let metadata = BTreeMap::from([("inference_allowed_mirroring_axes".to_owned(), "[0,2]".to_owned())]);
        write_safetensors(&folder.join("checkpoint_final.safetensors"), &tensors, &metadata).unwrap();
    }
}

fn predict(phantoms: &Phantoms, out: &str, more: &[&str]) -> Answer {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hpc-seg"));
    command.arg("predict").arg("--model").arg(phantoms.at("model"));
    command
        .arg("--input")
        .arg(phantoms.at("data/imagesTs"))
        .arg("--out")
        .arg(phantoms.at(out))
        .args(more);
    Answer::of(command.output().unwrap())
}

#[test]
fn a_cohort_is_predicted_once_with_the_same_bytes_for_any_threads() {
    let phantoms = Phantoms::new(3, 1, [6, 40, 48]);
    make_model(&phantoms.at("model"), &[("0", 1), ("3", 2), ("all", 3)]);
    predict(&phantoms, "one", &["--save-probabilities", "--threads", "1"]).expect(0, &["phantom_001: done.", "2 done"]);
    predict(&phantoms, "two", &["--save-probabilities", "--threads", "5"]).expect(0, &["2 done"]);
    let results = phantoms.results("one");
    assert!(results == phantoms.results("two"));
    let names: Vec<&String> = results.keys().collect();
    assert_eq!(
        names,
        [
            "phantom_001.nii.gz",
            "phantom_002.nii.gz",
            "probability/phantom_001.nii.gz",
            "probability/phantom_002.nii.gz"
        ]
    );
    predict(&phantoms, "one", &["--save-probabilities"]).expect(0, &["2 were finished before"]);

    // Probabilities are those of two classes, on the grid of the image, and the mask takes the larger.
    let axes = AxisMap::default();
    let image = Volume::open(&phantoms.query(1)).unwrap();
    let class = |number| Volume::open_channel(&phantoms.at("one/probability/phantom_001.nii.gz"), number).unwrap();
    let [background, liver] = [0, 1].map(|number| class(number).voxels_f32(&axes).unwrap());
    let mask = Volume::open(&phantoms.at("one/phantom_001.nii.gz")).unwrap();
    assert!(image.geometry().difference(mask.geometry()).is_none());
    let mask = mask.labels(&axes).unwrap();
    assert!((0..mask.len()).all(|at| (background[at] + liver[at] - 1.0).abs() < 1e-5 && (mask[at] == 1) == (liver[at] > background[at])));
    assert!(mask.contains(&0) && mask.contains(&1), "one class alone shows nothing");

    // Other folds and views give something else.
    for (out, more) in [
        ("fold", &["--folds", "3"][..]),
        ("all", &["--folds", "all"]),
        ("plain", &["--no-mirroring"]),
    ] {
        predict(&phantoms, out, more).expect(0, &["2 done"]);
        assert!(
            phantoms.results(out)["phantom_001.nii.gz"] != results["phantom_001.nii.gz"],
            "{out}"
        );
    }
}

#[test]
fn bad_models_and_images_are_refused_with_the_remedy() {
    let phantoms = Phantoms::new(2, 1, [6, 40, 48]);
    predict(&phantoms, "out", &[]).expect(2, &["plans.json"]);
    make_model(&phantoms.at("model"), &[]);
    predict(&phantoms, "out", &[]).expect(2, &["holds no fold_X/checkpoint_final.pth"]);
    make_model(&phantoms.at("model"), &[("0", 1)]);
    predict(&phantoms, "out", &["--folds", "1"]).expect(2, &["no trained fold 1", "leave it out of --folds"]);
    let checkpoint = phantoms.at("model/fold_0/checkpoint_final.safetensors");
    let good = fs::read(&checkpoint).unwrap();
    fs::write(&checkpoint, &good[..good.len() / 2]).unwrap();
    predict(&phantoms, "out", &[]).expect(2, &["checkpoint_final.safetensors", "damaged or incomplete"]);
    fs::write(&checkpoint, &good).unwrap();
    let path = phantoms.at("model/plans.json");
    let plans = fs::read_to_string(&path).unwrap();
    fs::write(&path, plans.replace("[4,6]", "[4,8]")).unwrap();
    predict(&phantoms, "out", &[]).expect(2, &["wrongly shaped", "encoder.stages.1.0.convs.0.conv.weight"]);
    fs::write(&path, &plans).unwrap();
    fs::write(phantoms.query(1), b"not an image").unwrap();
    predict(&phantoms, "out", &["--json"]).expect(3, &["phantom_001 failed (preprocessing)"]);
    assert!(!phantoms.at("out/phantom_001.nii.gz").exists());
}

#[test]
fn labels_made_plane_by_plane_are_those_of_whole_logits() {
    let device = Device::cpu(3).unwrap();
    let mut plans = super::training::plans();
    let network = |seed| Network::new(&plans.configuration.architecture, 1, 2, seed);
    let networks = vec![network(1), network(2)];
    // Sizes after resampling, and the file's spacing: as it is, resized along all axes, slices as they are along the first axis and along the last one.
    for (cropped, spacing, planned) in [
        ([10, 20, 22], [1.0; 3], [1.0; 3]),
        ([17, 31, 15], [0.6, 0.65, 1.5], [1.0; 3]),
        ([23, 20, 22], [0.4, 1.0, 1.0], [4.0, 1.0, 1.0]),
        ([4, 33, 25], [5.0, 0.6, 0.9], [1.0; 3]),
        ([10, 30, 44], [1.0, 0.7, 0.5], [1.0, 1.0, 4.0]),
    ] {
        plans.configuration.spacing = planned;
        for half in [false, true] {
            let predictor = Predictor {
                plans: plans.clone(),
                networks: networks.clone(),
                mirrored: vec![1],
                half,
            };
            let mut case = super::training::case(3);
            case.properties.spacing = spacing;
            case.properties.shape_after_cropping_and_before_resampling = cropped;
            case.properties.bbox_used_for_cropping = [2..2 + cropped[0], 0..cropped[1], 1..1 + cropped[2]];
            case.properties.shape_before_cropping = [cropped[0] + 3, cropped[1], cropped[2] + 2];
            let segment = |probabilities| predictor.segment(&device, &case, probabilities, &Stop::new(), &|| ()).unwrap();
            let (by_plane, whole) = (segment(false), segment(true));
            assert!(by_plane.labels == whole.labels, "{cropped:?}, half: {half}");
            let some = by_plane.labels.iter().filter(|label| **label == 1).count();
            assert!(some > 0 && some < by_plane.labels.len(), "{cropped:?}: {some}");
        }
    }
}
