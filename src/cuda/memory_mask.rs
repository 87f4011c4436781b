//! Launching `memory_mask`: what the memory encoder is fed, the twin of [`crate::ops::memory_mask`].

use super::arena::Buffer;
use super::driver::Arguments;
use super::launch::{Runtime, Work};
use anyhow::{Result, ensure};

/// f(resize(x)) scale + bias of f32 planes of size `input`, to y [items, height, width, 1] bf16 of size `output` = (height, width).
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct MemoryMask {
    pub items: usize,
    pub input: (usize, usize),
    pub output: (usize, usize),
    pub scale: f32,
    pub bias: f32,
}

impl MemoryMask {
    /// The specialisation: 16 bytes per store where rows are multiples of that.
    pub fn choose(&self) -> (&'static str, usize) {
        match self.output.1 % 8 {
            0 => ("memory_mask_8", 8),
            _ => ("memory_mask_1", 1),
        }
    }

    /// Launches it. The plane of item n begins at value `offsets[n]` (int, the caller's word: it is on the device) of x, or is the n-th; items whose
    /// `prompted[n]` (int) is not 0 take x > 0 for the logistic function, none without `prompted`.
    ///
    /// # Errors
    /// Planes without pixels or above 2^24 a side, buffers that are too small, and those of [`Runtime::launch`].
    pub fn launch(&self, runtime: &Runtime, x: &Buffer, offsets: Option<&Buffer>, prompted: Option<&Buffer>, y: &Buffer) -> Result<()> {
        let Self { items, input, output, .. } = *self;
        let problem = format!("items {items} from {input:?} to {output:?}");
        super::check_planes(&problem, input, output)?;
        let planes = if offsets.is_some() { items.min(1) } else { items };
        super::check_bytes(&problem, "x", x, &[planes, input.0, input.1, 4])?;
        super::check_bytes(&problem, "y", y, &[items, output.0, output.1, 2])?;
        for (name, list) in [("offsets", offsets), ("prompted", prompted)] {
            ensure!(
                list.is_none_or(|list| list.bytes() / 4 >= items),
                "memory_mask ({problem}): {name} has fewer values"
            );
        }
        let (entry, vector) = self.choose();
        let arguments = Arguments::new()
            .pointer(x.pointer())
            .optional(offsets.map(Buffer::pointer))
            .optional(prompted.map(Buffer::pointer))
            .pointer(y.pointer())
            .int(super::int(&problem, items)?)
            .int(super::int(&problem, input.0)?)
            .int(super::int(&problem, input.1)?)
            .int(super::int(&problem, output.0)?)
            .int(super::int(&problem, output.1)?)
            .float(input.0 as f32 / output.0 as f32)
            .float(input.1 as f32 / output.1 as f32)
            .float(self.scale)
            .float(self.bias);
        let pixels = items * output.0 * output.1;
        let work = Work {
            flops: 32.0 * pixels as f64,
            bytes: (2 * pixels + 4 * items * input.0 * input.1) as f64,
        };
        super::launch_threads(runtime, entry, pixels / vector, arguments, &problem, work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_in_eights_are_stored_in_vectors() {
        let mask = MemoryMask {
            items: 1,
            input: (128, 128),
            output: (511, 512),
            scale: 20.0,
            bias: -10.0,
        };
        assert_eq!(mask.choose(), ("memory_mask_8", 8));
        assert_eq!(
            MemoryMask {
                output: (512, 511),
                ..mask
            }
            .choose(),
            ("memory_mask_1", 1)
        );
    }
}
