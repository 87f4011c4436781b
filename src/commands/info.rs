//! `hpc-seg info`: what to send with a report of a problem.

use crate::cli::InfoArgs;
use crate::cohort::runner::Exit;
use crate::device::open::{GpuInfo, gpus};
use crate::machine::Machine;
use crate::messages;
use anyhow::Result;
use serde::Serialize;

const RESEARCH_USE: &str = "For research use only; not a medical device. Weights have licences of their own.";

#[derive(Serialize)]
struct Info {
    version: &'static str,
    license: &'static str,
    use_note: &'static str,
    platform: String,
    #[serde(flatten)]
    machine: Machine,
    /// The CPU, and the GPUs with their memory.
    devices: Vec<String>,
    /// Why there is no GPU, if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_gpu: Option<String>,
}

pub(super) fn run(args: &InfoArgs) -> Result<Exit> {
    let gpus = gpus();
    let gpu = |gpu: &GpuInfo| {
        format!(
            "cuda:{} {} {:.1} GiB",
            gpu.number,
            gpu.name,
            gpu.memory as f64 / (1_u64 << 30) as f64
        )
    };
    let info = Info {
        version: env!("CARGO_PKG_VERSION"),
        license: env!("CARGO_PKG_LICENSE"),
        use_note: RESEARCH_USE,
        platform: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        machine: Machine::detect(),
        devices: std::iter::once("cpu".to_owned()).chain(gpus.iter().flatten().map(gpu)).collect(),
        no_gpu: gpus.as_ref().err().map(|error| format!("{error:#}")),
    };
    if args.json {
        messages::data_json(&info)?;
    } else {
        messages::data(&text(&info))?;
    }
    Ok(Exit::Done)
}

fn text(info: &Info) -> String {
    let Machine {
        cpu,
        cpu_features,
        threads,
        memory_bytes,
        memory_available_bytes,
    } = &info.machine;
    let gib = |bytes: &Option<u64>| {
        bytes.map_or("unknown".to_string(), |bytes| {
            format!("{:.1} GiB", bytes as f64 / (1_u64 << 30) as f64)
        })
    };
    format!(
        "hpc-seg    {}\nplatform   {}\nprocessor  {cpu}\nfeatures   {}\nthreads    {threads}\nmemory     {}, {} available\ndevices    {}{}\nlicence    {}\n\n{}\n",
        info.version,
        info.platform,
        cpu_features.join(" "),
        gib(memory_bytes),
        gib(memory_available_bytes),
        info.devices.join(", "),
        info.no_gpu.as_ref().map_or(String::new(), |reason| format!("; {reason}")),
        info.license,
        info.use_note
    )
}
