//! Launching `add_rows`: x\[r\] += y\[r mod rows of y\], for all rows or those of items whose flag is 0.

use super::arena::Buffer;
use super::driver::Arguments;
use super::launch::{Runtime, Work};
use anyhow::{Result, ensure};

/// x [rows, channels] += y [added, channels], repeated.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct AddRows {
    pub rows: usize,
    pub channels: usize,
    /// Rows of y.
    pub added: usize,
    /// Whether y is f32 rather than bf16.
    pub wide: bool,
    /// Bytes of the buffer before x.
    pub at: usize,
}

/// Which rows are added to.
#[derive(Clone, Copy)]
pub enum Where<'a> {
    /// All.
    All,
    /// Those of items of this many rows whose flag, an int, is 0.
    Unflagged(&'a Buffer, usize),
}

impl AddRows {
    /// The specialisation: 16 bytes per access where rows are multiples of that.
    pub fn choose(&self) -> (&'static str, usize) {
        match (self.channels.is_multiple_of(8) && self.at.is_multiple_of(16), self.wide) {
            (true, false) => ("add_rows_8", 8),
            (true, true) => ("add_rows_wide_8", 8),
            (false, false) => ("add_rows_1", 1),
            (false, true) => ("add_rows_wide_1", 1),
        }
    }

    /// Launches it; x bf16, apart from y.
    ///
    /// # Errors
    /// No row to add, rows that are no whole items, buffers that are too small, and those of [`Runtime::launch`].
    pub fn launch(&self, runtime: &Runtime, x: &Buffer, y: &Buffer, which: Where) -> Result<()> {
        let Self {
            rows,
            channels,
            added,
            wide,
            at,
        } = *self;
        let problem = format!("rows {rows} channels {channels} added {added} wide {wide}");
        ensure!(added > 0, "add_rows ({problem}): no row to add");
        super::check_from(&problem, "x", x, at, &[rows, channels, 2])?;
        super::check_bytes(&problem, "y", y, &[added, channels, if wide { 4 } else { 2 }])?;
        let (flags, item_rows) = match which {
            Where::All => (None, 1),
            Where::Unflagged(flags, item_rows) => {
                ensure!(
                    item_rows > 0 && rows % item_rows == 0,
                    "add_rows ({problem}): no whole items of {item_rows} rows"
                );
                super::check_bytes(&problem, "flags", flags, &[rows / item_rows, 4])?;
                (Some(flags.pointer()), item_rows)
            }
        };
        let (entry, vector) = self.choose();
        let arguments = Arguments::new()
            .pointer(x.pointer().offset(at))
            .pointer(y.pointer())
            .optional(flags)
            .int(super::int(&problem, rows)?)
            .int(super::int(&problem, channels)?)
            .int(super::int(&problem, added)?)
            .int(super::int(&problem, item_rows)?);
        let values = (rows * channels) as f64;
        let work = Work {
            flops: values,
            bytes: 4.0 * values + (added * channels * if wide { 4 } else { 2 }) as f64,
        };
        super::launch_threads(runtime, entry, rows * (channels / vector), arguments, &problem, work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_in_eights_are_added_in_vectors() {
        let add = AddRows {
            rows: 1,
            channels: 256,
            added: 1,
            wide: false,
            at: 32,
        };
        assert_eq!(add.choose(), ("add_rows_8", 8));
        assert_eq!(AddRows { wide: true, ..add }.choose(), ("add_rows_wide_8", 8));
        assert_eq!(AddRows { channels: 7, ..add }.choose(), ("add_rows_1", 1));
        assert_eq!(AddRows { at: 2, wide: true, ..add }.choose(), ("add_rows_wide_1", 1));
    }
}
