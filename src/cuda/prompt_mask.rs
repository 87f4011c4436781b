//! Launching `prompt_mask`: what a prompted slice's mask is to the network, the twin of [`crate::ops::prompt_mask`].

use super::arena::Buffer;
use super::driver::Arguments;
use super::launch::{Runtime, Work};
use anyhow::{Result, ensure};

/// Masks of `side` x `side` logits, of four times four pixels each.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct PromptMask {
    pub items: usize,
    pub side: usize,
}

impl PromptMask {
    /// Launches it: masks u8 [items, 4 side, 4 side] to square, bf16 of the same shape, and logits f32 [items, side, side].
    ///
    /// # Errors
    /// A side below 2, buffers that are too small, and those of [`Runtime::launch`].
    pub fn launch(&self, runtime: &Runtime, masks: &Buffer, square: &Buffer, logits: &Buffer) -> Result<()> {
        let Self { items, side } = *self;
        let problem = format!("items {items} side {side}");
        ensure!(
            side >= 2,
            "prompt_mask ({problem}): masks of 8 x 8 pixels are the least; this is a fault of the program, please report it"
        );
        super::check_bytes(&problem, "masks", masks, &[items, 4, side, 4, side])?;
        super::check_bytes(&problem, "square", square, &[items, 4, side, 4, side, 2])?;
        super::check_bytes(&problem, "logits", logits, &[items, side, side, 4])?;
        let arguments = Arguments::new()
            .pointer(masks.pointer())
            .pointer(square.pointer())
            .pointer(logits.pointer())
            .int(super::int(&problem, items)?)
            .int(super::int(&problem, side)?);
        let logits = items * side * side;
        let work = Work {
            flops: 144.0 * logits as f64,
            bytes: (3 * 16 + 4) as f64 * logits as f64,
        };
        super::launch_threads(runtime, "prompt_mask", logits, arguments, &problem, work)
    }
}
