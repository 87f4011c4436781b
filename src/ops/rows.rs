//! `rows`: moving rows about, and adding to them: what stands between the other ops.
//!
//! Shapes: an item is a fixed number of consecutive rows; x [items * rows, C]. Bound by memory: each byte is read once and written once.

use super::Cost;
use crate::cuda::add_rows::{AddRows, Where};
use crate::cuda::copy_rows;
use crate::tensor::{Dtype, Parameter, Tensor};
use anyhow::Result;
use rayon::prelude::*;

/// Items number `index` of x, one after the other: [index.len() * rows, C], an item being `rows` rows.
///
/// # Errors
/// Those of a CUDA device.
pub fn gather(x: &Tensor, rows: usize, index: &[usize]) -> Result<Tensor> {
    let items = x.rows() / rows.max(1);
    assert!(
        x.rows() == items * rows && index.iter().all(|&i| i < items),
        "gather: items {index:?} of {rows} rows of {x:?}"
    );
    let len = rows * x.width();
    let mut y = Tensor::of(x.device(), &[index.len() * rows, x.width()], x.dtype())?;
    if let Some(cuda) = x.device().cuda() {
        let problem = copy_rows::Gather {
            items: index.len(),
            item_bytes: len * x.dtype().bytes(),
            sources: items,
        };
        let index = super::list(cuda, index.iter().copied())?;
        problem.launch(&cuda.runtime, x.buffer(), &index, y.buffer())?;
        return Ok(y);
    }
    let values = x.values();
    y.values_mut()
        .par_chunks_exact_mut(len.max(1))
        .zip(index)
        .for_each(|(out, item)| out.copy_from_slice(&values[item * len..][..len]));
    Ok(y)
}

/// Copies x over the rows of y from row `first` on.
///
/// # Errors
/// Those of a CUDA device.
pub fn put(y: &mut Tensor, first: usize, x: &Tensor) -> Result<()> {
    assert!(
        x.width() == y.width() && x.dtype() == y.dtype() && first + x.rows() <= y.rows(),
        "put: {x:?} from row {first} of {y:?}"
    );
    if y.device().cuda().is_some() {
        let row = y.width() * y.dtype().bytes();
        return y.buffer().copy_from(first * row, x.buffer(), 0, x.rows() * row);
    }
    let width = y.width();
    y.values_mut()[first * width..][..x.len()].copy_from_slice(x.values());
    Ok(())
}

/// y`[r]` += x[r mod rows of x].
///
/// # Errors
/// Those of a CUDA device.
pub fn add(y: &mut Tensor, x: &Tensor) -> Result<()> {
    assert!(
        x.width() == y.width() && x.rows() > 0 && y.rows().is_multiple_of(x.rows()),
        "add: {x:?} to {y:?}"
    );
    if let Some(cuda) = y.device().cuda() {
        let problem = AddRows {
            rows: y.rows(),
            channels: y.width(),
            added: x.rows(),
            wide: x.dtype() == Dtype::F32,
            at: 0,
        };
        return problem.launch(&cuda.runtime, y.buffer(), x.buffer(), Where::All);
    }
    let values = x.values();
    for chunk in y.values_mut().chunks_exact_mut(values.len()) {
        for (value, add) in chunk.iter_mut().zip(values) {
            *value += add;
        }
    }
    Ok(())
}

/// Adds `vector` to every row of the items whose flag is not set, y having as many items as there are flags.
///
/// # Errors
/// Those of a CUDA device.
pub fn add_unless(y: &mut Tensor, flags: &[bool], vector: &Parameter) -> Result<()> {
    assert!(
        vector.len() == y.width() && !flags.is_empty() && y.rows().is_multiple_of(flags.len()),
        "add_unless: {} values to {} items of {y:?}",
        vector.len(),
        flags.len()
    );
    if flags.iter().all(|&flag| flag) {
        return Ok(());
    }
    if let Some(cuda) = y.device().cuda() {
        let problem = AddRows {
            rows: y.rows(),
            channels: y.width(),
            added: 1,
            wide: true,
            at: 0,
        };
        let list = super::list(cuda, flags.iter().map(|&flag| usize::from(flag)))?;
        let unflagged = Where::Unflagged(&list, y.rows() / flags.len());
        return problem.launch(&cuda.runtime, y.buffer(), vector.buffer(), unflagged);
    }
    let len = y.len() / flags.len();
    for (chunk, _) in y.values_mut().chunks_exact_mut(len).zip(flags).filter(|(_, flag)| !**flag) {
        for row in chunk.chunks_exact_mut(vector.len()) {
            for (value, add) in row.iter_mut().zip(vector.iter()) {
                *value += add;
            }
        }
    }
    Ok(())
}

