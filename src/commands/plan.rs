//! `hpc-seg plan`: nnU-Net's fingerprint and plan of a data set.

use super::{byte_count, thread_count, write_json};
use crate::bad_input;
use crate::cli::unet::PlanArgs;
use crate::cohort::runner::Exit;
use crate::cohort::{output, signals};
use crate::device::Device;
use crate::messages::{self, Progress};
use crate::stop::Stop;
use crate::unet::dataset::Dataset;
use crate::unet::fingerprint;
use crate::unet::memory;
use crate::unet::plan::{Overrides, Plans, plan};
use anyhow::Result;

pub(super) fn run(args: &PlanArgs) -> Result<Exit> {
    let stop = Stop::new();
    signals::install(&stop)?;
    let overrides = overrides(args)?;
    let dataset = Dataset::open(&args.dataset)?;
    let cases = dataset.cases()?;
    output::prepare(
        &args.out,
        &[args.dataset.join("imagesTr"), args.dataset.join("labelsTr")],
        [].iter(),
    )?;
    let progress = Progress::new("plan");
    progress.stage("reading", cases.len() as u64);
    let device = Device::cpu(thread_count(args.threads)?)?;
    let taken = device.install(|| fingerprint::fingerprint(&dataset, &cases, &stop, || progress.advance(1)))?;
    drop(progress);
    let plans = plan(&dataset, &taken, &overrides)?;
    let step = memory::of_plan(&plans.configuration, dataset.classes()).total();
    if let Some(most) = args.memory.as_deref().map(byte_count).transpose()?
        && step > most
    {
        bad_input!(
            "--memory {} MiB: a training step of this plan takes {} MiB ({:?} voxels, batch {}); give a smaller --patch, --batch or --features",
            most >> 20,
            step.div_ceil(1 << 20),
            plans.configuration.patch_size,
            plans.configuration.batch_size
        );
    }
    write_json(&args.out.join(fingerprint::FILE), &taken)?;
    write_json(&args.out.join("nnUNetPlans.json"), &plans.to_json())?;
    messages::data(&summary(&plans, cases.len(), step))?;
    Ok(Exit::Done)
}

fn three<T: Copy>(option: &str, values: Option<&[T]>) -> Result<Option<[T; 3]>> {
    match values {
        None => Ok(None),
        Some(&[z, y, x]) => Ok(Some([z, y, x])),
        Some(_) => bad_input!("{option} takes three numbers, slices first"),
    }
}

pub(super) fn overrides(args: &PlanArgs) -> Result<Overrides> {
    let memory = args.memory.as_deref().map(byte_count).transpose()?;
    let overrides = Overrides {
        memory_gb: memory.map(|bytes| bytes as f64 / f64::from(1 << 30)),
        spacing: three("--spacing", args.spacing.as_deref())?,
        patch: three("--patch", args.patch.as_deref())?,
        batch: args.batch,
        features: args.features,
    };
    if overrides
        .spacing
        .is_some_and(|spacing| spacing.iter().any(|s| !(*s > 0.0 && s.is_finite())))
    {
        bad_input!("--spacing: millimetres are positive");
    }
    if overrides
        .patch
        .is_some_and(|patch| patch.iter().any(|size| !(1..=4096).contains(size)))
    {
        bad_input!("--patch: 1 to 4096 voxels along each axis");
    }
    if [args.batch, args.features].iter().flatten().any(|n| !(1..=4096).contains(n)) {
        bad_input!("--batch and --features are 1 to 4096");
    }
    Ok(overrides)
}

fn gib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

fn summary(plans: &Plans, cases: usize, step: usize) -> String {
    let c = &plans.configuration;
    let by = |sizes: &[String]| sizes.join(" x ");
    let (patch, spacing) = (c.patch_size.map(|size| size.to_string()), c.spacing.map(|mm| format!("{mm:.3}")));
    let median = c.median_size.map(|size| size.to_string());
    format!(
        "{cases} cases, resampled to {} mm: {} voxels in the median\npatch {}, {} of them a step; features {:?}, strides {:?}\na training step takes {:.2} GiB\n",
        by(&spacing),
        by(&median),
        by(&patch),
        c.batch_size,
        c.architecture.features,
        c.architecture.strides,
        gib(step)
    )
}
