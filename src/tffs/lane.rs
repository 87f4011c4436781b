//! A lane: one pass over query slices in one direction from an inserted labelled volume, with the part of the memory bank that is its own.
//!
//! Positions count from the labelled volume's first slice in the direction of the pass, so the labelled slices stand at 0 .. L and query slices at L, L + 1, ...;
//! where the volume was inserted does not matter.

use crate::ops::memory_attention::{Memory, Slices};
use crate::ops::rows::{self, Put};
use crate::sam2::encoder::Features;
use crate::sam2::{Sam2, memory_bank};
use crate::tensor::Tensor;
use anyhow::Result;

/// The lane's memory: which recent slices its ring holds, and all pointers it may attend to. The tokens stand in a ring of [`rings`].
#[derive(Clone)]
pub struct Lane {
    /// Where the next slice stands.
    position: usize,
    /// Slots of a ring.
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

/// Rings for the recent slices' tokens of `count` lanes, [count, P, slots, M].
///
/// # Errors
/// When the device's budget has no room for them.
pub fn rings(net: &Sam2, count: usize) -> Result<Tensor> {
    let config = &net.config;
    Tensor::zeros(net.device(), &[count, config.grid().pow(2), config.num_maskmem - 1, config.mem_dim])
}

impl Lane {
    /// A lane before any tracked slice; `conditioning` are (position, pointer).
    pub fn new(net: &Sam2, labelled: usize, conditioning: Vec<(usize, Vec<f32>)>, reach: usize) -> Self {
        let slots = net.config.num_maskmem - 1;
        Self {
            position: labelled,
            slots,
            held: Vec::with_capacity(slots),
            conditioning,
            tracked: Vec::new(),
            reach,
            width: net.config.mem_dim,
            times: Vec::with_capacity(slots),
            pointer_keys: Vec::new(),
            pointer_values: Vec::new(),
        }
    }

    /// Bytes of host memory it holds.
    pub fn bytes(&self) -> usize {
        let pointers = self.conditioning.iter().chain(&self.tracked).map(|(_, p)| p.len()).sum::<usize>();
        4 * (pointers + self.pointer_keys.capacity() + self.pointer_values.capacity())
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

    /// What was worked out, with the support's conditioning slices; the lane's tokens stand in ring `ring` of `rings`.
    pub fn memory<'a>(&'a self, conditioning: Slices<'a>, rings: &'a Tensor, ring: usize) -> Memory<'a> {
        let recent = Slices {
            tokens: Some((rings, ring)),
            times: &self.times,
        };
        Memory {
            conditioning,
            recent: if self.times.is_empty() { Slices::NONE } else { recent },
            pointer_keys: &self.pointer_keys,
            pointer_values: &self.pointer_values,
            start: None,
        }
    }

    /// Moves on from the slice at the lane's position, which left `pointer` behind, and says which slot of its ring its tokens go to.
    ///
    /// # Errors
    /// Those of a CUDA device.
    pub fn remember(&mut self, pointer: &[f32], rings: &mut Tensor, ring: usize) -> Result<usize> {
        let now = self.position;
        let unseen = self.held.iter().position(|&s| now + 1 - s > self.slots);
        let slot = unseen.unwrap_or(self.held.len());
        match unseen {
            Some(slot) => self.held[slot] = now,
            None => self.held.push(now),
        }
        self.tracked.retain(|(position, _)| now + 1 - position < self.reach);
        self.tracked.push((now, pointer.to_vec()));
        self.position += 1;
        self.forget(rings, ring)?;
        // Used slots stand together: if the new one was last, it may have filled another gap.
        Ok(self.held.iter().position(|&s| s == now).unwrap_or(slot))
    }

    /// Frees the slots of slices too far back to be seen from the lane's position.
    fn forget(&mut self, rings: &mut Tensor, ring: usize) -> Result<()> {
        let mut slot = 0;
        while slot < self.held.len() {
            if self.position - self.held[slot] <= self.slots {
                slot += 1;
                continue;
            }
            let last = self.held.len() - 1;
            if slot != last {
                rows::move_slot(rings, ring, last, slot)?;
            }
            self.held.swap_remove(slot);
        }
        Ok(())
    }

    /// Tracks a labelled slice with an empty mask, at `position`, before any query slice; the lane's tokens stand in the first ring.
    ///
    /// # Errors
    /// Those of a CUDA device.
    pub fn track_empty(
        &mut self,
        net: &Sam2,
        position: usize,
        features: &Features,
        conditioning: Slices<'_>,
        positions: &[f32],
        rings: &mut Tensor,
    ) -> Result<()> {
        self.position = position;
        self.forget(rings, 0)?;
        self.look(positions);
        let start = net.memory_attention.start(&features.top)?;
        let memory = self.memory(conditioning, rings, 0);
        let embedding = net.memory_attention.forward(start, &[memory], &[None])?;
        let decoded = net.decoder.track(&embedding, &features.skips, &net.prompt)?;
        let tokens = net.remember_tracked(&decoded, &[0], net.memory_encoder.features(&features.top)?)?;
        let slot = self.remember(&decoded.pointers[0], rings, 0)?;
        rows::put_slots(rings, &tokens, &[Put { from: 0, ring: 0, slot }])
    }

    /// Stands before the first query slice, at `position`.
    ///
    /// # Errors
    /// Those of a CUDA device.
    pub fn rewind(&mut self, position: usize, rings: &mut Tensor) -> Result<()> {
        self.position = position;
        self.forget(rings, 0)?;
        let reach = self.reach;
        self.tracked.retain(|(s, _)| position - s < reach);
        Ok(())
    }

    /// Whether its ring holds any slice.
    pub fn holds_slices(&self) -> bool {
        !self.held.is_empty()
    }
}
