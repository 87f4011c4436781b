//! Data sets, fingerprints and plans are nnU-Net's.

use crate::support::golden::shared;
use hpc_seg::stop::Stop;
use hpc_seg::unet::architecture::Family;
use hpc_seg::unet::dataset::Dataset;
use hpc_seg::unet::fingerprint::{Fingerprint, Intensities, fingerprint};
use hpc_seg::unet::plan::{Overrides, Plans, Scheme, plan};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A data set of `cases` equal cases with `labels` entries, in memory.
fn made(spacing: [f64; 3], shape: [usize; 3], labels: usize, cases: usize) -> (Dataset, Fingerprint) {
    let names: serde_json::Map<String, Value> = (0..labels).map(|label| (format!("label {label}"), json!(label))).collect();
    let json = json!({"channel_names": {"0": "CT"}, "labels": names, "numTraining": cases, "file_ending": ".nii.gz"});
    let dataset = Dataset::of(Path::new("Dataset001_Made"), &json).unwrap();
    let fingerprint = Fingerprint {
        foreground_intensity_properties_per_channel: BTreeMap::from([("0".into(), Intensities::default())]),
        median_relative_size_after_cropping: 1.0,
        shapes_after_crop: vec![shape; cases],
        spacings: vec![spacing; cases],
    };
    (dataset, fingerprint)
}

fn planned(spacing: [f64; 3], shape: [usize; 3], labels: usize, cases: usize) -> Plans {
    let (dataset, fingerprint) = made(spacing, shape, labels, cases);
    plan(&dataset, &fingerprint, &Overrides::default()).unwrap()
}

/// Keys that differ, with both values; floating-point numbers to 1e-12.
fn differences(got: &Value, want: &Value, at: &str, found: &mut Vec<String>) {
    match (got, want) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                let null = &Value::Null;
                differences(
                    a.get(key).unwrap_or(null),
                    b.get(key).unwrap_or(null),
                    &format!("{at}/{key}"),
                    found,
                );
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differences(a, b, &format!("{at}/{index}"), found);
            }
        }
        (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64() => {}
        (a, b) if a == b => {}
        (a, b) => found.push(format!("{at}: {a}, wanted {b}")),
    }
}

#[test]
fn the_phantoms_fingerprint_and_plan_are_nnu_nets() {
    let Some(shared) = shared("nnU-Net's fingerprint and plan") else {
        return;
    };
    let goldens = shared.join("goldens/nnunet");
    let json = |name: &str| serde_json::from_slice::<Value>(&fs::read(goldens.join(name)).unwrap()).unwrap();
    let dataset = Dataset::open(&goldens.join("Dataset901_Phantom")).unwrap();
    let cases = dataset.cases().unwrap();
    assert_eq!(cases.len(), 8);
    let taken = fingerprint(&dataset, &cases, &Stop::new(), || ()).unwrap();
    let mut found = Vec::new();
    differences(
        &serde_json::to_value(&taken).unwrap(),
        &json("dataset_fingerprint.json"),
        "fingerprint",
        &mut found,
    );
    let mut wanted = json("nnUNetPlans.json");
    wanted["configurations"].as_object_mut().unwrap().remove("2d");
    let plans = plan(&dataset, &taken, &Overrides::default()).unwrap();
    differences(&plans.to_json(), &wanted, "plans", &mut found);
    assert!(found.is_empty(), "{found:#?}");

    // What is read is what was made, and what was read is written word for word.
    let read = Plans::read(&goldens.join("nnUNetPlans.json")).unwrap();
    assert_eq!(
        Plans {
            json: None,
            ..read.clone()
        },
        plans
    );
    assert_eq!(read.to_json(), json("nnUNetPlans.json"));
}

