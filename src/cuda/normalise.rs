//! Launching `normalise` and `resize_u8`: raw voxels of slices to what the network reads, `[slices, size, size]` bf16 of 0..255; the twin of
//! [`crate::ops::normalise`].

use super::arena::{Arena, Buffer};
use super::driver::{Arguments, Shape};
use super::launch::{Runtime, Work};
use anyhow::{Context, Result, ensure};

/// Threads of a block; THREADS in kernels/normalise.cu and kernels/resize_u8.cu.
const THREADS: usize = 128;
/// Voxels of a row that is resized: it stands in shared memory as bytes.
pub const MOST_COLUMNS: usize = 32768;

/// Dynamic shared memory of a specialisation, if it is one of these.
pub(super) fn dynamic_shared_bytes(name: &str) -> Option<usize> {
    name.starts_with("normalise_across_").then_some(MOST_COLUMNS)
}

/// Stored voxels, little-endian; others are converted to f32 first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Voxel {
    I16,
    U8,
    F32,
}

impl Voxel {
    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Self::I16 => 2,
            Self::U8 => 1,
            Self::F32 => 4,
        }
    }
}

/// A volume's map from stored values to 0..255: the header's scale, where values are clipped, the least and the largest after that, and whether zeros stay zeros.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Map {
    pub slope: f64,
    pub intercept: f64,
    pub lower: f64,
    pub upper: f64,
    pub min: f64,
    pub max: f64,
    pub keep_zeros: bool,
}

impl Map {
    /// Bytes of the buffer that the kernels read.
    pub const BYTES: usize = 64;

    /// What that buffer holds.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let range = self.max - self.min;
        let zeros = f64::from(u8::from(self.keep_zeros));
        let values = [self.slope, self.intercept, self.lower, self.upper, self.min, range, zeros, 0.0];
        bytemuck::cast(values.map(f64::to_le_bytes))
    }
}

/// The taps of a resize on the device, once per size of plane; none for an axis that is not filtered.
pub struct Taps {
    across: Option<Buffer>,
    down: Option<Buffer>,
}

impl Taps {
    /// Uploads the taps of x and y, as `BicubicU8Plan::tables` gives them.
    ///
    /// # Errors
    /// No room for them.
    pub fn upload(arena: &Arena, [x, y]: &[Vec<i32>; 2]) -> Result<Self> {
        let upload = |table: &Vec<i32>| match table.is_empty() {
            true => Ok(None),
            false => arena.filled(bytemuck::cast_slice(table)).map(Some),
        };
        Ok(Self {
            across: upload(x)?,
            down: upload(y)?,
        })
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        [&self.across, &self.down].into_iter().flatten().map(Buffer::bytes).sum()
    }
}

/// Slices of height x width stored voxels to size x size. Voxel (slice, row, column) is element `start` + slice `slice_step` + row `row_step` + column
/// `column_step` of the raw voxels: any view of a volume. Coalesced where `column_step` is 1.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Normalise {
    pub voxel: Voxel,
    pub slices: usize,
    pub height: usize,
    pub width: usize,
    pub size: usize,
    pub start: usize,
    pub slice_step: isize,
    pub row_step: isize,
    pub column_step: isize,
}

impl Normalise {
    fn problem(&self) -> String {
        let Self {
            voxel,
            slices,
            height,
            width,
            size,
            ..
        } = self;
        format!("{voxel:?} slices {slices} height {height} width {width} size {size}")
    }

    fn is_whole(&self) -> bool {
        self.height == self.size && self.width == self.size
    }

