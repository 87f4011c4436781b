//! What a case would take before anything runs: slices, lane steps, memory by part, and time from the network's operation count and this machine's measured rate.

use crate::cohort::discover::{LabelledCase, UnlabelledCase};
use crate::cohort::labeller::Labeller;
use crate::device::Device;
use crate::ops::linear::{Epilogue, Input, Linear, linear};
use crate::tensor::Tensor;
use crate::tffs::plan::Plan;
use crate::tffs::support::Counts;
use anyhow::Result;
use serde::Serialize;
use std::time::Instant;

/// Share of the bare matrix product's rate that a whole case reaches on the CPU; measured on 13 and 40 slices at 512 x 512.
const SHARE: f64 = 0.8;
/// The same on a GPU, an estimate: a volume reached 107 TFLOP/s on an H200 (`volume.json` in benches/runs/2026-11-27-h200); the rate of this product was not measured there, that of
/// similar ones was 150 to 240 (`ops.json`).
const GPU_SHARE: f64 = 0.6;

/// The plan of one case.
#[derive(Clone, Debug, Serialize)]
pub struct Estimate {
    /// Slices of the unlabelled volume.
    pub slices: usize,
    /// Labelled slices (of all supports and classes) that become conditioning slices.
    pub conditioning_slices: usize,
    /// Steps of one lane each.
    pub lane_steps: usize,
    /// Labelled slices to encode, if no earlier case has left the supports behind.
    pub support_slices: usize,
    /// Operations with supports from an earlier case, by the network's own count.
    pub flops: f64,
    /// Seconds with supports from an earlier case, and on top of that for making them.
    pub seconds: f64,
    /// Seconds for making the supports.
    pub support_seconds: f64,
    /// Bytes by part; on a CUDA device those of its memory.
    pub bytes: Bytes,
    /// On a CUDA device: lanes per step, and what stands in host memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
}

/// Memory by part.
#[derive(Clone, Debug, Serialize)]
pub struct Bytes {
    /// The network's weights, packed.
    pub network: usize,
    /// The encoded query.
    pub query: usize,
    /// The support cache of this case.
    pub supports: usize,
    /// Sums, votes, maps and the volumes themselves.
    pub maps: usize,
    /// Working memory of a step.
    pub working: usize,
    /// All of it.
    pub total: usize,
}

/// Operations per second of a matrix product on this device, from a fraction of a second of measuring.
///
/// # Errors
/// Those of a CUDA device.
pub fn product_rate(device: &Device) -> Result<f64> {
    const K: usize = 512;
    let weights = Linear::new(device, &vec![0.5; K * K], K, K, None)?;
    // On a GPU 16 MB of rows each way, which is enough for all multiprocessors, or half of what is left.
    let m = device.cuda().map_or(1024, |cuda| {
        let used = cuda.arena.usage();
        ((used.budget - used.live) / (4 * 2 * K)).clamp(1, 16384)
    });
    let x = Tensor::zeros(device, &[m, K])?;
    let mut y = Tensor::empty(device, &[m, K])?;
    device.install(|| {
        let mut best = 0f64;
        // The first brings the kernel along.
        for _ in 0..8 {
            device.synchronise()?;
            let begin = Instant::now();
            linear(Input::Plain(&x), &weights, Epilogue::NONE, &mut y)?;
            // A launch returns before its work is done.
            device.synchronise()?;
            best = best.max(2.0 * (m * K * K) as f64 / begin.elapsed().as_secs_f64());
        }
        Ok(best)
    })
}

impl Labeller {
    /// Estimates a case; `rate` is [`product_rate`].
    ///
    /// # Errors
    /// As labelling itself, as far as that is seen from headers and label files.
    pub fn estimate(&mut self, case: &UnlabelledCase, labelled: &[&LabelledCase], save_probabilities: bool, rate: f64) -> Result<Estimate> {
        let dims = self.query_dims(case)?;
        let slices = dims[0];
        let net = self.network()?;
        let rate = rate * if net.device().cuda().is_some() { GPU_SHARE } else { SHARE };
        let (encode, step) = (net.encode_flops(), net.step_flops(0));
        let per_conditioning_slice = net.step_flops(1) - step;
        let runs = self.runs_per_support(slices);
        self.check_runs(labelled.iter().map(|case| (*case, runs)))?;
        let (mut classes, mut support_slices, mut steps, mut flops) = (0, 0, 0, 0.0);
        let mut per_support = Vec::with_capacity(labelled.len());
        for case in labelled {
            let counts = self.counts(case, slices)?;
            let shown = &counts.conditioning;
            classes = classes.max(shown.len());
            for &count in shown.iter().filter(|&&count| count > 0) {
                steps += runs * slices;
                flops += (runs * slices) as f64 * (step + count as f64 * per_conditioning_slice);
            }
            support_slices += shown.iter().copied().max().unwrap_or(0);
            per_support.push((runs, counts));
        }
        let (plan, bytes) = self.memory(dims, classes, &per_support, save_probabilities)?;
        let flops = flops + slices as f64 * encode;
        Ok(Estimate {
            slices,
            conditioning_slices: per_support.iter().flat_map(|(_, counts)| &counts.conditioning).sum(),
            lane_steps: steps,
            support_slices,
            flops,
            seconds: flops / rate,
            support_seconds: support_slices as f64 * encode * 1.1 / rate,
            bytes,
            plan,
        })
    }

    /// Memory by part, and on a CUDA device the plan it belongs to; labelled volumes are given with their insertions.
    fn memory(
        &self,
        dims: [usize; 3],
        classes: usize,
        labelled: &[(usize, Counts)],
        save_probabilities: bool,
    ) -> Result<(Option<Plan>, Bytes)> {
        let net = self.network()?;
        if let Some(cuda) = net.device().cuda() {
            let labelled = labelled.iter().map(|(insertions, counts)| (*insertions, counts));
            let problem = self.problem(dims, labelled, save_probabilities)?;
            let plan = Plan::within(cuda.arena.usage().budget, self.network_bytes(), net, &problem)?;
            let parts = plan.bytes;
            let bytes = Bytes {
                network: parts.network,
                query: parts.query,
                supports: parts.supports,
                maps: parts.maps,
                working: (parts.lanes + parts.working).max(parts.encoding.saturating_sub(parts.maps)),
                total: parts.total(),
            };
            return Ok((Some(plan), bytes));
        }
        let token_bytes = net.config.grid().pow(2) * net.config.mem_dim;
        let counts = || labelled.iter().flat_map(|(_, counts)| &counts.conditioning);
        let [slices, h, w] = dims;
        // Kept as bf16; those in use are brought to f32.
        let supports = counts().sum::<usize>() * 2 * token_bytes + counts().max().unwrap_or(&0) * 4 * token_bytes;
        let (network, query) = (4 * net.parameters(), slices * net.bytes_per_query_slice());
        let maps = slices * h * w * (4 + 2 + 1 + 4 + 4 + 8 + if save_probabilities { 8 * classes } else { 0 });
        let working = net.working_bytes(self.cpu_lanes());
        let bytes = Bytes {
            network,
            query,
            supports,
            maps,
            working,
            total: network + query + supports + maps + working,
        };
        Ok((None, bytes))
    }
}
