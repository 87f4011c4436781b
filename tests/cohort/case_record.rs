//! What is written down about a case: reproducible in one file, times in another.

use hpc_seg::cohort::case_record::{self, CaseRecord, ClassOfRecord, DeviceMemory, FileOfRecord, SupportOfRecord, Timings, Versions};
use hpc_seg::cohort::settings::{Settings, hash_of};
use serde_json::Value;
use std::fs;

fn file(name: &str) -> FileOfRecord {
    FileOfRecord {
        file: name.into(),
        sha256: "0".repeat(64),
    }
}

fn record() -> CaseRecord {
    let settings = Settings {
        threshold: 0.4,
        ..Settings::default()
    };
    CaseRecord {
        case: "u".into(),
        group: "all".into(),
        settings_sha256: hash_of(&settings).unwrap(),
        settings,
        versions: Versions {
            hpc_seg: "0.1.0".into(),
            device: "cpu avx2 fma".into(),
        },
        image: file("u_0000.nii.gz"),
        weights: file("w.pt"),
        supports: vec![SupportOfRecord {
            case: "a".into(),
            image: file("a.nii"),
            labels: file("a.nii"),
            places: vec![0, 7, 15],
            reoriented: Some("flip y".into()),
        }],
        classes: vec![ClassOfRecord {
            value: 1,
            volume_ml: 812.5,
            components: 3,
            mean_uncertainty: None,
            runs: 10,
            agreement: 0.93,
        }],
        mean_uncertainty: 0.02,
        warnings: vec!["negative voxels without a window: probably CT".into()],
    }
}

#[test]
fn a_record_comes_back_as_it_was_written_and_its_bytes_are_the_same_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("1.json"), folder.path().join("2.json"));
    case_record::write(&first, &record()).unwrap();
    case_record::write(&second, &record()).unwrap();
    let text = fs::read_to_string(&first).unwrap();
    assert_eq!(text, fs::read_to_string(&second).unwrap());
    assert_eq!(serde_json::from_str::<CaseRecord>(&text).unwrap(), record());
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["settings"]["threshold"], 0.4, "as the user typed it");
    assert_eq!(value["supports"][0]["places"][1], 7);
    assert!(value["classes"][0]["mean_uncertainty"].is_null());
}

#[test]
fn timings_keep_the_order_of_the_stages_and_round_to_milliseconds() {
    let stages = [
        ("read".to_string(), 0.12345),
        ("encode".to_string(), 2.0),
        ("attend".to_string(), 1.0),
    ];
    let timings = Timings::new("u", "2026-11-23T20:12:55Z".into(), 2, &stages, None);
    let text = serde_json::to_string(&timings).unwrap();
    assert!(text.ends_with(r#""seconds":{"read":0.123,"encode":2.0,"attend":1.0}}"#), "{text}");
}

#[test]
fn a_case_that_took_more_of_the_device_than_it_may_is_said() {
    let memory = DeviceMemory {
        planned: 100 << 20,
        counted: 99 << 20,
        held: 400 << 20,
        allowed: Some(400 << 20),
    };
    assert_eq!(memory.to_string(), "99 MiB at most of 100 planned, 400 held by the process");
    assert_eq!(memory.complaint(), None);
    let counted = (100 << 20) + 1;
    assert!(DeviceMemory { counted, ..memory }.complaint().unwrap().contains("please report"));
    let held = (400 << 20) + 1;
    assert!(DeviceMemory { held, ..memory }.complaint().is_some());
    assert_eq!(
        DeviceMemory {
            held,
            allowed: None,
            ..memory
        }
        .complaint(),
        None
    );
}
