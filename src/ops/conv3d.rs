//! `conv3d`: convolutions of volumes with kernels of 1 or 3 voxels and strides of 1 or 2 along each axis, their gradients, and transposed convolutions whose kernel is their stride.
//!
//! Shapes: x [N, D, H, W, C] padded by (kernel - 1) / 2 zeros along each axis ([`activate`](super::instance_norm::activate) makes it so), weight [O, C, kd, kh, kw] as PyTorch's
//! `nn.Conv3d` ([C, O, sd, sh, sw] as `nn.ConvTranspose3d`), y [N, D', H', W', O] with D' = (D - 1) / stride + 1. Nothing is saved: the gradient of the input needs the weights,
//! that of the weights x. d_y of [`d_input`] is padded like x.

use super::Cost;
use crate::cpu::conv3d::{Lattice, Panels, gradient, multiply};
use crate::cpu::winograd;
use crate::tensor::Tensor;
use anyhow::Result;
use rayon::prelude::*;

/// Kernel and stride along (D, H, W).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Geometry {
    pub kernel: [usize; 3],
    pub stride: [usize; 3],
}

impl Geometry {
    /// Zeros before and after each axis.
    pub fn padding(&self) -> [usize; 3] {
        self.kernel.map(|edge| (edge - 1) / 2)
    }

    /// Voxels of the output for `size` voxels of the input, without padding.
    pub fn output(&self, size: [usize; 3]) -> [usize; 3] {
        std::array::from_fn(|axis| (size[axis] - 1) / self.stride[axis] + 1)
    }

    /// Whether it is one that minimal filtering serves.
    pub(super) fn is_filtered(&self, n: usize, size: [usize; 3], channels: usize, outputs: usize) -> bool {
        self.kernel == [3; 3] && self.stride == [1; 3] && winograd::suits(n, size, channels, outputs)
    }

    pub(super) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    fn check(&self) {
        assert!(
            self.kernel.iter().all(|edge| [1, 3].contains(edge)) && self.stride.iter().all(|stride| [1, 2].contains(stride)),
            "conv3d: {self:?}"
        );
    }
}

/// Some channels of a tensor [N, D, H, W, C].
#[derive(Clone, Copy, Debug)]
pub struct Channels<'a> {
    /// All of them.
    pub tensor: &'a Tensor,
    /// The first one.
    pub first: usize,
    /// How many.
    pub count: usize,
}

impl<'a> Channels<'a> {
    /// Every channel.
    pub fn all(tensor: &'a Tensor) -> Self {
        Self {
            tensor,
            first: 0,
            count: tensor.width(),
        }
    }

    fn lattice(&self) -> Lattice {
        let (_, size, channels) = sizes(self.tensor);
        Lattice::dense(size, channels).channel(self.first)
    }
}

/// N, (D, H, W) and C.
pub(super) fn sizes(x: &Tensor) -> (usize, [usize; 3], usize) {
    let &[n, d, h, w, c] = x.shape() else {
        panic!("{x:?} is not [N, D, H, W, C]");
    };
    (n, [d, h, w], c)
}

/// Offsets of the indices of `edges`, in order, within an array of rows `w` and planes `h` x `w` of `channels`.
fn offsets(edges: [usize; 3], [_, h, w]: [usize; 3], channels: usize) -> Vec<usize> {
    let at = |i: usize| [i / (edges[1] * edges[2]), i / edges[2] % edges[1], i % edges[2]];
    let offset = |[z, y, x]: [usize; 3]| ((z * h + y) * w + x) * channels;
    (0..edges.iter().product()).map(at).map(offset).collect()
}

