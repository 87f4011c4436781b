//! The support cache: what a labelled volume leaves in the memory bank, made once for all insertions, directions and queries of one plane size.
//!
//! Conditioning slices enter memory attention alike wherever they stand, so their tokens depend on (labelled volume, class, query H x W) only. Labelled slices with an
//! empty mask are tracked before any query slice is, from conditioning slices alone: once per direction. Distances to pointers are relative, so the insertion place does
//! not matter, except that sequences shorter than 16 shorten the pointers' reach: that is part of the key.

use super::lane::{self, Lane};
use super::source::Labelled;
use super::store::{Kept, Opened};
use crate::ops::memory_attention::Slices;
use crate::ops::normalise::Bringing;
use crate::ops::rows::{Put, gather, put, put_slots};
use crate::sam2::Sam2;
use crate::sam2::encoder::{Features, Skips};
use crate::stop::Stop;
use crate::tensor::{Bits, Tensor};
use anyhow::Result;
use std::rc::Rc;

/// Forwards from the labelled volume, or backwards (over the mirrored sequence).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Direction {
    Forward,
    Backward,
}

/// A labelled volume, as far as memory depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Slices that show each class.
    pub conditioning: Vec<usize>,
    /// Empty slices that are tracked, for one class or another.
    pub tracked: usize,
    /// What bringing its slices to the network takes.
    pub bringing: Bringing,
}

impl Counts {
    /// Of a volume whose slices, of (H, W) = `plane`, show classes so; pointers reach back less than `reach`.
    pub fn new(net: &Sam2, shown: &[Vec<bool>], plane: (usize, usize), reach: usize) -> Self {
        let needed = shown.iter().flat_map(|shown| needed_empties(shown, net.config.num_maskmem, reach));
        let needed: Vec<Vec<bool>> = needed.collect();
        let slices = shown.first().map_or(0, Vec::len);
        Self {
            conditioning: shown.iter().map(|shown| shown.iter().filter(|&&shown| shown).count()).collect(),
            tracked: (0..slices).filter(|&z| needed.iter().any(|needed| needed[z])).count(),
            bringing: Bringing::of(plane, net.config.image_size),
        }
    }
}

/// A labelled volume's memory for one class and plane size.
pub struct Support {
    /// Labelled slices in all.
    pub slices: usize,
    /// How far back pointers go, exclusive: min(slices of the whole sequence, limit).
    pub reach: usize,
    /// Positions of conditioning slices, ascending.
    pub conditioning: Vec<usize>,
    /// Their memory tokens [1, P, conditioning slices, M].
    tokens: Kept,
    /// What lanes start from, forwards and backwards.
    starts: [Start; 2],
}

/// A lane about to meet its first query slice, and its ring [1, P, slots, M] if that holds slices.
struct Start {
    lane: Lane,
    ring: Option<Kept>,
}

/// How supports are built.
#[derive(Clone, Copy, Debug)]
pub struct Building {
    /// How far back pointers go, exclusive.
    pub reach: usize,
    /// Holes of prompts of at most this many pixels are filled.
    pub fill_holes: usize,
    /// Whether tokens are kept in host memory, and brought to the device when they are used.
    pub spilled: bool,
    /// Slices that are encoded and prompted at once.
    pub batch: usize,
}

/// A labelled volume as supports are built from it: what is done before the network is needed.
pub struct Prepared {
    labelled: Labelled,
    /// Of each class, for each slice.
    prompts: Vec<Vec<Option<Vec<u8>>>>,
}

impl Prepared {
    /// For queries of `plane` = (H, W) and a network of `size` S.
    ///
    /// # Errors
    /// Labels that are none.
    pub fn new(labelled: Labelled, classes: &[u8], plane: (usize, usize), size: usize) -> Result<Self> {
        let prompts = classes.iter().map(|&class| labelled.labels.prompts(class, plane, size));
        let prompts = prompts.collect::<Result<_>>()?;
        Ok(Self { labelled, prompts })
    }
}

impl Support {
    /// Builds the supports of all classes of a labelled volume, each slice encoded once and read ahead. A class without any labelled slice gives `None`.
    ///
    /// # Errors
    /// Unreadable slices; [`Stopped`](crate::stop::Stopped), looked for before every slice; those of a CUDA device.
    pub fn build(net: &Sam2, prepared: &Prepared, building: Building, stop: &Stop) -> Result<Vec<Option<Self>>> {
        let (image, on) = (&prepared.labelled.image, (net.device(), net.config.image_size));
        Self::build_from(net, &prepared.prompts, building, |wanted| {
            let mut slices = image.slices(wanted, 2 * building.batch, on, stop)?;
            Ok(move |count| slices.next(count))
        })
    }

