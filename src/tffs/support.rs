//! The support cache: what a labelled volume leaves in the memory bank, made once for all insertions, directions and queries of one plane size.
//!
//! Conditioning slices enter memory attention alike wherever they stand, so their tokens depend on (labelled volume, class, query H x W) only. Labelled slices with an
//! empty mask are tracked before any query slice is, from conditioning slices alone: once per direction. Distances to pointers are relative, so the insertion place does
//! not matter, except that sequences shorter than 16 shorten the pointers' reach: that is part of the key.

use super::lane::Lane;
use super::source::Labelled;
use crate::ops::memory_attention::Slices;
use crate::sam2::Sam2;
use crate::sam2::encoder::Features;
use crate::stop::Stop;
use crate::tensor::Tensor;
use anyhow::Result;
use half::bf16;

/// Forwards from the labelled volume, or backwards (over the mirrored sequence).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Direction {
    Forward,
    Backward,
}

/// A labelled volume's memory for one class and plane size.
pub struct Support {
    /// Labelled slices in all.
    pub slices: usize,
    /// How far back pointers go, exclusive: min(slices of the whole sequence, limit).
    pub reach: usize,
    /// Positions of conditioning slices, ascending.
    pub conditioning: Vec<usize>,
    /// Their memory tokens [P, conditioning slices, M], as bf16.
    tokens: Vec<bf16>,
    /// Their object pointers [d].
    pointers: Vec<Vec<f32>>,
    /// What lanes start from, forwards and backwards.
    starts: [Lane; 2],
}

/// Labelled slices whose mask is empty and which a pass meets: their features, until they are tracked.
type Empty = Vec<Option<Features>>;

impl Support {
    /// Builds the supports of several classes of one labelled volume, each slice encoded once. A class without any labelled slice gives `None`.
    ///
    /// # Errors
    /// Unreadable slices; [`Stopped`](crate::stop::Stopped), looked for before every slice.
    pub fn build(
        net: &Sam2,
        labelled: &Labelled,
        classes: &[u8],
        plane: (usize, usize),
        reach: usize,
        fill_holes: usize,
        stop: &Stop,
    ) -> Result<Vec<Option<Self>>> {
        let size = net.config.image_size;
        let prompts = classes
            .iter()
            .map(|&class| labelled.labels.prompts(class, plane, size))
            .collect::<Result<Vec<_>>>()?;
        let mut read = labelled.image.reader(size)?;
        let mut read_slice = |z: usize, out: &mut Tensor| {
            stop.check()?;
            read(z, out.values_mut())
        };
        Self::build_from(net, &mut read_slice, &prompts, reach, fill_holes)
    }

    /// The same from prompts per class and slice, and a reader of slices [1, S, S, 1].
    ///
    /// # Errors
    /// Whatever the reader fails with.
    pub fn build_from(
        net: &Sam2,
        read: &mut dyn FnMut(usize, &mut Tensor) -> Result<()>,
        prompts: &[Vec<Option<Vec<u8>>>],
        reach: usize,
        fill_holes: usize,
    ) -> Result<Vec<Option<Self>>> {
        let size = net.config.image_size;
        let slices = prompts.first().map_or(0, Vec::len);
        let needed: Vec<[Vec<bool>; 2]> = prompts
            .iter()
            .map(|masks| needed_empties(masks, net.config.num_maskmem, reach))
            .collect();
        let mut parts: Vec<Part> = prompts.iter().map(|_| Part::default()).collect();
        let mut slice = Tensor::empty(net.device(), &[1, size, size, 1]);
        for z in 0..slices {
            let prompted = prompts.iter().any(|masks| masks[z].is_some());
            let tracked = needed.iter().any(|[forward, backward]| forward[z] || backward[z]);
            if !prompted && !tracked {
                parts.iter_mut().for_each(|part| part.empties.push(None));
                continue;
            }
            read(z, &mut slice)?;
            let features = net.encoder.forward(&slice, &mut |_, _| {});
            let Some(features) = features.into_iter().next() else { continue };
            for ((part, masks), [forward, backward]) in parts.iter_mut().zip(prompts).zip(&needed) {
                if let Some(mask) = &masks[z] {
                    let made = net.prompt_with_masks(&[&features], &[mask], fill_holes)?;
                    part.conditioning.push(z);
                    part.tokens.push(made.tokens.values().iter().map(|&v| bf16::from_f32(v)).collect());
                    part.pointers.extend(made.pointers);
                }
                let keep = forward[z] || backward[z];
                part.empties.push(keep.then(|| Features {
                    top: features.top.clone(),
                    middle: features.middle.clone(),
                    fine: features.fine.clone(),
                }));
            }
        }
        parts
            .into_iter()
            .zip(needed)
            .map(|(part, needed)| part.finish(net, slices, &needed, reach))
            .collect()
    }

