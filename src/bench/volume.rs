//! `bench --volume`: seconds from a volume's file to its results, cold and warm, on phantoms.
//!
//! The cohort is made for the purpose in a temporary folder: M labelled phantoms and one to label, all of the same size, with one organ labelled. *Cold* is what the first
//! volume of a run costs: opening the device, loading the network, compiling kernels, building the supports. *Warm* is what every further volume costs.

use super::energy::Meter;
use super::{formula_weights, percentile};
use crate::cohort::case_record::Timings;
use crate::cohort::discover::{Cohort, LabelledCase, discover};
use crate::cohort::estimate::{Estimate, product_rate};
use crate::cohort::labeller::{Engine, Labeller};
use crate::cohort::output::{self, CaseFiles};
use crate::cohort::phantoms;
use crate::cohort::settings::Settings;
use crate::device::Device;
use crate::device::open::{Card, Opening};
use crate::messages::Progress;
use crate::ops::rows;
use crate::stop::Stop;
use crate::tensor::Tensor;
use crate::volume::phantom::Sequence;
use crate::weights::write_safetensors;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The liver.
const ORGAN: u8 = 1;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Request {
    /// Voxels along z, y, x of every volume.
    pub size: [usize; 3],
    /// Labelled volumes (M).
    pub labelled: usize,
    /// Insertions of each (R).
    pub insertions: usize,
    /// Warm volumes.
    pub repeats: usize,
    /// Lanes per step, if that is fixed.
    pub lanes: Option<usize>,
    /// Weights and their configuration; none: formula weights of MedSAM2's size.
    pub weights: Option<(PathBuf, Option<PathBuf>)>,
    /// The device.
    pub opening: Opening,
}

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The kind of device.
    pub device: String,
    /// [slices, rows, columns].
    pub size: [usize; 3],
    /// Labelled volumes.
    pub labelled: usize,
    /// Insertions of each.
    pub insertions: usize,
    /// Slices of all labelled volumes that show the organ.
    pub conditioning_slices: usize,
    /// Opening the device and loading the network.
    pub open_seconds: f64,
    /// From the beginning of that to the end of the first kernel; with an empty cache, the compiling of all of them is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_kernel_seconds: Option<f64>,
    /// The first volume after that, supports included.
    pub first_seconds: f64,
    /// Of these the stages'.
    pub first_stage_seconds: BTreeMap<String, f64>,
    /// Every warm volume.
    pub warm_seconds: Vec<f64>,
    /// Their median.
    pub p50_seconds: f64,
    /// Their 95th percentile.
    pub p95_seconds: f64,
    /// Joules of the whole board per warm volume, by NVML, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules: Option<f64>,
    /// Seconds per stage of one more warm volume, in which the device is waited for after every stage: their sum is more than a warm volume takes.
    pub stage_seconds: BTreeMap<String, f64>,
    /// Operations of a volume, by the network's own count.
    pub flops: f64,
    /// Device memory.
    pub memory: Memory,
    /// The data sheet's floor for these operations on another card: not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modelled: Option<Modelled>,
}

/// Bytes of device memory (of tensors, on the CPU).
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Memory {
    /// What the plan counted for a volume.
    pub planned: usize,
    /// The most that tensors took at once.
    pub counted_peak: usize,
    /// What the whole device had in use at the end: context, kernels and the arena, and other processes; 0 on the CPU.
    pub device_used: usize,
}

/// A floor by a card's data sheet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Modelled {
    /// The card, with what is assumed of it.
    pub card: String,
    /// Whether what was planned fits into its memory.
    #[serde(default)]
    pub fits: bool,
    /// The least seconds of arithmetic of a volume.
    pub seconds: f64,
}

/// The cohort in its folder, and the labeller.
struct Bench {
    folder: tempfile::TempDir,
    cohort: Cohort,
    labeller: Labeller,
    stop: Stop,
    open_seconds: f64,
    first_kernel_seconds: f64,
}