/// One item of rows to be put into every `slots`-th row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// Item of x.
    pub from: usize,
    /// Ring of y.
    pub ring: usize,
    /// Slot of that ring.
    pub slot: usize,
}

/// Puts items [P, C] of x [items * P, C] into slots of rings: y [rings, P, slots, C].
///
/// # Errors
/// Those of a CUDA device.
pub fn put_slots(y: &mut Tensor, x: &Tensor, puts: &[Put]) -> Result<()> {
    let &[rings, positions, slots, width] = y.shape() else {
        panic!("put_slots: {y:?} is not [rings, P, slots, C]");
    };
    let items = x.rows() / positions.max(1);
    assert!(
        x.width() == width
            && x.rows() == items * positions
            && puts.iter().all(|put| put.from < items && put.ring < rings && put.slot < slots),
        "put_slots: {puts:?} from {x:?} to {y:?}"
    );
    if let Some(cuda) = y.device().cuda() {
        let ring = ring_of(y);
        let to = |put: &Put| copy_rows::Put {
            source: put.from,
            ring: put.ring * ring.bytes(),
            slot: put.slot,
        };
        let list = ring.list(&puts.iter().map(to).collect::<Vec<_>>(), items, y.buffer().bytes())?;
        let on_device = cuda.arena.filled(bytemuck::cast_slice(&list))?;
        return ring.put(&cuda.runtime, x.buffer(), &on_device, puts.len(), y.buffer());
    }
    let values = x.values();
    for put in puts {
        let ring = &mut y.values_mut()[put.ring * positions * slots * width..][..positions * slots * width];
        let item = &values[put.from * positions * width..][..positions * width];
        for (row, token) in ring.chunks_exact_mut(slots * width).zip(item.chunks_exact(width)) {
            row[put.slot * width..][..width].copy_from_slice(token);
        }
    }
    Ok(())
}

/// Copies slot `from` of a ring over its slot `to`.
///
/// # Errors
/// Those of a CUDA device.
pub fn move_slot(y: &mut Tensor, ring: usize, from: usize, to: usize) -> Result<()> {
    let &[rings, positions, slots, width] = y.shape() else {
        panic!("move_slot: {y:?} is not [rings, P, slots, C]");
    };
    assert!(
        ring < rings && from < slots && to < slots,
        "move_slot: {from} to {to} of ring {ring} of {y:?}"
    );
    if let Some(cuda) = y.device().cuda() {
        let of = ring_of(y);
        let list = of.over_list(&[(ring * of.bytes(), from, to)], y.buffer().bytes())?;
        return of.over(&cuda.runtime, y.buffer(), &cuda.arena.filled(bytemuck::cast_slice(&list))?, 1);
    }
    let ring = &mut y.values_mut()[ring * positions * slots * width..][..positions * slots * width];
    for row in ring.chunks_exact_mut(slots * width) {
        row.copy_within(from * width..(from + 1) * width, to * width);
    }
    Ok(())
}

/// Rings [rings, P, slots, C] as bytes.
fn ring_of(y: &Tensor) -> copy_rows::Ring {
    copy_rows::Ring {
        places: y.shape()[1],
        slots: y.shape()[2],
        piece_bytes: y.width() * y.dtype().bytes(),
    }
}

/// Rounds every value to bf16, nearest even; on a CUDA device they are already.
pub fn round_bf16(y: &mut Tensor) {
    if y.device().cuda().is_none() {
        y.values_mut()
            .par_iter_mut()
            .with_min_len(4096)
            .for_each(|value| *value = half::bf16::from_f32(*value).to_f32());
    }
}

/// Cost of moving `values` values.
pub fn cost(values: usize) -> Cost {
    Cost {
        flops: 0.0,
        bytes: 8.0 * values as f64,
    }
}
