//! Which cases a person should look at first: those that the networks are unsure of, that changed from round to round, whose volumes are unusual, or that lie in several pieces.

use crate::ops::components::largest_component;
use crate::ssl::agreement::Agreement;
use crate::ssl::places::Places;
use crate::volume::{AxisMap, Volume};
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// What is suspicious about a case's last pseudo-label. All are 0 at best.
#[derive(Clone, Debug, PartialEq)]
pub struct Suspicion {
    /// The case.
    pub case: String,
    /// Mean binary entropy of TFFS over the class where that is most, in nats; 0 to ln 2. A mask without any class has ln 2.
    pub uncertainty: f64,
    /// 1 - mean Dice with the round before.
    pub disagreement: f64,
    /// The class whose volume lies farthest from the others': distance from the median of its logarithm, in robust standard deviations.
    pub volume_outlier: f64,
    /// Connected components (26 neighbours) beyond one for each class; a class that others have and this case lacks counts as one.
    pub components: f64,
    /// Volume of each class in millilitres.
    pub volumes_ml: Vec<f64>,
    /// Mean of the ranks among all cases, by each of the above; 0 to 1.
    pub overall: f64,
}

/// Of the cases of a round, most suspicious first.
///
/// # Errors
/// Pseudo-labels that cannot be read.
pub fn suspicions(places: &Places, round: usize, cases: &[String], classes: usize) -> Result<Vec<Suspicion>> {
    let agreement = match round {
        0 => None,
        _ => read_json::<Agreement>(&places.agreement(round)),
    };
    let mut all = Vec::new();
    for case in cases {
        let path = places.pseudo_label(round, case);
        let volume = Volume::open(&path)?;
        let (axes, ml) = (AxisMap::default(), volume.geometry().voxel_ml());
        let labels = volume.labels_u8().with_context(|| path.display().to_string())?;
        let dims = axes.permute(volume.dims());
        let (mut volumes_ml, mut components) = (Vec::new(), 0.0);
        for class in 1..classes.min(256) as u8 {
            let count = labels.iter().filter(|label| **label == class).count();
            let pieces = largest_component(&mut labels.clone(), dims, class)?.sizes.len();
            volumes_ml.push(count as f64 * ml);
            components += pieces.saturating_sub(1) as f64;
        }
        all.push(Suspicion {
            case: case.clone(),
            uncertainty: uncertainty(&read_json(&places.pseudo_labels(0).join(format!("cases/{case}.json"))).unwrap_or_default()),
            disagreement: agreement
                .as_ref()
                .and_then(|found| found.cases.get(case))
                .map_or(0.0, |dice| 1.0 - dice),
            volume_outlier: 0.0,
            components,
            volumes_ml,
            overall: 0.0,
        });
    }
    compare_volumes(&mut all);
    rank(&mut all);
    Ok(all)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
}

/// Of the record that `pseudo-label` wrote.
fn uncertainty(record: &Value) -> f64 {
    let classes = record.get("classes").and_then(Value::as_array);
    let of_class = |class: &Value| class.get("mean_uncertainty").and_then(Value::as_f64);
    // A class that is not there has none: it may well be absent, and counts as a missing component where others have it.
    let most = classes.into_iter().flatten().filter_map(of_class).reduce(f64::max);
    most.unwrap_or(std::f64::consts::LN_2)
}

/// Fills in the outliers of volumes, and classes that are missing.
fn compare_volumes(all: &mut [Suspicion]) {
    let classes = all.first().map_or(0, |one| one.volumes_ml.len());
    for class in 0..classes {
        let mut logarithms: Vec<f64> = all
            .iter()
            .map(|one| one.volumes_ml[class])
            .filter(|ml| *ml > 0.0)
            .map(f64::ln)
            .collect();
        if logarithms.is_empty() {
            continue;
        }
        let middle = median(&mut logarithms);
        let mut distances: Vec<f64> = logarithms.iter().map(|value| (value - middle).abs()).collect();
        // 1.4826: of a normal distribution's median distance; a hundredth keeps near-equal volumes from being outliers.
        let spread = (1.4826 * median(&mut distances)).max(0.01);
        for one in all.iter_mut() {
            match one.volumes_ml[class] {
                ml if ml > 0.0 => one.volume_outlier = one.volume_outlier.max((ml.ln() - middle).abs() / spread),
                _ => one.components += 1.0,
            }
        }
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

/// Fills in the mean of the ranks, and sorts by it.
fn rank(all: &mut [Suspicion]) {
    let measures: [fn(&Suspicion) -> f64; 4] = [
        |one| one.uncertainty,
        |one| one.disagreement,
        |one| one.volume_outlier,
        |one| one.components,
    ];
    let others = all.len().saturating_sub(1).max(1) as f64;
    let overall = |one: &Suspicion| {
        let less = |measure: &fn(&Suspicion) -> f64| all.iter().filter(|other| measure(other) < measure(one)).count() as f64;
        measures.iter().map(less).sum::<f64>() / (others * measures.len() as f64)
    };
    let ranks: Vec<f64> = all.iter().map(overall).collect();
    all.iter_mut().zip(ranks).for_each(|(one, rank)| one.overall = rank);
    all.sort_by(|a, b| b.overall.total_cmp(&a.overall).then_with(|| a.case.cmp(&b.case)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str, uncertainty: f64, volumes_ml: &[f64]) -> Suspicion {
        Suspicion {
            case: name.to_owned(),
            uncertainty,
            disagreement: 0.0,
            volume_outlier: 0.0,
            components: 0.0,
            volumes_ml: volumes_ml.to_vec(),
            overall: 0.0,
        }
    }

    #[test]
    fn an_unusual_volume_and_a_missing_class_stand_out() {
        let mut all = vec![
            case("a", 0.1, &[100.0, 10.0]),
            case("b", 0.1, &[110.0, 11.0]),
            case("c", 0.1, &[95.0, 0.0]),
            case("d", 0.3, &[900.0, 9.5]),
            case("e", 0.1, &[105.0, 10.5]),
        ];
        compare_volumes(&mut all);
        assert!(
            all[3].volume_outlier > 10.0 && all.iter().all(|one| one.case == "d" || one.volume_outlier < 4.0),
            "{all:?}"
        );
        assert_eq!(all.iter().map(|one| one.components).collect::<Vec<_>>(), [0.0, 0.0, 1.0, 0.0, 0.0]);
        rank(&mut all);
        assert_eq!(all[0].case, "d");
        assert!((all[0].overall - (1.0 + 0.0 + 1.0 + 0.0) / 4.0).abs() < 1e-12);
        assert!(all.windows(2).all(|two| two[0].overall >= two[1].overall));
    }

    #[test]
    fn the_most_uncertain_class_counts_and_an_absent_one_does_not() {
        let of = |classes: &[Option<f64>]| {
            let classes: Vec<Value> = classes.iter().map(|mean| serde_json::json!({ "mean_uncertainty": mean })).collect();
            uncertainty(&serde_json::json!({ "classes": classes }))
        };
        let ends = [of(&[Some(0.1), Some(0.4), None]), of(&[None, None])];
        assert_eq!(ends, [0.4, std::f64::consts::LN_2]);
    }

    #[test]
    fn one_case_alone_is_no_outlier() {
        let mut all = vec![case("a", 0.5, &[100.0])];
        compare_volumes(&mut all);
        rank(&mut all);
        assert_eq!((all[0].volume_outlier, all[0].overall), (0.0, 0.0));
    }
}
