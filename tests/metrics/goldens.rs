//! The values of MedPy, surface-distance, MONAI and SimpleITK on three pairs of masks (`goldens/metrics`), each by the preset of its name.

use crate::support::golden::shared;
use hpc_seg::cohort::evaluation::Request;
use hpc_seg::cohort::groups::Grouping;
use hpc_seg::metrics::measures::Preset;
use hpc_seg::stop::Stop;
use serde_json::Value;
use std::fs;

/// Name in the golden file, preset, measure.
const VALUES: &[(&str, Preset, &str)] = &[
    ("dice", Preset::NnUnet, "dice"),
    ("iou", Preset::NnUnet, "iou"),
    ("volume_reference_ml", Preset::Full, "volume_reference_ml"),
    ("volume_prediction_ml", Preset::Full, "volume_prediction_ml"),
    ("medpy_hd", Preset::Care, "hd_mm"),
    ("medpy_hd", Preset::MedPy, "hd_mm"),
    ("medpy_hd95", Preset::MedPy, "hd95_mm"),
    ("medpy_assd", Preset::MedPy, "assd_mm"),
    ("deepmind_hd100", Preset::SurfaceDistance, "hd_mm"),
    ("deepmind_hd95", Preset::SurfaceDistance, "hd95_mm"),
    ("deepmind_nsd_2mm", Preset::SurfaceDistance, "nsd_2mm"),
    ("deepmind_nsd_3mm", Preset::Full, "nsd_3mm"),
    ("monai_hd", Preset::Monai, "hd_mm"),
    ("monai_hd95", Preset::Monai, "hd95_mm"),
    ("simpleitk_hd", Preset::SimpleItk, "hd_mm"),
];

#[test]
fn other_programs_values_come_out_by_the_preset_of_their_name() {
    let Some(shared) = shared("metrics of other programs") else {
        return;
    };
    let goldens = shared.join("goldens/metrics");
    let expected: Value = serde_json::from_str(&fs::read_to_string(goldens.join("expected.json")).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for kind in ["prediction", "reference"] {
        fs::create_dir(folder.path().join(kind)).unwrap();
        for case in 0..3 {
            let file = goldens.join(format!("{kind}_{case}.nii.gz"));
            fs::copy(file, folder.path().join(format!("{kind}/{case}.nii.gz"))).unwrap();
        }
    }
    let known = expected["0"].as_object().unwrap().keys().filter(|key| *key != "spacing_xyz");
    for key in known {
        assert!(VALUES.iter().any(|(name, ..)| name == key), "{key} is not compared");
    }
    for (key, preset, measure) in VALUES {
        let request = Request {
            predictions: folder.path().join("prediction"),
            references: folder.path().join("reference"),
            only: Vec::new(),
            preset: *preset,
            tolerances_mm: vec![2.0, 3.0],
            classes: vec![1],
            ignored: None,
            grouping: Grouping::One,
            seed: 0,
        };
        let evaluation = request.run(&Stop::new()).unwrap();
        assert!(evaluation.failed.is_empty(), "{:?}", evaluation.failed);
        let index = evaluation.measures.iter().position(|known| known.name() == *measure).unwrap();
        for case in &evaluation.cases {
            let (got, want) = (case.scores[&1].values[index], expected[&case.name][key].as_f64().unwrap());
            assert!(
                (got - want).abs() <= 1e-6 * want,
                "{key} of {}: {got} by {measure} of {}, for {want}",
                case.name,
                preset.name()
            );
        }
    }
}
