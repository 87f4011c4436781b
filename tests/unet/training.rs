//! Training folds in-process: interrupted runs, threads, weights of pseudo-labels, damaged checkpoints, losses that are no number, and that it learns.

use hpc_seg::device::Device;
use hpc_seg::stop::{Stop, is_stopped};
use hpc_seg::unet::architecture::{Architecture, Family};
use hpc_seg::unet::augment::Augmentation;
use hpc_seg::unet::dataset::Dataset;
use hpc_seg::unet::exchange::Fold;
use hpc_seg::unet::model::Model;
use hpc_seg::unet::plan::{Configuration, Normalisation, Plans, Scheme};
use hpc_seg::unet::splits::five_folds;
use hpc_seg::unet::store::{Preprocessed, Properties, StoredCase};
use hpc_seg::unet::trainer::batches::{Case, Feed, Purpose, reductions};
use hpc_seg::unet::trainer::fold::{Outcome, Prepared, Request, restart, train};
use hpc_seg::unet::trainer::siblings::is_of_other_settings;
use hpc_seg::weights::Checkpoint;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;

const SHAPE: [usize; 3] = [10, 20, 22];
const DATA: &str = "cases";

pub fn plans() -> Plans {
    Plans {
        dataset_name: "Dataset999_Boxes".into(),
        plans_name: "nnUNetPlans".into(),
        transpose_forward: [0, 1, 2],
        transpose_backward: [0, 1, 2],
        original_median_spacing: [1.0; 3],
        original_median_shape: SHAPE,
        intensities: Default::default(),
        configuration: Configuration {
            data_identifier: DATA.into(),
            batch_size: 2,
            patch_size: [8, 16, 16],
            median_size: SHAPE.map(|size| size as f64),
            spacing: [1.0; 3],
            normalisation: vec![Normalisation {
                scheme: Scheme::None,
                uses_mask: false,
            }],
            architecture: Architecture {
                family: Family::PlainConv,
                features: vec![6, 8, 10],
                kernel_sizes: vec![[3; 3]; 3],
                strides: vec![[1; 3], [1, 2, 2], [2; 3]],
                convs_per_stage: vec![1; 3],
                convs_per_stage_decoder: vec![1; 2],
            },
            batch_dice: false,
        },
        json: None,
    }
}

/// A bright box in noise, at a place of its own.
pub fn case(number: usize) -> Preprocessed {
    let [d, h, w] = SHAPE;
    let first = [1 + number % 3, 3 + number % 5, 2 + number % 7];
    let voxel = |at: usize| {
        let at = [at / (h * w), at / w % h, at % w];
        (0..3).all(|axis| (first[axis]..first[axis] + [5, 9, 8][axis]).contains(&at[axis]))
    };
    let label: Vec<i16> = (0..d * h * w).map(|at| i16::from(voxel(at))).collect();
    let noise = |at: usize| ((at * 7919 + number * 104_729) % 997) as f32 / 997.0 - 0.5;
    let places = label.iter().enumerate().filter(|(_, label)| **label == 1);
    let places = places
        .map(|(at, _)| [at / (h * w), at / w % h, at % w].map(|index| index as u32))
        .collect();
    Preprocessed {
        shape: SHAPE,
        image: label
            .iter()
            .enumerate()
            .map(|(at, label)| 1.5 * f32::from(*label) + noise(at))
            .collect(),
        label,
        uncertainty: None,
        locations: vec![(vec![1], places)],
        properties: Properties {
            spacing: [1.0; 3],
            shape_before_cropping: SHAPE,
            bbox_used_for_cropping: SHAPE.map(|size| 0..size),
            shape_after_cropping_and_before_resampling: SHAPE,
        },
    }
}