#[test]
fn plans_of_public_data_sets_are_nnu_nets() {
    let check = |plans: Plans, patch: [usize; 3], batch: usize, stages: Option<usize>, is_batch_dice: bool| {
        let c = &plans.configuration;
        assert_eq!(
            (c.patch_size, c.batch_size, c.batch_dice),
            (patch, batch, is_batch_dice),
            "{plans:?}"
        );
        assert!(stages.is_none_or(|stages| c.architecture.features.len() == stages), "{plans:?}");
    };
    // Heart, hippocampus, prostate, ACDC, liver, BraTS.
    let heart = planned([1.37, 1.25, 1.25], [115, 320, 232], 2, 20);
    let strides = heart.configuration.architecture.strides.clone();
    assert_eq!(strides, [[1; 3], [2; 3], [2; 3], [2; 3], [2; 3], [1, 2, 2]]);
    check(heart, [80, 192, 160], 2, Some(6), false);
    check(planned([1.0; 3], [36, 50, 35], 3, 260), [40, 56, 40], 9, Some(4), false);
    let prostate = planned([3.6, 0.625, 0.625], [20, 320, 319], 3, 32);
    let kernels = prostate.configuration.architecture.kernel_sizes.clone();
    assert_eq!(kernels[..3], [[1, 3, 3], [1, 3, 3], [3, 3, 3]]);
    check(prostate, [20, 320, 256], 2, Some(7), false);
    check(
        planned([5.0, 1.5625, 1.5625], [18, 237, 208], 4, 200),
        [20, 256, 224],
        4,
        None,
        false,
    );
    check(planned([1.0, 0.7676, 0.7676], [482, 512, 512], 3, 131), [128; 3], 2, None, true);
    check(planned([1.0; 3], [140, 171, 137], 4, 484), [128; 3], 2, None, false);
    // The example of the specification.
    check(
        planned([3.0, 1.1875, 1.1875], [72, 250, 320], 2, 300),
        [48, 192, 224],
        2,
        Some(6),
        false,
    );
}

#[test]
fn the_coarsest_axis_comes_first_and_is_resampled_to_its_tenth_percentile() {
    let (dataset, mut fingerprint) = made([1.0, 1.0, 5.0], [200, 200, 30], 2, 11);
    for (at, spacing) in fingerprint.spacings.iter_mut().enumerate() {
        spacing[2] = 4.0 + 0.2 * at as f64;
    }
    let plans = plan(&dataset, &fingerprint, &Overrides::default()).unwrap();
    assert_eq!((plans.transpose_forward, plans.transpose_backward), ([2, 0, 1], [1, 2, 0]));
    let spacing = plans.configuration.spacing;
    assert!((spacing[0] - 4.2).abs() < 1e-12 && spacing[1..] == [1.0, 1.0], "{spacing:?}");
    assert_eq!(plans.original_median_shape, [30, 200, 200]);
}

#[test]
fn what_the_user_decides_is_not_planned() {
    let (dataset, fingerprint) = made([1.0; 3], [100; 3], 2, 20);
    let overrides = Overrides {
        memory_gb: Some(4.0),
        spacing: Some([2.0, 2.0, 2.0]),
        patch: Some([30, 32, 33]),
        batch: Some(3),
        features: Some(8),
    };
    let c = plan(&dataset, &fingerprint, &overrides).unwrap().configuration;
    assert_eq!((c.spacing, c.median_size, c.batch_size), ([2.0; 3], [50.0; 3], 3));
    assert_eq!(c.patch_size, [32, 32, 40], "padded to what the strides need");
    assert_eq!(c.architecture.features, [8, 16, 32, 64]);
    let voxels = |memory_gb| {
        let overrides = Overrides {
            memory_gb: Some(memory_gb),
            ..Overrides::default()
        };
        let (dataset, fingerprint) = made([1.0; 3], [300; 3], 2, 20);
        let c = plan(&dataset, &fingerprint, &overrides).unwrap().configuration;
        c.patch_size.iter().product::<usize>()
    };
    assert!(voxels(4.0) < voxels(8.0) && voxels(8.0) < voxels(16.0));
}

