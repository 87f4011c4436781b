//! Launching `components`: connected components of a class, of which the largest stays; the twin of [`crate::ops::components::largest_component`].

use super::arena::Buffer;
use super::driver::{Arguments, Shape};
use super::launch::{Runtime, Work};
use anyhow::{Context, Result, bail};

/// Voxels along each edge of a cell, and cells of a tile [z, y, x]; TILE_Z, TILE_Y, TILE_X in kernels/components.cu.
const CELL: usize = 2;
const TILE: [usize; 3] = [4, 4, 16];
const THREADS: usize = TILE[0] * TILE[1] * TILE[2];
/// Voxels that a `u32` numbers with one value left for "none", and the kernel's `int` sizes multiply to.
const MOST_VOXELS: usize = 1 << 31;

/// Labels [depth, height, width] u8; the components of `class` are counted and, if `erase`, all but the largest become 0.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Components {
    pub depth: usize,
    pub height: usize,
    pub width: usize,
    pub class: u8,
    pub erase: bool,
}

/// What was found, read from the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Number of components.
    pub components: u32,
    /// Voxels of the largest; only if others were to be erased.
    pub largest: u32,
}

impl Found {
    /// Bytes of the buffer that [`Components::launch`] writes.
    pub const BYTES: usize = 12;

    /// Waits, and reads it.
    ///
    /// # Errors
    /// A buffer that is too small, and those of kernels launched before.
    pub fn read(buffer: &Buffer) -> Result<Self> {
        let bytes = buffer.to_vec()?;
        let (words, _) = bytes.as_chunks::<4>();
        let [components, largest, ..] = words else {
            bail!("components: found in a buffer of {} bytes, need {}", bytes.len(), Self::BYTES);
        };
        Ok(Self {
            components: u32::from_le_bytes(*components),
            largest: u32::from_le_bytes(*largest),
        })
    }
}

impl Components {
    /// Cells of 2 x 2 x 2 voxels, [z, y, x].
    fn cells(&self) -> [usize; 3] {
        [self.depth, self.height, self.width].map(|size| size.div_ceil(CELL))
    }

    fn problem(&self) -> String {
        format!(
            "depth {} height {} width {} class {}",
            self.depth, self.height, self.width, self.class
        )
    }

    /// Voxels, if the kernels can count them.
    fn voxels(&self) -> Result<usize> {
        let voxels = self.depth.checked_mul(self.height).and_then(|area| area.checked_mul(self.width));
        voxels.filter(|voxels| *voxels <= MOST_VOXELS).with_context(|| {
            format!(
                "components ({}): more than 2^31 voxels; label this volume on the CPU",
                self.problem()
            )
        })
    }

    /// Bytes of scratch: 9 per cell, about 9/8 per voxel.
    ///
    /// # Errors
    /// More than 2^31 voxels.
    pub fn scratch_bytes(&self) -> Result<usize> {
        self.voxels()?;
        Ok(self.cells().iter().product::<usize>() * 9)
    }

    /// Launches it: labels in place, `scratch` of [`Components::scratch_bytes`], `found` of [`Found::BYTES`].
    ///
    /// # Errors
    /// More than 2^31 voxels, buffers that are too small, and those of [`Runtime::launch`].
    pub fn launch(&self, runtime: &Runtime, labels: &Buffer, scratch: &Buffer, found: &Buffer) -> Result<()> {
        let problem = self.problem();
        let voxels = self.voxels()?;
        super::check_bytes(&problem, "labels", labels, &[voxels])?;
        super::check_bytes(&problem, "scratch", scratch, &[self.scratch_bytes()?])?;
        super::check_bytes(&problem, "found", found, &[Found::BYTES])?;
        if voxels == 0 {
            return found.copy_in(&[0; Found::BYTES]);
        }
        let cells: usize = self.cells().iter().product();
        let tiles = self.cells().iter().zip(TILE).map(|(cells, tile)| cells.div_ceil(tile)).product();
        let sizes = scratch.pointer().offset(4 * cells);
        let bits = scratch.pointer().offset(8 * cells);
        let arguments = Arguments::new()
            .pointer(labels.pointer())
            .pointer(scratch.pointer())
            .pointer(sizes)
            .pointer(bits)
            .pointer(found.pointer())
            .int(super::int(&problem, self.depth)?)
            .int(super::int(&problem, self.height)?)
            .int(super::int(&problem, self.width)?)
            .int(i32::from(self.class));
        // Blocks, and the bytes each pass moves when nearly all is background.
        let in_cells = cells.div_ceil(THREADS);
        let of_cells = |bytes: usize| (bytes * cells) as f64;
        let passes = [
            ("components_local", tiles, voxels as f64 + of_cells(9)),
            ("components_merge", in_cells, of_cells(1)),
            ("components_count", in_cells, of_cells(4)),
            ("components_largest", in_cells, of_cells(4)),
            ("components_first", in_cells, of_cells(4)),
            ("components_erase", in_cells, of_cells(4)),
        ];
        for (entry, blocks, bytes) in passes.into_iter().take(if self.erase { 6 } else { 3 }) {
            let shape = Shape {
                blocks: [u32::try_from(blocks)?, 1, 1],
                threads: THREADS as u32,
                shared_bytes: 0,
            };
            runtime.launch(entry, shape, arguments.clone(), &problem, Work { flops: 0.0, bytes })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_is_nine_bytes_per_cell_and_too_large_volumes_are_refused() {
        let of = |[depth, height, width]: [usize; 3]| Components {
            depth,
            height,
            width,
            class: 1,
            erase: true,
        };
        assert_eq!(of([1, 1, 1]).scratch_bytes().unwrap(), 9);
        assert_eq!(of([3, 4, 5]).scratch_bytes().unwrap(), 9 * 2 * 2 * 3);
        assert_eq!(of([400, 512, 512]).scratch_bytes().unwrap(), 117_964_800);
        assert!(of([2048, 1024, 1024]).scratch_bytes().is_ok());
        let message = of([2049, 1024, 1024]).scratch_bytes().unwrap_err().to_string();
        assert!(message.contains("depth 2049") && message.contains("on the CPU"), "{message}");
        assert!(of([usize::MAX, 2, 2]).scratch_bytes().is_err());
    }
}