fn prepared(folder: &Path, cases: usize) -> Prepared {
    fs::create_dir_all(folder.join(DATA)).unwrap();
    let names: Vec<String> = (0..cases).map(|number| format!("box_{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        case(number).write(&folder.join(DATA), name).unwrap();
    }
    let json =
        json!({"channel_names": {"0": "MRI"}, "labels": {"background": 0, "box": 1}, "numTraining": cases, "file_ending": ".nii.gz"});
    Prepared {
        folder: folder.to_owned(),
        plans: plans(),
        dataset: Dataset::of(folder, &json).unwrap(),
        splits: five_folds(&names),
    }
}

fn request(out: &Path) -> Request {
    Request {
        fold: Fold::Number(1),
        out: out.to_owned(),
        seed: 3,
        epochs: 2,
        iterations: 4,
        time_budget: None,
        patience: None,
        checkpoint_seconds: 1e6,
        loaders: 1,
        mirrored: vec![0, 1, 2],
        pseudo: BTreeSet::new(),
        pseudo_weight: 1.0,
        pretrained: None,
        pretrained_heads: false,
        must_resume: false,
    }
}

/// Name, shape and values of all weights.
fn weights(out: &Path) -> Vec<(String, Vec<f32>)> {
    let checkpoint = Checkpoint::open(&out.join("fold_1/checkpoint_final.pth")).unwrap();
    checkpoint
        .names()
        .map(|name| (name.to_owned(), checkpoint.f32(name).unwrap()))
        .collect()
}

/// `progress.csv` without the seconds.
fn progress(out: &Path) -> Vec<String> {
    let table = fs::read_to_string(out.join("fold_1/progress.csv")).unwrap();
    let without_seconds = |line: &str| {
        let mut fields: Vec<&str> = line.split(',').collect();
        fields.remove(6);
        fields.join(",")
    };
    table.lines().map(without_seconds).collect()
}

#[test]
fn a_run_interrupted_after_every_batch_is_an_unbroken_one_whatever_the_threads() {
    let folder = tempfile::tempdir().unwrap();
    let prepared = prepared(folder.path(), 6);
    let unbroken = folder.path().join("unbroken");
    let outcome = train(&prepared, &request(&unbroken), &Device::cpu(1).unwrap(), &Stop::new()).unwrap();
    assert_eq!(outcome, Outcome::Trained);
    let interrupted = folder.path().join("interrupted");
    let stop = Stop::new();
    stop.request(15);
    let mut stops = 0;
    loop {
        // Other threads each time.
        let device = Device::cpu(1 + stops % 3).unwrap();
        let request = Request {
            loaders: 1 + stops % 2,
            must_resume: stops > 0,
            ..request(&interrupted)
        };
        match train(&prepared, &request, &device, &stop) {
            Ok(outcome) => break assert_eq!(outcome, Outcome::Trained),
            Err(error) => assert!(is_stopped(&error), "{error:#}"),
        }
        assert!(interrupted.join("fold_1/checkpoint_latest.safetensors").is_file());
        stops += 1;
    }
    assert_eq!(stops, 2 * (4 + 1), "a stop for each batch");
    assert!(weights(&unbroken) == weights(&interrupted));
    assert_eq!(progress(&unbroken), progress(&interrupted));
    assert!(!interrupted.join("fold_1/checkpoint_latest.safetensors").exists());
    let again = train(&prepared, &request(&interrupted), &Device::cpu(1).unwrap(), &Stop::new()).unwrap();
    assert_eq!(again, Outcome::WasFinished);
}

#[test]
fn it_learns_boxes_and_the_model_segments_them() {
    let folder = tempfile::tempdir().unwrap();
    let prepared = prepared(folder.path(), 6);
    let out = folder.path().join("model");
    let boxes = Request {
        epochs: 4,
        iterations: 25,
        ..request(&out)
    };
    let device = Device::cpu(2).unwrap();
    train(&prepared, &boxes, &device, &Stop::new()).unwrap();
    let last = progress(&out).pop().unwrap();
    let dice: f64 = last.split(',').next_back().unwrap().parse().unwrap();
    assert!(dice > 0.9, "{last}");
    // The case that this fold held out, by sliding window.
    let held_out = &prepared.split(Fold::Number(1)).val[0];
    let number: usize = held_out.strip_prefix("box_").unwrap().parse().unwrap();
    let model = Model::open(&out, &[]).unwrap();
    assert_eq!(model.predictor.mirrored, [0, 1, 2]);
    let case = case(number);
    let done = model.predictor.segment(&device, &case, false, &Stop::new(), &|| ()).unwrap();
    let both = done.labels.iter().zip(&case.label).filter(|(a, b)| **a == 1 && **b == 1).count();
    let sizes = done.labels.iter().filter(|label| **label == 1).count() + case.label.iter().filter(|label| **label == 1).count();
    assert!(2.0 * both as f64 / sizes as f64 > 0.9, "{both} of {sizes}");
    // Its weights are a start for another seed.
    let other = Request {
        pretrained: Some(out.join("fold_1/checkpoint_final.pth")),
        epochs: 1,
        iterations: 5,
        seed: 4,
        ..request(&folder.path().join("on"))
    };
    let afresh = Request {
        out: folder.path().join("afresh"),
        pretrained: None,
        ..other.clone()
    };
    let warm = Request {
        out: folder.path().join("warm"),
        pretrained_heads: true,
        ..other.clone()
    };
    let [on, afresh, warm] = [other, afresh, warm].map(|request| {
        train(&prepared, &request, &device, &Stop::new()).unwrap();
        progress(&request.out)[1].split(',').nth(2).unwrap().parse::<f64>().unwrap()
    });
    assert!(warm < on - 0.1 && on < afresh - 0.3, "losses {warm}, {on} and {afresh}");
    // Not for another architecture.
    let mut wider = prepared;
    wider.plans.configuration.architecture.features = vec![6, 8, 12];
    let other = Request {
        pretrained: Some(out.join("fold_1/checkpoint_final.pth")),
        ..request(&folder.path().join("wider"))
    };
    let error = format!("{:#}", train(&wider, &other, &device, &Stop::new()).unwrap_err());
    assert!(
        error.contains("checkpoint_final.pth") && error.contains("encoder.stages.2.0.convs.0.conv.weight"),
        "{error}"
    );
}

#[test]
fn patience_ends_training_and_a_time_budget_decides_its_epochs() {
    let folder = tempfile::tempdir().unwrap();
    let prepared = prepared(folder.path(), 6);
    let device = Device::cpu(2).unwrap();
    let epochs = |name: &str, change: &dyn Fn(&mut Request)| {
        let mut request = request(&folder.path().join(name));
        (request.epochs, request.iterations) = (30, 1);
        change(&mut request);
        train(&prepared, &request, &device, &Stop::new()).unwrap();
        progress(&request.out).len() - 1
    };
    assert_eq!(epochs("short", &|request| request.time_budget = Some(1e-6)), 1);
    assert_eq!(
        epochs("long", &|request| {
            request.time_budget = Some(1e6);
            request.epochs = 3;
        }),
        3
    );
    // Without foreground no epoch is better than the first.
    for number in 0..6 {
        let mut empty = case(number);
        empty.label.fill(0);
        empty.locations[0].1.clear();
        empty.write(&folder.path().join(DATA), &format!("box_{number}")).unwrap();
    }
    let patient = epochs("patient", &|request| request.patience = Some(2));
    assert!((3..30).contains(&patient), "{patient} epochs");
}

#[test]
fn damaged_checkpoints_give_way_to_the_one_before_and_other_settings_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let prepared = prepared(folder.path(), 6);
    let (device, stop) = (Device::cpu(2).unwrap(), Stop::new());
    let unbroken = folder.path().join("unbroken");
    train(&prepared, &request(&unbroken), &device, &stop).unwrap();
    let out = folder.path().join("out");
    let stopped = Stop::new();
    stopped.request(15);
    for _ in 0..3 {
        train(&prepared, &request(&out), &device, &stopped).unwrap_err();
    }
    let other = Request {
        seed: 4,
        iterations: 5,
        ..request(&out)
    };
    let error = train(&prepared, &other, &device, &stop).unwrap_err();
    assert!(is_of_other_settings(&error));
    let error = format!("{error:#}");
    assert!(
        error.contains("begun with other seed, iterations") && error.contains("--restart"),
        "{error}"
    );
    let [latest, previous] = ["latest", "previous"].map(|name| out.join(format!("fold_1/checkpoint_{name}.safetensors")));
    let cut = |path: &Path| File::options().write(true).open(path).unwrap().set_len(1000).unwrap();
    let whole = fs::read(&previous).unwrap();
    cut(&latest);
    cut(&previous);
    let error = format!("{:#}", train(&prepared, &request(&out), &device, &stop).unwrap_err());
    assert!(
        error.contains("no checkpoint can be read") && error.contains("checkpoint_latest"),
        "{error}"
    );
    fs::write(&previous, whole).unwrap();
    train(&prepared, &request(&out), &device, &stop).unwrap();
    assert!(weights(&unbroken) == weights(&out));
    // A checkpoint that cannot be written ends the run, but not what it had.
    let failing = folder.path().join("failing");
    train(&prepared, &request(&failing), &device, &stopped).unwrap_err();
    let next = failing.join("fold_1/checkpoint_next.safetensors");
    fs::create_dir(&next).unwrap();
    let error = format!("{:#}", train(&prepared, &request(&failing), &device, &stopped).unwrap_err());
    assert!(error.contains("checkpoint_next.safetensors: cannot be written"), "{error}");
    fs::remove_dir(&next).unwrap();
    train(&prepared, &request(&failing), &device, &stop).unwrap();
    assert!(weights(&unbroken) == weights(&failing));
    // Another process at work, a fold of no cases, and starting anew.
    let lock = File::open(out.join("fold_1/training.lock")).unwrap();
    lock.lock().unwrap();
    let error = train(&prepared, &request(&out), &device, &stop).unwrap_err().to_string();
    assert!(error.contains("another hpc-seg is training in"), "{error}");
    drop(lock);
    restart(&out, Fold::Number(1)).unwrap();
    let error = train(
        &prepared,
        &Request {
            must_resume: true,
            ..request(&out)
        },
        &device,
        &stop,
    )
    .unwrap_err();
    assert!(error.to_string().contains("holds no checkpoint to go on from"), "{error:#}");
    train(&prepared, &other, &device, &stop).unwrap();
    // A network of which nobody knows what it was trained with is not taken for this one.
    fs::remove_file(out.join("fold_1/training.json")).unwrap();
    let error = train(&prepared, &other, &device, &stop).unwrap_err().to_string();
    assert!(error.contains("holds a network, but no training.json"), "{error}");
}

