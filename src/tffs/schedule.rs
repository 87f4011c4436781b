//! The schedule: every lane of a query, class by class and support by support, several lanes a step.
//!
//! A query's slices are encoded once. A place's forward and backward lanes share a slot (N - F and F slices: N steps), so slots stay full; all lanes of a step read the
//! same support's tokens and share layer 1's attention over them. Probabilities go straight into integer sums: nothing of size (runs x volume) is kept, and the bytes
//! do not depend on how many lanes step together.

use super::ensemble::{Ensemble, Sums};
use super::lane::Lane;
use super::support::{Direction, Support};
use crate::messages::Progress;
use crate::ops::memory_attention::{Memory, Slices};
use crate::ops::resize::ResizePlan;
use crate::sam2::Sam2;
use crate::sam2::encoder::Features;
use crate::sam2::mask_decoder::Decoded;
use crate::sam2::memory_attention::Start;
use crate::stop::Stop;
use crate::tensor::Tensor;
use crate::volume::components::{Runs, fill_holes_2d};
use anyhow::Result;
use std::collections::BTreeMap;
use std::time::Instant;

/// Seconds per stage of the work.
pub type Seconds = BTreeMap<&'static str, f64>;

/// What a run asks and reports while it works.
pub struct Hooks<'a> {
    /// The wish to stop, looked at before every step.
    pub stop: &'a Stop,
    /// Shown slices encoded, then slices labelled (one per slice and lane).
    pub progress: &'a Progress,
    /// Where seconds are added up.
    pub seconds: Seconds,
}

impl<'a> Hooks<'a> {
    /// Hooks without any seconds yet.
    pub fn new(stop: &'a Stop, progress: &'a Progress) -> Self {
        Self {
            stop,
            progress,
            seconds: Seconds::new(),
        }
    }

    /// Does `work` and adds its seconds to `stage`.
    pub fn timed<R>(&mut self, stage: &'static str, work: impl FnOnce() -> R) -> R {
        let begin = Instant::now();
        let result = work();
        *self.seconds.entry(stage).or_default() += begin.elapsed().as_secs_f64();
        result
    }
}

/// An encoded query slice.
struct Encoded {
    features: Features,
    /// Layer 1 of memory attention as far as the slice alone decides it.
    start: Start,
    /// The features' part of the slice's memory.
    part: Tensor,
}

/// An encoded query volume.
pub struct Query {
    slices: Vec<Encoded>,
    plane: (usize, usize),
}

impl Query {
    /// Encodes slices [S, S] as they come; `plane` is the volume's own (H, W).
    ///
    /// # Errors
    /// What the slices fail with; [`Stopped`](crate::stop::Stopped).
    pub fn encode(
        net: &Sam2,
        slices: impl Iterator<Item = Result<Vec<f32>>>,
        plane: (usize, usize),
        hooks: &mut Hooks<'_>,
    ) -> Result<Self> {
        let size = net.config.image_size;
        let mut encoded = Vec::new();
        let mut slices = slices;
        while let Some(slice) = hooks.timed("read", || slices.next()) {
            hooks.stop.check()?;
            let slice = slice?;
            hooks.timed("encode", || {
                let x = Tensor::from_slice(net.device(), &[1, size, size, 1], &slice);
                encoded.extend(net.encoder.forward(&x, &mut |_, _| {}).into_iter().map(|features| Encoded {
                    start: net.memory_attention.start(&features.top),
                    part: net.memory_encoder.features(&features.top),
                    features,
                }));
            });
            hooks.progress.advance(1);
        }
        Ok(Self { slices: encoded, plane })
    }

    /// Number of slices.
    pub fn len(&self) -> usize {
        self.slices.len()
    }

    /// Whether it has no slice.
    pub fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }
}

/// One insertion place, its current lane, and where that stands.
struct Slot {
    place: usize,
    lane: Lane,
    slice: usize,
}

/// What stays the same over the lanes of one support.
struct Run<'a> {
    net: &'a Sam2,
    query: &'a Query,
    conditioning: Slices<'a>,
    /// Positions of pointers by distance.
    positions: Vec<f32>,
    /// Layer 1's attention over the conditioning tokens, per query slice, once a lane has asked for it.
    shared: Vec<Option<Tensor>>,
    to_plane: ResizePlan,
    fill_holes: usize,
}

/// Runs the lanes of one support at the given places and adds their probabilities to `sums`; at most `lanes` of them step together.
///
/// # Errors
/// [`Stopped`](crate::stop::Stopped).
pub fn run_support(
    net: &Sam2,
    query: &Query,
    support: &Support,
    places: &[usize],
    (lanes, fill_holes): (usize, usize),
    sums: &mut Sums,
    hooks: &mut Hooks<'_>,
) -> Result<()> {
    let tokens = support.expanded_tokens();
    let times = vec![net.config.num_maskmem - 1; support.conditioning.len()];
    let side = 4 * net.config.grid();
    let mut run = Run {
        net,
        query,
        conditioning: Slices {
            tokens: &tokens,
            slots: times.len(),
            times: &times,
        },
        positions: net.pointer_positions(support.reach, support.slices + query.len() + 1),
        shared: (0..query.len()).map(|_| None).collect(),
        to_plane: ResizePlan::bilinear((side, side), query.plane)?,
        fill_holes,
    };
    for places in places.chunks(lanes.max(1)) {
        let mut slots: Vec<Slot> = places
            .iter()
            .map(|&place| Slot {
                place,
                lane: support.lane(Direction::Forward),
                slice: place,
            })
            .collect();
        for step in 0..query.len() {
            hooks.stop.check()?;
            for slot in &mut slots {
                let forward = query.len() - slot.place;
                match step {
                    _ if step < forward => slot.slice = slot.place + step,
                    _ => {
                        if step == forward {
                            slot.lane = support.lane(Direction::Backward);
                        }
                        slot.slice = slot.place - 1 - (step - forward);
                    }
                }
            }
            run.step(&mut slots, sums, hooks)?;
            hooks.progress.advance(slots.len() as u64);
        }
    }
    Ok(())
}

