//! Launching `depthwise`: 7x7 depthwise convolution and LayerNorm in one kernel, the twin of [`crate::ops::depthwise`].

use super::arena::Buffer;
use super::driver::{Arguments, Shape};
use super::launch::{Runtime, Work};
use anyhow::{Result, ensure};

/// Pixels of a block: lines and columns; LINES and COLUMNS in kernels/depthwise.cu.
const TILE: (usize, usize) = (4, 8);
/// Channels that a block's registers and shared memory hold.
const MOST_CHANNELS: usize = 256;

/// y = LayerNorm(depthwise(x) + bias) of maps [items, height, width, channels].
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Depthwise {
    pub items: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub eps: f32,
}

/// Weights of the convolution and of the norm.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    /// [49, channels] bf16, tap by tap.
    pub taps: &'a Buffer,
    /// `[channels]` f32.
    pub bias: &'a Buffer,
    /// `[channels]` f32, factor of the norm.
    pub gamma: &'a Buffer,
    /// `[channels]` f32, shift of the norm.
    pub beta: &'a Buffer,
}

/// The specialisation for this many channels: pairs of channels and 16-byte copies, where channels are a multiple of 8, or any.
///
/// # Errors
/// No channel, or more than 256, which a block does not hold.
pub fn choose(channels: usize) -> Result<&'static str> {
    ensure!(
        (1..=MOST_CHANNELS).contains(&channels),
        "depthwise: {channels} channels; there are kernels for 1 to {MOST_CHANNELS}"
    );
    Ok(if channels.is_multiple_of(8) { "depthwise_2" } else { "depthwise_1" })
}

/// Bytes of shared memory: the tile of x in bf16, and the sums in f32, which have a place of their own where one thread makes several.
fn shared_bytes(name: &str, channels: usize) -> usize {
    let tile = (TILE.0 + 6) * (TILE.1 + 6) * 2 * channels;
    let sums = TILE.0 * TILE.1 * 4 * channels;
    if name == "depthwise_2" { tile.max(sums) } else { tile + sums }
}

/// The most that a specialisation asks for.
pub(super) fn dynamic_shared_bytes(name: &str) -> Option<usize> {
    name.starts_with("depthwise_").then(|| shared_bytes(name, MOST_CHANNELS))
}

impl Depthwise {
    /// Launches it; x and y bf16, and y is not x.
    ///
    /// # Errors
    /// Buffers that are too small or the same, channels without a kernel, and those of [`Runtime::launch`].
    pub fn launch(&self, runtime: &Runtime, x: &Buffer, weights: Weights<'_>, y: &Buffer) -> Result<()> {
        let Self {
            items,
            height,
            width,
            channels,
            eps,
        } = *self;
        let problem = format!("items {items} height {height} width {width} channels {channels}");
        if items * height * width == 0 {
            return Ok(());
        }
        let entry = choose(channels)?;
        ensure!(
            x.pointer() != y.pointer(),
            "depthwise ({problem}): windows of x are read while y is written; give them two buffers"
        );
        for (name, buffer) in [("x", x), ("y", y)] {
            super::check_bytes(&problem, name, buffer, &[items, height, width, channels, 2])?;
        }
        super::check_bytes(&problem, "taps", weights.taps, &[49, channels, 2])?;
        for (name, buffer) in [("bias", weights.bias), ("gamma", weights.gamma), ("beta", weights.beta)] {
            super::check_bytes(&problem, name, buffer, &[channels, 4])?;
        }
        let arguments = Arguments::new()
            .pointer(x.pointer())
            .pointer(weights.taps.pointer())
            .pointer(weights.bias.pointer())
            .pointer(weights.gamma.pointer())
            .pointer(weights.beta.pointer())
            .pointer(y.pointer())
            .int(super::int(&problem, height)?)
            .int(super::int(&problem, width)?)
            .int(super::int(&problem, channels)?)
            .float(eps);
        let tiles = height.div_ceil(TILE.0) * width.div_ceil(TILE.1);
        let shape = Shape {
            blocks: [u32::try_from(tiles)?, u32::try_from(items)?, 1],
            threads: 256,
            shared_bytes: shared_bytes(entry, channels) as u32,
        };
        let values = (items * height * width * channels) as f64;
        runtime.launch(
            entry,
            shape,
            arguments,
            &problem,
            Work {
                flops: 98.0 * values,
                bytes: 4.0 * values,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_choose_their_kernel() {
        assert_eq!(choose(256).unwrap(), "depthwise_2");
        assert_eq!(choose(8).unwrap(), "depthwise_2");
        assert_eq!(choose(255).unwrap(), "depthwise_1");
        assert_eq!(choose(1).unwrap(), "depthwise_1");
        assert!(choose(0).is_err());
        assert!(choose(257).unwrap_err().to_string().contains("257 channels"));
    }

    #[test]
    fn two_blocks_of_the_network_fit_into_a_multiprocessor() {
        assert_eq!(shared_bytes("depthwise_2", 256), 71680);
        assert!(2 * (shared_bytes("depthwise_2", 256) + 1024) <= 164 * 1024);
        assert_eq!(shared_bytes("depthwise_1", 3), 408 * 3);
    }
}
