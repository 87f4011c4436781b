//! Every op, set up for each of its cases of network size. A CUDA device, which a slice or a lane does not fill, gets several.

use crate::device::Device;
use crate::ops::{self, Cost, in_network};
use crate::tensor::Tensor;
use anyhow::Result;
use ops::attention::{Columns, attention};
use ops::components::holes_filled;
use ops::conv::{Conv, conv};
use ops::depthwise::{Depthwise, depthwise};
use ops::ensemble::Sums;
use ops::linear::{Epilogue, Input, Linear, linear};
use ops::memory_attention::{KeyTables, Memory, Pointers, Slices, memory_attention};
use ops::memory_mask::Affine;
use ops::norm::Norm;
use ops::resize::ResizePlan;
use ops::rope::{Rope, rope};
use ops::rows::{self, Put};
use ops::take::Maps;
use ops::upscale::{Upscale, upscale};

/// One call of an op, ready to be timed.
pub type Call = Box<dyn FnMut() -> Result<()> + Send>;

/// An op at a case of network size.
pub struct Entry {
    /// The op, and the case of its table.
    pub op: &'static str,
    #[allow(missing_docs)]
    pub case: &'static str,
    /// Of one call.
    pub cost: Cost,
    /// Allocates and fills what the call needs.
    pub prepare: Box<dyn Fn() -> Result<Call> + Send>,
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
pub fn tensor(device: &Device, shape: &[usize], seed: u64) -> Result<Tensor> {
    Tensor::from_slice(device, shape, &noise(shape.iter().product(), seed))
}

fn unit_norm(device: &Device, c: usize) -> Result<Norm> {
    Norm::new(device, vec![1.0; c], vec![0.0; c], 1e-6)
}

/// Every op at every case of network size.
pub fn entries(device: &Device) -> Vec<Entry> {
    let mut all = Vec::new();
    products(device, &mut all);
    attentions(device, &mut all);
    maps(device, &mut all);
    memory_masks(device, &mut all);
    prompt_masks(device, &mut all);
    normalised(device, &mut all);
    results(device, &mut all);
    moves(device, &mut all);
    if device.cuda().is_none() {
        planes(&mut all);
    }
    all
}

/// So many times the slices or lanes of a case: 8 slices are encoded at once on a CUDA device, and 50 lanes step where the CPU's cases have 5.
fn times(device: &Device, case: &str) -> usize {
    match device.cuda() {
        None => 1,
        Some(_) if case.starts_with("hiera.") || case.starts_with("neck.") => 8,
        Some(_) => 10,
    }
}

fn add(all: &mut Vec<Entry>, op: &'static str, case: &'static str, cost: Cost, prepare: impl Fn() -> Result<Call> + Send + 'static) {
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
    for mut c in ops::linear::cases() {
        c.m *= times(device, c.name);
        let device = device.clone();
        add(all, "linear", c.name, ops::linear::cost(c.m, c.n, c.k), move || {
            let weights = Linear::new(&device, &noise(c.n * c.k, 1), c.n, c.k, None)?;
            let (x, mut y) = (tensor(&device, &[c.m, c.k], 2)?, Tensor::zeros(&device, &[c.m, c.n])?);
            Ok(Box::new(move || linear(Input::Plain(&x), &weights, Epilogue::NONE, &mut y)))
        });
    }
    for mut c in ops::conv::cases() {
        c.items *= times(device, c.name);
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
                    &device,
                    &noise(c.n * c.channels * c.kernel * c.kernel, 1),
                    [c.n, c.channels],
                    [c.kernel, c.stride, c.padding],
                    None,
                )?;
                let x = tensor(&device, &[c.items, c.size.0, c.size.1, c.channels], 2)?;
                Ok(Box::new(move || conv(&x, &weights, Epilogue::NONE).map(drop)))
            },
        );
    }
    for mut c in ops::upscale::cases() {
        c.items *= times(device, c.name);
        let device = device.clone();
        let pixels = c.size.0 * c.size.1;
        add(all, "upscale", c.name, ops::upscale::cost(c.items * pixels, c.c, c.o), move || {
            let norm = c.norm.then(|| unit_norm(&device, c.o)).transpose()?;
            let weights = Upscale::new(&device, &noise(c.c * c.o * 4, 1), c.c, c.o, &noise(c.o, 2), norm)?;
            let x = tensor(&device, &[c.items, c.size.0, c.size.1, c.c], 3)?;
            let skip = tensor(&device, &[c.items * 4 * pixels, c.o], 4)?;
            Ok(Box::new(move || upscale(&x, &weights, &skip).map(drop)))
        });
    }
    for mut c in ops::mask_product::cases() {
        c.items *= times(device, c.name);
        let device = device.clone();
        let pixels = c.items * c.size.0 * c.size.1;
        add(
            all,
            "mask_product",
            c.name,
            ops::mask_product::cost(pixels, c.masks, c.channels),
            move || {
                let x = tensor(&device, &[c.items, c.size.0, c.size.1, c.channels], 1)?;
                let tokens = tensor(&device, &[c.items, c.masks, c.channels], 2)?;
                let present = vec![true; c.items];
                Ok(Box::new(move || {
                    ops::mask_product::mask_product(&x, &tokens, &present, 0.0).map(drop)
                }))
            },
        );
    }
}