impl Bench {
    fn prepare(request: &Request, stop: &Stop) -> Result<Self> {
        let folder = tempfile::tempdir().context("a folder for the phantoms is needed; set TMPDIR to one that can be written to")?;
        let root = folder.path().join("phantoms");
        let phantoms = phantoms::Request {
            cases: request.labelled + 1,
            first: 0,
            labelled: request.labelled,
            out: root.clone(),
            seed: 0,
            sequence: Sequence::Ged4,
            size: Some(request.size),
            organ: Some(ORGAN),
        };
        phantoms::write(&phantoms, stop, &Progress::new("bench"))?;
        let cohort = discover(&root, &root, 0)?;
        let (weights, config) = match &request.weights {
            Some(given) => given.clone(),
            None => (write_formula_weights(folder.path())?, None),
        };
        let engine = Engine {
            weights,
            config,
            opening: request.opening.clone(),
            lanes: request.lanes,
        };
        let settings = Settings {
            insertions: request.insertions,
            ..Settings::default()
        };
        let start = Instant::now();
        let labeller = Labeller::open(engine, settings)?;
        let open_seconds = start.elapsed().as_secs_f64();
        run_a_kernel(labeller.network()?.device())?;
        Ok(Self {
            open_seconds,
            first_kernel_seconds: start.elapsed().as_secs_f64(),
            folder,
            cohort,
            labeller,
            stop: stop.clone(),
        })
    }

    fn estimate(&mut self) -> Result<Estimate> {
        let device = self.labeller.network()?.device().clone();
        let rate = product_rate(&device)?;
        let labelled: Vec<&LabelledCase> = self.cohort.labelled.iter().collect();
        device.install(|| self.labeller.estimate(&self.cohort.unlabelled[0], &labelled, false, rate))
    }

    /// Labels the query, with seconds in all and per stage.
    fn label(&mut self) -> Result<(f64, BTreeMap<String, f64>)> {
        let case = &self.cohort.unlabelled[0];
        let (out, files) = (self.folder.path().join("out"), CaseFiles::new(&case.name, false));
        output::prepare(&out, &self.cohort.input_folders, files.all().iter())?;
        let labelled: Vec<&LabelledCase> = self.cohort.labelled.iter().collect();
        let start = Instant::now();
        self.labeller
            .label((case, None), "all", &labelled, (&out, &files), &self.stop, &Progress::silent())?
            .write()?;
        let seconds = start.elapsed().as_secs_f64();
        let timings: Timings = serde_json::from_slice(&fs::read(out.join(&files.timings))?)?;
        let stages = timings
            .seconds
            .into_iter()
            .filter_map(|(name, seconds)| Some((name, seconds.as_f64()?)));
        Ok((seconds, stages.collect()))
    }
}

/// The memory and time that the volume would take; nothing is measured but the rate of a matrix product.
///
/// # Errors
/// As [`measure`].
pub fn plan(request: &Request, stop: &Stop) -> Result<Estimate> {
    Bench::prepare(request, stop)?.estimate()
}