#[test]
fn older_and_inheriting_plans_are_read_and_residual_networks_too() {
    let mut json = planned([1.0; 3], [64; 3], 2, 20).to_json();
    let full = json["configurations"]["3d_fullres"].take();
    let mut parent = full.clone();
    parent["batch_size"] = json!(7);
    parent["spacing"] = json!([9.0, 9.0, 9.0]);
    json["configurations"] = json!({"parent": parent, "3d_fullres": {"inherits_from": "parent", "spacing": full["spacing"]}});
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plans.json");
    let read = |json: &Value| {
        fs::write(&path, json.to_string()).unwrap();
        Plans::read(&path)
    };
    let inherited = read(&json).unwrap().configuration;
    assert_eq!((inherited.batch_size, inherited.spacing), (7, [1.0; 3]));

    // nnU-Net before 2.5.
    let stages = inherited.architecture.features.len();
    let mut flat = full.clone();
    flat.as_object_mut().unwrap().remove("architecture");
    for (key, value) in [
        ("UNet_class_name", json!("PlainConvUNet")),
        ("UNet_base_num_features", json!(32)),
        ("unet_max_num_features", json!(320)),
        ("n_conv_per_stage_encoder", json!(vec![2; stages])),
        ("n_conv_per_stage_decoder", json!(vec![2; stages - 1])),
        ("pool_op_kernel_sizes", full["architecture"]["arch_kwargs"]["strides"].clone()),
        ("conv_kernel_sizes", full["architecture"]["arch_kwargs"]["kernel_sizes"].clone()),
    ] {
        flat[key] = value;
    }
    json["configurations"] = json!({"3d_fullres": flat});
    assert_eq!(read(&json).unwrap().configuration.architecture, inherited.architecture);

    let mut residual = full.clone();
    let architecture = residual["architecture"].as_object_mut().unwrap();
    architecture["network_class_name"] = json!("dynamic_network_architectures.architectures.unet.ResidualEncoderUNet");
    let arguments = architecture["arch_kwargs"].as_object_mut().unwrap();
    arguments.insert("n_blocks_per_stage".into(), json!([1, 3, 4, 6, 6, 6][..stages]));
    arguments["n_conv_per_stage_decoder"] = json!(1);
    json["configurations"] = json!({"3d_fullres": residual});
    let read_residual = read(&json).unwrap().configuration.architecture;
    assert_eq!(read_residual.family, Family::ResidualEncoder);
    assert_eq!(read_residual.convs_per_stage, [1, 3, 4, 6, 6, 6][..stages]);
    assert_eq!(read_residual.convs_per_stage_decoder, vec![1; stages - 1]);
}

#[test]
fn bad_plans_are_refused_with_the_file_and_the_reason() {
    let good = planned([1.0; 3], [64; 3], 2, 20).to_json();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plans.json");
    let complaint = |json: &str| {
        fs::write(&path, json).unwrap();
        let error = Plans::read(&path).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("plans.json"), "{text}");
        text
    };
    assert!(complaint("{").contains("no JSON"));
    let changed = |pointer: &str, value: Value| {
        let mut json = good.clone();
        *json.pointer_mut(pointer).unwrap() = value;
        complaint(&json.to_string())
    };
    let full = "/configurations/3d_fullres";
    for (pointer, value, words) in [
        ("/transpose_forward".to_owned(), json!([0, 1, 1]), "order of the axes"),
        (format!("{full}/patch_size"), json!([63, 64, 64]), "not a multiple"),
        (format!("{full}/spacing"), json!([0.0, 1.0, 1.0]), "must be positive"),
        (format!("{full}/batch_size"), json!(-1), "\"batch_size\" is -1"),
        (format!("{full}/normalization_schemes"), json!(["Magic"]), "\"Magic\" is not known"),
        (
            format!("{full}/architecture/network_class_name"),
            json!("os.system"),
            "\"os.system\" is not known",
        ),
        (format!("{full}/architecture/arch_kwargs/strides"), json!([[1, 1, 1]]), "must agree"),
        (
            format!("{full}/architecture/arch_kwargs/n_stages"),
            json!("six"),
            "\"n_stages\" is \"six\"",
        ),
        ("/configurations".to_owned(), json!({}), "no configuration \"3d_fullres\""),
        (
            "/configurations".to_owned(),
            json!({"3d_fullres": {"inherits_from": "3d_fullres"}}),
            "inherits from itself",
        ),
    ] {
        let text = changed(&pointer, value);
        assert!(text.contains(words), "{pointer}: {text}");
    }
}

/// What is said of these plans when they are read.
fn complaint_of(json: &Value) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plans.json");
    fs::write(&path, json.to_string()).unwrap();
    format!("{:#}", Plans::read(&path).unwrap_err())
}