    /// The same from prompts per class and slice; `read` is told which slices are wanted, and what it gives is asked for the next of them, [n, S, S, 1].
    ///
    /// # Errors
    /// Whatever reading fails with; those of a CUDA device.
    pub fn build_from<N: FnMut(usize) -> Result<Tensor>>(
        net: &Sam2,
        prompts: &[Vec<Option<Vec<u8>>>],
        building: Building,
        read: impl FnOnce(Vec<usize>) -> Result<N>,
    ) -> Result<Vec<Option<Self>>> {
        let slices = prompts.first().map_or(0, Vec::len);
        let mut parts = prompts
            .iter()
            .map(|masks| Part::new(net, masks, building))
            .collect::<Result<Vec<_>>>()?;
        let wanted: Vec<usize> = (0..slices).filter(|&z| parts.iter().any(|part| part.wants(z))).collect();
        let mut next = read(wanted.clone())?;
        for batch in wanted.chunks(building.batch.max(1)) {
            let x = next(batch.len())?;
            let features = net.encoder.forward(&x, &mut |_, _| {})?;
            drop(x);
            for part in &mut parts {
                part.prompt(net, batch, &features.top)?;
            }
            for (index, &z) in batch.iter().enumerate() {
                if !parts.iter().any(|part| part.tracks(z)) {
                    continue;
                }
                let features = Rc::new(Waiting::new(features.of_slice(index, batch.len())?, building.spilled)?);
                for part in parts.iter_mut().filter(|part| part.tracks(z)) {
                    part.empties[z] = Some(Rc::clone(&features));
                }
            }
        }
        parts.into_iter().map(|part| part.finish(net)).collect()
    }

    /// The conditioning tokens [1, P, conditioning slices, M].
    ///
    /// # Errors
    /// When the device's budget has no room for them.
    pub fn tokens(&self) -> Result<Opened<'_>> {
        self.tokens.open()
    }

    /// A lane about to meet its first query slice, whose tokens go to ring `ring` of `rings`.
    ///
    /// # Errors
    /// When the device's budget has no room for a spilled ring.
    pub fn lane(&self, direction: Direction, rings: &mut Tensor, ring: usize) -> Result<Lane> {
        let start = &self.starts[direction as usize];
        if let Some(kept) = &start.ring {
            let tokens = kept.open()?;
            put(rings, ring * tokens.rows(), &tokens)?;
        }
        Ok(start.lane.clone())
    }

    /// Bytes it holds, of host and device memory.
    pub fn bytes(&self) -> usize {
        let start = |start: &Start| start.lane.bytes() + start.ring.as_ref().map_or(0, Kept::bytes);
        self.tokens.bytes() + self.starts.iter().map(start).sum::<usize>()
    }
}

/// A support in the making.
struct Part<'a> {
    masks: &'a [Option<Vec<u8>>],
    building: Building,
    /// Empty slices that must be tracked, forwards and backwards.
    needed: [Vec<bool>; 2],
    conditioning: Vec<usize>,
    /// [1, P, conditioning slices, M], filled as they come; none without any.
    tokens: Option<Tensor>,
    pointers: Vec<Vec<f32>>,
    /// Features of empty slices that a pass meets, until they are tracked.
    empties: Vec<Option<Rc<Waiting>>>,
}

/// Features of an empty slice until it is tracked.
enum Waiting {
    Held(Box<Features>),
    /// In host memory, as tokens then are.
    Spilled([Bits; 3]),
}

impl Waiting {
    fn new(features: Features, spilled: bool) -> Result<Self> {
        let Features { top, skips } = &features;
        Ok(match spilled {
            true => Self::Spilled([top.bits()?, skips.middle.bits()?, skips.fine.bits()?]),
            false => Self::Held(Box::new(features)),
        })
    }

    /// Has `track` see the features.
    fn tracked(&self, net: &Sam2, track: impl FnOnce(&Features) -> Result<()>) -> Result<()> {
        let [top, middle, fine] = match self {
            Self::Held(features) => return track(features),
            Self::Spilled(bits) => bits,
        };
        let (p, d) = (net.config.grid().pow(2), net.config.d_model);
        let tensor = |bits: &Bits, times: usize, width: usize| bits.tensor(net.device(), &[times * p, width]);
        track(&Features {
            top: tensor(top, 1, d)?,
            skips: Skips {
                middle: tensor(middle, 4, d / 4)?,
                fine: tensor(fine, 16, d / 8)?,
            },
        })
    }
}

impl<'a> Part<'a> {
    fn new(net: &Sam2, masks: &'a [Option<Vec<u8>>], building: Building) -> Result<Self> {
        let config = &net.config;
        let count = masks.iter().flatten().count();
        let shape = [1, config.grid().pow(2), count, config.mem_dim];
        Ok(Self {
            masks,
            building,
            needed: needed_empties(
                &masks.iter().map(Option::is_some).collect::<Vec<_>>(),
                config.num_maskmem,
                building.reach,
            ),
            conditioning: Vec::with_capacity(count),
            tokens: (count > 0).then(|| Tensor::empty(net.device(), &shape)).transpose()?,
            pointers: Vec::with_capacity(count),
            empties: vec![None; masks.len()],
        })
    }

    fn tracks(&self, z: usize) -> bool {
        self.needed.iter().any(|needed| needed[z])
    }

    fn wants(&self, z: usize) -> bool {
        self.masks[z].is_some() || self.tracks(z)
    }

