//! Launching `rope`: axial rotary position on some columns of rows, in place, the twin of [`crate::ops::rope`].

use super::arena::Buffer;
use super::driver::Arguments;
use super::launch::{Runtime, Work};
use anyhow::{Result, ensure};

/// Columns `from .. from + turned` of x [items * height * width, channels] turn by their row's place on the grid.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Rope {
    pub items: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub from: usize,
    pub turned: usize,
    /// Bytes of the buffer before x.
    pub at: usize,
}

impl Rope {
    /// The specialisation: 16 bytes per access where everything is a multiple of that, else one pair.
    pub fn choose(&self) -> (&'static str, usize) {
        let in_vectors =
            self.channels.is_multiple_of(8) && self.from.is_multiple_of(8) && self.turned.is_multiple_of(16) && self.at.is_multiple_of(16);
        if in_vectors { ("rope_8", 8) } else { ("rope_2", 2) }
    }

    /// Launches it: x bf16; cos, sin [max(height, width), turned / 4] f32, those of the op's `Rope`.
    ///
    /// # Errors
    /// Columns that are not there or not in fours, buffers that are too small, and those of [`Runtime::launch`].
    pub fn launch(&self, runtime: &Runtime, x: &Buffer, cos: &Buffer, sin: &Buffer) -> Result<()> {
        let Self {
            items,
            height,
            width,
            channels,
            from,
            turned,
            at,
        } = *self;
        let problem = format!("items {items} height {height} width {width} channels {channels}, {turned} from {from}");
        let has_columns = from.checked_add(turned).is_some_and(|end| end <= channels);
        ensure!(
            has_columns && turned % 4 == 0,
            "rope ({problem}): columns that are not there, or not in fours"
        );
        super::check_from(&problem, "x", x, at, &[items, height, width, channels, 2])?;
        for (name, table) in [("cos", cos), ("sin", sin)] {
            super::check_bytes(&problem, name, table, &[height.max(width), turned / 4, 4])?;
        }
        let (entry, vector) = self.choose();
        let rows = items * height * width;
        let arguments = Arguments::new()
            .pointer(x.pointer().offset(at))
            .pointer(cos.pointer())
            .pointer(sin.pointer())
            .int(super::int(&problem, rows)?)
            .int(super::int(&problem, height)?)
            .int(super::int(&problem, width)?)
            .int(super::int(&problem, channels)?)
            .int(super::int(&problem, from)?)
            .int(super::int(&problem, turned)?);
        let values = (rows * turned) as f64;
        let work = Work {
            flops: 3.0 * values,
            bytes: 4.0 * values,
        };
        super::launch_threads(runtime, entry, rows * (turned / vector), arguments, &problem, work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_in_sixteens_at_a_multiple_of_eight_turn_in_vectors() {
        let rope = Rope {
            items: 1,
            height: 1,
            width: 1,
            channels: 768,
            from: 256,
            turned: 256,
            at: 0,
        };
        assert_eq!(rope.choose(), ("rope_8", 8));
        assert_eq!(Rope { turned: 24, ..rope }.choose(), ("rope_2", 2));
        assert_eq!(Rope { from: 4, ..rope }.choose(), ("rope_2", 2));
        assert_eq!(Rope { channels: 770, ..rope }.choose(), ("rope_2", 2));
        assert_eq!(Rope { at: 8, ..rope }.choose(), ("rope_2", 2));
    }
}
