//! A measure is one number per class and case, by somebody's rules; a preset is a list of measures.
//!
//! Programs differ in what they call the Hausdorff distance (HD), its 95th percentile (HD95) and the normalised surface distance (NSD), by design:
//!
//! | rules | surface | HD | HD95 | others |
//! | --- | --- | --- | --- | --- |
//! | MedPy | outermost voxels (6 neighbours) | largest | 95th percentile of both ways' distances together, interpolated | ASSD: mean of both ways' distances together |
//! | MONAI | outermost voxels | largest | the larger of each way's 95th percentile, interpolated | NSD: share of both ways' distances |
//! | surface-distance | surfels of marching cubes, weighed by area | largest | the larger of each way's distance at 95 % of the area | NSD at a tolerance |
//! | SimpleITK | all voxels of the mask | largest | | |
//!
//! All use the spacing. What is not there: a class that neither map holds has no value (NaN: left out of means, as nnU-Net does). A class that one map
//! holds alone has Dice, IoU and NSD 0 and infinite distances, which are left out of means but counted as missed.

use super::distance::Grid;
use super::overlap::{Overlap, Overlaps};
use super::surface::{Masks, percentile, share_within, weighed_percentile};
use std::cell::OnceCell;

/// Whose rules a distance follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// MedPy.
    MedPy,
    /// MONAI.
    Monai,
    /// DeepMind's surface-distance.
    SurfaceDistance,
    /// SimpleITK (`HausdorffDistanceImageFilter`).
    SimpleItk,
}

/// One number per class and case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Measure {
    /// Dice.
    Dice,
    /// Intersection over union.
    Iou,
    /// Volume in the prediction, ml.
    PredictionMl,
    /// Volume in the reference, ml.
    ReferenceMl,
    /// Prediction less reference, ml.
    VolumeErrorMl,
    /// Prediction less reference, percent of the reference; none where that is empty.
    VolumeErrorPercent,
    /// Hausdorff distance, mm.
    Hd(Rules),
    /// 95th percentile of the Hausdorff distance, mm. SimpleITK has none: NaN.
    Hd95(Rules),
    /// Average symmetric surface distance by MedPy's rules, mm.
    Assd,
    /// Normalised surface distance at a tolerance in mm. MedPy and SimpleITK have none: NaN.
    Nsd(Rules, f64),
}

impl Measure {
    /// The name in tables and files, with its unit.
    pub fn name(self) -> String {
        match self {
            Self::Dice => "dice".into(),
            Self::Iou => "iou".into(),
            Self::PredictionMl => "volume_prediction_ml".into(),
            Self::ReferenceMl => "volume_reference_ml".into(),
            Self::VolumeErrorMl => "volume_error_ml".into(),
            Self::VolumeErrorPercent => "volume_error_percent".into(),
            Self::Hd(_) => "hd_mm".into(),
            Self::Hd95(_) => "hd95_mm".into(),
            Self::Assd => "assd_mm".into(),
            Self::Nsd(_, tolerance) => format!("nsd_{tolerance}mm"),
        }
    }

    /// Whose rules it follows, where programs differ.
    pub fn rules(self) -> Option<&'static str> {
        match self {
            Self::Hd(rules) | Self::Hd95(rules) | Self::Nsd(rules, _) => Some(rules.name()),
            Self::Assd => Some(Rules::MedPy.name()),
            _ => None,
        }
    }
}

impl Rules {
    fn name(self) -> &'static str {
        match self {
            Self::MedPy => "MedPy",
            Self::Monai => "MONAI",
            Self::SurfaceDistance => "surface-distance",
            Self::SimpleItk => "SimpleITK",
        }
    }
}

/// A list of measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// All of them: distances by MedPy's rules, NSD by surface-distance's.
    Full,
    /// Dice and IoU, as nnU-Net's own evaluation.
    NnUnet,
    /// Dice and the largest Hausdorff distance, as the CARE challenge's papers report them (its code is not public), with HD95 beside.
    Care,
    /// MedPy's.
    MedPy,
    /// surface-distance's.
    SurfaceDistance,
    /// MONAI's.
    Monai,
    /// SimpleITK's.
    SimpleItk,
}

