//! What lanes attend to, and its table on the device (kernels/memory.cuh).

use super::super::arena::Buffer;
use super::super::driver::DevicePointer;
use super::tables::KeyTables;
use anyhow::{Context, Result, ensure};

/// Bytes of a lane in the table: `Memory` in kernels/memory.cuh.
pub(super) const BYTES: usize = 72;

/// A buffer from this byte on.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct Part<'a> {
    pub buffer: &'a Buffer,
    pub offset: usize,
}

impl<'a> Part<'a> {
    /// The whole buffer.
    pub fn whole(buffer: &'a Buffer) -> Self {
        Self { buffer, offset: 0 }
    }

    /// Where it begins, if the product of `sizes` bytes are there and 16-byte accesses are aligned.
    pub(super) fn pointer(&self, problem: &str, name: &str, sizes: &[usize]) -> Result<DevicePointer> {
        let needed = sizes.iter().try_fold(1_usize, |product, size| product.checked_mul(*size));
        let end = needed.and_then(|needed| needed.checked_add(self.offset));
        ensure!(
            end.is_some_and(|end| end <= self.buffer.bytes()) && self.offset.is_multiple_of(16),
            "{problem}: {name} of {sizes:?} bytes at {} (a multiple of 16) in a buffer of {}",
            self.offset,
            self.buffer.bytes()
        );
        Ok(self.buffer.pointer().offset(self.offset))
    }
}

/// Tokens of several slices, position by position: [P, slots, M] bf16, of which the first `times.len()` slots are used.
#[derive(Clone, Copy)]
pub struct Slices<'a> {
    /// The tokens, unprojected, without any position; needed where a slot is used.
    pub tokens: Option<Part<'a>>,
    /// Slices there is room for.
    pub slots: usize,
    /// Temporal index of each used slice.
    pub times: &'a [usize],
}

impl Slices<'_> {
    /// No slice.
    pub const NONE: Self = Slices {
        tokens: None,
        slots: 0,
        times: &[],
    };
}

/// What one lane attends to; magnitudes of tokens and keys below 65504.
#[derive(Clone, Copy)]
pub struct Memory<'a> {
    /// Conditioning slices, shared by the lanes of a support.
    pub conditioning: Slices<'a>,
    /// The lane's own recent slices.
    pub recent: Slices<'a>,
    /// Number of object pointer tokens.
    pub pointers: usize,
    /// Their keys [pointers, M] bf16, positions included; needed where there are any.
    pub pointer_keys: Option<Part<'a>>,
    /// Their values [pointers, M] bf16.
    pub pointer_values: Option<Part<'a>>,
    /// A state to go on from, instead of an empty one: [`KeyTables::state_bytes`].
    pub start: Option<Part<'a>>,
}

impl Memory<'_> {
    /// Tokens attended to on a grid of so many positions.
    pub fn tokens(&self, positions: usize) -> usize {
        positions * (self.conditioning.times.len() + self.recent.times.len()) + self.pointers
    }

    pub(super) fn check(&self, keys: &KeyTables, problem: &str) -> Result<()> {
        for set in [&self.conditioning, &self.recent] {
            ensure!(
                set.times.len() <= set.slots && set.times.iter().all(|time| *time < keys.times),
                "{problem}: {} slices in {} slots, of {} temporal indices",
                set.times.len(),
                set.slots,
                keys.times
            );
        }
        ensure!(
            self.start.is_some() || self.tokens(keys.positions()) > 0,
            "{problem}: a lane without any token; give it conditioning slices, pointers or a state"
        );
        super::super::int(problem, self.tokens(keys.positions())).map(|_| ())
    }
}

/// The table of lanes and that of their temporal indices.
pub(super) fn table(keys: &KeyTables, lanes: &[Memory<'_>], problem: &str) -> Result<(Vec<u8>, Vec<u8>)> {
    let (positions, m) = (keys.positions(), keys.m);
    let (mut rows, mut times) = (Vec::with_capacity(lanes.len() * BYTES), Vec::new());
    for memory in lanes {
        let tokens = |name: &str, set: &Slices<'_>| match set.times.len() {
            0 => Ok(0),
            _ => pointer(set.tokens, problem, name, &[positions, set.slots, m, 2]),
        };
        let pointers = |name: &str, part| match memory.pointers {
            0 => Ok(0),
            count => pointer(part, problem, name, &[count, m, 2]),
        };
        let start = match memory.start {
            None => 0,
            start => pointer(start, problem, "state", &[keys.state_bytes()])?,
        };
        let addresses = [
            tokens("conditioning tokens", &memory.conditioning)?,
            tokens("recent tokens", &memory.recent)?,
            pointers("pointer keys", memory.pointer_keys)?,
            pointers("pointer values", memory.pointer_values)?,
            start,
        ];
        let parts = super::parts(keys.path, memory.tokens(positions), (keys.height, keys.width));
        let sizes = [
            memory.conditioning.times.len(),
            memory.conditioning.slots,
            memory.recent.times.len(),
            memory.recent.slots,
            memory.pointers,
            times.len() / 4,
            parts,
            0,
        ];
        rows.extend(addresses.iter().flat_map(|address| address.to_le_bytes()));
        for size in sizes {
            rows.extend(super::super::int(problem, size)?.to_le_bytes());
        }
        for time in memory.conditioning.times.iter().chain(memory.recent.times) {
            times.extend(super::super::int(problem, *time)?.to_le_bytes());
        }
    }
    Ok((rows, times))
}

/// The address of a part that must be there.
fn pointer(part: Option<Part<'_>>, problem: &str, name: &str, sizes: &[usize]) -> Result<u64> {
    let part = part.with_context(|| format!("{problem}: {name} are used, but there is no buffer of them"))?;
    Ok(part.pointer(problem, name, sizes)?.raw())
}
