//! `normed_conv3d`: a convolution of what raw outputs become under norm and LeakyReLU, and the gradient of its weights.
//!
//! Formula and shapes: those of [`conv3d`] of the result of [`activate`]. Where minimal filtering serves and the sources' channels fill whole vectors,
//! that result is never written: its transform is made of the sources. Saved: nothing.

use super::Cost;
use super::conv3d::{Geometry, conv3d, cost as cost_of_conv3d, d_weight, in_pytorchs_order, sizes};
use super::instance_norm::{Folded, Source, activate, fold};
use crate::cpu::simd;
use crate::cpu::winograd;
use crate::tensor::Tensor;
use anyhow::Result;

/// Whether the padded input of N volumes of these sizes is not written.
pub fn is_fused(n: usize, size: [usize; 3], channels: &[usize], outputs: usize, geometry: Geometry) -> bool {
    let lanes = simd::level().lanes();
    channels.iter().all(|channels| channels.is_multiple_of(lanes)) && geometry.is_filtered(n, size, channels.iter().sum(), outputs)
}

/// The sources' norms as factor and summand; none if the input has to be written.
fn folded(sources: &[Source<'_>], outputs: usize, geometry: Geometry) -> Option<Vec<Option<Folded>>> {
    let (n, size, _) = sizes(sources[0].y);
    let channels: Vec<usize> = sources.iter().map(|source| source.y.width()).collect();
    let is_fused = sources[0].y.device().cuda().is_none() && is_fused(n, size, &channels, outputs, geometry);
    is_fused.then(|| sources.iter().map(|source| source.norm.map(|norm| fold(&norm, n))).collect())
}

fn inputs<'a>(sources: &[Source<'a>], norms: &'a [Option<Folded>]) -> Vec<winograd::Source<'a>> {
    let input = |(source, norm): (&Source<'a>, &'a Option<Folded>)| winograd::Source {
        y: source.y.values(),
        channels: source.y.width(),
        norm: norm.as_ref().map(|norm| (&norm.scale[..], &norm.shift[..], norm.slope)),
    };
    sources.iter().zip(norms).map(input).collect()
}

/// y [N, D', H', W', O], a new tensor.
///
/// # Errors
/// When the device's budget has no room for it, or for the padded input.
pub fn normed_conv3d(sources: &[Source<'_>], weight: &[f32], bias: &[f32], geometry: Geometry) -> Result<Tensor> {
    let Some(norms) = folded(sources, bias.len(), geometry) else {
        return conv3d(&activate(sources, geometry.padding())?, weight, bias, geometry);
    };
    let (n, [d, h, w], _) = sizes(sources[0].y);
    let channels: usize = sources.iter().map(|source| source.y.width()).sum();
    let taps = geometry.taps();
    assert_eq!(
        weight.len(),
        bias.len() * channels * taps,
        "normed_conv3d: weights for {channels} channels"
    );
    let mut y = Tensor::empty(sources[0].y.device(), &[n, d, h, w, bias.len()])?;
    let weights = winograd::Weights::transform([channels, bias.len()], |tap, c, o| weight[(o * channels + c) * taps + tap]);
    let inputs = inputs(sources, &norms);
    winograd::convolve(
        n,
        [d, h, w],
        winograd::Input::Sources(&inputs),
        &weights,
        Some(bias),
        y.values_mut(),
    );
    Ok(y)
}

/// The gradient of the weights [O, C, kd, kh, kw]; d_y is padded.
///
/// # Errors
/// When the device's budget has no room for the padded input.
pub fn normed_d_weight(sources: &[Source<'_>], d_y: &Tensor, geometry: Geometry) -> Result<Vec<f32>> {
    let Some(norms) = folded(sources, d_y.width(), geometry) else {
        return Ok(d_weight(&activate(sources, geometry.padding())?, d_y, geometry));
    };
    let (n, size, _) = sizes(sources[0].y);
    let channels = sources.iter().map(|source| source.y.width()).sum();
    let inputs = inputs(sources, &norms);
    let d_w = winograd::gradient(n, size, winograd::Input::Sources(&inputs), d_y.values(), d_y.width());
    Ok(in_pytorchs_order(&d_w, [channels, d_y.width()], geometry))
}

/// Cost of either, for N outputs of `out` voxels: that of the convolution.
pub fn cost(n: usize, out: [usize; 3], channels: usize, outputs: usize, geometry: Geometry) -> Cost {
    cost_of_conv3d(n, out, channels, outputs, geometry)
}

/// N volumes of `size` voxels; channels of one or two sources, the second with a norm, the first without if there are two.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Case {
    pub name: &'static str,
    pub items: usize,
    pub size: [usize; 3],
    pub channels: [usize; 2],
    pub outputs: usize,
    pub geometry: Geometry,
}

/// The op's table: fused and not, awkward sizes.
pub fn cases() -> Vec<Case> {
    [
        ("one source", 1, [8, 8, 8], [16, 0], 16, [3, 3, 3], [1, 1, 1]),
        ("two sources, odd sizes", 2, [5, 7, 11], [16, 32], 18, [3, 3, 3], [1, 1, 1]),
        ("one slice", 2, [1, 23, 13], [32, 0], 16, [3, 3, 3], [1, 1, 1]),
        ("channels that fill no vector", 1, [8, 8, 8], [17, 16], 16, [3, 3, 3], [1, 1, 1]),
        ("strided", 1, [8, 9, 8], [16, 0], 16, [3, 3, 3], [2, 2, 2]),
        ("small", 1, [2, 2, 2], [16, 16], 16, [3, 3, 3], [1, 1, 1]),
    ]
    .map(|(name, items, size, channels, outputs, kernel, stride)| Case {
        name,
        items,
        size,
        channels,
        outputs,
        geometry: Geometry { kernel, stride },
    })
    .to_vec()
}
