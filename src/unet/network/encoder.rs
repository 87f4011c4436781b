//! The way down, of either family: forward, backward, and what the decoder takes from it.

use super::{Activations, Block, Encoder, Network};
use crate::ops::conv3d::Channels;
use crate::ops::instance_norm::Source;
use crate::tensor::Tensor;
use anyhow::Result;

impl Activations<'_> {
    /// Gives up what a stage left.
    pub(super) fn forget_stage(&mut self, stage: usize) {
        if let Some(blocks) = self.blocks.get_mut(stage) {
            blocks.clear();
        }
        if let Some(units) = self.units.get_mut(stage) {
            units.clear();
        }
    }
}

impl Network {
    /// All stages; without `keeps` only the last output of each stays.
    pub(super) fn encode(&self, a: &mut Activations<'_>, keeps: bool) -> Result<()> {
        match &self.encoder {
            Encoder::Plain(stages) => {
                for (stage, blocks) in stages.iter().enumerate() {
                    a.blocks.push(Vec::new());
                    for (at, &parameters) in blocks.iter().enumerate() {
                        let block = self.block(
                            parameters,
                            &[self.plain_source(a, stages, stage, at)],
                            self.geometry(stage, at == 0),
                        )?;
                        if !keeps && at > 0 {
                            a.blocks[stage][at - 1] = None;
                        }
                        a.blocks[stage].push(Some(block));
                    }
                }
                Ok(())
            }
            Encoder::Residual(stages) => self.encode_residual(stages, a, keeps),
        }
    }

    /// What goes into a block of a plain encoder.
    fn plain_source<'a>(&'a self, a: &'a Activations<'_>, stages: &[Vec<usize>], stage: usize, at: usize) -> Source<'a> {
        match (stage, at) {
            (0, 0) => Source { y: a.image, norm: None },
            (_, 0) => self.encoder_last(stage - 1, a),
            _ => self.source(stages[stage][at - 1], a.blocks[stage][at - 1].as_ref()),
        }
    }

    /// A stage's output.
    pub(super) fn encoder_last<'a>(&'a self, stage: usize, a: &'a Activations<'_>) -> Source<'a> {
        match &self.encoder {
            Encoder::Plain(stages) => {
                let at = stages[stage].len() - 1;
                self.source(stages[stage][at], a.blocks[stage][at].as_ref())
            }
            Encoder::Residual(_) => Self::unit_output(a, stage, a.units[stage].len() - 1),
        }
    }

    /// A stage's gradients, given those of its output: of the next stage's input, and of the decoder's concatenated one. Gives those of the stage's input.
    pub(super) fn encoder_backward(
        &self,
        a: &mut Activations<'_>,
        stage: usize,
        mut users: Vec<Tensor>,
        mut skip: Option<Tensor>,
        gradients: &mut [Option<Vec<f32>>],
    ) -> Result<Vec<Tensor>> {
        let count = match &self.encoder {
            Encoder::Plain(stages) => stages[stage].len(),
            Encoder::Residual(stages) => stages[stage].len(),
        };
        for at in (0..count).rev() {
            let features = self.architecture.features[stage];
            let skip = skip.take();
            let mut of: Vec<Channels<'_>> = users.iter().map(Channels::all).collect();
            of.extend(skip.as_ref().map(|skip| Channels {
                tensor: skip,
                first: skip.width() - features,
                count: features,
            }));
            let d_x = match &self.encoder {
                Encoder::Plain(stages) => {
                    let source = self.plain_source(a, stages, stage, at);
                    let (parameters, block) = (stages[stage][at], a.blocks[stage][at].as_ref());
                    let d_x = self.block_backward(parameters, block, &[source], &of, self.geometry(stage, at == 0), gradients)?;
                    a.blocks[stage][at] = None;
                    d_x.into_iter().collect()
                }
                Encoder::Residual(stages) => self.unit_backward(stages, a, stage, at, &of, gradients)?,
            };
            drop(of);
            users = d_x;
        }
        Ok(users)
    }

    /// The gradients of a residual encoder's stem.
    pub(super) fn stem_backward(&self, a: &mut Activations<'_>, users: &[Tensor], gradients: &mut [Option<Vec<f32>>]) -> Result<()> {
        let Some(stem) = a.stem.take() else { return Ok(()) };
        let (image, of) = (
            Source { y: a.image, norm: None },
            users.iter().map(Channels::all).collect::<Vec<_>>(),
        );
        self.block_backward(0, Some(&stem), &[image], &of, self.geometry(0, false), gradients)?;
        Ok(())
    }

    /// A residual encoder's first block.
    pub(super) fn stem(&self, image: &Tensor) -> Result<Block> {
        self.block(0, &[Source { y: image, norm: None }], self.geometry(0, false))
    }
}
