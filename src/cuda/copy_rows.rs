//! Launching `copy_rows`: items gathered by a list, tokens put into slots of rings, a slot copied over another; bytes, whatever they mean.

use super::arena::Buffer;
use super::driver::Arguments;
use super::launch::{Runtime, Work};
use anyhow::{Context, Result, ensure};

/// y\[i\] = x\[index\[i\]\], items of `item_bytes`.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Gather {
    pub items: usize,
    pub item_bytes: usize,
    /// Items that x holds.
    pub sources: usize,
}

/// Rings of slots: `places` rows of `slots` pieces of `piece_bytes`; tokens [places, piece] go into one slot of all rows.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Ring {
    pub places: usize,
    pub slots: usize,
    pub piece_bytes: usize,
}

/// Where one item's tokens go: item `source` of a buffer [items, places, piece] into `slot` of the ring that begins at byte `ring` of the rings' buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Put {
    pub source: usize,
    pub ring: usize,
    pub slot: usize,
}

/// Bytes per access for pieces of this many bytes: 16, or 2.
///
/// # Errors
/// An odd number of bytes.
pub fn choose(bytes: usize) -> Result<usize> {
    ensure!(
        bytes.is_multiple_of(2),
        "copy_rows: pieces of {bytes} bytes; they must be of whole bf16 values"
    );
    Ok(if bytes.is_multiple_of(16) { 16 } else { 2 })
}

/// What the kernel is told, in units.
struct Strides {
    entries: usize,
    pieces: usize,
    units: usize,
    from_item: usize,
    from_stride: usize,
    to_item: usize,
    to_stride: usize,
}

fn launch(runtime: &Runtime, entry: &str, problem: &str, unit: usize, buffers: [&Buffer; 3], strides: &Strides) -> Result<()> {
    let [x, y, list] = buffers.map(Buffer::pointer);
    let numbers = [
        strides.entries,
        strides.pieces,
        strides.units,
        strides.from_item,
        strides.from_stride,
        strides.to_item,
        strides.to_stride,
    ];
    let mut arguments = Arguments::new().pointer(x).pointer(y).pointer(list);
    for number in numbers {
        arguments = arguments.int(super::int(problem, number)?);
    }
    let units = strides.entries * strides.pieces * strides.units;
    let work = Work {
        flops: 0.0,
        bytes: 2.0 * (units * unit) as f64,
    };
    super::launch_threads(runtime, entry, units, arguments, problem, work)
}

impl Gather {
    /// Launches it: x [sources, item], index `[items]` int, each below `sources` (the caller's word: it is on the device), y [items, item], apart from x.
    ///
    /// # Errors
    /// Items of odd bytes, buffers that are too small, and those of [`Runtime::launch`].
    pub fn launch(&self, runtime: &Runtime, x: &Buffer, index: &Buffer, y: &Buffer) -> Result<()> {
        let Self {
            items,
            item_bytes,
            sources,
        } = *self;
        let problem = format!("items {items} of {item_bytes} bytes from {sources}");
        let unit = choose(item_bytes)?;
        super::check_bytes(&problem, "x", x, &[sources, item_bytes])?;
        super::check_bytes(&problem, "index", index, &[items, 4])?;
        super::check_bytes(&problem, "y", y, &[items, item_bytes])?;
        let units = item_bytes / unit;
        let strides = Strides {
            entries: items,
            pieces: 1,
            units,
            from_item: units,
            from_stride: 0,
            to_item: units,
            to_stride: 0,
        };
        let entry = if unit == 16 { "copy_rows_gather_16" } else { "copy_rows_gather_2" };
        launch(runtime, entry, &problem, unit, [x, y, index], &strides)
    }
}

impl Ring {
    /// Bytes of one ring.
    pub fn bytes(&self) -> usize {
        self.places * self.slots * self.piece_bytes
    }

    /// The list for [`Ring::put`] of tokens of `sources` items into a buffer of `rings_bytes`, to be uploaded.
    ///
    /// # Errors
    /// Items, rings or slots that are not there, a slot that is put twice, pieces of odd bytes.
    pub fn list(&self, puts: &[Put], sources: usize, rings_bytes: usize) -> Result<Vec<i32>> {
        let unit = choose(self.piece_bytes)?;
        let mut goals: Vec<(usize, usize)> = puts.iter().map(|put| (put.ring, put.slot)).collect();
        goals.sort_unstable();
        ensure!(
            goals.windows(2).all(|pair| pair[0] != pair[1]),
            "copy_rows: a slot of a ring is put twice in {puts:?}"
        );
        let mut list = Vec::with_capacity(2 * puts.len());
        for put in puts {
            let ends_inside = put.ring.checked_add(self.bytes()).is_some_and(|end| end <= rings_bytes);
            ensure!(
                put.source < sources && put.slot < self.slots && put.ring % unit == 0 && ends_inside,
                "copy_rows: {put:?} of {sources} items into rings {self:?} of {rings_bytes} bytes in all"
            );
            let numbers = [put.source * self.places * self.piece_bytes, put.ring + put.slot * self.piece_bytes];
            for bytes in numbers {
                list.push(i32::try_from(bytes / unit).with_context(|| format!("copy_rows: {put:?} is beyond what an int can count"))?);
            }
        }
        Ok(list)
    }