impl Preset {
    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::NnUnet => "nnunet",
            Self::Care => "care",
            Self::MedPy => "medpy",
            Self::SurfaceDistance => "surface-distance",
            Self::Monai => "monai",
            Self::SimpleItk => "simpleitk",
        }
    }

    /// Its measures; NSD, where the preset has it, once per tolerance.
    pub fn measures(self, tolerances_mm: &[f64]) -> Vec<Measure> {
        let overlap = vec![Measure::Dice, Measure::Iou];
        let volumes = [
            Measure::PredictionMl,
            Measure::ReferenceMl,
            Measure::VolumeErrorMl,
            Measure::VolumeErrorPercent,
        ];
        let distances = |rules| vec![Measure::Hd(rules), Measure::Hd95(rules)];
        let nsd = |rules| tolerances_mm.iter().map(|&mm| Measure::Nsd(rules, mm)).collect::<Vec<Measure>>();
        let more = match self {
            Self::NnUnet => return overlap,
            Self::Care => return [vec![Measure::Dice], distances(Rules::MedPy)].concat(),
            Self::Full => [distances(Rules::MedPy), vec![Measure::Assd], nsd(Rules::SurfaceDistance)].concat(),
            Self::MedPy => [distances(Rules::MedPy), vec![Measure::Assd]].concat(),
            Self::SurfaceDistance => [distances(Rules::SurfaceDistance), nsd(Rules::SurfaceDistance)].concat(),
            Self::Monai => [distances(Rules::Monai), nsd(Rules::Monai)].concat(),
            Self::SimpleItk => vec![Measure::Hd(Rules::SimpleItk)],
        };
        [overlap, volumes.to_vec(), more].concat()
    }
}

/// Two label maps of one case, [D, H, W].
#[derive(Clone, Copy, Debug)]
pub struct Maps<'a> {
    /// What is judged.
    pub prediction: &'a [u16],
    /// What it should be.
    pub reference: &'a [u16],
    /// Voxels and spacing of both.
    pub grid: Grid,
    /// Voxels of the reference with this label are left out.
    pub ignored: Option<u16>,
}

/// The measures of one class, in their order; see the module for classes that are not there. `overlaps` are those of `maps`.
pub fn of_class(measures: &[Measure], maps: Maps<'_>, overlaps: &Overlaps, class: u16) -> Vec<f64> {
    let overlap = overlaps.of(class);
    let masks = OnceCell::new();
    let crop = || {
        let extent = overlaps.extent(class).unwrap_or_default();
        Masks::crop(maps.prediction, maps.reference, maps.grid, class, maps.ignored, extent)
    };
    let (voxels, surfels) = (OnceCell::new(), OnceCell::new());
    let voxels = || voxels.get_or_init(|| masks.get_or_init(crop).voxels());
    let surfels = || surfels.get_or_init(|| masks.get_or_init(crop).surfels());
    let voxel_ml = maps.grid.spacing.iter().product::<f64>() / 1000.0;
    let value = |measure: &Measure| {
        if let Some(value) = simple(*measure, &overlap, voxel_ml) {
            return value;
        }
        match *measure {
            Measure::Hd(Rules::MedPy | Rules::Monai) => larger(voxels().each_ref().map(|way| percentile(way, 100.0))),
            Measure::Hd(Rules::SurfaceDistance) => larger(surfels().each_ref().map(|way| weighed_percentile(way, 100.0))),
            Measure::Hd(Rules::SimpleItk) => masks.get_or_init(crop).solids(),
            Measure::Hd95(Rules::MedPy) => {
                let mut pooled = voxels().concat();
                pooled.sort_unstable_by(f64::total_cmp);
                percentile(&pooled, 95.0)
            }
            Measure::Hd95(Rules::Monai) => larger(voxels().each_ref().map(|way| percentile(way, 95.0))),
            Measure::Hd95(Rules::SurfaceDistance) => larger(surfels().each_ref().map(|way| weighed_percentile(way, 95.0))),
            Measure::Assd => {
                let pooled = voxels().concat();
                pooled.iter().sum::<f64>() / pooled.len() as f64
            }
            Measure::Nsd(Rules::SurfaceDistance, mm) => share_within(surfels(), mm),
            Measure::Nsd(Rules::Monai, mm) => {
                let counted = voxels().each_ref().map(|way| way.iter().map(|&distance| (distance, 1.0)).collect());
                share_within(&counted, mm)
            }
            _ => f64::NAN,
        }
    };
    measures.iter().map(value).collect()
}

/// What needs no surface, and what a class is given that is missing from one map or both.
fn simple(measure: Measure, overlap: &Overlap, voxel_ml: f64) -> Option<f64> {
    let (predicted, referred) = (overlap.predicted() as f64, overlap.referred() as f64);
    let is_distance = matches!(measure, Measure::Hd(_) | Measure::Hd95(_) | Measure::Assd);
    Some(match measure {
        Measure::Dice => overlap.dice(),
        Measure::Iou => overlap.iou(),
        Measure::PredictionMl => predicted * voxel_ml,
        Measure::ReferenceMl => referred * voxel_ml,
        Measure::VolumeErrorMl => (predicted - referred) * voxel_ml,
        Measure::VolumeErrorPercent if referred == 0.0 => f64::NAN,
        Measure::VolumeErrorPercent => 100.0 * (predicted - referred) / referred,
        _ if predicted == 0.0 && referred == 0.0 => f64::NAN,
        _ if predicted == 0.0 || referred == 0.0 => {
            if is_distance {
                f64::INFINITY
            } else {
                0.0
            }
        }
        _ => return None,
    })
}

fn larger([a, b]: [f64; 2]) -> f64 {
    a.max(b)
}