/// y = the convolution of x, a new tensor.
///
/// # Errors
/// When the device's budget has no room for it.
pub fn conv3d(x: &Tensor, weight: &[f32], bias: &[f32], geometry: Geometry) -> Result<Tensor> {
    geometry.check();
    let (n, padded, channels) = sizes(x);
    let (taps, outputs) = (geometry.taps(), bias.len());
    assert_eq!(
        weight.len(),
        outputs * channels * taps,
        "conv3d: weights for {x:?} to {outputs} channels"
    );
    let padding = geometry.padding();
    let out = geometry.output(std::array::from_fn(|axis| padded[axis] - 2 * padding[axis]));
    let mut y = Tensor::empty(x.device(), &[n, out[0], out[1], out[2], outputs])?;
    if geometry.is_filtered(n, out, channels, outputs) {
        let weights = winograd::Weights::transform([channels, outputs], |tap, c, o| weight[(o * channels + c) * taps + tap]);
        winograd::convolve(
            n,
            out,
            winograd::Input::Padded(x.values(), channels),
            &weights,
            Some(bias),
            y.values_mut(),
        );
        return Ok(y);
    }
    let panels = Panels::pack([taps, channels, outputs], Some(bias), |tap, c, o| {
        weight[(o * channels + c) * taps + tap]
    });
    let from = Lattice::dense(padded, channels).every(geometry.stride, [0; 3]);
    let to = Lattice::dense(out, outputs);
    let counts = [n, out[0], out[1], out[2]];
    let taps = offsets(geometry.kernel, padded, channels);
    multiply(counts, (x.values(), from), &taps, &panels, (y.values_mut(), to));
    Ok(y)
}

/// The gradient of x, without padding: a new tensor [N, `size`, C]. d_y is padded like x.
///
/// # Errors
/// When the device's budget has no room for it.
pub fn d_input(d_y: &Tensor, weight: &[f32], size: [usize; 3], geometry: Geometry) -> Result<Tensor> {
    geometry.check();
    let (n, padded, outputs) = sizes(d_y);
    let (taps, padding, stride) = (geometry.taps(), geometry.padding(), geometry.stride);
    let channels = weight.len() / (outputs * taps);
    let mut d_x = Tensor::empty(d_y.device(), &[n, size[0], size[1], size[2], channels])?;
    if geometry.is_filtered(n, size, outputs, channels) {
        // A convolution with the kernel turned around.
        let weights = winograd::Weights::transform([outputs, channels], |tap, o, c| weight[(o * channels + c) * taps + taps - 1 - tap]);
        winograd::convolve(
            n,
            size,
            winograd::Input::Padded(d_y.values(), outputs),
            &weights,
            None,
            d_x.values_mut(),
        );
        return Ok(d_x);
    }
    // Voxels of x whose indices leave the same remainder by the stride meet the same taps.
    for remainder in offsets_of(stride) {
        let axis_taps: [Vec<usize>; 3] = std::array::from_fn(|axis| {
            let meets = |tap: &usize| (remainder[axis] + padding[axis] + 2 * stride[axis] - tap).is_multiple_of(stride[axis]);
            (0..geometry.kernel[axis]).filter(meets).collect()
        });
        let (mut chosen, mut places) = (Vec::new(), Vec::new());
        for &z in &axis_taps[0] {
            for &y in &axis_taps[1] {
                for &x in &axis_taps[2] {
                    let tap = [z, y, x];
                    // In the padded d_y: the output (i + padding - tap) / stride of input i = remainder, and its padding.
                    let at = |axis: usize| (remainder[axis] + padding[axis] + padding[axis] * stride[axis] - tap[axis]) / stride[axis];
                    places.push(((at(0) * padded[1] + at(1)) * padded[2] + at(2)) * outputs);
                    chosen.push((z * geometry.kernel[1] + y) * geometry.kernel[2] + x);
                }
            }
        }
        let panels = Panels::pack([chosen.len(), outputs, channels], None, |tap, o, c| {
            weight[(o * channels + c) * taps + chosen[tap]]
        });
        let count = |axis: usize| (size[axis] + stride[axis] - 1 - remainder[axis]) / stride[axis];
        let counts = [n, count(0), count(1), count(2)];
        if counts.contains(&0) {
            continue;
        }
        let to = Lattice::dense(size, channels).every(stride, remainder);
        let from = Lattice::dense(padded, outputs);
        multiply(counts, (d_y.values(), from), &places, &panels, (d_x.values_mut(), to));
    }
    Ok(d_x)
}

/// Every index below `edges`, in order.
fn offsets_of(edges: [usize; 3]) -> impl Iterator<Item = [usize; 3]> {
    (0..edges.iter().product()).map(move |i: usize| [i / (edges[1] * edges[2]), i / edges[2] % edges[1], i % edges[2]])
}