    /// Puts tokens of items [sources, places, piece] where `list`, uploaded from [`Ring::list`], says.
    ///
    /// # Errors
    /// A list that is too small, and those of [`Runtime::launch`].
    pub fn put(&self, runtime: &Runtime, tokens: &Buffer, list: &Buffer, puts: usize, rings: &Buffer) -> Result<()> {
        let problem = format!(
            "puts {puts} places {} slots {} of {} bytes",
            self.places, self.slots, self.piece_bytes
        );
        super::check_bytes(&problem, "list", list, &[puts, 2, 4])?;
        self.copy(runtime, &problem, [tokens, rings, list], puts, 1)
    }

    /// The list for [`Ring::over`]: slot `from` over slot `to` of the ring that begins at byte `ring` of a buffer of `rings_bytes`, to be uploaded.
    ///
    /// # Errors
    /// As [`Ring::list`]; a slot over itself.
    pub fn over_list(&self, copies: &[(usize, usize, usize)], rings_bytes: usize) -> Result<Vec<i32>> {
        let unit = choose(self.piece_bytes)?;
        let put = |&(ring, _, to): &(usize, usize, usize)| Put { source: 0, ring, slot: to };
        let mut list = self.list(&copies.iter().map(put).collect::<Vec<_>>(), 1, rings_bytes)?;
        for (at, &(ring, from, to)) in copies.iter().enumerate() {
            let read_and_written = copies.iter().any(|&(other, _, goal)| (other, goal) == (ring, from));
            ensure!(
                from < self.slots && !read_and_written,
                "copy_rows: slot {from} over {to} of {self:?}: it is not there, or written by the same launch"
            );
            list[2 * at] = i32::try_from((ring + from * self.piece_bytes) / unit)?;
        }
        Ok(list)
    }

    /// Copies slots over others of the same rings, in place, as `list`, uploaded from [`Ring::over_list`], says.
    ///
    /// # Errors
    /// A list that is too small, and those of [`Runtime::launch`].
    pub fn over(&self, runtime: &Runtime, rings: &Buffer, list: &Buffer, copies: usize) -> Result<()> {
        let problem = format!(
            "copies {copies} places {} slots {} of {} bytes",
            self.places, self.slots, self.piece_bytes
        );
        super::check_bytes(&problem, "list", list, &[copies, 2, 4])?;
        self.copy(runtime, &problem, [rings, rings, list], copies, self.slots)
    }

    /// `from_slots`: pieces from one place's to the next one's in the source.
    fn copy(&self, runtime: &Runtime, problem: &str, buffers: [&Buffer; 3], entries: usize, from_slots: usize) -> Result<()> {
        let unit = choose(self.piece_bytes)?;
        let units = self.piece_bytes / unit;
        let strides = Strides {
            entries,
            pieces: self.places,
            units,
            from_item: 0,
            from_stride: from_slots * units,
            to_item: 0,
            to_stride: self.slots * units,
        };
        let entry = if unit == 16 { "copy_rows_16" } else { "copy_rows_2" };
        launch(runtime, entry, problem, unit, buffers, &strides)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RING: Ring = Ring {
        places: 3,
        slots: 4,
        piece_bytes: 32,
    };

    #[test]
    fn a_list_counts_in_units_of_an_access() {
        let put = Put {
            source: 2,
            ring: 384,
            slot: 1,
        };
        assert_eq!(RING.list(&[put], 3, 768).unwrap(), [12, 26]);
        assert_eq!(RING.over_list(&[(384, 3, 0)], 768).unwrap(), [30, 24]);
        assert_eq!(choose(6).unwrap(), 2);
        assert!(choose(7).is_err());
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let put = Put {
            source: 0,
            ring: 0,
            slot: 0,
        };
        let refused = |puts: &[Put]| RING.list(puts, 1, 768).is_err();
        assert!(!refused(&[put]));
        assert!(refused(&[Put { source: 1, ..put }]));
        assert!(refused(&[Put { slot: 4, ..put }]));
        assert!(refused(&[Put { ring: 400, ..put }]) && refused(&[Put { ring: 8, ..put }]));
        assert!(refused(&[put, put]));
        assert!(RING.over_list(&[(0, 1, 1)], 768).is_err() && RING.over_list(&[(0, 4, 1)], 768).is_err());
        assert!(RING.over_list(&[(0, 1, 2), (0, 2, 3)], 768).is_err());
    }
}
