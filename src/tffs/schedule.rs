//! The schedule: every lane of a query, class by class and support by support, several lanes a step.
//!
//! A query's slices are encoded once. A place's forward and backward lanes share a slot (N - F and F slices: N steps), so slots stay full; all lanes of a step read the
//! same support's tokens and share layer 1's attention over them. Probabilities go straight into integer sums: nothing of size (runs x volume) is kept, and the bytes
//! do not depend on how many lanes step together.

use super::ensemble::Ensemble;
use super::lane::{self, Lane};
use super::store::{Opened, Store};
use super::support::{Direction, Support};
use crate::device::Device;
use crate::messages::Progress;
use crate::ops::components;
use crate::ops::ensemble::{self, Sums};
use crate::ops::memory_attention::{Memory, Slices, State};
use crate::ops::resize::ResizePlan;
use crate::ops::rows::{self, Put};
use crate::sam2::Sam2;
use crate::sam2::encoder::Skips;
use crate::sam2::mask_decoder::Decoded;
use crate::sam2::memory_attention::Start;
use crate::sam2::remember::FILLED;
use crate::stop::Stop;
use crate::tensor::Tensor;
use anyhow::Result;
use std::collections::BTreeMap;
use std::rc::Rc;
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
    /// A device to wait for after every stage, so that the seconds are those of its work; without it they are those of queueing.
    pub waits_for: Option<Device>,
}

impl<'a> Hooks<'a> {
    /// Hooks without any seconds yet.
    pub fn new(stop: &'a Stop, progress: &'a Progress) -> Self {
        Self {
            stop,
            progress,
            seconds: Seconds::new(),
            waits_for: None,
        }
    }

    /// Does `work` and adds its seconds to `stage`.
    pub fn timed<R>(&mut self, stage: &'static str, work: impl FnOnce() -> R) -> R {
        let begin = Instant::now();
        let result = work();
        if let Some(device) = &self.waits_for {
            // An error is met again by the next call that waits.
            let _ = device.synchronise();
        }
        *self.seconds.entry(stage).or_default() += begin.elapsed().as_secs_f64();
        result
    }
}

/// An encoded query volume: what memory attention, the mask decoder and the memory encoder need of every slice.
pub struct Query {
    /// Layer 1 of memory attention as far as the slice alone decides it: [P, d] each.
    x: Store,
    q: Store,
    /// The features' part of the slice's memory, [P, d].
    part: Store,
    /// [4 P, d / 4].
    middle: Store,
    /// [16 P, d / 8].
    fine: Store,
    slices: usize,
    plane: (usize, usize),
}

/// How a query is encoded.
#[derive(Clone, Copy, Debug)]
pub struct Encoding {
    /// Slices in all.
    pub slices: usize,
    /// The volume's own (H, W).
    pub plane: (usize, usize),
    /// Slices the encoder takes at once.
    pub batch: usize,
    /// Whether features are kept in host memory, and brought to the device when they are used.
    pub spilled: bool,
}

impl Query {
    /// Encodes slices as they come: `next` gives as many as it is asked for, [n, S, S, 1].
    ///
    /// # Errors
    /// What `next` fails with; [`Stopped`](crate::stop::Stopped); those of a CUDA device.
    pub fn encode(net: &Sam2, mut next: impl FnMut(usize) -> Result<Tensor>, encoding: Encoding, hooks: &mut Hooks<'_>) -> Result<Self> {
        let (d, p) = (net.config.d_model, net.config.grid().pow(2));
        let store = |shape| Store::new(net.device(), encoding.slices, shape, encoding.spilled);
        let mut query = Self {
            x: store([p, d])?,
            q: store([p, d])?,
            part: store([p, d])?,
            middle: store([4 * p, d / 4])?,
            fine: store([16 * p, d / 8])?,
            slices: 0,
            plane: encoding.plane,
        };
        while query.slices < encoding.slices {
            hooks.stop.check()?;
            let wanted = encoding.batch.clamp(1, encoding.slices - query.slices);
            let x = hooks.timed("normalise", || next(wanted))?;
            hooks.timed("encode", || query.take(net, x))?;
            hooks.progress.advance(wanted as u64);
        }
        Ok(query)
    }

