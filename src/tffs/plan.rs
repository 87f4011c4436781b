//! The memory plan of a query on a CUDA device, made before any work: what stays on the device, what is spilled to host memory, how many lanes step together.
//!
//! Results do not depend on it. Bytes are those of the arena's buffers: weights, features and tokens in bf16, unfinished softmax sums and maps in f32 or integers.

use crate::bad_input;
use crate::ops::normalise::Bringing;
use crate::sam2::Sam2;
use anyhow::Result;
use serde::Serialize;

/// Lanes beyond this gain nothing: every multiprocessor of the largest card is busy with fewer.
const MOST_LANES: usize = 64;
/// Slices the encoder takes at once, at most.
const MOST_BATCH: usize = 8;

/// What is to be labelled, as far as memory depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// [slices, rows, columns] of the query.
    pub dims: [usize; 3],
    /// Labelled volumes.
    pub supports: usize,
    /// Insertions of each.
    pub insertions: usize,
    /// Conditioning slices of all supports and classes.
    pub conditioning: usize,
    /// Of the support and class with most of them.
    pub most_conditioning: usize,
    /// Of the support with most of them, all classes together: so many are on the device while it is made.
    pub most_in_volume: usize,
    /// Empty slices that are tracked of the support with most of them: their features are on the device while it is made, unless tokens stand in host memory.
    pub most_tracked: usize,
    /// What bringing slices to the network takes, of the query and the labelled volumes.
    pub bringing: Bringing,
    /// Supports and classes, each of which may keep two rings of tracked slices.
    pub starts: usize,
    /// Lanes per step, if that is fixed.
    pub lanes: Option<usize>,
    /// Whether mean probabilities are wanted.
    pub probabilities: bool,
}

/// How a query is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Lanes that step together.
    pub lanes: usize,
    /// Slices the encoder takes at once.
    pub batch: usize,
    /// Whether the query's features stand in host memory.
    pub spilled_query: bool,
    /// Whether supports' tokens stand in host memory.
    pub spilled_supports: bool,
    /// Device memory by part.
    pub bytes: Parts,
}

/// Device memory by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Parts {
    pub network: usize,
    pub query: usize,
    pub supports: usize,
    /// Layer 1's shared attention, and the lanes' rings.
    pub lanes: usize,
    pub maps: usize,
    /// Of a step.
    pub working: usize,
    /// Of a batch in the encoder, and of a support in the making: given back before the three above are taken.
    pub encoding: usize,
    /// Supports that this query does not use, kept for others.
    pub kept: usize,
}

impl Parts {
    /// The most that is taken at once.
    pub fn total(&self) -> usize {
        self.kept + self.network + self.query + self.supports + self.encoding.max(self.lanes + self.maps + self.working)
    }
}

impl Plan {
    /// On the CPU: nothing is spilled, and memory is the host's.
    pub fn cpu(lanes: usize) -> Self {
        Self {
            lanes,
            batch: 1,
            spilled_query: false,
            spilled_supports: false,
            bytes: Parts::default(),
        }
    }

    /// Slices that a labelled volume's support takes at once: half as many as the encoder alone, because features of slices that are tracked stay, and prompts take memory too.
    pub fn support_batch(&self) -> usize {
        (self.batch / 2).max(1)
    }

    /// The best plan within `budget` bytes, of which the network holds `network`: everything on the device and as many lanes as step together if that fits, then fewer
    /// lanes, then supports in host memory, then the features too.
    ///
    /// # Errors
    /// When nothing fits, with the numbers of the smallest plan.
    pub fn within(budget: usize, network: usize, net: &Sam2, problem: &Problem) -> Result<Self> {
        let [slices, rows, columns] = problem.dims;
        if slices * rows * columns > i32::MAX as usize {
            bad_input!(
                "{slices} slices of {rows} x {columns} are 2^31 voxels or more, beyond what kernels count; crop the volume, or use --device cpu"
            );
        }
        let sizes = Sizes::of(net, problem.most_conditioning);
        let wanted = (problem.supports * problem.insertions).clamp(1, MOST_LANES);
        let few = problem.insertions.clamp(1, wanted);
        let halved = |from: usize, to: usize| {
            std::iter::successors(Some(from), |lanes| Some(lanes / 2)).take_while(move |&lanes| lanes >= to.max(1))
        };
        let mut smallest = None;
        for (spilled_supports, spilled_query, least) in [(false, false, few), (true, false, few), (true, true, 1)] {
            let lanes: Vec<usize> = match problem.lanes {
                Some(lanes) => vec![lanes],
                None => halved(wanted, least).collect(),
            };
            for lanes in lanes {
                let spilled = Self {
                    lanes,
                    batch: MOST_BATCH,
                    spilled_query,
                    spilled_supports,
                    bytes: Parts::default(),
                };
                for batch in halved(MOST_BATCH.min(problem.dims[0]).max(1), 1) {
                    let plan = spilled.with_bytes(batch, network, &sizes, problem);
                    if plan.bytes.total() <= budget {
                        return Ok(plan);
                    }
                    smallest = Some(plan);
                }
            }
        }
        let parts = smallest.map(|plan| plan.bytes).unwrap_or_default();
        bad_input!(
            "{slices} slices of {rows} x {columns} need {} of device memory at least (network {}, supports {}, then encoding {} or lanes {}, maps {}, working {}), and {} are to be had; \
             raise --memory, use a larger device, or --device cpu",
            mib(parts.total()),
            mib(parts.network),
            mib(parts.supports + parts.query),
            mib(parts.encoding),
            mib(parts.lanes),
            mib(parts.maps),
            mib(parts.working),
            mib(budget)
        );
    }

