//! What the benches share: every op, set up for each case of network size, and the network with formula weights.

#![allow(dead_code)] // each bench uses a part

use anyhow::Result;
use hpc_seg::device::Device;
use hpc_seg::ops::{self, Cost, in_network};
use hpc_seg::sam2::{Config, Sam2};
use hpc_seg::tensor::Tensor;
use hpc_seg::weights::{formula_checkpoint, read_tensor_list};
use ops::attention::{Columns, attention};
use ops::conv::{Conv, conv};
use ops::depthwise::{Depthwise, depthwise};
use ops::linear::{Epilogue, Input, Linear, linear};
use ops::memory_attention::{KeyTables, Memory, Slices, memory_attention};
use ops::norm::Norm;
use ops::resize::ResizePlan;
use ops::rope::{Rope, rope};
use ops::upscale::{Upscale, upscale};
use std::path::Path;

/// One call of an op, ready to be timed.
pub type Call = Box<dyn FnMut() + Send>;

/// An op at a case of network size.
pub struct Entry {
    pub op: &'static str,
    pub case: &'static str,
    pub cost: Cost,
    /// Allocates and fills what the call needs.
    pub prepare: Box<dyn Fn() -> Call + Send>,
}

/// `n` numbers in [-1, 1).
pub fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x1234_5678_9ABC_DEF1;
    (0..n)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

/// A tensor of noise.
pub fn tensor(device: &Device, shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_slice(device, shape, &noise(shape.iter().product(), seed))
}

fn unit_norm(c: usize) -> Norm {
    Norm {
        gamma: vec![1.0; c],
        beta: vec![0.0; c],
        eps: 1e-6,
    }
}