#[test]
fn plans_that_ask_for_other_readers_resampling_or_layers_are_refused_by_the_key() {
    let good = planned([1.0; 3], [64; 3], 2, 20).to_json();
    let full = "/configurations/3d_fullres";
    for (pointer, value, words) in [
        (
            format!("{full}/resampling_fn_data"),
            json!("resample_torch_fornnunet"),
            "\"resampling_fn_data\" is \"resample_torch_fornnunet\"",
        ),
        (
            format!("{full}/resampling_fn_seg_kwargs/order"),
            json!(0),
            "\"resampling_fn_seg_kwargs/order\" is 0; known is 1",
        ),
        (
            format!("{full}/preprocessor_name"),
            json!("Mine"),
            "\"preprocessor_name\" is \"Mine\"",
        ),
        (
            "/image_reader_writer".to_owned(),
            json!("NibabelIOWithReorient"),
            "known is \"SimpleITKIO\" or \"NibabelIO\"",
        ),
        (
            format!("{full}/architecture/arch_kwargs/nonlin"),
            json!("torch.nn.ReLU"),
            "\"nonlin\" is \"torch.nn.ReLU\"; known is LeakyReLU",
        ),
        (
            format!("{full}/architecture/arch_kwargs/nonlin_kwargs"),
            json!({"negative_slope": 0.1}),
            "negative_slope\" is 0.1",
        ),
        (
            format!("{full}/architecture/arch_kwargs/norm_op_kwargs/eps"),
            json!(1e-3),
            "eps\" is 0.001",
        ),
    ] {
        let mut json = good.clone();
        *json.pointer_mut(&pointer).unwrap() = value;
        let text = complaint_of(&json);
        assert!(text.contains(words), "{pointer}: {text}");
    }
}

#[test]
fn bad_data_sets_are_refused_with_the_reason() {
    let complaint = |json: Value| format!("{:#}", Dataset::of(Path::new("d"), &json).unwrap_err());
    let with = |labels: Value| complaint(json!({"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}));
    assert!(with(json!({"background": 0, "a": 2})).contains("without gaps"));
    assert!(with(json!({"background": 0, "a": [1, 2]})).contains("regions are not supported"));
    assert!(with(json!({"background": 0, "a": 1, "b": 1})).contains("given twice"));
    assert!(with(json!({"background": 0})).contains("no label besides"));
    assert!(with(json!({"background": 0, "ignore": 1, "a": 2})).contains("must be the highest"));
    assert!(complaint(json!({"labels": {}})).contains("channel_names"));
    let ending = json!({"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "file_ending": ".mha"});
    assert!(complaint(ending).contains(".nii.gz"));
    let names = json!({"channel_names": {"1": "CT"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii"});
    assert!(complaint(names).contains("numbered"));
    let reorient = json!({"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii", "overwrite_image_reader_writer": "NibabelIOWithReorient"});
    assert!(complaint(reorient).contains("reorient them"));
    let good =
        json!({"channel_names": {"0": "noNorm", "1": "T1"}, "labels": {"background": "0", "a": [1], "ignore": 2}, "file_ending": ".nii"});
    let dataset = Dataset::of(Path::new("d"), &good).unwrap();
    assert_eq!((dataset.classes(), dataset.label_entries(), dataset.ignore), (2, 3, Some(2)));
    assert_eq!(Scheme::of_channel(&dataset.channels[0]), Scheme::None);
    assert_eq!(Scheme::of_channel(&dataset.channels[1]), Scheme::ZScore);
}

/// Every place in a value, as a JSON pointer.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(members) => members
            .iter()
            .for_each(|(key, value)| pointers(value, &format!("{at}/{key}"), found)),
        Value::Array(members) => (0..)
            .zip(members)
            .for_each(|(number, value)| pointers(value, &format!("{at}/{number}"), found)),
        _ => {}
    }
}

#[test]
fn plans_with_anything_in_them_are_read_or_refused() {
    let plans = super::training::plans().to_json();
    let mut places = Vec::new();
    pointers(&plans, "", &mut places);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plans.json");
    let (mut read, mut refused) = (0, 0);
    for place in &places {
        for other in [
            json!(null),
            json!(-1),
            json!(0),
            json!(2),
            json!(4096),
            json!(1e300),
            json!(u64::MAX),
            json!("x"),
            json!([]),
            json!([4096, 4096, 4096]),
            json!({}),
        ] {
            let mut changed = plans.clone();
            *changed.pointer_mut(place).unwrap() = other;
            fs::write(&path, changed.to_string()).unwrap();
            match Plans::read(&path) {
                Ok(plans) => {
                    assert!(hpc_seg::unet::memory::of_plan(&plans.configuration, 2).total() > 0);
                    read += 1;
                }
                Err(error) => {
                    assert!(format!("{error:#}").contains("plans.json"), "{error:#}");
                    refused += 1;
                }
            }
        }
    }
    assert!(read > 100 && refused > 300, "{read} read, {refused} refused");
}