/// The gradient of the weights [O, C, kd, kh, kw]; x and d_y are padded alike.
pub fn d_weight(x: &Tensor, d_y: &Tensor, geometry: Geometry) -> Vec<f32> {
    geometry.check();
    let ((n, padded, channels), (_, padded_y, outputs)) = (sizes(x), sizes(d_y));
    let padding = geometry.padding();
    let out: [usize; 3] = std::array::from_fn(|axis| padded_y[axis] - 2 * padding[axis]);
    let d_w = if geometry.is_filtered(n, out, channels, outputs) {
        winograd::gradient(n, out, winograd::Input::Padded(x.values(), channels), d_y.values(), outputs)
    } else {
        let from = Lattice::dense(padded, channels).every(geometry.stride, [0; 3]);
        let of = Lattice::dense(padded_y, outputs).every([1; 3], padding);
        let places = offsets(geometry.kernel, padded, channels);
        let counts = [n, out[0], out[1], out[2]];
        gradient(counts, (x.values(), from), &places, (d_y.values(), of), [channels, outputs])
    };
    in_pytorchs_order(&d_w, [channels, outputs], geometry)
}

/// Weights [taps, C, O] in PyTorch's order, [O, C, taps].
pub(super) fn in_pytorchs_order(d_w: &[f32], [channels, outputs]: [usize; 2], geometry: Geometry) -> Vec<f32> {
    let taps = geometry.taps();
    let mut out = vec![0.0; d_w.len()];
    out.par_chunks_mut(channels * taps).enumerate().for_each(|(o, out)| {
        for (at, value) in out.iter_mut().enumerate() {
            let (c, tap) = (at / taps, at % taps);
            *value = d_w[(tap * channels + c) * outputs + o];
        }
    });
    out
}

/// The transposed convolution of x [N, D, H, W, C] by weight [C, O, sd, sh, sw] with stride (sd, sh, sw): y [N, D sd, H sh, W sw, O], a new tensor.
///
/// # Errors
/// When the device's budget has no room for it.
pub fn transposed(x: &Tensor, weight: &[f32], bias: &[f32], stride: [usize; 3]) -> Result<Tensor> {
    let (n, size, channels) = sizes(x);
    let (taps, outputs) = (stride.iter().product::<usize>(), bias.len());
    assert_eq!(weight.len(), channels * outputs * taps, "transposed conv3d: weights for {x:?}");
    let out: [usize; 3] = std::array::from_fn(|axis| size[axis] * stride[axis]);
    let mut y = Tensor::empty(x.device(), &[n, out[0], out[1], out[2], outputs])?;
    let counts = [n, size[0], size[1], size[2]];
    for (tap, place) in offsets_of(stride).enumerate() {
        let panels = Panels::pack([1, channels, outputs], Some(bias), |_, c, o| weight[(c * outputs + o) * taps + tap]);
        let to = Lattice::dense(out, outputs).every(stride, place);
        multiply(
            counts,
            (x.values(), Lattice::dense(size, channels)),
            &[0],
            &panels,
            (y.values_mut(), to),
        );
    }
    Ok(y)
}

/// The gradient of x under [`transposed`].
///
/// # Errors
/// When the device's budget has no room for it.
pub fn transposed_d_input(d_y: Channels<'_>, weight: &[f32], stride: [usize; 3]) -> Result<Tensor> {
    let (n, out, all) = sizes(d_y.tensor);
    let (taps, outputs) = (stride.iter().product::<usize>(), d_y.count);
    let channels = weight.len() / (taps * outputs);
    let size: [usize; 3] = std::array::from_fn(|axis| out[axis] / stride[axis]);
    let mut d_x = Tensor::empty(d_y.tensor.device(), &[n, size[0], size[1], size[2], channels])?;
    let panels = Panels::pack([taps, outputs, channels], None, |tap, o, c| weight[(c * outputs + o) * taps + tap]);
    let from = d_y.lattice().every(stride, [0; 3]);
    let counts = [n, size[0], size[1], size[2]];
    let to = Lattice::dense(size, channels);
    multiply(
        counts,
        (d_y.tensor.values(), from),
        &offsets(stride, out, all),
        &panels,
        (d_x.values_mut(), to),
    );
    Ok(d_x)
}