fn attentions(device: &Device, all: &mut Vec<Entry>) {
    for mut c in ops::attention::cases() {
        c.items *= times(device, c.name);
        let device = device.clone();
        add(all, "attention", c.name, c.cost(), move || {
            let (windows, wide) = (c.windows(), c.heads * c.width);
            let q = tensor(&device, &[c.items * windows.query_rows, wide], 1)?;
            let kv = tensor(&device, &[c.items * windows.key_rows, 2 * wide], 2)?;
            let padding = tensor(&device, &[2, wide], 3)?;
            let mut y = Tensor::zeros(&device, q.shape())?;
            Ok(Box::new(move || {
                let columns = [Columns(&q, 0), Columns(&kv, 0), Columns(&kv, wide)];
                attention(columns, Some(&padding), &windows, c.items, c.heads, &mut y)
            }))
        });
    }
    for mut c in ops::memory_attention::cases() {
        c.lanes *= times(device, c.name);
        let device = device.clone();
        let one = ops::memory_attention::cost(c.grid.0, c.d, c.m, c.times, c.conditioning + c.recent, c.pointers);
        let cost = Cost {
            flops: one.flops * c.lanes as f64,
            bytes: one.bytes * c.lanes as f64,
        };
        add(all, "memory_attention", c.name, cost, move || {
            let p = c.grid.0 * c.grid.1;
            let rope = Rope::new(&device, c.d, c.grid, 10000.0)?;
            let tables = KeyTables::new(
                &device,
                &noise(c.d * c.m, 1),
                &noise(c.d, 2),
                &noise(c.times * c.m, 3),
                &noise(p * c.m, 4),
                &rope,
            )?;
            let (q, mut y) = (
                tensor(&device, &[c.lanes * p, c.d], 5)?,
                Tensor::zeros(&device, &[c.lanes * p, c.m])?,
            );
            let conditioning = tensor(&device, &[1, p, c.slots, c.m], 6)?;
            let recent = tensor(&device, &[1, p, c.recent, c.m], 7)?;
            let pointers = noise(c.pointers * c.m, 8);
            let alone = Memory {
                conditioning: Slices::NONE,
                recent: Slices::NONE,
                pointer_keys: &pointers,
                pointer_values: &pointers,
                start: None,
            };
            // A step's pointers are there once for all layers.
            let there = Pointers::of(&device, &vec![alone; c.lanes])?;
            let times = (
                vec![c.times - 1; c.conditioning],
                (0..c.recent).map(|i| i % c.times).collect::<Vec<_>>(),
            );
            Ok(Box::new(move || {
                let memory = Memory {
                    conditioning: Slices {
                        tokens: Some((&conditioning, 0)),
                        times: &times.0,
                    },
                    recent: Slices {
                        tokens: Some((&recent, 0)),
                        times: &times.1,
                    },
                    pointer_keys: &pointers,
                    pointer_values: &pointers,
                    start: None,
                };
                memory_attention(&q, &tables, &vec![memory; c.lanes], &there, &mut y)
            }))
        });
    }
}