    /// Names of the kernels: the first, and the second where there is one, with its pixels per thread.
    pub fn choose(&self) -> (&'static str, Option<(&'static str, usize)>) {
        let names = match self.voxel {
            Voxel::I16 => ["normalise_i16", "normalise_across_i16"],
            Voxel::U8 => ["normalise_u8", "normalise_across_u8"],
            Voxel::F32 => ["normalise_f32", "normalise_across_f32"],
        };
        let down = if self.size.is_multiple_of(8) {
            ("resize_u8_8", 8)
        } else {
            ("resize_u8_1", 1)
        };
        match self.is_whole() {
            true => (names[0], None),
            false => (names[1], Some(down)),
        }
    }

    /// Bytes of scratch: none for slices that have the network's size.
    pub fn scratch_bytes(&self) -> usize {
        if self.is_whole() {
            0
        } else {
            self.slices * self.height * self.size
        }
    }

    /// Launches it: `raw` stored voxels, `map` [`Map::BYTES`], `scratch` of [`Normalise::scratch_bytes`], y `[slices, size, size]` bf16.
    ///
    /// # Errors
    /// A view that reaches beyond the voxels, taps of another size, rows too long for shared memory, buffers that are too small, and those of
    /// [`Runtime::launch`].
    pub fn launch(&self, runtime: &Runtime, raw: &Buffer, map: &Buffer, taps: &Taps, scratch: &Buffer, y: &Buffer) -> Result<()> {
        let problem = self.problem();
        self.check(&problem, raw, taps)?;
        super::check_bytes(&problem, "map", map, &[Map::BYTES])?;
        super::check_bytes(&problem, "y", y, &[self.slices, self.size, self.size, 2])?;
        if self.slices * self.height * self.width * self.size == 0 {
            return Ok(());
        }
        let (first, second) = self.choose();
        if second.is_some() {
            super::check_bytes(&problem, "scratch", scratch, &[self.slices, self.height, self.size])?;
        }
        let step = |step: isize| i32::try_from(step).with_context(|| format!("normalise ({problem}): a step of {step} voxels"));
        let arguments = Arguments::new()
            .pointer(raw.pointer().offset(self.start * self.voxel.bytes()))
            .pointer(map.pointer())
            .optional(taps.across.as_ref().map(Buffer::pointer))
            .pointer(if second.is_some() { scratch.pointer() } else { y.pointer() })
            .int(super::int(&problem, self.height)?)
            .int(super::int(&problem, self.width)?)
            .int(super::int(&problem, self.size)?)
            .int(step(self.slice_step)?)
            .int(step(self.row_step)?)
            .int(step(self.column_step)?);
        let shape = Shape {
            blocks: [u32::try_from(self.slices * self.height)?, 1, 1],
            threads: THREADS as u32,
            shared_bytes: if taps.across.is_some() { self.width as u32 } else { 0 },
        };
        let voxels = (self.slices * self.height * self.width) as f64;
        let written = (self.slices * self.height * self.size * if second.is_some() { 1 } else { 2 }) as f64;
        let work = Work {
            flops: 6.0 * voxels,
            bytes: self.voxel.bytes() as f64 * voxels + written,
        };
        runtime.launch(first, shape, arguments, &problem, work)?;
        match second {
            Some((entry, vector)) => self.resize_down(runtime, (entry, vector), taps, scratch, y),
            None => Ok(()),
        }
    }

    fn resize_down(&self, runtime: &Runtime, (entry, vector): (&str, usize), taps: &Taps, scratch: &Buffer, y: &Buffer) -> Result<()> {
        let problem = self.problem();
        let arguments = Arguments::new()
            .pointer(scratch.pointer())
            .optional(taps.down.as_ref().map(Buffer::pointer))
            .pointer(y.pointer())
            .int(super::int(&problem, self.slices)?)
            .int(super::int(&problem, self.height)?)
            .int(super::int(&problem, self.size)?)
            .int(super::int(&problem, self.size)?);
        let pixels = self.slices * self.size * self.size;
        let shape = Shape {
            blocks: [u32::try_from((pixels / vector).div_ceil(THREADS))?, 1, 1],
            threads: THREADS as u32,
            shared_bytes: 0,
        };
        // A table is three words per output and as many weights as taps: its length tells the taps of all rows.
        let weights = taps.down.as_ref().map_or(self.size, |table| table.bytes() / 4 - 3 * self.size);
        let work = Work {
            flops: 2.0 * (self.slices * self.size * weights) as f64,
            bytes: (self.scratch_bytes() + 2 * pixels) as f64,
        };
        runtime.launch(entry, shape, arguments, &problem, work)
    }

    /// Whether the view lies within `raw`, and the taps are for it.
    fn check(&self, problem: &str, raw: &Buffer, taps: &Taps) -> Result<()> {
        let (mut low, mut high) = (self.start as i128, self.start as i128);
        for (size, step) in [
            (self.slices, self.slice_step),
            (self.height, self.row_step),
            (self.width, self.column_step),
        ] {
            let reach = size.saturating_sub(1) as i128 * step as i128;
            low += reach.min(0);
            high += reach.max(0);
        }
        let stored = (raw.bytes() / self.voxel.bytes()) as i128;
        ensure!(
            low >= 0 && high < stored,
            "normalise ({problem}): voxels {low} to {high} of {stored}; this is a fault of the program, please report it"
        );
        for (name, table, input) in [("x", &taps.across, self.width), ("y", &taps.down, self.height)] {
            let is_table = table.as_ref().is_some_and(|table| table.bytes() > 12 * self.size);
            ensure!(
                if input == self.size { table.is_none() } else { is_table },
                "normalise ({problem}): taps of {name} for other sizes; upload those of this plane"
            );
        }
        ensure!(
            taps.across.is_none() || self.width <= MOST_COLUMNS,
            "normalise ({problem}): rows of more than {MOST_COLUMNS} voxels; resample the volume first, or run on the CPU"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_of_the_networks_size_take_one_kernel_and_others_two() {
        let of = |voxel, height, width, size| Normalise {
            voxel,
            slices: 2,
            height,
            width,
            size,
            start: 0,
            slice_step: 1,
            row_step: 1,
            column_step: 1,
        };
        assert_eq!(of(Voxel::I16, 16, 16, 16).choose(), ("normalise_i16", None));
        assert_eq!(
            of(Voxel::U8, 16, 15, 16).choose(),
            ("normalise_across_u8", Some(("resize_u8_8", 8)))
        );
        assert_eq!(
            of(Voxel::F32, 16, 15, 17).choose(),
            ("normalise_across_f32", Some(("resize_u8_1", 1)))
        );
        assert_eq!(of(Voxel::F32, 16, 16, 16).scratch_bytes(), 0);
        assert_eq!(of(Voxel::F32, 3, 16, 5).scratch_bytes(), 30);
    }

    #[test]
    fn a_map_is_eight_numbers() {
        let map = Map {
            slope: 1.0,
            intercept: 2.0,
            lower: 3.0,
            upper: 4.0,
            min: 5.0,
            max: 8.0,
            keep_zeros: true,
        };
        let values: [[u8; 8]; 8] = bytemuck::cast(map.to_bytes());
        assert_eq!(values.map(f64::from_le_bytes), [1.0, 2.0, 3.0, 4.0, 5.0, 3.0, 1.0, 0.0]);
    }
}