/// Measures a volume.
///
/// # Errors
/// A device that cannot be used, a volume that does not fit into its memory, a temporary folder that cannot be written to; a stop.
pub fn measure(request: &Request, card: Option<&Card>, stop: &Stop) -> Result<Report> {
    let mut bench = Bench::prepare(request, stop)?;
    let (first_seconds, first_stage_seconds) = bench.label()?;
    // Not before the first volume, which shall bring its kernels along itself.
    let estimate = bench.estimate()?;
    let meter = Meter::of(&request.opening);
    let before = meter.as_ref().and_then(Meter::joules);
    let warm_seconds = (0..request.repeats.max(1))
        .map(|_| Ok(bench.label()?.0))
        .collect::<Result<Vec<f64>>>()?;
    let after = meter.as_ref().and_then(Meter::joules);
    let joules = after
        .zip(before)
        .map(|(after, before)| (after - before) / warm_seconds.len() as f64);
    let counted_peak = bench.labeller.network()?.device().memory().peak;
    bench.labeller.wait_for_stages();
    let (_, stage_seconds) = bench.label()?;
    let device = bench.labeller.network()?.device();
    let device_used = device.cuda().map(|cuda| cuda.runtime.driver().memory()).transpose()?;
    Ok(Report {
        device: device.kind(),
        size: request.size,
        labelled: request.labelled,
        insertions: request.insertions,
        conditioning_slices: estimate.conditioning_slices,
        open_seconds: bench.open_seconds,
        first_kernel_seconds: Some(bench.first_kernel_seconds),
        first_seconds,
        first_stage_seconds,
        p50_seconds: percentile(&warm_seconds, 0.5),
        p95_seconds: percentile(&warm_seconds, 0.95),
        warm_seconds,
        joules,
        stage_seconds,
        flops: estimate.flops,
        memory: Memory {
            planned: estimate.bytes.total,
            counted_peak,
            device_used: device_used.map_or(0, |memory| memory.total - memory.free),
        },
        modelled: card.map(|card| Modelled {
            card: card.to_string(),
            fits: estimate.bytes.total <= card.memory,
            seconds: card.seconds(estimate.flops, 0.0),
        }),
    })
}

/// Starts the device, as far as opening it has left that to its first kernel.
fn run_a_kernel(device: &Device) -> Result<()> {
    let (mut y, x) = (Tensor::zeros(device, &[1, 8])?, Tensor::zeros(device, &[1, 8])?);
    rows::add(&mut y, &x)?;
    device.synchronise()
}

fn write_formula_weights(folder: &Path) -> Result<PathBuf> {
    let (checkpoint, config) = formula_weights()?;
    let tensor = |name: &str| {
        Ok((
            name.to_owned(),
            checkpoint.shape(name).unwrap_or_default().to_vec(),
            checkpoint.f32(name)?,
        ))
    };
    let tensors = checkpoint.names().map(tensor).collect::<Result<Vec<_>>>()?;
    let path = folder.join("formula.safetensors");
    let metadata = BTreeMap::from([("config".to_owned(), serde_json::to_string(&config)?)]);
    write_safetensors(&path, &tensors, &metadata)?;
    Ok(path)
}

impl Report {
    /// As lines.
    pub fn text(&self) -> String {
        let [z, y, x] = self.size;
        let mib = |bytes: usize| bytes >> 20;
        let mut text = format!(
            "{}: {z} slices of {y} x {x} from {} labelled volumes at {} places each, {} conditioning slices\n\
             cold   {:.3} s to open, {:.3} s to the first kernel's end, {:.3} s more for the first volume\n\
             warm   {:.3} s (p50), {:.3} s (p95) of {} volumes; {:.1} TFLOP/s by the network's own count\n\
             memory {} MiB planned, {} MiB counted at most, {} MiB of the device in use\n",
            self.device,
            self.labelled,
            self.insertions,
            self.conditioning_slices,
            self.open_seconds,
            self.first_kernel_seconds.unwrap_or(f64::NAN),
            self.first_seconds,
            self.p50_seconds,
            self.p95_seconds,
            self.warm_seconds.len(),
            self.flops / self.p50_seconds / 1e12,
            mib(self.memory.planned),
            mib(self.memory.counted_peak),
            mib(self.memory.device_used)
        );
        if let Some(joules) = self.joules {
            text += &format!("energy {joules:.0} J a volume, of the whole board\n");
        }
        for (stage, seconds) in &self.stage_seconds {
            text += &format!("  {stage:<14} {seconds:>8.3} s\n");
        }
        if let Some(modelled) = &self.modelled {
            let fits = if modelled.fits { "fits" } else { "does not fit" };
            text += &format!(
                "{} by its data sheet: at least {:.3} s of arithmetic, and this plan {fits} (modelled, not measured)\n",
                modelled.card, modelled.seconds
            );
        }
        text
    }
}