#[test]
fn a_loss_that_is_no_number_stops_with_the_batch_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let prepared = prepared(folder.path(), 6);
    for name in &prepared.split(Fold::Number(1)).train {
        let mut bad = case(0);
        bad.image.iter_mut().for_each(|v| *v = f32::NAN);
        bad.write(&folder.path().join(DATA), name).unwrap();
    }
    let out = folder.path().join("model");
    let error = train(&prepared, &request(&out), &Device::cpu(2).unwrap(), &Stop::new()).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("iteration 1 of epoch 1 is NaN") && error.contains("bad_batch.safetensors"),
        "{error}"
    );
    let batch = Checkpoint::open(&out.join("fold_1/bad_batch.safetensors")).unwrap();
    assert_eq!(batch.shape("image"), Some(&[2, 8, 16, 16, 1][..]));
    assert_eq!(batch.shape("label"), Some(&[2, 8, 16, 16][..]));
    assert!(batch.metadata("cases").unwrap().contains("box_"));
}

#[test]
fn volumes_smaller_than_the_patch_are_trained_on_with_nothing_around_them() {
    let folder = tempfile::tempdir().unwrap();
    case(0).write(folder.path(), "small").unwrap();
    let cases = [Case {
        name: "small".into(),
        stored: StoredCase::open(folder.path(), "small").unwrap(),
        weight: 1.0,
    }];
    let patch = [16, 32, 48];
    let feed = Feed {
        training: &cases,
        validation: &cases,
        augmentation: Augmentation {
            patch,
            mirrored: vec![0, 1, 2],
            masked: vec![false],
        },
        batch: 3,
        reductions: vec![[1; 3]],
        seed: 1,
    };
    let whole = case(0).label.iter().filter(|label| **label == 1).count();
    for number in 0..20 {
        let batch = feed.batch(Purpose::Validation, number);
        let voxels: usize = patch.iter().product();
        assert!(batch.weights.is_none() && batch.image.len() == 3 * voxels);
        // An unforced patch holds the whole volume, and zeros.
        let image = &batch.image[..voxels];
        assert_eq!(
            image.iter().filter(|v| **v != 0.0).count(),
            case(0).image.iter().filter(|v| **v != 0.0).count()
        );
        assert_eq!(batch.labels[0][..voxels].iter().filter(|label| **label == 1).count(), whole);
        assert!(
            feed.batch(Purpose::Training, number).labels[0]
                .iter()
                .all(|label| (0..2).contains(label))
        );
    }
}