/// Median seconds of `runs` calls, after one that is not counted.
pub fn median(runs: usize, mut call: impl FnMut()) -> f64 {
    call();
    let mut times: Vec<f64> = (0..runs)
        .map(|_| {
            let start = std::time::Instant::now();
            call();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// SAM 2.1 Hiera-tiny at 512 x 512 with formula weights.
pub fn network(device: &Device) -> Result<Sam2> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/expected");
    let read = |suffix: &str| std::fs::read_to_string(folder.join(format!("sam2_hiera_t512_{suffix}.json")));
    let list = read_tensor_list("sam2_hiera_t512_tensors.json", &read("tensors")?)?;
    let config: Config = serde_json::from_str(&read("config")?)?;
    Sam2::load(&formula_checkpoint(&list, 4)?, config, device)
}

/// Every op at every case of network size.
pub fn entries(device: &Device) -> Vec<Entry> {
    let mut all = Vec::new();
    products(device, &mut all);
    attentions(device, &mut all);
    maps(device, &mut all);
    planes(device, &mut all);
    all
}

fn add(all: &mut Vec<Entry>, op: &'static str, case: &'static str, cost: Cost, prepare: impl Fn() -> Call + Send + 'static) {
    if in_network(case) {
        all.push(Entry {
            op,
            case,
            cost,
            prepare: Box::new(prepare),
        });
    }
}

fn products(device: &Device, all: &mut Vec<Entry>) {
    for c in ops::linear::cases() {
        let device = device.clone();
        add(all, "linear", c.name, ops::linear::cost(c.m, c.n, c.k), move || {
            let weights = Linear::new(&noise(c.n * c.k, 1), c.n, c.k, None);
            let (x, mut y) = (tensor(&device, &[c.m, c.k], 2), Tensor::zeros(&device, &[c.m, c.n]));
            Box::new(move || linear(Input::Plain(&x), &weights, Epilogue::NONE, &mut y))
        });
    }
    for c in ops::conv::cases() {
        let device = device.clone();
        let side = |n: usize| (n + 2 * c.padding - c.kernel) / c.stride + 1;
        let pixels = c.items * side(c.size.0) * side(c.size.1);
        add(
            all,
            "conv",
            c.name,
            ops::conv::cost(pixels, c.n, c.channels, c.kernel, c.stride),
            move || {
                let weights = Conv::new(
                    &noise(c.n * c.channels * c.kernel * c.kernel, 1),
                    c.n,
                    c.channels,
                    c.kernel,
                    c.stride,
                    c.padding,
                    None,
                );
                let x = tensor(&device, &[c.items, c.size.0, c.size.1, c.channels], 2);
                Box::new(move || drop(conv(&x, &weights, Epilogue::NONE)))
            },
        );
    }
    for c in ops::upscale::cases() {
        let device = device.clone();
        let pixels = c.size.0 * c.size.1;
        add(all, "upscale", c.name, ops::upscale::cost(c.items * pixels, c.c, c.o), move || {
            let weights = Upscale::new(&noise(c.c * c.o * 4, 1), c.c, c.o, &noise(c.o, 2), c.norm.then(|| unit_norm(c.o)));
            let x = tensor(&device, &[c.items, c.size.0, c.size.1, c.c], 3);
            let skips: Vec<Tensor> = (0..c.items).map(|_| tensor(&device, &[4 * pixels, c.o], 4)).collect();
            Box::new(move || drop(upscale(&x, &weights, &skips.iter().collect::<Vec<_>>())))
        });
    }
    for c in ops::mask_product::cases() {
        let device = device.clone();
        let pixels = c.items * c.size.0 * c.size.1;
        add(
            all,
            "mask_product",
            c.name,
            ops::mask_product::cost(pixels, c.masks, c.channels),
            move || {
                let x = tensor(&device, &[c.items, c.size.0, c.size.1, c.channels], 1);
                let tokens = tensor(&device, &[c.items, c.masks, c.channels], 2);
                Box::new(move || drop(ops::mask_product::mask_product(&x, &tokens)))
            },
        );
    }
}

fn attentions(device: &Device, all: &mut Vec<Entry>) {
    for c in ops::attention::cases() {
        let device = device.clone();
        add(all, "attention", c.name, c.cost(), move || {
            let (windows, wide) = (c.windows(), c.heads * c.width);
            let q = tensor(&device, &[c.items * windows.query_rows, wide], 1);
            let kv = tensor(&device, &[c.items * windows.key_rows, 2 * wide], 2);
            let padding = (noise(wide, 3), noise(wide, 4));
            let mut y = Tensor::zeros(&device, q.shape());
            Box::new(move || {
                let columns = [Columns(&q, 0), Columns(&kv, 0), Columns(&kv, wide)];
                attention(columns, Some((&padding.0, &padding.1)), &windows, c.items, c.heads, &mut y);
            })
        });
    }
    for c in ops::memory_attention::cases() {
        let device = device.clone();
        let one = ops::memory_attention::cost(c.grid.0, c.d, c.m, c.times, c.conditioning + c.recent, c.pointers);
        let cost = Cost {
            flops: one.flops * c.lanes as f64,
            bytes: one.bytes * c.lanes as f64,
        };
        add(all, "memory_attention", c.name, cost, move || {
            let p = c.grid.0 * c.grid.1;
            let rope = Rope::new(c.d, c.grid, 10000.0);
            let tables = KeyTables::new(
                &noise(c.d * c.m, 1),
                &noise(c.d, 2),
                &noise(c.times * c.m, 3),
                &noise(p * c.m, 4),
                &rope,
            );
            let (q, mut y) = (tensor(&device, &[c.lanes * p, c.d], 5), Tensor::zeros(&device, &[c.lanes * p, c.m]));
            let (conditioning, recent) = (noise(p * c.slots * c.m, 6), noise(p * c.recent * c.m, 7));
            let pointers = noise(c.pointers * c.m, 8);
            let times = (
                vec![c.times - 1; c.conditioning],
                (0..c.recent).map(|i| i % c.times).collect::<Vec<_>>(),
            );
            Box::new(move || {
                let memory = Memory {
                    conditioning: Slices {
                        tokens: &conditioning,
                        slots: c.slots,
                        times: &times.0,
                    },
                    recent: Slices {
                        tokens: &recent,
                        slots: c.recent,
                        times: &times.1,
                    },
                    pointer_keys: &pointers,
                    pointer_values: &pointers,
                    start: None,
                };
                memory_attention(&q, &tables, &vec![memory; c.lanes], &mut y);
            })
        });
    }
}

fn maps(device: &Device, all: &mut Vec<Entry>) {
    for c in ops::depthwise::cases() {
        let device = device.clone();
        add(
            all,
            "depthwise",
            c.name,
            ops::depthwise::cost(c.items * c.size.0 * c.size.1, c.channels),
            move || {
                let weights = Depthwise::new(&noise(49 * c.channels, 1), noise(c.channels, 2), unit_norm(c.channels));
                let x = tensor(&device, &[c.items, c.size.0, c.size.1, c.channels], 3);
                Box::new(move || drop(depthwise(&x, &weights)))
            },
        );
    }
    for c in ops::max_pool::cases() {
        let device = device.clone();
        add(
            all,
            "max_pool",
            c.name,
            ops::max_pool::cost(c.items * c.size.0 * c.size.1 / 4, c.n),
            move || {
                let x = tensor(&device, &[c.items, c.size.0, c.size.1, c.channels], 1);
                Box::new(move || drop(ops::max_pool::max_pool(&x, c.from, c.n)))
            },
        );
    }
    for c in ops::nearest_add::cases() {
        let device = device.clone();
        add(
            all,
            "nearest_add",
            c.name,
            ops::nearest_add::cost(4 * c.items * c.size.0 * c.size.1, c.channels),
            move || {
                let x = tensor(&device, &[c.items, c.size.0, c.size.1, c.channels], 1);
                let mut y = Tensor::zeros(&device, &[c.items, 2 * c.size.0, 2 * c.size.1, c.channels]);
                Box::new(move || ops::nearest_add::nearest_add(&mut y, &x))
            },
        );
    }
    for c in ops::norm::cases() {
        let device = device.clone();
        add(all, "norm", c.name, ops::norm::cost(c.m, c.c), move || {
            let (mut x, weights) = (tensor(&device, &[c.m, c.c], 1), unit_norm(c.c));
            Box::new(move || ops::norm::norm(&mut x, &weights, false))
        });
    }
    for c in ops::rope::cases() {
        let device = device.clone();
        add(
            all,
            "rope",
            c.name,
            ops::rope::cost(c.items * c.grid.0 * c.grid.1, c.width),
            move || {
                let mut x = tensor(&device, &[c.items * c.grid.0 * c.grid.1, c.channels], 1);
                let table = Rope::new(c.width, c.grid, 10000.0);
                Box::new(move || rope(&mut x, c.from, &table))
            },
        );
    }
}

/// Ops on planes; their calls cannot fail, since the sizes are the plan's.
fn planes(device: &Device, all: &mut Vec<Entry>) {
    for c in ops::ensemble::cases() {
        let Ok(plan) = ResizePlan::bilinear(c.input, c.output) else {
            continue;
        };
        let n = c.output.0 * c.output.1;
        add(all, "ensemble", c.name, ops::ensemble::cost(n), move || {
            let (x, plan) = (noise(c.input.0 * c.input.1, 1), plan.clone());
            let (mut sum, mut votes) = (vec![0; n], vec![0; n]);
            Box::new(move || {
                sum.fill(0);
                let _ = ops::ensemble::ensemble(&x, &plan, &mut sum, &mut votes);
            })
        });
    }
    for c in ops::memory_mask::cases() {
        let Ok(plan) = ResizePlan::bilinear(c.input, c.output) else {
            continue;
        };
        let device = device.clone();
        add(
            all,
            "memory_mask",
            c.name,
            ops::memory_mask::cost(c.items * c.output.0 * c.output.1),
            move || {
                let (device, x, plan) = (device.clone(), noise(c.items * c.input.0 * c.input.1, 1), plan.clone());
                Box::new(move || {
                    let masks: Vec<&[f32]> = x.chunks_exact(x.len() / c.items).collect();
                    let _ = ops::memory_mask::memory_mask(&device, &masks, &plan, false, 20.0, -10.0);
                })
            },
        );
    }
    for c in ops::resize::cases() {
        let Ok(plan) = ResizePlan::bilinear(c.input, c.output) else {
            continue;
        };
        add(all, "resize", c.name, plan.cost(1), move || {
            let (x, plan) = (noise(c.input.0 * c.input.1, 1), plan.clone());
            let (mut scratch, mut y) = (vec![0.0; plan.scratch_len(1)], vec![0.0; c.output.0 * c.output.1]);
            Box::new(move || drop(plan.resize(&x, &mut scratch, &mut y)))
        });
    }
    for c in ops::resize_u8::cases() {
        let Ok(plan) = ops::resize_u8::BicubicU8Plan::new(c.input, c.output) else {
            continue;
        };
        add(all, "resize_u8", c.name, plan.cost(), move || {
            let (x, plan) = (vec![77u8; c.input.0 * c.input.1], plan.clone());
            let (mut scratch, mut y) = (vec![0; plan.scratch_len()], vec![0; c.output.0 * c.output.1]);
            Box::new(move || drop(plan.resize(&x, &mut scratch, &mut y)))
        });
    }
    for c in ops::resize_nearest::cases() {
        let Ok(plan) = ops::resize_nearest::NearestPlan::new(c.input, c.output) else {
            continue;
        };
        add(all, "resize_nearest", c.name, plan.cost(1), move || {
            let (x, plan) = (vec![1u8; c.input.0 * c.input.1], plan.clone());
            let mut y = vec![0u8; c.output.0 * c.output.1];
            Box::new(move || drop(plan.resize(&x, &mut y)))
        });
    }
}