    /// Conditioning tokens as memory attention reads them, f32 [P, conditioning slices, M].
    pub fn expanded_tokens(&self) -> Vec<f32> {
        self.tokens.iter().map(|v| v.to_f32()).collect()
    }

    /// A lane about to meet its first query slice.
    pub fn lane(&self, direction: Direction) -> Lane {
        self.starts[direction as usize].clone()
    }

    /// Bytes it holds.
    pub fn bytes(&self) -> usize {
        let pointers: usize = self.pointers.iter().map(|p| 4 * p.len()).sum();
        2 * self.tokens.len() + 3 * pointers + self.starts.iter().map(Lane::bytes).sum::<usize>()
    }
}

/// A support in the making.
#[derive(Default)]
struct Part {
    conditioning: Vec<usize>,
    tokens: Vec<Vec<bf16>>,
    pointers: Vec<Vec<f32>>,
    empties: Empty,
}

impl Part {
    fn finish(self, net: &Sam2, slices: usize, needed: &[Vec<bool>; 2], reach: usize) -> Result<Option<Support>> {
        let count = self.conditioning.len();
        if count == 0 {
            return Ok(None);
        }
        let m = net.config.mem_dim;
        let mut tokens = vec![bf16::ZERO; count * net.config.grid().pow(2) * m];
        for (s, slice) in self.tokens.iter().enumerate() {
            for (p, token) in slice.chunks_exact(m).enumerate() {
                tokens[(p * count + s) * m..][..m].copy_from_slice(token);
            }
        }
        let lane = |backward: bool| {
            let place = |z: usize| if backward { slices - 1 - z } else { z };
            let mut pointers: Vec<(usize, Vec<f32>)> = self
                .conditioning
                .iter()
                .zip(&self.pointers)
                .map(|(&z, p)| (place(z), p.clone()))
                .collect();
            pointers.sort_by_key(|(position, _)| *position);
            Lane::new(net, slices, pointers, reach)
        };
        let mut support = Support {
            slices,
            reach,
            conditioning: self.conditioning.clone(),
            tokens,
            pointers: self.pointers.clone(),
            starts: [lane(false), lane(true)],
        };
        for backward in [false, true] {
            let needed = &needed[usize::from(backward)];
            if !needed.contains(&true) {
                continue;
            }
            let expanded = support.expanded_tokens();
            let times = vec![net.config.num_maskmem - 1; count];
            let conditioning = Slices {
                tokens: &expanded,
                slots: count,
                times: &times,
            };
            let positions = net.pointer_positions(reach, slices + 1);
            let start = &mut support.starts[usize::from(backward)];
            let order: Vec<usize> = if backward {
                (0..slices).rev().collect()
            } else {
                (0..slices).collect()
            };
            for (position, z) in order.into_iter().enumerate() {
                if let (true, Some(features)) = (needed[z], &self.empties[z]) {
                    start.track_empty(net, position, features, conditioning, &positions)?;
                }
            }
            start.rewind(slices);
        }
        Ok(Some(support))
    }
}

/// Which empty labelled slices must be tracked, forwards and backwards: those a query slice can see (as memory or pointer), and those that they see, and so on.
fn needed_empties(masks: &[Option<Vec<u8>>], memory_slices: usize, reach: usize) -> [Vec<bool>; 2] {
    let n = masks.len();
    [false, true].map(|backward| {
        let place = |t: usize| if backward { n - 1 - t } else { t };
        let mut needed = vec![false; n];
        let Some(first) = (0..n).find(|&t| masks[place(t)].is_some()) else {
            return needed;
        };
        let span = memory_slices.max(reach) - 1;
        // The nearest later slice that looks back: at first the first query slice, at position n.
        let mut viewer = n;
        for t in (first..n).rev() {
            if masks[place(t)].is_none() && viewer - t <= span {
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

    fn masks(pattern: &str) -> Vec<Option<Vec<u8>>> {
        pattern.chars().map(|c| (c == '#').then(Vec::new)).collect()
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
