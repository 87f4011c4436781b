//! The stages of tracking, with formula weights: a slice's encoding, a step of five lanes, its parts. `cargo bench --bench stages [-- FILTER]`.

mod support;

use anyhow::Result;
use criterion::Criterion;
use hpc_seg::device::Device;
use hpc_seg::ops::memory_attention::{Memory, Slices};
use hpc_seg::sam2::Sam2;
use hpc_seg::sam2::encoder::Features;
use hpc_seg::sam2::memory_attention::Start;
use hpc_seg::tensor::Tensor;
use std::hint::black_box;
use std::time::{Duration, Instant};
use support::{network, noise};

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
        );
        let features = network.encoder.forward(&slice, &mut |_, _| {}).remove(0);
        let start = network.memory_attention.start(&features.top);
        let part = network.memory_encoder.features(&features.top);
        Ok(Self {
            network,
            slice,
            features,
            start,
            part,
        })
    }

    /// One step of all lanes: memory attention, mask decoder, memory encoder.
    fn step(&self, memories: &[Memory<'_>], shared: Option<&Tensor>) -> Result<Tensor> {
        let net = &self.network;
        let attended = net.memory_attention.forward(&[&self.start; LANES], memories, &[shared; LANES]);
        let decoded = net.decoder.track(&attended, &[&self.features; LANES], &net.prompt);
        net.remember_tracked(&decoded, &[&self.part; LANES])
    }
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
        drop(black_box(net.encoder.forward(&setting.slice, &mut |_, _| {})))
    });
    bench(&mut criterion, &device, "start a slice", || {
        drop(black_box(net.memory_attention.start(&setting.features.top)))
    });
    let top = device.install(|| {
        Tensor::from_slice(
            &device,
            &[net.config.grid().pow(2) * LANES, net.config.d_model],
            &setting.features.top.values().repeat(LANES),
        )
    });
    bench(&mut criterion, &device, "decode the masks of 5 lanes", || {
        black_box(net.decoder.track(&top, &[&setting.features; LANES], &net.prompt));
    });
    let decoded = device.install(|| net.decoder.track(&top, &[&setting.features; LANES], &net.prompt));
    bench(&mut criterion, &device, "remember the masks of 5 lanes", || {
        black_box(net.remember_tracked(&decoded, &[&setting.part; LANES]).is_ok());
    });
    for conditioning in [13, 40] {
        steps(&mut criterion, &device, &setting, conditioning);
    }
    criterion.final_summary();
    Ok(())
}

/// Steps with that many conditioning slices, and what the lanes of a support share of them.
fn steps(criterion: &mut Criterion, device: &Device, setting: &Setting, conditioning: usize) {
    let config = &setting.network.config;
    let (p, m) = (config.grid().pow(2), config.mem_dim);
    let tokens = noise(p * conditioning * m, 2);
    let own = noise(p * RECENT * m, 3);
    let pointers = noise((conditioning + POINTERS) * config.pointer_tokens() * m, 4);
    let (last, recent) = (vec![config.num_maskmem - 1; conditioning], (0..RECENT).collect::<Vec<_>>());
    let shared = Slices {
        tokens: &tokens,
        slots: conditioning,
        times: &last,
    };
    let memory = Memory {
        conditioning: shared,
        recent: Slices {
            tokens: &own,
            slots: RECENT,
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
        black_box(setting.network.memory_attention.share(&setting.start, support));
    });
    let state = device.install(|| setting.network.memory_attention.share(&setting.start, support));
    bench(
        criterion,
        device,
        &format!("step 5 lanes, {conditioning} conditioning slices"),
        || {
            black_box(setting.step(&[memory; LANES], Some(&state)).is_ok());
        },
    );
}

/// Times `call` on the device's threads.
fn bench(criterion: &mut Criterion, device: &Device, name: &str, call: impl Fn() + Send + Sync) {
    criterion.bench_function(name, |bencher| {
        bencher.iter_custom(|n| {
            device.install(|| {
                let start = Instant::now();
                (0..n).for_each(|_| call());
                start.elapsed()
            })
        });
    });
}