#[test]
fn voxels_of_pseudo_labels_count_by_their_certainty() {
    let folder = tempfile::tempdir().unwrap();
    let mut uncertain = case(0);
    let [d, h, w] = SHAPE;
    uncertain.uncertainty = Some((0..d * h * w).map(|at| (at % w) as f32 / w as f32).collect());
    uncertain.write(folder.path(), "pseudo").unwrap();
    let cases = [Case {
        name: "pseudo".into(),
        stored: StoredCase::open(folder.path(), "pseudo").unwrap(),
        weight: 0.5,
    }];
    let plans = plans();
    let feed = Feed {
        training: &cases,
        validation: &cases,
        augmentation: Augmentation {
            patch: plans.configuration.patch_size,
            mirrored: vec![],
            masked: vec![false],
        },
        batch: 2,
        reductions: reductions(&plans.configuration.architecture),
        seed: 0,
    };
    assert_eq!(feed.reductions, [[1, 1, 1], [1, 2, 2]]);
    let batch = feed.batch(Purpose::Validation, 0);
    assert!(batch == feed.batch(Purpose::Validation, 0) && batch != feed.batch(Purpose::Validation, 1));
    let weights = batch.weights.unwrap();
    assert_eq!((weights[0].len(), weights[1].len()), (2 * 8 * 16 * 16, 2 * 8 * 8 * 8));
    for patch in weights[0].chunks(16) {
        // Along a row uncertainty rises by 1 / w a voxel, and the case counts one half.
        assert!(
            patch.windows(2).all(|pair| (pair[0] - pair[1] - 0.5 / w as f32).abs() < 1e-6),
            "{patch:?}"
        );
    }
    // The coarser head takes the upper voxel of each pair.
    for (coarse, fine) in weights[1].chunks(8).take(8).zip(weights[0].chunks(16).skip(1).step_by(2)) {
        assert!(coarse.iter().zip(fine.iter().skip(1).step_by(2)).all(|(a, b)| a == b));
    }
    let augmented = feed.batch(Purpose::Training, 5);
    assert!(
        augmented
            .weights
            .is_some_and(|weights| weights[0].iter().all(|weight| (0.0..=0.5).contains(weight)))
    );
}