    /// A smaller plan after memory ran out all the same, if there is one; [`Self::sized`] counts its bytes.
    pub fn smaller(&self) -> Option<Self> {
        let least = self.lanes == 1 && self.batch == 1 && self.spilled_query && self.spilled_supports;
        (!least).then(|| Self {
            lanes: (self.lanes / 2).max(1),
            batch: 1,
            spilled_query: true,
            spilled_supports: true,
            bytes: Parts::default(),
        })
    }

    /// The same plan with the bytes that it takes of a device where the network holds `network`.
    pub fn sized(self, network: usize, net: &Sam2, problem: &Problem) -> Self {
        self.with_bytes(self.batch, network, &Sizes::of(net, problem.most_conditioning), problem)
    }

    fn with_bytes(self, batch: usize, network: usize, sizes: &Sizes, problem: &Problem) -> Self {
        let [slices, rows, columns] = problem.dims;
        let together = (self.lanes / problem.insertions.max(1)).clamp(1, problem.supports.max(1));
        let all_supports = problem.conditioning * sizes.tokens + 2 * problem.starts * sizes.ring;
        let open_supports = together * problem.most_conditioning * sizes.tokens;
        Self {
            batch,
            bytes: Parts {
                network,
                query: if self.spilled_query { 0 } else { slices * sizes.query_slice },
                supports: if self.spilled_supports { open_supports } else { all_supports },
                lanes: together * slices * sizes.shared + self.lanes * sizes.ring,
                // Sums u32 and votes u16 of a class; label u8, best probability and uncertainty f32; mean probability f32.
                maps: slices * rows * columns * (15 + if problem.probabilities { 4 } else { 0 }),
                working: self.lanes * (sizes.step + if self.spilled_query { sizes.ahead() } else { 0 }),
                // Slices have been brought before the encoder takes most.
                encoding: batch * sizes.encode.max(problem.bringing.slice)
                    + problem.bringing.tables
                    + if self.spilled_supports {
                        problem.most_in_volume * sizes.tokens
                    } else {
                        problem.most_tracked * sizes.features
                    },
                kept: 0,
            },
            ..self
        }
    }
}

/// Bytes of the network's parts.
struct Sizes {
    features: usize,
    query_slice: usize,
    tokens: usize,
    ring: usize,
    shared: usize,
    step: usize,
    encode: usize,
}

impl Sizes {
    fn of(net: &Sam2, most_conditioning: usize) -> Self {
        let (p, m) = (net.config.grid().pow(2), net.config.mem_dim);
        let tokens = 2 * p * m;
        Self {
            // Top; middle; fine.
            features: 2 * p * net.config.d_model * (1 + 1 + 2),
            // x, q and part; middle; fine.
            query_slice: 2 * p * net.config.d_model * (3 + 1 + 2),
            tokens,
            ring: (net.config.num_maskmem - 1) * tokens,
            shared: 4 * net.memory_attention.state_len(),
            step: net.cuda_step_bytes(most_conditioning),
            encode: net.cuda_encode_bytes(),
        }
    }
}

impl Sizes {
    /// Spilled features of the next step, which come while this one runs, and as much for the gaps that they leave.
    fn ahead(&self) -> usize {
        2 * self.query_slice
    }
}

fn mib(bytes: usize) -> String {
    format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
}