fn maps(device: &Device, all: &mut Vec<Entry>) {
    for mut c in ops::depthwise::cases() {
        c.items *= times(device, c.name);
        let device = device.clone();
        add(
            all,
            "depthwise",
            c.name,
            ops::depthwise::cost(c.items * c.size.0 * c.size.1, c.channels),
            move || {
                let norm = unit_norm(&device, c.channels)?;
                let weights = Depthwise::new(&device, &noise(49 * c.channels, 1), noise(c.channels, 2), norm)?;
                let x = tensor(&device, &[c.items, c.size.0, c.size.1, c.channels], 3)?;
                Ok(Box::new(move || depthwise(&x, &weights).map(drop)))
            },
        );
    }
    for mut c in ops::max_pool::cases() {
        c.items *= times(device, c.name);
        let device = device.clone();
        add(
            all,
            "max_pool",
            c.name,
            ops::max_pool::cost(c.items * c.size.0 * c.size.1 / 4, c.n),
            move || {
                let x = tensor(&device, &[c.items, c.size.0, c.size.1, c.channels], 1)?;
                Ok(Box::new(move || ops::max_pool::max_pool(&x, c.from, c.n).map(drop)))
            },
        );
    }
    for mut c in ops::nearest_add::cases() {
        c.items *= times(device, c.name);
        let device = device.clone();
        add(
            all,
            "nearest_add",
            c.name,
            ops::nearest_add::cost(4 * c.items * c.size.0 * c.size.1, c.channels),
            move || {
                let x = tensor(&device, &[c.items, c.size.0, c.size.1, c.channels], 1)?;
                let mut y = Tensor::zeros(&device, &[c.items, 2 * c.size.0, 2 * c.size.1, c.channels])?;
                Ok(Box::new(move || ops::nearest_add::nearest_add(&mut y, &x)))
            },
        );
    }
    for mut c in ops::norm::cases() {
        c.m *= times(device, c.name);
        let device = device.clone();
        add(all, "norm", c.name, ops::norm::cost(c.m, c.c), move || {
            let (mut x, weights) = (tensor(&device, &[c.m, c.c], 1)?, unit_norm(&device, c.c)?);
            Ok(Box::new(move || ops::norm::norm(&mut x, &weights, false)))
        });
    }
    for mut c in ops::rope::cases() {
        c.items *= times(device, c.name);
        let device = device.clone();
        add(
            all,
            "rope",
            c.name,
            ops::rope::cost(c.items * c.grid.0 * c.grid.1, c.width),
            move || {
                let mut x = tensor(&device, &[c.items * c.grid.0 * c.grid.1, c.channels], 1)?;
                let table = Rope::new(&device, c.width, c.grid, 10000.0)?;
                Ok(Box::new(move || rope(&mut x, c.from, &table)))
            },
        );
    }
}

fn memory_masks(device: &Device, all: &mut Vec<Entry>) {
    for mut c in ops::memory_mask::cases() {
        c.items *= times(device, c.name);
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
                let x = noise(c.items * c.input.0 * c.input.1, 1);
                let x = Tensor::from_slice_f32(&device, &[c.items, c.input.0, c.input.1], &x)?;
                let (plan, chosen) = (plan.clone(), (0..c.items).collect::<Vec<_>>());
                let affine = Affine {
                    prompted: false,
                    scale: 20.0,
                    bias: -10.0,
                };
                Ok(Box::new(move || {
                    ops::memory_mask::memory_mask(&x, &chosen, &plan, affine).map(drop)
                }))
            },
        );
    }
}

