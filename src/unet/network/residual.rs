//! The units of a residual encoder: out = lrelu(norm(conv2(lrelu(norm(conv1(x))))) + skip(x)). The skip is x, averaged over the unit's stride if it has one, then, where channels change,
//! a convolution of one voxel without bias and its norm. Kept are the convolutions' raw outputs and out.

use super::{Activations, Block, Network, ONE};
use crate::ops::average_pool::{average_pool, average_pool_backward};
use crate::ops::conv3d::{Channels, conv3d, d_input, d_weight};
use crate::ops::instance_norm::{Norm, Source, activate, backward, statistics};
use crate::ops::residual::{residual, residual_backward};
use crate::tensor::Tensor;
use crate::unet::architecture::Architecture;
use anyhow::Result;

/// Where a unit's parameters are.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    /// First parameter of each convolution's block.
    convs: [usize; 2],
    /// First of three: weight and norm of the skip's convolution.
    projection: Option<usize>,
    /// Of the first convolution and of the skip.
    stride: [usize; 3],
}

/// What a unit leaves.
pub(super) struct Kept {
    convs: [Block; 2],
    projection: Option<Block>,
    out: Tensor,
}

/// The units of an encoder whose stem has the first parameters; `next` becomes the first parameter behind them.
pub(super) fn units(architecture: &Architecture, next: &mut usize) -> Vec<Vec<Unit>> {
    let mut take = |count: usize| {
        let first = *next;
        *next += count;
        first
    };
    take(4);
    let mut from = architecture.features[0];
    let mut unit = |stage: usize, at: usize| {
        let to = architecture.features[stage];
        let unit = Unit {
            convs: [take(4), take(4)],
            projection: (from != to).then(|| take(3)),
            stride: if at == 0 { architecture.strides[stage] } else { [1; 3] },
        };
        from = to;
        unit
    };
    let counts = architecture.convs_per_stage.iter().enumerate();
    counts
        .map(|(stage, &count)| (0..count).map(|at| unit(stage, at)).collect())
        .collect()
}

impl Network {
    pub(super) fn encode_residual(&self, stages: &[Vec<Unit>], a: &mut Activations<'_>, keeps: bool) -> Result<()> {
        a.stem = Some(self.stem(a.image)?);
        for (stage, units) in stages.iter().enumerate() {
            a.units.push(Vec::new());
            for (at, unit) in units.iter().enumerate() {
                let kept = self.unit(unit, self.unit_source(a, stage, at), stage, at)?;
                a.units[stage].push(Some(kept));
                if !keeps {
                    a.stem = None;
                    if at > 0 {
                        a.units[stage][at - 1] = None;
                    }
                }
            }
        }
        Ok(())
    }