impl Run<'_> {
    fn step(&mut self, slots: &mut [Slot], sums: &mut Sums, hooks: &mut Hooks<'_>) -> Result<()> {
        let decoded = self.attend_and_decode(slots, hooks);
        hooks.timed("ensemble", || {
            slots
                .iter()
                .enumerate()
                .try_for_each(|(item, slot)| self.add(&decoded, item, slot.slice, sums))
        })?;
        // A lane's last slice leaves nothing behind that would be looked at.
        let last = self.query.len() - 1;
        let goes_on = |slot: &Slot| {
            if slot.slice >= slot.place {
                slot.slice < last
            } else {
                slot.slice > 0
            }
        };
        let staying: Vec<usize> = (0..slots.len()).filter(|&item| goes_on(&slots[item])).collect();
        if staying.is_empty() {
            return Ok(());
        }
        hooks.timed("encode memory", || {
            let parts: Vec<&Tensor> = staying.iter().map(|&item| &self.query.slices[slots[item].slice].part).collect();
            let masks: Vec<&[f32]> = staying.iter().map(|&item| decoded.best_mask(item)).collect();
            let present: Vec<bool> = staying.iter().map(|&item| decoded.scores[item] > 0.0).collect();
            let tokens = self.net.remember(&masks, &parts, &present, false)?;
            let len = tokens.values().len() / staying.len();
            for (row, &item) in staying.iter().enumerate() {
                slots[item]
                    .lane
                    .remember(&tokens.values()[row * len..][..len], &decoded.pointers[item]);
            }
            Ok(())
        })
    }

    /// Memory attention and mask decoder of every slot's slice.
    fn attend_and_decode(&mut self, slots: &mut [Slot], hooks: &mut Hooks<'_>) -> Decoded {
        let embedding = hooks.timed("attend", || {
            for slot in slots.iter_mut() {
                slot.lane.look(&self.positions);
                if self.shared[slot.slice].is_none() {
                    // Nothing but the conditioning tokens: what every lane of the support sees of this slice in layer 1.
                    let memory = Memory {
                        conditioning: self.conditioning,
                        recent: Slices::NONE,
                        pointer_keys: &[],
                        pointer_values: &[],
                        start: None,
                    };
                    let start = &self.query.slices[slot.slice].start;
                    self.shared[slot.slice] = Some(self.net.memory_attention.share(start, memory));
                }
            }
            let starts: Vec<&Start> = slots.iter().map(|slot| &self.query.slices[slot.slice].start).collect();
            let memories: Vec<_> = slots.iter().map(|slot| slot.lane.memory(self.conditioning)).collect();
            let shared: Vec<Option<&Tensor>> = slots.iter().map(|slot| self.shared[slot.slice].as_ref()).collect();
            self.net.memory_attention.forward(&starts, &memories, &shared)
        });
        let features: Vec<&Features> = slots.iter().map(|slot| &self.query.slices[slot.slice].features).collect();
        hooks.timed("decode masks", || self.net.decoder.track(&embedding, &features, &self.net.prompt))
    }

    /// Adds one lane's probabilities of its slice; holes are filled in the output only.
    fn add(&self, decoded: &Decoded, item: usize, slice: usize, sums: &mut Sums) -> Result<()> {
        let side = 4 * self.net.config.grid();
        if self.fill_holes == 0 {
            return sums.add(slice, decoded.best_mask(item), &self.to_plane);
        }
        let mut filled = decoded.best_mask(item).to_vec();
        fill_holes_2d(&mut filled, side, side, self.fill_holes, 0.1, &mut Runs::default())?;
        sums.add(slice, &filled, &self.to_plane)
    }
}

/// What to run for one class: each support with its insertion places.
pub struct ClassPlan<'a> {
    /// The class's label.
    pub class: u8,
    /// Supports that show the class, and places.
    pub supports: Vec<(&'a Support, &'a [usize])>,
}

/// Runs every class of a query and returns the ensemble.
///
/// # Errors
/// [`Stopped`](crate::stop::Stopped); more runs than the integer sums can hold.
pub fn run_classes(
    net: &Sam2,
    query: &Query,
    plans: &[ClassPlan<'_>],
    settings: (usize, usize),
    mut ensemble: Ensemble,
    hooks: &mut Hooks<'_>,
) -> Result<Ensemble> {
    let runs = |plan: &ClassPlan<'_>| plan.supports.iter().map(|(_, places)| places.len()).sum::<usize>();
    let total: usize = plans.iter().map(|plan| runs(plan) * query.len()).sum();
    hooks.progress.stage("labelling", total as u64);
    for plan in plans {
        let mut sums = ensemble.sums(runs(plan))?;
        for (support, places) in &plan.supports {
            run_support(net, query, support, places, settings, &mut sums, hooks)?;
        }
        hooks.timed("ensemble", || ensemble.take(plan.class, sums));
    }
    Ok(ensemble)
}
