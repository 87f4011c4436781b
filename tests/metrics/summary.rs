//! Counts, empty masks, means and nnU-Net's file.

use hpc_seg::metrics::preset::Preset;
use hpc_seg::metrics::scores::{Pair, Scores};
use hpc_seg::metrics::summary::{Row, csv, means, nnunet_json, table};

fn pair<'a>(prediction: &'a [u16], reference: &'a [u16], ignore: Option<u16>) -> Pair<'a> {
    Pair {
        prediction,
        reference,
        shape: [1, 1, prediction.len()],
        spacing: [10.0, 10.0, 10.0],
        ignore,
    }
}

#[test]
fn voxels_are_counted_and_the_ignored_ones_are_not() {
    let (p, r) = ([0, 1, 1, 1, 2, 2], [0, 1, 1, 2, 1, 9]);
    let s = pair(&p, &r, None).scores(1, Preset::Monai, 10.0);
    assert_eq!([s.true_positive, s.false_positive, s.false_negative, s.true_negative], [2, 1, 1, 2]);
    assert_eq!((s.dice, s.iou, s.volume_error), (Some(4.0 / 6.0), Some(0.5), Some(0.0)));
    assert_eq!((s.prediction_ml, s.reference_ml), (3.0, 3.0));
    // Every voxel of a line is a border; the farthest pair is one voxel apart.
    assert_eq!((s.hd, s.nsd), (Some(10.0), Some(1.0)));
    assert_eq!(pair(&p, &r, None).scores(1, Preset::Monai, 9.0).nsd, Some(4.0 / 6.0));
    let s = pair(&p, &r, Some(9)).scores(2, Preset::Nnunet, 0.0);
    assert_eq!([s.true_positive, s.false_positive, s.false_negative, s.true_negative], [0, 1, 1, 3]);
}

#[test]
fn empty_masks_have_the_values_that_the_rules_say() {
    let none = pair(&[0, 0], &[0, 0], None).scores(1, Preset::Medpy, 1.0);
    assert_eq!(none, Scores::absent(2));
    let missed = pair(&[0, 0], &[0, 1], None).scores(1, Preset::Medpy, 1.0);
    assert_eq!(
        (missed.dice, missed.iou, missed.volume_error, missed.hd),
        (Some(0.0), Some(0.0), Some(-1.0), None)
    );
    let invented = pair(&[0, 1], &[0, 0], None).scores(1, Preset::Medpy, 1.0);
    assert_eq!((invented.dice, invented.volume_error, invented.assd), (Some(0.0), None, None));
}

fn rows() -> Vec<Row> {
    let row = |case: &str, group: &str, class: u16, p: &[u16], r: &[u16]| Row {
        case: case.into(),
        group: group.into(),
        class,
        scores: pair(p, r, None).scores(class, Preset::Nnunet, 0.0),
    };
    vec![
        row("a", "x", 1, &[1, 1, 0], &[1, 1, 0]),
        row("a", "x", 2, &[1, 1, 0], &[1, 1, 0]),
        row("b", "y", 1, &[1, 0, 2], &[1, 1, 0]),
        row("b", "y", 2, &[1, 0, 2], &[1, 1, 0]),
    ]
}

#[test]
fn means_are_over_cases_that_have_a_value_by_group_and_class() {
    let means = means(&rows());
    let find = |group: &str, class: u16| means.iter().find(|m| m.group == group && m.class == class && m.score == "dice");
    let all = find("all", 1).unwrap();
    assert_eq!((all.cases, all.without), (2, 0));
    assert!((all.mean - (1.0 + 2.0 / 3.0) / 2.0).abs() < 1e-12 && (all.std - 1.0 / 6.0).abs() < 1e-12);
    assert!(
        (all.interval[0] - 2.0 / 3.0).abs() < 1e-12 && all.interval[1] == 1.0,
        "two cases resampled: {all:?}"
    );
    assert_eq!(find("x", 1).unwrap().mean, 1.0);
    assert!(find("x", 2).is_none(), "nobody has a value");
    assert_eq!((find("all", 2).unwrap().cases, find("all", 2).unwrap().without), (1, 1));
    assert!(table(&means, |class| format!("class {class}")).contains("class 2"));
}

#[test]
fn a_confidence_interval_is_that_of_the_normal_approximation() {
    // Dice of 400 cases spread evenly: the mean's error is std / 20.
    let row = |i: usize| {
        let mut scores = Scores::absent(1);
        scores.dice = Some(i as f64 / 399.0);
        Row {
            case: i.to_string(),
            group: "all".into(),
            class: 1,
            scores,
        }
    };
    let rows: Vec<Row> = (0..400).map(row).collect();
    let means = means(&rows);
    let [low, high] = means[0].interval;
    let error = 1.96 * means[0].std / 20.0;
    // The ends of an interval from 2000 resamples have an error of their own of about a twentieth of it.
    assert!(
        (low - (0.5 - error)).abs() < 0.15 * error && (high - (0.5 + error)).abs() < 0.15 * error,
        "{means:?}"
    );
}

#[test]
fn nnu_nets_file_has_its_keys_in_order_and_bare_nans() {
    let text = nnunet_json(&rows(), |case| [format!("p/{case}"), format!("r/{case}")]);
    let expected = "{\n    \"foreground_mean\": {\n        \"Dice\": 0.41666666666666663,\n        \"FN\": 0.25,";
    assert!(text.starts_with(expected), "{text}");
    let order = [
        "\"foreground_mean\"",
        "\"mean\"",
        "\"metric_per_case\"",
        "\"prediction_file\": \"p/a\"",
        "\"reference_file\": \"r/b\"",
    ];
    let places: Vec<usize> = order.iter().map(|key| text.find(key).unwrap()).collect();
    assert!(places.is_sorted(), "{text}");
    assert!(
        text.contains("\"Dice\": NaN") && text.contains("\"TP\": 2,") && !text.contains('\u{0}'),
        "{text}"
    );
    let parsed: serde_json::Value = serde_json::from_str(&text.replace("NaN", "null")).unwrap();
    assert_eq!(parsed["metric_per_case"][1]["metrics"]["2"]["FP"], 1);
    let table = String::from_utf8(csv(&rows()).unwrap()).unwrap();
    assert!(
        table.starts_with(
            "case,group,class,tp,fp,fn,tn,prediction_ml,reference_ml,dice,iou,volume_error,hd,hd95,assd,nsd\na,x,1,2,0,0,1,2,2,1,1,0,,,,\n"
        ),
        "{table}"
    );
}
