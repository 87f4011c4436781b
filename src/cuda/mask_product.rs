//! Launching `mask_product`: mask logits from tokens and upscaled features, the twin of [`crate::ops::mask_product`].

use super::arena::Buffer;
use super::driver::{Arguments, Shape};
use super::launch::{Runtime, Work};
use anyhow::{Result, ensure};

/// Pixels of a block; THREADS in kernels/mask_product.cu.
const PIXELS: usize = 256;

/// y [items, masks, pixels] = tokens [items, masks, channels] . x [items, pixels, channels].
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct MaskProduct {
    pub items: usize,
    pub pixels: usize,
    pub masks: usize,
    pub channels: usize,
}

/// Items whose masks are filled instead.
#[derive(Clone, Copy)]
pub struct Absent<'a> {
    /// `[items]` 32-bit integers on the device; not 0: absent.
    pub flags: &'a Buffer,
    /// What their logits become.
    pub filling: f32,
}

/// The specialisation for this many channels.
pub fn choose(channels: usize) -> &'static str {
    if channels == 32 { "mask_product_32" } else { "mask_product_any" }
}

impl MaskProduct {
    /// Launches it; x and tokens bf16, y f32. The features of absent items are not read.
    ///
    /// # Errors
    /// Buffers that are too small, no channels, and those of [`Runtime::launch`].
    pub fn launch(&self, runtime: &Runtime, x: &Buffer, tokens: &Buffer, absent: Option<Absent<'_>>, y: &Buffer) -> Result<()> {
        let Self {
            items,
            pixels,
            masks,
            channels,
        } = *self;
        let problem = format!("items {items} pixels {pixels} masks {masks} channels {channels}");
        if items * pixels * masks == 0 {
            return Ok(());
        }
        ensure!(channels > 0, "mask_product ({problem}): tokens without channels");
        super::check_bytes(&problem, "x", x, &[items, pixels, channels, 2])?;
        super::check_bytes(&problem, "tokens", tokens, &[items, masks, channels, 2])?;
        super::check_bytes(&problem, "y", y, &[items, masks, pixels, 4])?;
        if let Some(absent) = absent {
            super::check_bytes(&problem, "absent", absent.flags, &[items, 4])?;
        }
        let arguments = Arguments::new()
            .pointer(x.pointer())
            .pointer(tokens.pointer())
            .optional(absent.map(|absent| absent.flags.pointer()))
            .pointer(y.pointer())
            .int(super::int(&problem, pixels)?)
            .int(super::int(&problem, masks)?)
            .int(super::int(&problem, channels)?)
            .float(absent.map_or(0.0, |absent| absent.filling));
        let shape = Shape {
            blocks: [u32::try_from(pixels.div_ceil(PIXELS))?, u32::try_from(items)?, 1],
            threads: PIXELS as u32,
            shared_bytes: 0,
        };
        let work = Work {
            flops: 2.0 * (items * masks * channels) as f64 * pixels as f64,
            bytes: (items * (2 * channels + 4 * masks)) as f64 * pixels as f64,
        };
        runtime.launch(choose(channels), shape, arguments, &problem, work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_choose_their_kernel() {
        assert_eq!(choose(32), "mask_product_32");
        assert_eq!(choose(31), "mask_product_any");
        assert_eq!(choose(64), "mask_product_any");
    }
}
