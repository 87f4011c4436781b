//! Launching `max_pool`: 2x2 maximum with stride 2 over some columns of a map, the twin of [`crate::ops::max_pool`].

use super::arena::Buffer;
use super::driver::{Arguments, Shape};
use super::launch::{Runtime, Work};
use anyhow::{Result, ensure};

/// Threads of a block; THREADS in kernels/max_pool.cu.
const THREADS: usize = 256;

/// x [items, height, width, channels] to y [items, height / 2, width / 2, taken], columns from .. from + taken.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct MaxPool {
    pub items: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub from: usize,
    pub taken: usize,
}

impl MaxPool {
    /// The specialisation: 16 bytes per access where everything is a multiple of that.
    pub fn choose(&self) -> (&'static str, usize) {
        let in_vectors = [self.channels, self.from, self.taken].iter().all(|count| count % 8 == 0);
        if in_vectors { ("max_pool_8", 8) } else { ("max_pool_1", 1) }
    }

    /// Launches it; x and y bf16.
    ///
    /// # Errors
    /// Odd maps, columns that are not there, buffers that are too small, and those of [`Runtime::launch`].
    pub fn launch(&self, runtime: &Runtime, x: &Buffer, y: &Buffer) -> Result<()> {
        let Self {
            items,
            height,
            width,
            channels,
            from,
            taken,
        } = *self;
        let problem = format!("items {items} height {height} width {width} channels {channels}, {taken} from {from}");
        let has_columns = from.checked_add(taken).is_some_and(|end| end <= channels);
        ensure!(
            height % 2 == 0 && width % 2 == 0 && has_columns,
            "max_pool ({problem}): odd, or columns that are not there"
        );
        super::check_bytes(&problem, "x", x, &[items, height, width, channels, 2])?;
        super::check_bytes(&problem, "y", y, &[items, height / 2, width / 2, taken, 2])?;
        let (entry, vector) = self.choose();
        let pixels = items * (height / 2) * (width / 2);
        if pixels * taken == 0 {
            return Ok(());
        }
        let arguments = Arguments::new()
            .pointer(x.pointer())
            .pointer(y.pointer())
            .int(super::int(&problem, pixels)?)
            .int(super::int(&problem, width / 2)?)
            .int(super::int(&problem, channels)?)
            .int(super::int(&problem, from)?)
            .int(super::int(&problem, taken)?);
        let blocks = u32::try_from((pixels * (taken / vector)).div_ceil(THREADS))?;
        let shape = Shape {
            blocks: [blocks, 1, 1],
            threads: THREADS as u32,
            shared_bytes: 0,
        };
        let values = (pixels * taken) as f64;
        runtime.launch(
            entry,
            shape,
            arguments,
            &problem,
            Work {
                flops: 3.0 * values,
                bytes: 10.0 * values,
            },
        )
    }
}
