//! The cases that a fold held out, segmented by its network from their preprocessed arrays and compared with their references, as nnU-Net does after training:
//! `fold_X/validation/CASE.nii.gz` and `fold_X/validation/summary.json`. Unlike the Dice of single patches while it trains, this is the score to report.

use super::evaluation::{Evaluation, Request};
use super::groups::Grouping;
use crate::device::Device;
use crate::messages::Progress;
use crate::metrics::measures::Preset;
use crate::stop::Stop;
use crate::unet::exchange::Fold;
use crate::unet::model::Model;
use crate::unet::trainer::fold::{Prepared, VALIDATION};
use crate::volume::{Volume, Voxels, write};
use crate::{atomic_file, bad_input};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Copies of the references, in the folder of preprocessed cases.
pub const REFERENCES: &str = "gt_segmentations";
const SUMMARY: &str = "summary.json";

/// Whether a fold of the model in `out` has been compared already, and what it segmented is still there.
pub fn is_done(prepared: &Prepared, out: &Path, fold: Fold) -> bool {
    let (folder, ending) = (folder(out, fold), &prepared.dataset.ending);
    let is_there = |name: &String| folder.join(format!("{name}{ending}")).is_file();
    folder.join(SUMMARY).is_file() && prepared.split(fold).val.iter().all(is_there)
}

/// Where a fold's held-out cases are segmented to.
pub fn folder(out: &Path, fold: Fold) -> PathBuf {
    out.join(format!("fold_{fold}")).join(VALIDATION)
}

/// Segments and compares the cases that a trained fold of the model in `out` held out; those that are segmented already stay.
///
/// # Errors
/// References that are missing, a folder that cannot be written, a stop.
pub fn compare(prepared: &Prepared, out: &Path, fold: Fold, device: &Device, stop: &Stop) -> Result<Evaluation> {
    let model = Model::open(out, &[fold.to_string()])?;
    let folder = folder(out, fold);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let cases = prepared.split(fold).val;
    let progress = Progress::new("held-out cases");
    progress.stage("predicting", cases.len() as u64);
    for name in &cases {
        let file = format!("{name}{}", prepared.dataset.ending);
        let reference = prepared.folder.join(REFERENCES).join(&file);
        if !reference.is_file() {
            bad_input!(
                "{}: is missing, so fold {fold} cannot be compared with it; run hpc-seg preprocess again",
                reference.display()
            );
        }
        if folder.join(&file).is_file() {
            progress.advance(1);
            continue; // by this network: training forgets those of another
        }
        let header = Volume::open(&reference)?.header().clone();
        let case = prepared.case(name)?.to_memory();
        let done = device.install(|| model.predictor.segment(device, &case, false, stop, &|| ()))?;
        write(&folder.join(&file), &header, Voxels::U8(&done.labels), None, &[])?;
        progress.advance(1);
    }
    drop(progress);
    let request = Request {
        predictions: folder.clone(),
        references: prepared.folder.join(REFERENCES),
        only: cases,
        preset: Preset::NnUnet,
        tolerances_mm: Vec::new(),
        classes: (1..prepared.dataset.classes() as u16).collect(),
        ignored: prepared.dataset.ignore,
        grouping: Grouping::One,
        seed: 0,
    };
    let evaluation = device.install(|| request.run(stop))?;
    atomic_file::write_bytes(&folder.join(SUMMARY), evaluation.summary_json().as_bytes())?;
    Ok(evaluation)
}
