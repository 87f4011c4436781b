//! A lane: one pass over query slices in one direction from an inserted labelled volume, with the part of the memory bank that is its own.
//!
//! Positions count from the labelled volume's first slice in the direction of the pass, so the labelled slices stand at 0 .. L and query slices at L, L + 1, ...;
//! where the volume was inserted does not matter.

use crate::ops::memory_attention::{Memory, Slices};
use crate::sam2::encoder::Features;
use crate::sam2::{Sam2, memory_bank};
use anyhow::Result;

/// The lane's memory: recent slices' tokens and all pointers it may attend to.
#[derive(Clone)]
pub struct Lane {
    /// Where the next slice stands.
    position: usize,
    /// Recent tracked slices' tokens [P, slots, M].
    tokens: Vec<f32>,
    slots: usize,
    /// Position of the slice in each used slot.
    held: Vec<usize>,
    /// Pointers of conditioning slices by position, ascending.
    conditioning: Vec<(usize, Vec<f32>)>,
    /// Pointers of tracked slices within reach.
    tracked: Vec<(usize, Vec<f32>)>,
    /// Pointers reach back less than this.
    reach: usize,
    /// Width of a token, M.
    width: usize,
    // What the next step attends to, see `look`.
    times: Vec<usize>,
    pointer_keys: Vec<f32>,
    pointer_values: Vec<f32>,
}

impl Lane {
    /// A lane before any tracked slice; `conditioning` are (position, pointer).
    pub fn new(net: &Sam2, labelled: usize, conditioning: Vec<(usize, Vec<f32>)>, reach: usize) -> Self {
        let slots = net.config.num_maskmem - 1;
        let width = net.config.mem_dim;
        Self {
            position: labelled,
            tokens: vec![0.0; net.config.grid().pow(2) * slots * width],
            slots,
            held: Vec::with_capacity(slots),
            conditioning,
            tracked: Vec::new(),
            reach,
            width,
            times: Vec::with_capacity(slots),
            pointer_keys: Vec::new(),
            pointer_values: Vec::new(),
        }
    }

    /// Bytes it holds.
    pub fn bytes(&self) -> usize {
        let pointers = self.conditioning.iter().chain(&self.tracked).map(|(_, p)| p.len()).sum::<usize>();
        4 * (self.tokens.len() + pointers + self.pointer_keys.capacity() + self.pointer_values.capacity())
    }

    /// Works out what the slice at the lane's position attends to; `positions` [distances, M] are the pointers' ([`Sam2::pointer_positions`]).
    pub fn look(&mut self, positions: &[f32]) {
        let t = self.position;
        let held = &self.held;
        self.times.clear();
        // Slots stand in any order; their temporal index says how far back each is.
        let recent = memory_bank::recent(t, |s| held.contains(&s), self.slots + 1);
        self.times.extend(
            held.iter()
                .map(|&s| recent.iter().find(|(position, _)| *position == s).map_or(0, |(_, time)| *time)),
        );
        let tracked = &self.tracked;
        let find = |s: usize| tracked.iter().find(|(position, _)| *position == s);
        let seen = memory_bank::pointers(t, self.conditioning.iter().map(|(s, _)| *s), |s| find(s).is_some(), self.reach);
        self.pointer_keys.clear();
        self.pointer_values.clear();
        for (s, distance) in seen {
            let pointer = self.conditioning.iter().find(|(position, _)| *position == s).or_else(|| find(s));
            let Some((_, pointer)) = pointer else { continue };
            let position = &positions[distance * self.width..][..self.width];
            for token in pointer.chunks_exact(self.width) {
                self.pointer_values.extend_from_slice(token);
                self.pointer_keys.extend(token.iter().zip(position).map(|(a, b)| a + b));
            }
        }
    }

    /// What was worked out, with the support's conditioning slices.
    pub fn memory<'a>(&'a self, conditioning: Slices<'a>) -> Memory<'a> {
        let recent = Slices {
            tokens: &self.tokens,
            slots: self.slots,
            times: &self.times,
        };
        Memory {
            conditioning,
            recent,
            pointer_keys: &self.pointer_keys,
            pointer_values: &self.pointer_values,
            start: None,
        }
    }

    /// Takes in what the slice at the lane's position left behind, [P, M] tokens and a pointer, and moves on.
    pub fn remember(&mut self, tokens: &[f32], pointer: &[f32]) {
        let now = self.position;
        self.forget(now + 1);
        let slot = self.held.len();
        for (p, token) in tokens.chunks_exact(self.width).enumerate() {
            self.tokens[(p * self.slots + slot) * self.width..][..self.width].copy_from_slice(token);
        }
        self.held.push(now);
        self.tracked.retain(|(position, _)| now + 1 - position < self.reach);
        self.tracked.push((now, pointer.to_vec()));
        self.position += 1;
    }

    /// Frees the slots of slices too far back to be seen from position `t`.
    fn forget(&mut self, t: usize) {
        let mut slot = 0;
        while slot < self.held.len() {
            if t - self.held[slot] <= self.slots {
                slot += 1;
                continue;
            }
            let last = self.held.len() - 1;
            if slot != last {
                for row in self.tokens.chunks_exact_mut(self.slots * self.width) {
                    row.copy_within(last * self.width..(last + 1) * self.width, slot * self.width);
                }
            }
            self.held.swap_remove(slot);
        }
    }

    /// Tracks a labelled slice with an empty mask, at `position`, before any query slice.
    ///
    /// # Errors
    /// Those of the network's resizes.
    pub fn track_empty(
        &mut self,
        net: &Sam2,
        position: usize,
        features: &Features,
        conditioning: Slices<'_>,
        positions: &[f32],
    ) -> Result<()> {
        self.position = position;
        self.forget(position);
        self.look(positions);
        let start = net.memory_attention.start(&features.top);
        let memory = self.memory(conditioning);
        let embedding = net.memory_attention.forward(&[&start], &[memory], &[None]);
        let decoded = net.decoder.track(&embedding, &[features], &net.prompt);
        let part = net.memory_encoder.features(&features.top);
        let tokens = net.remember_tracked(&decoded, &[&part])?;
        self.remember(tokens.values(), &decoded.pointers[0]);
        Ok(())
    }

    /// Stands before the first query slice, at `position`.
    pub fn rewind(&mut self, position: usize) {
        self.position = position;
        self.forget(position);
        let reach = self.reach;
        self.tracked.retain(|(s, _)| position - s < reach);
    }
}
