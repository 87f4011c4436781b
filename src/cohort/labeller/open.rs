//! Volumes opened as the settings say, and the next query ahead of its turn.

use super::file_name;
use crate::bad_input;
use crate::cohort::case_record::FileOfRecord;
use crate::cohort::discover::LabelledCase;
use crate::cohort::settings::{Settings, SliceAxis};
use crate::tffs::intensity::Window;
use crate::tffs::schedule::Seconds;
use crate::tffs::source::{Image, Labels};
use crate::volume::{AxisMap, Volume};
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

/// An open query.
pub(super) struct Opened {
    pub image: Image,
    pub file: FileOfRecord,
    pub warnings: Vec<String>,
    /// Of reading the file, checksum included, of decompressing it, and of measuring its intensities.
    pub seconds: Seconds,
}

/// A labelled case whose files fit each other.
pub(super) struct Checked {
    pub image: Arc<Volume>,
    pub labels: Arc<Volume>,
    pub classes: Vec<u8>,
    pub image_file: FileOfRecord,
    pub labels_file: FileOfRecord,
    /// Of both files when they were opened.
    states: [FileState; 2],
}

impl Checked {
    /// Whether the files are those that were opened.
    pub fn is_unchanged(&self, case: &LabelledCase) -> bool {
        self.states == [&case.image, &case.labels].map(|path| state_of(path))
    }

    /// Opens and checks a case.
    pub fn open(settings: &Settings, case: &LabelledCase) -> Result<Self> {
        let states = [&case.image, &case.labels].map(|path| state_of(path));
        let (image, labels) = (volume(settings, &case.image)?, Arc::new(Volume::open(&case.labels)?));
        if labels.channels() > 1 {
            bad_input!(
                "{}: a label map has one channel, this file has {}",
                case.labels.display(),
                labels.channels()
            );
        }
        if image.dims() != labels.dims() {
            bad_input!(
                "{}: the labels are {:?} voxels, their image {} is {:?}; labels must lie on their image's grid",
                case.labels.display(),
                labels.dims(),
                case.image.display(),
                image.dims()
            );
        }
        if let Some(difference) = image.geometry().difference(labels.geometry()) {
            bad_input!(
                "{}: the labels lie elsewhere than their image {}: {difference}; resample the labels to the image, or copy the image's header if only the header is wrong",
                case.labels.display(),
                case.image.display()
            );
        }
        let classes = Labels {
            volume: Arc::clone(&labels),
            axes: AxisMap::default(),
        }
        .classes()?;
        Ok(Self {
            image_file: FileOfRecord {
                file: file_name(&case.image),
                sha256: image.sha256()?,
            },
            labels_file: FileOfRecord {
                file: file_name(&case.labels),
                sha256: labels.sha256()?,
            },
            image,
            labels,
            classes,
            states,
        })
    }
}

/// Opens a query and measures its intensities.
pub(super) fn query(settings: &Settings, path: &Path) -> Result<Opened> {
    let begun = Instant::now();
    let (volume, reading) = opened(settings, path)?;
    let opening = begun.elapsed();
    let file = FileOfRecord {
        file: file_name(path),
        sha256: volume.sha256()?,
    };
    let hashed = begun.elapsed();
    let channels = volume.channels();
    let contradiction = volume.geometry().contradiction();
    let one_of_several = (channels > 1).then(|| format!("has {channels} channels, of which number {} is labelled", settings.channel));
    let image = Image::new(volume, query_axes(settings)?, window(settings))?;
    let seconds = [
        ("read", reading + (hashed - opening)),
        ("decode", opening.saturating_sub(reading)),
        ("normalise", begun.elapsed() - hashed),
    ];
    let warnings = image
        .intensity
        .warning()
        .into_iter()
        .chain(one_of_several)
        .chain(contradiction)
        .map(|text| format!("{}: {text}", path.display()))
        .collect();
    Ok(Opened {
        image,
        file,
        warnings,
        seconds: seconds.map(|(stage, time)| (stage, time.as_secs_f64())).into(),
    })
}

/// The file, or its channel if it has several.
pub(super) fn volume(settings: &Settings, path: &Path) -> Result<Arc<Volume>> {
    Ok(opened(settings, path)?.0)
}

/// The same, with the time that reading took.
fn opened(settings: &Settings, path: &Path) -> Result<(Arc<Volume>, Duration)> {
    let volume = Volume::open(path)?;
    let first = volume.reading();
    if volume.channels() == 1 {
        return Ok((Arc::new(volume), first));
    }
    let volume = Volume::open_channel(path, settings.channel)?;
    let second = volume.reading();
    Ok((Arc::new(volume), first + second))
}

pub(super) fn query_axes(settings: &Settings) -> Result<AxisMap> {
    AxisMap::slice_axis(match settings.slice_axis {
        SliceAxis::X => 0,
        SliceAxis::Y => 1,
        SliceAxis::Z => 2,
    })
}

pub(super) fn window(settings: &Settings) -> Option<Window> {
    settings.window.map(|w| Window {
        level: w.level,
        width: w.width,
    })
}

/// A query that is being opened on a thread of its own.
pub(super) struct Ahead {
    path: PathBuf,
    /// When it was begun.
    state: FileState,
    opening: JoinHandle<Result<Opened>>,
}

impl Ahead {
    /// Begins to open a query; none if there is no thread to be had.
    pub fn begin(settings: &Settings, path: &Path) -> Option<Self> {
        let (settings, path) = (settings.clone(), path.to_path_buf());
        let (state, of) = (state_of(&path), path.clone());
        let builder = thread::Builder::new().name("hpc-seg-ahead".into());
        let opening = builder.spawn(move || query(&settings, &of)).ok()?;
        Some(Self { path, state, opening })
    }

    /// The query, if it is this one and its file has not changed since.
    pub fn finish(self, path: &Path) -> Option<Result<Opened>> {
        let is_it = self.path == path && self.state.is_some() && self.state == state_of(path);
        // A panic over there is met again, and told, by who opens the query anew.
        is_it.then(|| self.opening.join().ok()).flatten()
    }
}

/// Length and time of change; none of a file that cannot be asked.
type FileState = Option<(u64, SystemTime)>;

fn state_of(path: &Path) -> FileState {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.modified().ok()?))
}