    /// Makes memory of those of these slices that show the class; `top` [slices * P, d] are their features.
    fn prompt(&mut self, net: &Sam2, batch: &[usize], top: &Tensor) -> Result<()> {
        let Some(tokens) = &mut self.tokens else { return Ok(()) };
        let shown = batch.iter().enumerate();
        let (places, masks): (Vec<usize>, Vec<&[u8]>) = shown.filter_map(|(index, &z)| Some((index, self.masks[z].as_deref()?))).unzip();
        if places.is_empty() {
            return Ok(());
        }
        let made = net.prompt_with_masks(&gather(top, top.rows() / batch.len(), &places)?, &masks, self.building.fill_holes)?;
        let first = self.conditioning.len();
        let puts: Vec<Put> = (0..places.len())
            .map(|from| Put {
                from,
                ring: 0,
                slot: first + from,
            })
            .collect();
        put_slots(tokens, &made.tokens, &puts)?;
        self.conditioning.extend(places.iter().map(|&index| batch[index]));
        self.pointers.extend(made.pointers);
        Ok(())
    }

    fn finish(mut self, net: &Sam2) -> Result<Option<Support>> {
        let Some(tokens) = self.tokens.take() else { return Ok(None) };
        let starts = [self.start(net, &tokens, false)?, self.start(net, &tokens, true)?];
        Ok(Some(Support {
            slices: self.masks.len(),
            reach: self.building.reach,
            conditioning: self.conditioning,
            tokens: Kept::new(tokens, self.building.spilled)?,
            starts,
        }))
    }

    /// The lane of one direction, once it has tracked the empty slices it must.
    fn start(&self, net: &Sam2, tokens: &Tensor, backward: bool) -> Result<Start> {
        let (slices, reach) = (self.masks.len(), self.building.reach);
        let place = |t: usize| if backward { slices - 1 - t } else { t };
        let mut pointers: Vec<(usize, Vec<f32>)> = self
            .conditioning
            .iter()
            .map(|&z| place(z))
            .zip(self.pointers.iter().cloned())
            .collect();
        pointers.sort_by_key(|(position, _)| *position);
        let mut lane = Lane::new(net, slices, pointers, reach);
        let needed = &self.needed[usize::from(backward)];
        if !needed.contains(&true) {
            return Ok(Start { lane, ring: None });
        }
        let times = vec![net.config.num_maskmem - 1; self.conditioning.len()];
        let conditioning = Slices {
            tokens: Some((tokens, 0)),
            times: &times,
        };
        let positions = net.pointer_positions(reach, slices + 1);
        let mut ring = lane::rings(net, 1)?;
        for position in 0..slices {
            let z = place(position);
            if let (true, Some(features)) = (needed[z], &self.empties[z]) {
                features.tracked(net, |features| {
                    lane.track_empty(net, position, features, conditioning, &positions, &mut ring)
                })?;
            }
        }
        lane.rewind(slices, &mut ring)?;
        let ring = lane.holds_slices().then(|| Kept::new(ring, self.building.spilled)).transpose()?;
        Ok(Start { lane, ring })
    }
}

/// Which empty labelled slices must be tracked, forwards and backwards: those a query slice can see (as memory or pointer), and those that they see, and so on.
fn needed_empties(shown: &[bool], memory_slices: usize, reach: usize) -> [Vec<bool>; 2] {
    let n = shown.len();
    [false, true].map(|backward| {
        let place = |t: usize| if backward { n - 1 - t } else { t };
        let mut needed = vec![false; n];
        let Some(first) = (0..n).find(|&t| shown[place(t)]) else {
            return needed;
        };
        let span = memory_slices.max(reach) - 1;
        // The nearest later slice that looks back: at first the first query slice, at position n.
        let mut viewer = n;
        for t in (first..n).rev() {
            if !shown[place(t)] && viewer - t <= span {
                needed[place(t)] = true;
                viewer = t;
            }
        }
        needed
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks(pattern: &str) -> Vec<bool> {
        pattern.chars().map(|c| c == '#').collect()
    }

    fn shown(needed: &[bool]) -> String {
        needed.iter().map(|&n| if n { 'x' } else { ' ' }).collect()
    }

    #[test]
    fn empty_slices_out_of_sight_are_not_tracked() {
        let [forward, backward] = needed_empties(&masks("..##.#.."), 7, 16);
        assert_eq!(shown(&forward), "    x xx");
        assert_eq!(shown(&backward), "xx  x   ");
        // The query's first slice stands at 24: the empty slice at 3 is 21 away, too far, and no needed slice is nearer.
        let far = "##.#".to_owned() + &"#".repeat(20);
        let [forward, _] = needed_empties(&masks(&far), 7, 16);
        assert!(!forward.contains(&true));
        // A chain of needed slices brings it into sight.
        let chain = "##.#".to_owned() + &"#".repeat(9) + "." + &"#".repeat(10);
        let [forward, _] = needed_empties(&masks(&chain), 7, 16);
        assert!(forward[2] && forward[13]);
    }
}
