//! Launching `ensemble`: runs' probabilities of slices added to integer sums, the twin of [`crate::ops::ensemble`].

use super::arena::Buffer;
use super::driver::{Arguments, Shape};
use super::launch::{Runtime, Work};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;

/// Threads of a block; THREADS in kernels/ensemble.cu.
const THREADS: usize = 256;

/// Planes of logits of size `input` into sums and votes [slices, height, width] of size `output` = (height, width).
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Ensemble {
    pub slices: usize,
    pub input: (usize, usize),
    pub output: (usize, usize),
}

/// Which planes go into which slices, as the kernel reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    /// To be uploaded: (slice, first, end) of each group, then where each plane begins.
    pub list: Vec<i32>,
    /// Slices that are added to.
    pub groups: usize,
    /// Planes that are added.
    pub pairs: usize,
}

impl Ensemble {
    /// The specialisation: 16 bytes per access where rows are multiples of that.
    pub fn choose(&self) -> (&'static str, usize) {
        match self.output.1 % 4 {
            0 => ("ensemble_4", 4),
            _ => ("ensemble_1", 1),
        }
    }

    /// Groups `pairs` of (value at which a plane begins in a buffer of `values` logits, slice) by slice: no two threads then add to one pixel.
    ///
    /// # Errors
    /// Planes or slices that are not there.
    pub fn groups(&self, pairs: &[(usize, usize)], values: usize) -> Result<Groups> {
        let mut slices: BTreeMap<usize, Vec<i32>> = BTreeMap::new();
        for &(offset, slice) in pairs {
            let ends_inside = offset.checked_add(self.input.0 * self.input.1).is_some_and(|end| end <= values);
            ensure!(
                ends_inside && slice < self.slices,
                "ensemble: a plane at {offset} of {values} logits into slice {slice} of {self:?}"
            );
            let offset = i32::try_from(offset).with_context(|| format!("ensemble: logits at {offset} are beyond what an int can count"))?;
            slices.entry(slice).or_default().push(offset);
        }
        let mut list = Vec::with_capacity(3 * slices.len() + pairs.len());
        let mut first = 0;
        for (slice, planes) in &slices {
            for number in [*slice, first, first + planes.len()] {
                list.push(i32::try_from(number)?);
            }
            first += planes.len();
        }
        list.extend(slices.values().flatten());
        Ok(Groups {
            list,
            groups: slices.len(),
            pairs: pairs.len(),
        })
    }

    /// Launches it: logits f32, `list` as uploaded from `groups.list`, sum u32 in units of 2^-24, votes u16, at most 255 runs in all.
    ///
    /// # Errors
    /// Planes without pixels or above 2^24 a side, buffers that are too small, and those of [`Runtime::launch`].
    pub fn launch(&self, runtime: &Runtime, logits: &Buffer, groups: &Groups, list: &Buffer, sum: &Buffer, votes: &Buffer) -> Result<()> {
        let Self { slices, input, output } = *self;
        let problem = format!("slices {} planes {} from {input:?} to {output:?}", groups.groups, groups.pairs);
        super::check_planes(&problem, input, output)?;
        super::check_bytes(&problem, "logits", logits, &[input.0, input.1, 4])?;
        super::check_bytes(&problem, "list", list, &[groups.list.len(), 4])?;
        super::check_bytes(&problem, "sum", sum, &[slices, output.0, output.1, 4])?;
        super::check_bytes(&problem, "votes", votes, &[slices, output.0, output.1, 2])?;
        if groups.groups == 0 {
            return Ok(());
        }
        let (entry, vector) = self.choose();
        let pixels = output.0 * output.1;
        super::int(&problem, pixels)?;
        let arguments = Arguments::new()
            .pointer(logits.pointer())
            .pointer(list.pointer())
            .pointer(sum.pointer())
            .pointer(votes.pointer())
            .int(super::int(&problem, groups.groups)?)
            .int(super::int(&problem, input.0)?)
            .int(super::int(&problem, input.1)?)
            .int(super::int(&problem, output.0)?)
            .int(super::int(&problem, output.1)?)
            .float(input.0 as f32 / output.0 as f32)
            .float(input.1 as f32 / output.1 as f32);
        let shape = Shape {
            blocks: [(pixels / vector).div_ceil(THREADS) as u32, u32::try_from(groups.groups)?, 1],
            threads: THREADS as u32,
            shared_bytes: 0,
        };
        let work = Work {
            flops: 32.0 * (groups.pairs * pixels) as f64,
            bytes: (12 * groups.groups * pixels + 4 * groups.pairs * input.0 * input.1) as f64,
        };
        runtime.launch(entry, shape, arguments, &problem, work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLANES: Ensemble = Ensemble {
        slices: 9,
        input: (2, 3),
        output: (5, 8),
    };

    #[test]
    fn planes_of_one_slice_are_one_group() {
        let groups = PLANES.groups(&[(12, 7), (0, 3), (6, 7)], 18).unwrap();
        assert_eq!((groups.groups, groups.pairs), (2, 3));
        assert_eq!(groups.list, [3, 0, 1, 7, 1, 3, 0, 12, 6]);
    }

    #[test]
    fn planes_and_slices_that_are_not_there_are_refused() {
        assert!(PLANES.groups(&[(13, 0)], 18).is_err());
        assert!(PLANES.groups(&[(0, 9)], 18).is_err());
    }

    #[test]
    fn widths_in_fours_are_added_in_vectors() {
        assert_eq!(PLANES.choose(), ("ensemble_4", 4));
        assert_eq!(Ensemble { output: (8, 6), ..PLANES }.choose(), ("ensemble_1", 1));
    }
}