    /// Encodes the next slices, x [slices, S, S, 1].
    fn take(&mut self, net: &Sam2, x: Tensor) -> Result<()> {
        let (first, count) = (self.slices, x.shape()[0]);
        let features = net.encoder.forward(&x, &mut |_, _| {})?;
        drop(x);
        let start = net.memory_attention.start(&features.top)?;
        self.x.put(first, &start.x)?;
        self.q.put(first, &start.q)?;
        self.part.put(first, &net.memory_encoder.features(&features.top)?)?;
        self.middle.put(first, &features.skips.middle)?;
        self.fine.put(first, &features.skips.fine)?;
        self.slices += count;
        Ok(())
    }

    fn starts(&self, slices: &[usize]) -> Result<Start> {
        Ok(Start {
            x: self.x.gather(slices)?,
            q: self.q.gather(slices)?,
        })
    }

    fn skips(&self, slices: &[usize]) -> Result<Skips> {
        Ok(Skips {
            middle: self.middle.gather(slices)?,
            fine: self.fine.gather(slices)?,
        })
    }

    /// Starts to bring what the next step needs of its slices, and this one for the memory of slices that stay, to where it is used.
    fn expect(&self, next: &[usize], staying: &[usize]) -> Result<()> {
        [&self.x, &self.q, &self.middle, &self.fine]
            .into_iter()
            .try_for_each(|store| store.expect(next))?;
        self.part.expect(staying)
    }

    /// Number of slices.
    pub fn len(&self) -> usize {
        self.slices
    }

    /// Whether it has no slice.
    pub fn is_empty(&self) -> bool {
        self.slices == 0
    }
}

/// One insertion place of a support, its current lane, and where that stands.
struct Slot {
    /// Number of the support in its group.
    support: usize,
    place: usize,
    lane: Lane,
    slice: usize,
}

impl Slot {
    /// The slice at a step of `slices`: from the place on, then back from it.
    fn slice_at(&self, step: usize, slices: usize) -> usize {
        let forward = slices - self.place;
        if step < forward {
            self.place + step
        } else {
            self.place - 1 - (step - forward)
        }
    }

    /// Whether the lane goes on after its slice: its last leaves nothing behind that would be looked at.
    fn goes_on(&self, slices: usize) -> bool {
        if self.slice >= self.place {
            self.slice + 1 < slices
        } else {
            self.slice > 0
        }
    }
}

/// A support and the places it is inserted at.
pub type Insertions<'a> = (&'a Support, &'a [usize]);

/// What stays the same over the lanes of a group of supports.
struct Run<'a> {
    net: &'a Sam2,
    query: &'a Query,
    group: Vec<Member<'a>>,
    to_plane: ResizePlan,
    fill_holes: usize,
    /// The slots' recent tokens [slots, P, memory slots, M].
    rings: Tensor,
}

/// A support whose lanes step.
struct Member<'a> {
    support: &'a Support,
    places: &'a [usize],
    tokens: Opened<'a>,
    times: Vec<usize>,
    /// Positions of pointers by distance.
    positions: Vec<f32>,
    /// Layer 1's attention over the conditioning tokens, per query slice, once a lane has asked for it: the states it is among, and which.
    shared: Vec<Option<(Rc<Tensor>, usize)>>,
}

impl<'a> Member<'a> {
    fn new(net: &Sam2, query: &Query, (support, places): Insertions<'a>) -> Result<Self> {
        Ok(Self {
            support,
            places,
            tokens: support.tokens()?,
            times: vec![net.config.num_maskmem - 1; support.conditioning.len()],
            positions: net.pointer_positions(support.reach, support.slices + query.len() + 1),
            shared: (0..query.len()).map(|_| None).collect(),
        })
    }

    fn conditioning(&self) -> Slices<'_> {
        Slices {
            tokens: Some((&self.tokens, 0)),
            times: &self.times,
        }
    }
}

