//! What a case would take before anything runs: slices, lane steps, memory by part, and time from the network's operation count and this machine's measured rate.

use crate::cohort::discover::{LabelledCase, UnlabelledCase};
use crate::cohort::labeller::Labeller;
use crate::device::Device;
use crate::ops::linear::{Epilogue, Input, Linear, linear};
use crate::tensor::Tensor;
use anyhow::Result;
use serde::Serialize;
use std::time::Instant;

/// Share of the bare matrix product's rate that a whole case reaches; measured on 13 and 40 slices at 512 x 512.
const SHARE: f64 = 0.8;

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
    /// Seconds with supports from an earlier case, and on top of that for making them.
    pub seconds: f64,
    /// Seconds for making the supports.
    pub support_seconds: f64,
    /// Bytes by part.
    pub bytes: Bytes,
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
pub fn product_rate(device: &Device) -> f64 {
    const M: usize = 1024;
    const K: usize = 512;
    let weights = Linear::new(&vec![0.5; K * K], K, K, None);
    let x = Tensor::zeros(device, &[M, K]);
    let mut y = Tensor::empty(device, &[M, K]);
    device.install(|| {
        let mut best = 0f64;
        for _ in 0..8 {
            let begin = Instant::now();
            linear(Input::Plain(&x), &weights, Epilogue::NONE, &mut y);
            best = best.max(2.0 * (M * K * K) as f64 / begin.elapsed().as_secs_f64());
        }
        best
    })
}

impl Labeller {
    /// Estimates a case; `rate` is [`product_rate`].
    ///
    /// # Errors
    /// As labelling itself, as far as that is seen from headers and label files.
    pub fn estimate(&mut self, case: &UnlabelledCase, labelled: &[&LabelledCase], save_probabilities: bool, rate: f64) -> Result<Estimate> {
        let dims = self.query_dims(case)?;
        let [slices, h, w] = dims;
        let net = self.network();
        let config = net.config.clone();
        let (encode, per_slice) = (net.encode_flops(), net.bytes_per_query_slice());
        let token_bytes = config.grid().pow(2) * config.mem_dim;
        let network = 4 * net.parameters();
        let working = net.working_bytes(self.lanes());
        let runs = self.runs_per_support(slices);
        let (mut classes, mut conditioning, mut support_slices, mut steps, mut flops, mut supports, mut largest) = (0, 0, 0, 0, 0.0, 0, 0);
        for case in labelled {
            let counts = self.labelled_slices(case)?;
            classes = classes.max(counts.len());
            for &count in counts.iter().filter(|&&count| count > 0) {
                conditioning += count;
                steps += runs * slices;
                flops += (runs * slices) as f64 * self.network().step_flops(count);
                supports += count * 2 * token_bytes;
                largest = largest.max(count * 4 * token_bytes);
            }
            support_slices += counts.iter().copied().max().unwrap_or(0);
        }
        let voxels = slices * h * w;
        let maps = voxels * (4 + 2 + 1 + 4 + 4 + 8 + if save_probabilities { 8 * classes } else { 0 });
        let query = slices * per_slice;
        let supports = supports + largest;
        let seconds = (flops + slices as f64 * encode) / (rate * SHARE);
        Ok(Estimate {
            slices,
            conditioning_slices: conditioning,
            lane_steps: steps,
            support_slices,
            seconds,
            support_seconds: support_slices as f64 * encode * 1.1 / (rate * SHARE),
            bytes: Bytes {
                network,
                query,
                supports,
                maps,
                working,
                total: network + query + supports + maps + working,
            },
        })
    }
}
