//! What is written down about one pseudo-labelled case: `cases/CASE.json`, which is the same whenever the run is repeated, and
//! `timings/CASE.json`, which is not.

use crate::atomic_file;
use crate::cohort::settings::Settings;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// How a pseudo-label came about and what it looks like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseRecord {
    /// The case's name.
    pub case: String,
    /// Its group.
    pub group: String,
    /// The settings it was made with.
    pub settings: Settings,
    /// Hash of the settings.
    pub settings_sha256: String,
    /// The programs and the kind of device, on which the bytes of the results depend.
    pub versions: Versions,
    /// The query image.
    pub image: FileOfRecord,
    /// The network's weights.
    pub weights: FileOfRecord,
    /// The labelled volumes that were used, with the places they were inserted at.
    pub supports: Vec<SupportOfRecord>,
    /// What was found, class by class.
    pub classes: Vec<ClassOfRecord>,
    /// Mean binary entropy over the whole volume, in nats.
    pub mean_uncertainty: f64,
    /// Things the user should look at.
    pub warnings: Vec<String>,
}

/// The programs and the kind of device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Version of this program.
    pub hpc_seg: String,
    /// `cpu avx2 fma ...` or `cuda sm_90`.
    pub device: String,
}

/// A file by name and content. Folders are left out, because records should not differ between machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileOfRecord {
    /// The file's name.
    pub file: String,
    /// SHA-256 of its content.
    pub sha256: String,
}

/// A labelled volume as it was used for a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SupportOfRecord {
    /// The labelled case's name.
    pub case: String,
    /// Its image.
    pub image: FileOfRecord,
    /// Its labels.
    pub labels: FileOfRecord,
    /// Slices of the query before which the whole labelled volume was inserted.
    pub places: Vec<usize>,
    /// How it was permuted to the query's orientation; none if it was not.
    pub reoriented: Option<String>,
}

/// What was found of one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassOfRecord {
    /// The class's value in the masks.
    pub value: u32,
    /// Runs that were averaged: insertions of labelled volumes that show the class.
    pub runs: usize,
    /// Volume in millilitres.
    pub volume_ml: f64,
    /// Connected components (26 neighbours) before the largest was chosen.
    pub components: usize,
    /// Mean binary entropy over the foreground, in nats; none for an empty mask.
    pub mean_uncertainty: Option<f64>,
    /// Agreement of the runs: Dice of their masks, pooled over all pairs.
    pub agreement: f64,
}

/// Seconds per stage of one case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// The case's name.
    pub case: String,
    /// When it was finished, in UTC.
    pub finished: String,
    /// Threads that worked on it.
    pub threads: usize,
    /// Stage and seconds, in the order of the stages.
    pub seconds: serde_json::Map<String, serde_json::Value>,
    /// Memory of a CUDA device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_memory: Option<DeviceMemory>,
}

/// Bytes of a CUDA device that one case took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMemory {
    /// What the plan said it would take, with what earlier cases left behind.
    pub planned: usize,
    /// The most that was in buffers at once.
    pub counted: usize,
    /// What the process holds of the device: context, kernels and the whole arena.
    pub held: usize,
    /// What it may hold, where `--memory` says so.
    pub allowed: Option<usize>,
}

impl DeviceMemory {
    /// A case that took more than it may is a fault of the plan, and said.
    pub fn complaint(&self) -> Option<String> {
        let exceeds = self.counted > self.planned || self.allowed.is_some_and(|allowed| self.held > allowed);
        exceeds.then(|| {
            format!("more device memory was taken than planned or allowed ({self:?}); please report this with the output of --dry-run")
        })
    }
}

impl fmt::Display for DeviceMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        write!(
            f,
            "{} MiB at most of {} planned, {} held by the process",
            mib(self.counted),
            mib(self.planned),
            mib(self.held)
        )
    }
}

impl Timings {
    /// From what a [`Progress`](crate::messages::Progress) kept; milliseconds are enough.
    pub fn new(case: &str, finished: String, threads: usize, stages: &[(String, f64)], device_memory: Option<DeviceMemory>) -> Self {
        let rounded = |seconds: f64| serde_json::Value::from((seconds * 1000.0).round() / 1000.0);
        let seconds = stages.iter().map(|(name, seconds)| (name.clone(), rounded(*seconds))).collect();
        Self {
            case: case.to_string(),
            finished,
            threads,
            seconds,
            device_memory,
        }
    }
}

/// Writes a record as indented JSON, atomically.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, record: &impl Serialize) -> Result<()> {
    atomic_file::write_bytes(path, (serde_json::to_string_pretty(record)? + "\n").as_bytes())
}
