//! `OUT/report.html`: what came of a run, for people: scores, time and memory, training curves, and the cases to look at first.

use crate::messages::Progress;
use crate::report::chart::{Curve, Panel, svg};
use crate::report::html::{Page, Picture};
use crate::report::montage::{Extras, montage};
use crate::ssl::places::Places;
use crate::ssl::round::{Member, members_of};
use crate::ssl::settings::FILE_NAME;
use crate::ssl::summary::{SCORE_HEADS, STAGE_HEADS, Summary};
use crate::ssl::suspicion::{Suspicion, suspicions};
use crate::unet::trainer::history;
use crate::volume::{AxisMap, Volume};
use crate::{atomic_file, warning};
use anyhow::Result;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Cases with a picture, the most suspicious ones: a picture takes some 300 kB.
const PICTURES: usize = 60;
/// What the gallery can be sorted by.
const KEYS: [&str; 5] = ["overall", "uncertainty", "disagreement", "volume outlier", "components"];

/// Writes the report of the run in `out`.
///
/// # Errors
/// Results that cannot be read, a folder that cannot be written to.
pub fn write(out: &Path, summary: &Summary) -> Result<()> {
    let places = Places::new(out);
    let mut page = Page::new("hpc-seg run");
    page.text(&format!(
        "{}. {} networks are in {}. For research use only; not a medical device.",
        if summary.settled {
            "The pseudo-labels have settled"
        } else {
            "The pseudo-labels have not settled yet: more rounds may change them"
        },
        summary.folds,
        summary.model.display()
    ));
    let scores = summary.score_rows();
    page.heading("On the test cases");
    match scores.is_empty() {
        true => page.text("There are none (--test), or none could be compared yet."),
        false => page.table(&SCORE_HEADS, &scores),
    }
    page.heading("Rounds");
    page.table(&STAGE_HEADS, &summary.stage_rows());
    page.heading("Training");
    for stage in summary.rounds.iter().filter(|stage| stage.round > 0) {
        page.drawing(&svg(&curves(&places, stage.round, summary.folds)));
    }
    cases(&mut page, &places, summary)?;
    page.heading("Settings");
    page.listing(&fs::read_to_string(out.join(FILE_NAME)).unwrap_or_default());
    page.text(&versions(&places));
    atomic_file::write_bytes(&places.report(), page.finish().as_bytes())
}

/// Of this program, and of what the pseudo-labels were made on.
fn versions(places: &Places) -> String {
    let records = fs::read_dir(places.pseudo_labels(0).join("cases")).into_iter().flatten().flatten();
    let mut records: Vec<_> = records
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    records.sort();
    let record = records.first().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    let record: Value = serde_json::from_str(&record).unwrap_or_default();
    let made = |key: &str| record["versions"][key].as_str().unwrap_or("?").to_owned();
    format!(
        "hpc-seg {}; the pseudo-labels of TFFS by hpc-seg {} on {}.",
        env!("CARGO_PKG_VERSION"),
        made("hpc_seg"),
        made("device")
    )
}

/// Dice on held-out patches and training loss of a round's networks, epoch by epoch.
fn curves(places: &Places, round: usize, folds: usize) -> Vec<Panel> {
    let tables: Vec<BTreeMap<String, Vec<f64>>> = (0..folds)
        .map(|fold| history::columns(&places.checkpoint(round, fold).with_file_name("progress.csv")))
        .collect();
    let panel = |title: &str, column: &str| Panel {
        title: format!("round {round}: {title}, by epoch"),
        curves: tables
            .iter()
            .enumerate()
            .map(|(fold, table)| Curve {
                name: format!("fold {fold}"),
                values: table.get(column).cloned().unwrap_or_default(),
            })
            .collect(),
    };
    vec![panel("Dice on held-out patches", "mean_dice"), panel("training loss", "train_loss")]
}

fn cases(page: &mut Page, places: &Places, summary: &Summary) -> Result<()> {
    let Some(last) = summary.rounds.last().map(|stage| stage.round) else {
        return Ok(());
    };
    let dataset = places.of_round(1, "dataset");
    if !dataset.join("dataset.json").is_file() {
        return Ok(()); // not that far yet
    }
    let members = members_of(&dataset)?;
    let relabelled: Vec<String> = members
        .keys()
        .filter(|name| places.pseudo_label(last, name).is_file())
        .cloned()
        .collect();
    let found = suspicions(places, last, &relabelled, summary.classes.len())?;
    page.heading("Cases, the most suspicious first");
    page.text(
        "Uncertainty is TFFS's mean entropy over the class where that is most (nats); disagreement 1 - Dice with the stage before; volume outlier the distance from the median volume, in robust standard \
         deviations of its logarithm; components those beyond one for each class. Overall is the mean of the ranks. Solid outlines: the last pseudo-label; dashed: TFFS.",
    );
    let progress = Progress::new("report");
    progress.stage("drawing", found.len().min(PICTURES) as u64);
    let mut pictures = Vec::new();
    for (at, suspicion) in found.iter().enumerate() {
        let member = members.get(&suspicion.case).filter(|_| at < PICTURES);
        // An image that was moved away costs its picture.
        let png = member.and_then(|member| match draw(places, member, last) {
            Ok(png) => Some(png),
            Err(error) => {
                warning!("{} is not drawn: {error:#}", suspicion.case);
                None
            }
        });
        progress.advance(1);
        pictures.push(picture(suspicion, png, &summary.classes));
    }
    page.gallery(&KEYS, &pictures);
    Ok(())
}

fn picture(suspicion: &Suspicion, png: Option<Vec<u8>>, classes: &[String]) -> Picture {
    let volumes = classes.iter().skip(1).zip(&suspicion.volumes_ml);
    let volumes: Vec<String> = volumes.map(|(name, ml)| format!("{name} {ml:.1} ml")).collect();
    Picture {
        title: suspicion.case.clone(),
        png,
        values: vec![
            suspicion.overall,
            suspicion.uncertainty,
            suspicion.disagreement,
            suspicion.volume_outlier,
            suspicion.components,
        ],
        caption: volumes.join(", "),
    }
}

/// Contours of the last pseudo-label, and dashed those of TFFS.
fn draw(places: &Places, member: &Member, round: usize) -> Result<Vec<u8>> {
    let (axes, image) = (AxisMap::default(), Volume::open(&member.image)?);
    let labels = |round: usize| Volume::open(&places.pseudo_label(round, &member.name))?.labels_u8();
    let (last, first) = (labels(round)?, labels(0)?);
    let mut read = |z: usize, out: &mut [f32]| image.slice_into(&axes, z, out);
    montage(
        &mut read,
        &last,
        axes.permute(image.dims()),
        axes.permute(image.geometry().spacing),
        Extras {
            reference: Some(&first),
            flip: image.geometry().upright(&axes),
            ..Extras::default()
        },
    )
}
