//! Launching `take`: a class whose runs are done goes into the result, the twin of `Ensemble::take` of `src/tffs/ensemble.rs`.

use super::arena::Buffer;
use super::driver::{Arguments, Shape};
use super::launch::{Runtime, Work};
use anyhow::{Result, ensure};

/// Threads of a block; THREADS in kernels/take.cu.
const THREADS: usize = 256;
/// Voxels of a block; CHUNK of kernels/specialisations.csv.
const CHUNK: usize = 4096;
/// Runs whose votes a block can add up in 32 bits; the most a sum of probabilities can hold, too.
const MAX_RUNS: usize = 255;

/// A class of `runs` runs, with this label, and what its probability must exceed: 0 or more.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Take {
    pub voxels: usize,
    pub runs: usize,
    pub class: u8,
    pub threshold: f32,
}

/// The result in the making, `[voxels]` each.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct Labels<'a> {
    /// f32; 0 to begin with.
    pub best: &'a Buffer,
    /// u8; 0 to begin with.
    pub label: &'a Buffer,
    /// f32; 0 to begin with.
    pub uncertainty: &'a Buffer,
}

impl Take {
    fn blocks(&self) -> usize {
        self.voxels.div_ceil(CHUNK)
    }

    /// Bytes of the sums that blocks leave.
    pub fn partial_bytes(&self) -> usize {
        8 * self.blocks()
    }

    /// Launches it: sum `[voxels]` u32, votes `[voxels]` u16, at most `runs` each; the mean probabilities go to a f32 buffer from a byte on, if one is given;
    /// what [`Take::votes`] needs goes to `partial`.
    ///
    /// # Errors
    /// More runs than sums hold, buffers that are too small, and those of [`Runtime::launch`].
    pub fn launch(
        &self,
        runtime: &Runtime,
        (sum, votes): (&Buffer, &Buffer),
        result: Labels,
        mean: Option<(&Buffer, usize)>,
        partial: &Buffer,
    ) -> Result<()> {
        let Self {
            voxels,
            runs,
            class,
            threshold,
        } = *self;
        let problem = format!("voxels {voxels} runs {runs} class {class}");
        ensure!(runs <= MAX_RUNS, "take ({problem}): at most {MAX_RUNS} runs");
        super::check_bytes(&problem, "sum", sum, &[voxels, 4])?;
        super::check_bytes(&problem, "votes", votes, &[voxels, 2])?;
        super::check_bytes(&problem, "best", result.best, &[voxels, 4])?;
        super::check_bytes(&problem, "label", result.label, &[voxels])?;
        super::check_bytes(&problem, "uncertainty", result.uncertainty, &[voxels, 4])?;
        super::check_bytes(&problem, "partial", partial, &[self.partial_bytes()])?;
        if let Some((mean, at)) = mean {
            super::check_from(&problem, "mean", mean, at, &[voxels, 4])?;
            ensure!(at % 16 == 0, "take ({problem}): mean at byte {at}, which is no multiple of 16");
        }
        if voxels == 0 {
            return Ok(());
        }
        let arguments = Arguments::new()
            .pointer(sum.pointer())
            .pointer(votes.pointer())
            .pointer(result.best.pointer())
            .pointer(result.label.pointer())
            .pointer(result.uncertainty.pointer())
            .optional(mean.map(|(mean, at)| mean.pointer().offset(at)))
            .pointer(partial.pointer())
            .int(super::int(&problem, voxels)?)
            .int(super::int(&problem, runs)?)
            .int(i32::from(class))
            .float(threshold);
        let shape = Shape {
            blocks: [u32::try_from(self.blocks())?, 1, 1],
            threads: THREADS as u32,
            shared_bytes: 0,
        };
        let work = Work {
            flops: 100.0 * voxels as f64,
            bytes: (if mean.is_some() { 28.0 } else { 24.0 }) * voxels as f64,
        };
        runtime.launch("take", shape, arguments, &problem, work)
    }

    /// Sums over voxels of votes (votes - 1) and of votes, from what blocks left, after all work launched so far.
    ///
    /// # Errors
    /// A buffer that is too small; of the driver.
    pub fn votes(&self, partial: &Buffer) -> Result<(u64, u64)> {
        super::check_bytes("votes", "partial", partial, &[self.partial_bytes()])?;
        let bytes = partial.to_vec()?;
        let (words, _) = bytes[..self.partial_bytes()].as_chunks::<8>();
        Ok(words.iter().fold((0, 0), |(shared, all), word| {
            let word = u64::from_le_bytes(*word);
            (shared + (word & 0xffff_ffff), all + (word >> 32))
        }))
    }

    /// Mean Dice over all pairs of runs, pooled: twice the voxels two runs share over the voxels both have. 1 if there is one run or no voxel.
    pub fn agreement(&self, (shared, all): (u64, u64)) -> f64 {
        if self.runs < 2 || all == 0 {
            1.0
        } else {
            shared as f64 / (all * (self.runs as u64 - 1)) as f64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::sources::specialisation;

    #[test]
    fn the_kernel_has_the_chunk_of_the_launcher() {
        assert_eq!(specialisation("take").unwrap().defines, [format!("CHUNK={CHUNK}")]);
        const { assert!(CHUNK * MAX_RUNS * MAX_RUNS < 1 << 32) };
    }

    #[test]
    fn runs_that_all_vote_alike_agree() {
        let take = Take {
            voxels: 1,
            runs: 3,
            class: 1,
            threshold: 0.5,
        };
        assert!((take.agreement((6, 3)) - 1.0).abs() < f64::EPSILON);
        assert!((take.agreement((0, 3)) - 0.0).abs() < f64::EPSILON);
        assert!((take.agreement((0, 0)) - 1.0).abs() < f64::EPSILON);
    }
}