    /// What goes into a unit.
    fn unit_source<'a>(&'a self, a: &'a Activations<'_>, stage: usize, at: usize) -> Source<'a> {
        match (stage, at) {
            (0, 0) => self.source(0, a.stem.as_ref()),
            (_, 0) => Self::unit_output(a, stage - 1, a.units[stage - 1].len() - 1),
            _ => Self::unit_output(a, stage, at - 1),
        }
    }

    /// What comes out of a unit.
    pub(super) fn unit_output<'a>(a: &'a Activations<'_>, stage: usize, at: usize) -> Source<'a> {
        match &a.units[stage][at] {
            Some(kept) => Source { y: &kept.out, norm: None },
            None => unreachable!("a unit is kept until its users are done"),
        }
    }

    /// A norm that no LeakyReLU follows.
    fn linear<'a>(&'a self, gamma: usize, block: &'a Block) -> Norm<'a> {
        Norm {
            statistics: &block.statistics,
            gamma: &self.values[gamma],
            beta: &self.values[gamma + 1],
            slope: 1.0,
        }
    }

    fn unit(&self, unit: &Unit, source: Source<'_>, stage: usize, at: usize) -> Result<Kept> {
        let [first, second] = unit.convs;
        let conv1 = self.block(first, &[source], self.geometry(stage, at == 0))?;
        let conv2 = self.block(second, &[self.source(first, Some(&conv1))], self.geometry(stage, false))?;
        let skip = self.skip_input(unit, source)?;
        let (projection, skip) = match unit.projection {
            None => (None, skip),
            Some(parameter) => {
                let y = conv3d(&skip, &self.values[parameter], &vec![0.0; self.architecture.features[stage]], ONE)?;
                drop(skip);
                let block = Block {
                    statistics: statistics(&y),
                    y,
                };
                let normed = self.normed(parameter + 1, &block)?;
                (Some(block), normed)
            }
        };
        let mut out = self.normed(second + 2, &conv2)?;
        residual(&mut out, &skip);
        Ok(Kept {
            convs: [conv1, conv2],
            projection,
            out,
        })
    }

    fn normed(&self, gamma: usize, block: &Block) -> Result<Tensor> {
        let norm = Some(self.linear(gamma, block));
        activate(&[Source { y: &block.y, norm }], [0; 3])
    }

    /// What goes past the convolutions, before it is projected.
    fn skip_input(&self, unit: &Unit, source: Source<'_>) -> Result<Tensor> {
        let x = activate(&[source], [0; 3])?;
        if unit.stride == [1; 3] {
            Ok(x)
        } else {
            average_pool(&x, unit.stride)
        }
    }

    /// A unit's gradients; gives those of its input, which are to be added up.
    pub(super) fn unit_backward(
        &self,
        stages: &[Vec<Unit>],
        a: &mut Activations<'_>,
        stage: usize,
        at: usize,
        users: &[Channels<'_>],
        gradients: &mut [Option<Vec<f32>>],
    ) -> Result<Vec<Tensor>> {
        let Some(Kept { convs, projection, out }) = a.units[stage][at].take() else {
            unreachable!("a unit is kept until its gradient is taken")
        };
        let (unit, source) = (&stages[stage][at], self.unit_source(a, stage, at));
        let d = residual_backward(&out, users)?;
        drop(out);
        let [conv1, conv2] = convs;
        let [first, second] = unit.convs;
        let (inner, through) = ([self.source(first, Some(&conv1))], [Channels::all(&d)]);
        let norm = self.linear(second + 2, &conv2);
        let d_inner = self.gradients_of(second, &conv2.y, norm, &inner, &through, self.geometry(stage, false), gradients)?;
        drop(conv2);
        let users: Vec<Channels<'_>> = d_inner.iter().map(Channels::all).collect();
        let d_x = self.block_backward(first, Some(&conv1), &[source], &users, self.geometry(stage, at == 0), gradients)?;
        drop(users);
        drop((conv1, d_inner));
        let past = self.skip_backward(unit, source, projection, d, gradients)?;
        Ok(d_x.into_iter().chain([past]).collect())
    }

    /// The gradient of a unit's input by way of the skip, given that of the skip's output.
    fn skip_backward(
        &self,
        unit: &Unit,
        source: Source<'_>,
        projection: Option<Block>,
        d: Tensor,
        gradients: &mut [Option<Vec<f32>>],
    ) -> Result<Tensor> {
        let d = match (unit.projection, projection) {
            (Some(parameter), Some(block)) => {
                let of = backward(&block.y, self.linear(parameter + 1, &block), &[Channels::all(&d)], [0; 3])?;
                gradients[parameter] = Some(d_weight(&self.skip_input(unit, source)?, &of.d_y, ONE));
                gradients[parameter + 1] = Some(of.d_gamma);
                gradients[parameter + 2] = Some(of.d_beta);
                let &[_, z, y, x, _] = d.shape() else {
                    unreachable!("gradients are volumes")
                };
                d_input(&of.d_y, &self.values[parameter], [z, y, x], ONE)?
            }
            _ => d,
        };
        if unit.stride == [1; 3] {
            Ok(d)
        } else {
            average_pool_backward(&d, unit.stride)
        }
    }
}
