//! Preprocessed cases are nnU-Net's, and what is wrong with a stored one is said.

use crate::support::golden::shared;
use hpc_seg::unet::crop::{bounds, outside};
use hpc_seg::unet::dataset::Dataset;
use hpc_seg::unet::plan::Plans;
use hpc_seg::unet::preprocess::preprocess;
use hpc_seg::unet::store::{Preprocessed, Properties, StoredCase};
use safetensors::SafeTensors;
use serde_json::Value;
use std::fs;

#[test]
fn cases_are_preprocessed_as_by_nnu_net() {
    let Some(shared) = shared("nnU-Net's preprocessed cases") else {
        return;
    };
    let goldens = shared.join("goldens/nnunet");
    let dataset = Dataset::open(&goldens.join("Dataset901_Phantom")).unwrap();
    let plans = Plans::read(&goldens.join("nnUNetPlans.json")).unwrap();
    let bytes = fs::read(goldens.join("preprocessed.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let properties: Value = serde_json::from_slice(&fs::read(goldens.join("preprocessed_properties.json")).unwrap()).unwrap();
    for name in ["ph_000", "ph_003"] {
        let case = dataset.cases().unwrap().into_iter().find(|case| case.name == name).unwrap();
        let (ready, _) = preprocess(&dataset, &plans, &case).unwrap();
        let want = tensors.tensor(&format!("{name}.image")).unwrap();
        assert_eq!(want.shape()[1..], ready.shape);
        let want: Vec<f32> = bytemuck::pod_collect_to_vec(want.data());
        let worst = ready.image.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 1e-4, "{name}: image differs by {worst}");
        let want: Vec<i16> = bytemuck::pod_collect_to_vec(tensors.tensor(&format!("{name}.label")).unwrap().data());
        let different = ready.label.iter().zip(&want).filter(|(a, b)| a != b).count();
        println!("{name}: image to {worst:.1e}, {different} of {} labels differ", want.len());
        assert!(different * 10_000 <= want.len(), "{name}: {different} labels differ");
        for (key, at) in &ready.locations {
            let want = tensors.tensor(&format!("{name}.class_locations.{}", key[0])).unwrap();
            let want: Vec<[i32; 4]> = bytemuck::pod_collect_to_vec(want.data());
            let got: Vec<[i32; 4]> = at.iter().map(|[z, y, x]| [0, *z as i32, *y as i32, *x as i32]).collect();
            assert!(got == want, "{name}: locations of {key:?}");
        }
        let mut got = serde_json::to_value(&ready.properties).unwrap();
        let boxed = got["bbox_used_for_cropping"].as_array_mut().unwrap();
        boxed
            .iter_mut()
            .for_each(|range| *range = serde_json::json!([range["start"], range["end"]]));
        let mut want = properties[name].clone();
        want.as_object_mut().unwrap().remove("sitk_stuff");
        assert_eq!(got, want);
    }
}

#[test]
fn what_is_outside_touches_the_border_through_zeros() {
    // A shell with a hole inside and a dent outside.
    let (shape, mut image) = ([5, 5, 6], vec![0.0; 150]);
    let at = |z: usize, y: usize, x: usize| (z * 5 + y) * 6 + x;
    for z in 1..4 {
        for y in 1..4 {
            for x in 1..4 {
                image[at(z, y, x)] = 1.0;
            }
        }
    }
    image[at(2, 2, 2)] = 0.0;
    image[at(2, 2, 1)] = 0.0; // opens the hole to the left
    let open = outside(&[image.clone()], shape);
    assert!(open[at(2, 2, 2)] && open[at(0, 0, 0)] && !open[at(1, 1, 1)]);
    image[at(2, 2, 1)] = 1.0;
    let closed = outside(&[image.clone()], shape);
    assert!(!closed[at(2, 2, 2)], "a hole is not outside");
    assert_eq!(bounds(&closed, shape), [1..4, 1..4, 1..4]);
    // A second channel counts too, and nothing at all is the whole volume.
    let mut second = vec![0.0; 150];
    second[at(0, 4, 5)] = -2.0;
    assert_eq!(bounds(&outside(&[image, second], shape), shape), [0..4, 1..5, 1..6]);
    assert_eq!(bounds(&outside(&[vec![0.0; 150]], shape), shape), [0..5, 0..5, 0..6]);
}

fn some_case() -> Preprocessed {
    Preprocessed {
        shape: [3, 1, 5],
        image: (0..30).map(|v| v as f32).collect(),
        label: (0..15).map(|v| v % 3 - 1).collect(),
        uncertainty: Some((0..15).map(|v| v as f32 / 15.0).collect()),
        locations: vec![
            (vec![1], vec![[0, 0, 2], [1, 0, 0]]),
            (vec![2], vec![]),
            (vec![-1, 0, 1], vec![[2, 0, 4]]),
        ],
        properties: Properties {
            spacing: [3.0, 1.5, 1.370_000_004_768_371_6],
            shape_before_cropping: [9, 9, 9],
            bbox_used_for_cropping: [1..4, 2..3, 0..5],
            shape_after_cropping_and_before_resampling: [3, 1, 5],
        },
    }
}

#[test]
fn a_stored_case_is_what_was_stored() {
    let (folder, case) = (tempfile::tempdir().unwrap(), some_case());
    case.write(folder.path(), "a").unwrap();
    let stored = StoredCase::open(folder.path(), "a").unwrap();
    let view = stored.view();
    assert_eq!(
        (view.shape, view.channels, view.image, view.label),
        (case.shape, 2, &case.image[..], &case.label[..])
    );
    assert_eq!(view.uncertainty, case.uncertainty.as_deref());
    let locations: Vec<_> = view.locations.iter().map(|(key, at)| (key.clone(), at.to_vec())).collect();
    assert_eq!(locations, case.locations);
    assert_eq!(stored.header().properties, case.properties);
}

#[test]
fn damaged_stored_cases_are_refused_with_file_and_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let (json, data) = (folder.path().join("a.json"), folder.path().join("a.data"));
    let refused = |file: &str| {
        let text = format!("{:#}", StoredCase::open(folder.path(), "a").unwrap_err());
        assert!(text.contains(file) && text.contains("run hpc-seg preprocess again"), "{text}");
    };
    refused("a.json");
    some_case().write(folder.path(), "a").unwrap();
    let (good_json, good_data) = (fs::read_to_string(&json).unwrap(), fs::read(&data).unwrap());
    for length in [0, 1, 64, 127, 128, good_data.len() - 1] {
        fs::write(&data, &good_data[..length]).unwrap();
        refused("a.data");
    }
    fs::write(&data, [&good_data[..], &[0]].concat()).unwrap();
    refused("a.data");
    fs::write(&data, &good_data).unwrap();
    for (from, to) in [
        ("\"channels\": 2", "\"channels\": 18446744073709551615"),
        ("\"channels\": 2", "\"channels\": 3"),
        ("\"sha256\": \"", "\"sha256\": \"0"),
    ] {
        assert!(good_json.contains(from));
        fs::write(&json, good_json.replacen(from, to, 1)).unwrap();
        refused("a.data");
    }
    fs::write(&json, &good_json[..good_json.len() / 2]).unwrap();
    refused("a.json");
    fs::remove_file(&data).unwrap();
    fs::write(&json, good_json).unwrap();
    refused("a.data");
}