/// The gradients of weight and bias under [`transposed`].
pub fn transposed_d_weight(x: &Tensor, d_y: Channels<'_>, stride: [usize; 3]) -> (Vec<f32>, Vec<f32>) {
    let (n, size, channels) = sizes(x);
    let (taps, outputs) = (stride.iter().product::<usize>(), d_y.count);
    let mut d_w = vec![0.0; channels * outputs * taps];
    let counts = [n, size[0], size[1], size[2]];
    for (tap, place) in offsets_of(stride).enumerate() {
        let of = d_y.lattice().every(stride, place);
        let from = Lattice::dense(size, channels);
        let part = gradient(counts, (x.values(), from), &[0], (d_y.tensor.values(), of), [channels, outputs]);
        for (at, value) in part.into_iter().enumerate() {
            d_w[at * taps + tap] = value;
        }
    }
    (d_w, d_bias(d_y))
}

/// The gradient of a bias: the sum over all voxels.
pub fn d_bias(d_y: Channels<'_>) -> Vec<f32> {
    let mut sums = vec![0f64; d_y.count];
    for voxel in d_y.tensor.values().chunks_exact(d_y.tensor.width()) {
        for (sum, d) in sums.iter_mut().zip(&voxel[d_y.first..]) {
            *sum += f64::from(*d);
        }
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

/// Cost of a convolution or of one of its gradients, for N outputs of `out` voxels.
pub fn cost(n: usize, out: [usize; 3], channels: usize, outputs: usize, geometry: Geometry) -> Cost {
    let voxels = n * out.iter().product::<usize>();
    let stride: usize = geometry.stride.iter().product();
    let weights = channels * outputs * geometry.taps();
    Cost {
        flops: 2.0 * (voxels * weights) as f64,
        bytes: 4.0 * (voxels * (stride * channels + outputs) + weights) as f64,
    }
}

/// N volumes of `size` voxels and C channels to O.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Case {
    pub name: &'static str,
    pub items: usize,
    pub size: [usize; 3],
    pub channels: usize,
    pub outputs: usize,
    pub geometry: Geometry,
}

/// The op's table: awkward sizes.
pub fn cases() -> Vec<Case> {
    [
        ("one", 1, [1, 1, 1], 1, 1, [1, 1, 1], [1, 1, 1]),
        ("one voxel, all padding around", 1, [1, 1, 1], 3, 5, [3, 3, 3], [1, 1, 1]),
        ("one voxel, strided", 2, [1, 1, 1], 2, 3, [3, 3, 3], [2, 2, 2]),
        ("primes", 2, [3, 5, 7], 5, 7, [3, 3, 3], [1, 1, 1]),
        ("primes, strided", 2, [5, 7, 11], 3, 13, [3, 3, 3], [2, 2, 2]),
        ("even, strided", 1, [4, 6, 8], 4, 6, [3, 3, 3], [2, 2, 2]),
        ("flat kernel", 1, [3, 6, 5], 4, 3, [1, 3, 3], [1, 1, 1]),
        ("flat kernel, flat stride", 1, [3, 6, 9], 2, 4, [1, 3, 3], [1, 2, 2]),
        ("kernel smaller than the stride", 1, [5, 4, 6], 3, 2, [1, 3, 1], [2, 1, 2]),
        ("tile - 1", 1, [2, 3, 11], 11, 31, [3, 3, 3], [1, 1, 1]),
        ("tile + 1", 1, [2, 2, 13], 13, 33, [3, 3, 3], [1, 1, 1]),
        ("two panels and a tail", 1, [2, 2, 5], 7, 70, [3, 1, 3], [1, 1, 1]),
        ("many rows", 2, [9, 10, 6], 5, 8, [3, 3, 3], [1, 1, 1]),
        ("filtered", 1, [8, 8, 8], 16, 16, [3, 3, 3], [1, 1, 1]),
        ("filtered, primes", 2, [5, 7, 11], 17, 33, [3, 3, 3], [1, 1, 1]),
        ("filtered, flat", 1, [1, 23, 13], 40, 16, [3, 3, 3], [1, 1, 1]),
        ("filtered, long rows", 1, [3, 2, 131], 16, 70, [3, 3, 3], [1, 1, 1]),
        ("filtered, segments", 2, [9, 22, 21], 16, 18, [3, 3, 3], [1, 1, 1]),
        ("many segments", 1, [32, 33, 64], 2, 3, [3, 1, 1], [1, 1, 1]),
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
