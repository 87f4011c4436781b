//! Launching `fill_holes`: small background components of masks are filled, the twin of [`crate::ops::components::fill_holes_2d`].

use super::arena::Buffer;
use super::driver::{Arguments, Shape};
use super::launch::{Runtime, Work};
use anyhow::{Result, bail};

/// Masks of logits `[items, height, width]` f32, whose background components (logit <= 0, 8-connected) of at most `area` pixels become `fill`.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct FillHoles {
    pub items: usize,
    pub height: usize,
    pub width: usize,
    pub area: usize,
    pub fill: f32,
}

/// Name, threads of a block, and the cells of 2 x 2 pixels that its shared memory holds.
const KERNELS: [(&str, usize, usize); 2] = [("fill_holes_4096", 256, 4096), ("fill_holes_16384", 1024, 16384)];

/// A parent (4 bytes) and its pixels (1) per cell.
const BYTES_PER_CELL: usize = 5;

/// Dynamic shared memory of a specialisation, if it is one of these.
pub(super) fn dynamic_shared_bytes(name: &str) -> Option<usize> {
    let found = KERNELS.iter().find(|(known, ..)| *known == name);
    found.map(|(_, _, cells)| cells * BYTES_PER_CELL)
}

impl FillHoles {
    /// Whether there is a kernel for such masks.
    pub fn fits(&self) -> bool {
        self.choose().is_ok()
    }

    /// The specialisation that holds a mask, with its threads.
    ///
    /// # Errors
    /// A mask that is too large for shared memory.
    pub fn choose(&self) -> Result<(&'static str, usize)> {
        let cells = self.height.div_ceil(2).saturating_mul(self.width.div_ceil(2));
        let found = KERNELS.iter().find(|(_, _, most)| cells <= *most);
        let Some((name, threads, _)) = found else {
            bail!(
                "fill_holes: masks of {} x {} pixels; there are kernels for up to 256 x 256; this is a fault of the program, please report it",
                self.height,
                self.width
            );
        };
        Ok((name, *threads))
    }

    /// Launches it, in place. An area of 0 fills nothing.
    ///
    /// # Errors
    /// Masks that are too large, a buffer that is too small, and those of [`Runtime::launch`].
    pub fn launch(&self, runtime: &Runtime, logits: &Buffer) -> Result<()> {
        let Self {
            items,
            height,
            width,
            area,
            fill,
        } = *self;
        let problem = format!("items {items} height {height} width {width} area {area}");
        super::check_bytes(&problem, "logits", logits, &[items, height, width, 4])?;
        let (entry, threads) = self.choose()?;
        if items * height * width == 0 || area == 0 {
            return Ok(());
        }
        let arguments = Arguments::new()
            .pointer(logits.pointer())
            .int(super::int(&problem, height)?)
            .int(super::int(&problem, width)?)
            .int(super::int(&problem, area.min(height * width))?)
            .float(fill);
        let shape = Shape {
            blocks: [u32::try_from(items)?, 1, 1],
            threads: threads as u32,
            shared_bytes: dynamic_shared_bytes(entry).unwrap_or(0) as u32,
        };
        let bytes = 4.0 * (items * height * width) as f64;
        runtime.launch(entry, shape, arguments, &problem, Work { flops: 0.0, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_choose_the_smallest_kernel_that_holds_them() {
        let of = |height, width| FillHoles {
            items: 1,
            height,
            width,
            area: 8,
            fill: 0.1,
        };
        assert_eq!(of(128, 128).choose().unwrap(), ("fill_holes_4096", 256));
        assert_eq!(of(1, 8192).choose().unwrap().0, "fill_holes_4096");
        assert_eq!(of(129, 128).choose().unwrap().0, "fill_holes_16384");
        assert_eq!(of(256, 255).choose().unwrap(), ("fill_holes_16384", 1024));
        assert!(of(257, 256).choose().unwrap_err().to_string().contains("257 x 256"));
        assert!(of(usize::MAX, usize::MAX).choose().is_err());
        assert_eq!(dynamic_shared_bytes("fill_holes_16384"), Some(81920));
    }
}