fn prompt_masks(device: &Device, all: &mut Vec<Entry>) {
    for mut c in ops::prompt_mask::cases() {
        c.items *= times(device, c.name);
        let device = device.clone();
        add(all, "prompt_mask", c.name, ops::prompt_mask::cost(c.items, c.size), move || {
            let mask: Vec<u8> = noise(c.size * c.size, 1).into_iter().map(|v| u8::from(v > 0.0)).collect();
            let device = device.clone();
            Ok(Box::new(move || {
                ops::prompt_mask::prompt_mask(&device, &vec![&mask[..]; c.items], c.size).map(drop)
            }))
        });
    }
}

/// Stored voxels of a batch of slices to what the network reads: on the CPU what the reader's thread does ahead of it too.
fn normalised(device: &Device, all: &mut Vec<Entry>) {
    for c in ops::normalise::cases() {
        let Ok(plan) = ops::resize_u8::BicubicU8Plan::new(c.input, (c.size, c.size)) else {
            continue;
        };
        let one = ops::normalise::cost(c.voxel, &plan);
        let cost = Cost {
            flops: one.flops * c.items as f64,
            bytes: one.bytes * c.items as f64,
        };
        let device = device.clone();
        add(all, "normalise", c.name, cost, move || {
            let map = ops::normalise::Map {
                slope: 1.0,
                intercept: 0.0,
                lower: -160.0,
                upper: 240.0,
                min: -160.0,
                max: 240.0,
                keep_zeros: false,
            };
            let normalise = ops::normalise::Normalise::new(&device, c.voxel, map, c.input, c.size)?;
            let batches = ops::normalise::Batches::new(&device, normalise.clone())?;
            let stored: Vec<u8> = (0..c.input.0 * c.input.1 * c.voxel.bytes()).map(|at| (at % 251) as u8).collect();
            Ok(Box::new(move || {
                let slices = (0..c.items).map(|_| normalise.prepare(stored.clone()));
                batches.bring(&slices.collect::<Result<Vec<_>>>()?).map(drop)
            }))
        });
    }
}

/// From the logits of lanes to the labels of a volume of eight slices.
fn results(device: &Device, all: &mut Vec<Entry>) {
    const SLICES: usize = 8;
    for c in ops::ensemble::cases() {
        let (pixels, lanes) = (c.output.0 * c.output.1, 5 * times(device, c.name));
        let dims = [SLICES, c.output.0, c.output.1];
        let logits = {
            let device = device.clone();
            move || Tensor::from_slice_f32(&device, &[lanes, c.input.0, c.input.1], &noise(lanes * c.input.0 * c.input.1, 1))
        };
        if device.cuda().is_some() {
            let (device, logits) = (device.clone(), logits.clone());
            add(all, "ensemble", c.name, ops::ensemble::cost(lanes * pixels), move || {
                let plan = ResizePlan::bilinear(c.input, c.output)?;
                let (mut sums, x) = (Sums::new(&device, lanes, pixels, 1)?, logits()?);
                let runs: Vec<_> = (0..lanes).map(|plane| ops::ensemble::Run { plane, slice: plane }).collect();
                Ok(Box::new(move || sums.add(&x, &runs, &plan)))
            });
        }
        add(all, "fill_holes", c.name, rows::cost(lanes * c.input.0 * c.input.1), move || {
            let (x, planes) = (logits()?, (0..lanes).collect::<Vec<_>>());
            Ok(Box::new(move || holes_filled(&x, &planes, 8, 0.1).map(drop)))
        });
        let volume = device.clone();
        add(all, "take", c.name, ops::take::cost(SLICES * pixels), move || {
            let sums = Sums::new(&volume, SLICES, pixels, 50)?;
            let mut maps = Maps::new(&volume, SLICES * pixels, 0.5)?;
            Ok(Box::new(move || maps.take(1, &sums, None).map(drop)))
        });
        let volume = device.clone();
        // At least a label read and written.
        let bytes = 2.0 * (SLICES * pixels) as f64;
        add(all, "components", c.name, Cost { flops: 0.0, bytes }, move || {
            let mut maps = Maps::new(&volume, SLICES * pixels, 0.5)?;
            Ok(Box::new(move || maps.components(0, dims, false).map(drop)))
        });
    }
}