/// Groups of supports whose lanes step together: as many in their order as have at most `lanes` places, or one that has more.
fn groups<'a>(supports: &[Insertions<'a>], lanes: usize) -> Vec<Vec<Insertions<'a>>> {
    let mut groups: Vec<Vec<Insertions<'_>>> = Vec::new();
    let mut taken = usize::MAX;
    for &(support, places) in supports {
        if taken.saturating_add(places.len()) > lanes {
            groups.push(Vec::new());
            taken = 0;
        }
        taken += places.len();
        groups.last_mut().into_iter().for_each(|group| group.push((support, places)));
    }
    groups
}

/// Runs all lanes of the supports and adds their probabilities to `sums`; at most `lanes` of them step together.
///
/// # Errors
/// [`Stopped`](crate::stop::Stopped); those of a CUDA device.
pub fn run_supports(
    net: &Sam2,
    query: &Query,
    supports: &[Insertions<'_>],
    (lanes, fill_holes): (usize, usize),
    sums: &mut Sums,
    hooks: &mut Hooks<'_>,
) -> Result<()> {
    let side = 4 * net.config.grid();
    for group in groups(supports, lanes) {
        let places: usize = group.iter().map(|(_, places)| places.len()).sum();
        let lanes = lanes.clamp(1, places.max(1));
        let mut run = Run {
            net,
            query,
            group: group
                .into_iter()
                .map(|member| Member::new(net, query, member))
                .collect::<Result<_>>()?,
            to_plane: ResizePlan::bilinear((side, side), query.plane)?,
            fill_holes,
            rings: lane::rings(net, lanes)?,
        };
        let members = run.group.iter().enumerate();
        let all: Vec<(usize, usize)> = members
            .flat_map(|(index, member)| member.places.iter().map(move |&place| (index, place)))
            .collect();
        all.chunks(lanes).try_for_each(|slots| run.all_slices(slots, sums, hooks))?;
    }
    Ok(())
}

impl Run<'_> {
    /// All slices for these (support, place), which step together.
    fn all_slices(&mut self, places: &[(usize, usize)], sums: &mut Sums, hooks: &mut Hooks<'_>) -> Result<()> {
        let slots = places.iter().enumerate().map(|(ring, &(support, place))| {
            Ok(Slot {
                support,
                place,
                lane: self.group[support].support.lane(Direction::Forward, &mut self.rings, ring)?,
                slice: place,
            })
        });
        let mut slots = slots.collect::<Result<Vec<_>>>()?;
        let slices = self.query.len();
        for step in 0..slices {
            hooks.stop.check()?;
            for (ring, slot) in slots.iter_mut().enumerate() {
                if step == slices - slot.place {
                    slot.lane = self.group[slot.support].support.lane(Direction::Backward, &mut self.rings, ring)?;
                }
                slot.slice = slot.slice_at(step, slices);
            }
            let next: Vec<usize> = match step + 1 {
                next if next < slices => slots.iter().map(|slot| slot.slice_at(next, slices)).collect(),
                _ => Vec::new(),
            };
            self.step(&mut slots, &next, sums, hooks)?;
            hooks.progress.advance(slots.len() as u64);
        }
        Ok(())
    }

    /// One slice of every slot; `next` are those of the step after.
    fn step(&mut self, slots: &mut [Slot], next: &[usize], sums: &mut Sums, hooks: &mut Hooks<'_>) -> Result<()> {
        let staying: Vec<usize> = (0..slots.len()).filter(|&item| slots[item].goes_on(self.query.len())).collect();
        let remembered: Vec<usize> = staying.iter().map(|&item| slots[item].slice).collect();
        let embedding = hooks.timed("attend", || self.attend(slots))?;
        let decoded = hooks.timed("decode masks", || {
            let slices: Vec<usize> = slots.iter().map(|slot| slot.slice).collect();
            let skips = self.query.skips(&slices)?;
            // While memory attention is under way; the copies run beside what is launched below.
            self.query.expect(next, &remembered)?;
            self.net.decoder.track(&embedding, &skips, &self.net.prompt)
        })?;
        drop(embedding);
        hooks.timed("ensemble", || self.add(&decoded, slots, sums))?;
        if staying.is_empty() {
            return Ok(());
        }
        hooks.timed("encode memory", || {
            let parts = self.query.part.gather(&remembered)?;
            let tokens = self.net.remember_tracked(&decoded, &staying, parts)?;
            let mut puts = Vec::with_capacity(staying.len());
            for (from, &ring) in staying.iter().enumerate() {
                let slot = slots[ring].lane.remember(&decoded.pointers[ring], &mut self.rings, ring)?;
                puts.push(Put { from, ring, slot });
            }
            rows::put_slots(&mut self.rings, &tokens, &puts)
        })
    }

    /// Memory attention of every slot's slice.
    fn attend(&mut self, slots: &mut [Slot]) -> Result<Tensor> {
        let slices: Vec<usize> = slots.iter().map(|slot| slot.slice).collect();
        for slot in slots.iter_mut() {
            slot.lane.look(&self.group[slot.support].positions);
        }
        self.share(slots)?;
        let (mut memories, mut shared) = (Vec::with_capacity(slots.len()), Vec::with_capacity(slots.len()));
        for (ring, slot) in slots.iter().enumerate() {
            let member = &self.group[slot.support];
            memories.push(slot.lane.memory(member.conditioning(), &self.rings, ring));
            shared.push(member.shared[slot.slice].as_ref().map(|(of, lane)| State { of, lane: *lane }));
        }
        self.net.memory_attention.forward(self.query.starts(&slices)?, &memories, &shared)
    }

    /// Makes what the slots' lanes share and none has asked for yet: layer 1's attention to the conditioning tokens, and nothing else.
    fn share(&mut self, slots: &[Slot]) -> Result<()> {
        let mut missing: Vec<(usize, usize)> = slots.iter().map(|slot| (slot.support, slot.slice)).collect();
        missing.retain(|&(support, slice)| self.group[support].shared[slice].is_none());
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        let memory = |&(support, _): &(usize, usize)| Memory {
            conditioning: self.group[support].conditioning(),
            recent: Slices::NONE,
            pointer_keys: &[],
            pointer_values: &[],
            start: None,
        };
        let memories: Vec<Memory<'_>> = missing.iter().map(memory).collect();
        let slices: Vec<usize> = missing.iter().map(|(_, slice)| *slice).collect();
        let states = Rc::new(self.net.memory_attention.share(&self.query.q.peek(&slices)?, &memories)?);
        for (lane, (support, slice)) in missing.into_iter().enumerate() {
            self.group[support].shared[slice] = Some((Rc::clone(&states), lane));
        }
        Ok(())
    }

    /// Adds every slot's probabilities of its slice; holes are filled in the output only.
    fn add(&self, decoded: &Decoded, slots: &[Slot], sums: &mut Sums) -> Result<()> {
        let planes = decoded.best_planes(0..slots.len());
        let runs = |planes: &[usize]| -> Vec<ensemble::Run> {
            let pairs = planes.iter().zip(slots);
            pairs.map(|(&plane, slot)| ensemble::Run { plane, slice: slot.slice }).collect()
        };
        if self.fill_holes == 0 {
            return sums.add(&decoded.masks, &runs(&planes), &self.to_plane);
        }
        let filled = components::holes_filled(&decoded.masks, &planes, self.fill_holes, FILLED)?;
        let planes: Vec<usize> = (0..slots.len()).collect();
        sums.add(&filled, &runs(&planes), &self.to_plane)
    }
}

/// What to run for one class: each support with its insertion places.
pub struct ClassPlan<'a> {
    /// The class's label.
    pub class: u8,
    /// Supports that show the class, and places.
    pub supports: Vec<Insertions<'a>>,
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
        run_supports(net, query, &plan.supports, settings, &mut sums, hooks)?;
        hooks.timed("ensemble", || ensemble.take(plan.class, &sums))?;
    }
    Ok(ensemble)
}
