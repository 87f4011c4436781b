//! The stages of tracking, with formula weights: a slice's encoding, a step of five lanes, its parts. `cargo bench --bench stages [-- FILTER]`.

use anyhow::Result;
use criterion::Criterion;
use hpc_seg::bench::entries::{noise, tensor};
use hpc_seg::bench::network;
use hpc_seg::device::Device;
use hpc_seg::ops::memory_attention::{Memory, Slices, State};
use hpc_seg::ops::rows::gather;
use hpc_seg::sam2::Sam2;
use hpc_seg::sam2::encoder::{Features, Skips};
use hpc_seg::sam2::mask_decoder::Decoded;
use hpc_seg::sam2::memory_attention::Start;
use hpc_seg::tensor::Tensor;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Lanes of a step: as many insertion places as the method's default.
const LANES: usize = 5;
/// Tracked slices a lane remembers, and slices whose pointers it attends to.
const RECENT: usize = 6;
const POINTERS: usize = 16;

/// What the stages work on.
struct Setting {
    network: Sam2,
    slice: Tensor,
    features: Features,
    /// The slice's skips, once for each lane.
    skips: Skips,
    start: Start,
    /// The slice's part of its memory.
    part: Tensor,
}

impl Setting {
    fn new(device: &Device) -> Result<Self> {
        let network = network(device)?;
        let s = network.config.image_size;
        let slice = Tensor::from_slice(
            device,
            &[1, s, s, 1],
            &noise(s * s, 1).iter().map(|v| 127.0 * (v + 1.0)).collect::<Vec<_>>(),
        )?;
        let features = network.encoder.forward(&slice, &mut |_, _| {})?;
        let start = network.memory_attention.start(&features.top)?;
        let part = network.memory_encoder.features(&features.top)?;
        let skips = Skips {
            middle: for_lanes(&features.skips.middle)?,
            fine: for_lanes(&features.skips.fine)?,
        };
        Ok(Self {
            network,
            slice,
            features,
            skips,
            start,
            part,
        })
    }

    /// One step of all lanes: memory attention, mask decoder, memory encoder.
    fn step(&self, memories: &[Memory<'_>], shared: Option<&Tensor>) -> Result<Tensor> {
        let net = &self.network;
        let start = Start {
            x: for_lanes(&self.start.x)?,
            q: for_lanes(&self.start.q)?,
        };
        let attended = net
            .memory_attention
            .forward(start, memories, &[shared.map(|of| State { of, lane: 0 }); LANES])?;
        let decoded = net.decoder.track(&attended, &self.skips, &net.prompt)?;
        self.remember(&decoded)
    }

    /// Memory tokens of all lanes.
    fn remember(&self, decoded: &Decoded) -> Result<Tensor> {
        let lanes: Vec<usize> = (0..LANES).collect();
        self.network.remember_tracked(decoded, &lanes, for_lanes(&self.part)?)
    }
}

/// The rows of a slice once for each lane.
fn for_lanes(x: &Tensor) -> Result<Tensor> {
    gather(x, x.rows(), &[0; LANES])
}

fn main() -> Result<()> {
    let device = Device::cpu(0)?;
    let setting = device.install(|| Setting::new(&device))?;
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5))
        .configure_from_args();
    let net = &setting.network;
    bench(&mut criterion, &device, "encode a slice", || {
        net.encoder.forward(&setting.slice, &mut |_, _| {})
    })?;
    bench(&mut criterion, &device, "start a slice", || {
        net.memory_attention.start(&setting.features.top)
    })?;
    let top = device.install(|| for_lanes(&setting.features.top))?;
    bench(&mut criterion, &device, "decode the masks of 5 lanes", || {
        net.decoder.track(&top, &setting.skips, &net.prompt)
    })?;
    let decoded = device.install(|| net.decoder.track(&top, &setting.skips, &net.prompt))?;
    bench(&mut criterion, &device, "remember the masks of 5 lanes", || {
        setting.remember(&decoded)
    })?;
    for conditioning in [13, 40] {
        steps(&mut criterion, &device, &setting, conditioning)?;
    }
    criterion.final_summary();
    Ok(())
}

/// Steps with that many conditioning slices, and what the lanes of a support share of them.
fn steps(criterion: &mut Criterion, device: &Device, setting: &Setting, conditioning: usize) -> Result<()> {
    let config = &setting.network.config;
    let (p, m) = (config.grid().pow(2), config.mem_dim);
    let tokens = tensor(device, &[1, p, conditioning, m], 2)?;
    let own = tensor(device, &[1, p, RECENT, m], 3)?;
    let pointers = noise((conditioning + POINTERS) * config.pointer_tokens() * m, 4);
    let (last, recent) = (vec![config.num_maskmem - 1; conditioning], (0..RECENT).collect::<Vec<_>>());
    let shared = Slices {
        tokens: Some((&tokens, 0)),
        times: &last,
    };
    let memory = Memory {
        conditioning: shared,
        recent: Slices {
            tokens: Some((&own, 0)),
            times: &recent,
        },
        pointer_keys: &pointers,
        pointer_values: &pointers,
        start: None,
    };
    let support = Memory {
        conditioning: shared,
        recent: Slices::NONE,
        pointer_keys: &[],
        pointer_values: &[],
        start: None,
    };
    bench(criterion, device, &format!("share {conditioning} conditioning slices"), || {
        setting.network.memory_attention.share(&setting.start.q, &[support])
    })?;
    let state = device.install(|| setting.network.memory_attention.share(&setting.start.q, &[support]))?;
    bench(
        criterion,
        device,
        &format!("step 5 lanes, {conditioning} conditioning slices"),
        || setting.step(&[memory; LANES], Some(&state)),
    )
}

/// Times `call` on the device's threads.
fn bench<T>(criterion: &mut Criterion, device: &Device, name: &str, call: impl Fn() -> Result<T> + Send + Sync) -> Result<()> {
    let mut result = Ok(());
    criterion.bench_function(name, |bencher| {
        bencher.iter_custom(|n| {
            let timed = device.install(|| {
                let start = Instant::now();
                for _ in 0..n {
                    drop(black_box(call()?));
                }
                anyhow::Ok(start.elapsed())
            });
            timed.unwrap_or_else(|error| {
                result = Err(error);
                Duration::from_nanos(1)
            })
        });
    });
    result
}
