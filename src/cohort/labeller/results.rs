//! What a finished case leaves behind: its record, mask, maps and picture.

use super::open::Opened;
use super::{Labeller, Use};
use crate::cohort::case_record::{self, CaseRecord, ClassOfRecord, DeviceMemory, SupportOfRecord, Timings, Versions};
use crate::cohort::discover::UnlabelledCase;
use crate::cohort::output::CaseFiles;
use crate::cohort::runner::CaseOutcome;
use crate::cohort::settings::hash_of;
use crate::report::montage::{Extras, montage};
use crate::tffs::ensemble::Labelling;
use crate::tffs::source::Image;
use crate::volume::{self, Voxels};
use crate::{atomic_file, clock};
use anyhow::{Context, Result};
use rayon::ThreadPool;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// A case that is labelled, whose files are still to be written; it needs no device any more.
pub struct Unwritten {
    pub(super) out: PathBuf,
    pub(super) files: CaseFiles,
    pub(super) image: Image,
    pub(super) labelling: Labelling,
    pub(super) record: CaseRecord,
    pub(super) seconds: Vec<(String, f64)>,
    /// Of a CUDA device.
    pub(super) memory: Option<DeviceMemory>,
    /// Threads that compress the files; not their device, which may be lost and opened again meanwhile.
    pub(super) pool: Arc<ThreadPool>,
}

impl Labeller {
    pub(super) fn record(
        &self,
        case: &UnlabelledCase,
        group: &str,
        opened: &Opened,
        uses: &[Use],
        labelling: &Labelling,
    ) -> Result<CaseRecord> {
        let voxel_ml = opened.image.volume.geometry().voxel_ml();
        let classes = labelling.classes.iter().map(|c| ClassOfRecord {
            value: u32::from(c.class),
            runs: c.runs,
            volume_ml: c.voxels as f64 * voxel_ml,
            components: c.components,
            mean_uncertainty: (c.voxels > 0).then_some(c.mean_uncertainty),
            agreement: c.agreement,
        });
        let supports = uses.iter().map(|used| SupportOfRecord {
            case: used.case.clone(),
            image: used.files.0.clone(),
            labels: used.files.1.clone(),
            places: used.places.clone(),
            reoriented: used.reoriented.clone(),
        });
        Ok(CaseRecord {
            case: case.name.clone(),
            group: group.to_owned(),
            settings: self.settings.clone(),
            settings_sha256: hash_of(&self.settings)?,
            versions: Versions {
                hpc_seg: env!("CARGO_PKG_VERSION").to_owned(),
                device: self.network()?.device().kind(),
            },
            image: opened.file.clone(),
            weights: self.weights.clone(),
            supports: supports.collect(),
            classes: classes.collect(),
            mean_uncertainty: labelling.mean_uncertainty,
            warnings: opened.warnings.clone(),
        })
    }
}

impl Unwritten {
    /// Writes mask, maps, picture, record and timings.
    ///
    /// # Errors
    /// A full disk, a folder that is gone.
    pub fn write(mut self) -> Result<CaseOutcome> {
        let start = Instant::now();
        self.pool.install(|| self.write_results())?;
        self.seconds.push(("write".into(), start.elapsed().as_secs_f64()));
        let (case, threads) = (&self.record.case, self.pool.current_num_threads());
        let timings = Timings::new(case, clock::now(), threads, &self.seconds, self.memory);
        case_record::write(&self.out.join(&self.files.timings), &timings)?;
        let mut line = outcome_line(&self.record);
        let mut warnings = self.record.warnings;
        if let Some(memory) = self.memory {
            line += &format!("; device memory {memory}");
            warnings.extend(memory.complaint());
        }
        Ok(CaseOutcome { line, warnings })
    }

    fn write_results(&self) -> Result<()> {
        let (maps, picture) = rayon::join(|| self.write_maps(), || self.write_picture());
        maps.and(picture)?;
        case_record::write(&self.out.join(&self.files.record), &self.record)?;
        let volume = &self.image.volume;
        let mask = self.image.axes.to_stored(&self.labelling.labels, volume.dims())?;
        let path = self.out.join(&self.files.mask);
        volume::write(&path, volume.header(), Voxels::U8(&mask), None, &[]).context("the mask could not be written")
    }
    /// Uncertainty, and probabilities if they are wanted.
    fn write_maps(&self) -> Result<()> {
        let Self {
            out,
            files,
            image,
            labelling,
            ..
        } = self;
        let (header, dims, axes) = (image.volume.header(), image.volume.dims(), image.axes);
        let uncertainty = axes.to_stored(&labelling.uncertainty, dims)?;
        volume::write(&out.join(&files.uncertainty), header, Voxels::F32(&uncertainty), None, &[])?;
        if let (Some(path), Some(probabilities)) = (&files.probability, &labelling.probabilities) {
            let mut stored = Vec::with_capacity(probabilities.len());
            for class in probabilities.chunks_exact(labelling.labels.len()) {
                stored.extend(axes.to_stored(class, dims)?);
            }
            let classes = labelling.classes.len();
            volume::write(&out.join(path), header, Voxels::F32(&stored), (classes > 1).then_some(classes), &[])?;
        }
        Ok(())
    }

    fn write_picture(&self) -> Result<()> {
        let image = &self.image;
        let axes = image.axes;
        let spacing = axes.permute(image.volume.geometry().spacing);
        let mut read = |z: usize, slice: &mut [f32]| {
            image.volume.slice_into(&axes, z, slice)?;
            image.intensity.apply(slice);
            Ok(())
        };
        let picture = montage(
            &mut read,
            &self.labelling.labels,
            image.dims(),
            spacing,
            Extras {
                flip: image.volume.geometry().upright(&axes),
                ..Extras::default()
            },
        )?;
        atomic_file::write_bytes(&self.out.join(&self.files.picture), &picture)
    }
}

/// `class 1: 812 ml, class 2: empty`.
fn outcome_line(record: &CaseRecord) -> String {
    let words = record.classes.iter().map(|c| match c.volume_ml > 0.0 {
        true => format!("class {}: {:.3} ml", c.value, c.volume_ml),
        false => format!("class {}: empty", c.value),
    });
    words.collect::<Vec<_>>().join(", ")
}
