//! A cohort of phantoms as files, in nnU-Net's layout: labelled cases in `imagesTr` and `labelsTr`, the others in `imagesTs`. The truth of
//! the others lies in `labelsTs`, where no command takes it for labels.

use crate::messages::Progress;
use crate::stop::Stop;
use crate::volume::phantom::{LABELS, Phantom, Sequence};
use crate::volume::{self, Affine, Header, Voxels};
use crate::{atomic_file, bad_input};
use anyhow::Result;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// What to make.
#[derive(Clone, Debug)]
pub struct Request {
    /// Cases, the labelled ones included; at least 1.
    pub cases: usize,
    /// Number of the first; cases of other numbers are other phantoms.
    pub first: usize,
    /// Cases among them, the first ones, that get labels.
    pub labelled: usize,
    /// Folder to write to.
    pub out: PathBuf,
    /// Seed of all cases.
    pub seed: u64,
    /// MR sequence of the images.
    pub sequence: Sequence,
    /// Voxels along z, y, x; none: sizes vary from case to case.
    pub size: Option<[usize; 3]>,
    /// The only organ that is labelled, with 1; none: all of them.
    pub organ: Option<u8>,
}

/// The file that describes the data set.
const DESCRIPTION: &str = "dataset.json";

/// Sizes in turn, as different scanners would give them; each fits the demo network.
const SIZES: [[usize; 3]; 3] = [[22, 112, 112], [24, 128, 128], [20, 96, 112]];

/// Makes the cohort and returns the names of its cases. The same request gives the same bytes.
///
/// # Errors
/// Counts that contradict each other, a size that cannot be made, a folder that cannot be written to or holds other images, or a stop.
pub fn write(request: &Request, stop: &Stop, progress: &Progress) -> Result<Vec<String>> {
    let Request { cases, labelled, out, .. } = request;
    if *cases == 0 || labelled > cases {
        bad_input!("--cases {cases} --labelled {labelled}: there must be at least one case, and no more labelled ones than cases");
    }
    let Some(end) = request.first.checked_add(*cases) else {
        bad_input!("--first {}: there are no {cases} numbers from there on", request.first);
    };
    let names: Vec<String> = (request.first..end).map(case_name).collect();
    let description = description(request)?;
    refuse_other_data(out, names.split_at(*labelled), &description)?;
    progress.stage("making phantoms", *cases as u64);
    for (index, name) in names.iter().enumerate() {
        stop.check()?;
        let size = request.size.unwrap_or(SIZES[(request.first + index) % SIZES.len()]);
        let mut phantom = Phantom::generate(request.seed, name, request.sequence, size)?;
        if let Some(organ) = request.organ {
            phantom.labels.iter_mut().for_each(|label| *label = u8::from(*label == organ));
        }
        let kind = if index < *labelled { "Tr" } else { "Ts" };
        write_case(
            &phantom,
            &label_names(request),
            &out.join(format!("images{kind}/{name}_0000.nii.gz")),
            &out.join(format!("labels{kind}/{name}.nii.gz")),
        )?;
        progress.advance(1);
    }
    atomic_file::write_bytes(&out.join(DESCRIPTION), description.as_bytes())?;
    Ok(names)
}

/// Of the labels from 1 on.
fn label_names(request: &Request) -> Vec<&'static str> {
    match request.organ {
        Some(organ) => LABELS.get(usize::from(organ)).copied().into_iter().collect(),
        None => LABELS[1..].to_vec(),
    }
}

/// nnU-Net's `dataset.json`: the classes' names.
fn description(request: &Request) -> Result<String> {
    let names = ["background"].into_iter().chain(label_names(request));
    let labels: Map<String, Value> = names
        .zip(0..)
        .map(|(name, label): (_, u8)| (name.to_owned(), label.into()))
        .collect();
    let json = json!({"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": request.labelled, "file_ending": ".nii.gz"});
    Ok(serde_json::to_string_pretty(&json)? + "\n")
}

fn case_name(index: usize) -> String {
    format!("phantom_{index:03}")
}

/// A folder with more cases than these, or other ones, or another description is not ours to add to: old and new data would be mixed.
fn refuse_other_data(out: &Path, (labelled, others): (&[String], &[String]), description: &str) -> Result<()> {
    for (name, cases) in [("imagesTr", labelled), ("imagesTs", others)] {
        let folder = out.join(name);
        let ours: Vec<String> = cases.iter().map(|name| format!("{name}_0000.nii.gz")).collect();
        let files = fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned());
        if let Some(other) = files.into_iter().find(|name| !ours.contains(name) && !name.starts_with('.')) {
            bad_input!(
                "{} holds {other}, which is not one of these phantoms; choose an empty folder with --out",
                folder.display()
            );
        }
    }
    let path = out.join(DESCRIPTION);
    if path.exists() && fs::read(&path).ok().as_deref() != Some(description.as_bytes()) {
        bad_input!(
            "{} describes other data than these phantoms; choose an empty folder with --out",
            path.display()
        );
    }
    Ok(())
}

fn write_case(phantom: &Phantom, names: &[&str], image: &Path, labels: &Path) -> Result<()> {
    for folder in [image, labels].into_iter().filter_map(Path::parent) {
        atomic_file::create_output(folder)?;
    }
    let ([z, y, x], [dz, dy, dx]) = (phantom.dims, phantom.spacing);
    // x runs to the patient's left and y to the back, where NIfTI counts right and front; the middle of the volume is the origin.
    let middle = |count: usize, step: f64| (count as f64 - 1.0) / 2.0 * step;
    let affine: Affine = [
        [-dx, 0.0, 0.0, middle(x, dx)],
        [0.0, -dy, 0.0, middle(y, dy)],
        [0.0, 0.0, dz, -middle(z, dz)],
    ];
    let header = Header::new([x, y, z], &affine)?;
    let names: Vec<(u16, String)> = (1_u16..).zip(names).map(|(value, name)| (value, (*name).to_string())).collect();
    volume::write(image, &header, Voxels::U8(&phantom.image), None, &[])?;
    volume::write(labels, &header, Voxels::U8(&phantom.labels), None, &names)
}