/// A query's features to the lanes of a step, and their tokens to the rings.
fn moves(device: &Device, all: &mut Vec<Entry>) {
    let Some(c) = ops::memory_attention::cases().into_iter().find(|c| in_network(c.name)) else {
        return;
    };
    let (p, lanes) = (c.grid.0 * c.grid.1, c.lanes * times(device, c.name));
    let from = device.clone();
    add(all, "gather", c.name, rows::cost(lanes * p * c.d), move || {
        let x = tensor(&from, &[lanes * p, c.d], 1)?;
        let slices: Vec<usize> = (0..lanes).rev().collect();
        Ok(Box::new(move || rows::gather(&x, p, &slices).map(drop)))
    });
    let to = device.clone();
    add(all, "put_slots", c.name, rows::cost(lanes * p * c.m), move || {
        let tokens = tensor(&to, &[lanes * p, c.m], 1)?;
        let mut rings = Tensor::zeros(&to, &[lanes, p, c.recent, c.m])?;
        let puts: Vec<Put> = (0..lanes)
            .map(|lane| Put {
                from: lane,
                ring: lane,
                slot: 1,
            })
            .collect();
        Ok(Box::new(move || rows::put_slots(&mut rings, &tokens, &puts)))
    });
}

/// Ops on planes of the CPU.
fn planes(all: &mut Vec<Entry>) {
    for c in ops::ensemble::cases() {
        let Ok(plan) = ResizePlan::bilinear(c.input, c.output) else {
            continue;
        };
        let n = c.output.0 * c.output.1;
        add(all, "ensemble", c.name, ops::ensemble::cost(n), move || {
            let (x, plan) = (noise(c.input.0 * c.input.1, 1), plan.clone());
            let (mut sum, mut votes) = (vec![0; n], vec![0; n]);
            Ok(Box::new(move || {
                sum.fill(0);
                ops::ensemble::ensemble(&x, &plan, &mut sum, &mut votes)
            }))
        });
    }
    for c in ops::resize::cases() {
        let Ok(plan) = ResizePlan::bilinear(c.input, c.output) else {
            continue;
        };
        add(all, "resize", c.name, plan.cost(1), move || {
            let (x, plan) = (noise(c.input.0 * c.input.1, 1), plan.clone());
            let (mut scratch, mut y) = (vec![0.0; plan.scratch_len(1)], vec![0.0; c.output.0 * c.output.1]);
            Ok(Box::new(move || plan.resize(&x, &mut scratch, &mut y)))
        });
    }
    for c in ops::resize_u8::cases() {
        let Ok(plan) = ops::resize_u8::BicubicU8Plan::new(c.input, c.output) else {
            continue;
        };
        add(all, "resize_u8", c.name, plan.cost(), move || {
            let (x, plan) = (vec![77u8; c.input.0 * c.input.1], plan.clone());
            let (mut scratch, mut y) = (vec![0; plan.scratch_len()], vec![0; c.output.0 * c.output.1]);
            Ok(Box::new(move || plan.resize(&x, &mut scratch, &mut y)))
        });
    }
    for c in ops::resize_nearest::cases() {
        let Ok(plan) = ops::resize_nearest::NearestPlan::new(c.input, c.output) else {
            continue;
        };
        add(all, "resize_nearest", c.name, plan.cost(1), move || {
            let (x, plan) = (vec![1u8; c.input.0 * c.input.1], plan.clone());
            let mut y = vec![0u8; c.output.0 * c.output.1];
            Ok(Box::new(move || plan.resize(&x, &mut y)))
        });
    }
}
