//! What a finished case leaves behind: its record, mask, maps and picture.

use super::{Labeller, Opened, Use};
use crate::cohort::case_record::{self, CaseRecord, ClassOfRecord, SupportOfRecord, Versions};
use crate::cohort::discover::UnlabelledCase;
use crate::cohort::output::CaseFiles;
use crate::cohort::settings::hash_of;
use crate::report::montage::{Extras, montage};
use crate::tffs::ensemble::Labelling;
use crate::tffs::source::Image;
use crate::volume::{self, Voxels};
use anyhow::{Context, Result};
use std::path::Path;

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

    pub(super) fn write(&self, out: &Path, files: &CaseFiles, image: &Image, labelling: &Labelling, record: &CaseRecord) -> Result<()> {
        let (maps, picture) = rayon::join(
            || Self::write_maps(out, files, image, labelling),
            || Self::write_picture(out, files, image, labelling),
        );
        maps.and(picture)?;
        case_record::write(&out.join(&files.record), record)?;
        let mask = image.axes.to_stored(&labelling.labels, image.volume.dims())?;
        volume::write(&out.join(&files.mask), image.volume.header(), Voxels::U8(&mask), None, &[]).context("the mask could not be written")
    }

    /// Uncertainty, and probabilities if they are wanted.
    fn write_maps(out: &Path, files: &CaseFiles, image: &Image, labelling: &Labelling) -> Result<()> {
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

    fn write_picture(out: &Path, files: &CaseFiles, image: &Image, labelling: &Labelling) -> Result<()> {
        let axes = image.axes;
        let spacing = axes.permute(image.volume.geometry().spacing);
        let mut read = |z: usize, slice: &mut [f32]| {
            image.volume.slice_into(&axes, z, slice)?;
            image.intensity.apply(slice);
            Ok(())
        };
        montage(
            &mut read,
            &labelling.labels,
            image.dims(),
            spacing,
            Extras {
                flip: picture_flip(image),
                ..Extras::default()
            },
            &out.join(&files.picture),
        )
    }
}

/// `class 1: 812 ml, class 2: empty`.
pub(super) fn outcome_line(record: &CaseRecord) -> String {
    let words = record.classes.iter().map(|c| match c.volume_ml > 0.0 {
        true => format!("class {}: {:.3} ml", c.value, c.volume_ml),
        false => format!("class {}: empty", c.value),
    });
    words.collect::<Vec<_>>().join(", ")
}

/// Whether rows and columns must be turned to be seen as radiologists are used to: front or top up, the patient's right on the left.
fn picture_flip(image: &Image) -> [bool; 2] {
    let geometry = image.volume.geometry();
    if !geometry.is_oriented() {
        return [false; 2];
    }
    let [_, rows, columns] = image.axes.permute(geometry.orientation().positive);
    [rows, columns]
}
