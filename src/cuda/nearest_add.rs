//! Launching `nearest_add`: y += x enlarged twice, the twin of [`crate::ops::nearest_add`].

use super::arena::Buffer;
use super::driver::Arguments;
use super::launch::{Runtime, Work};
use anyhow::Result;

/// x [items, height, width, channels] into y [items, 2 height, 2 width, channels].
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct NearestAdd {
    pub items: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl NearestAdd {
    /// The specialisation: 16 bytes per access where rows are multiples of that.
    pub fn choose(&self) -> (&'static str, usize) {
        match self.channels % 8 {
            0 => ("nearest_add_8", 8),
            _ => ("nearest_add_1", 1),
        }
    }

    /// Launches it; x and y bf16.
    ///
    /// # Errors
    /// Buffers that are too small, and those of [`Runtime::launch`].
    pub fn launch(&self, runtime: &Runtime, x: &Buffer, y: &Buffer) -> Result<()> {
        let Self {
            items,
            height,
            width,
            channels,
        } = *self;
        let problem = format!("items {items} height {height} width {width} channels {channels}");
        super::check_bytes(&problem, "x", x, &[items, height, width, channels, 2])?;
        super::check_bytes(&problem, "y", y, &[items, height, width, channels, 8])?;
        let (entry, vector) = self.choose();
        let pixels = items * height * width;
        let arguments = Arguments::new()
            .pointer(x.pointer())
            .pointer(y.pointer())
            .int(super::int(&problem, pixels)?)
            .int(super::int(&problem, width)?)
            .int(super::int(&problem, channels)?);
        let values = (pixels * channels) as f64;
        let work = Work {
            flops: 4.0 * values,
            bytes: 18.0 * values,
        };
        super::launch_threads(runtime, entry, pixels * (channels / vector), arguments, &problem, work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_in_eights_are_added_in_vectors() {
        let add = NearestAdd {
            items: 1,
            height: 1,
            width: 1,
            channels: 256,
        };
        assert_eq!(add.choose(), ("nearest_add_8", 8));
        assert_eq!(NearestAdd { channels: 257, ..add }.choose(), ("nearest_add_1", 1));
    }
}
