//! Tensors into ops' parameters, by dotted name.

use crate::device::Device;
use crate::ops::conv::Conv;
use crate::ops::linear::Linear;
use crate::ops::norm::Norm;
use crate::weights::StrictLoader;
use anyhow::Result;
use std::ops::Deref;

/// Hidden widths above this are no network's: a damaged file must not decide how much memory is taken.
const WIDEST: usize = 1 << 16;

/// A place in a checkpoint, and the device its tensors go to.
pub struct Loader<'a> {
    at: StrictLoader<'a>,
    /// Where parameters go.
    pub device: &'a Device,
}

impl<'a> Loader<'a> {
    /// At the root of the names.
    pub fn new(at: StrictLoader<'a>, device: &'a Device) -> Self {
        Self { at, device }
    }

    /// One or more segments further down.
    pub fn path(&self, segments: &str) -> Self {
        Self::new(self.at.path(segments), self.device)
    }

    /// See [`StrictLoader::finish`].
    pub fn finish(self) -> Result<()> {
        self.at.finish()
    }
}

impl<'a> Deref for Loader<'a> {
    type Target = StrictLoader<'a>;

    fn deref(&self) -> &StrictLoader<'a> {
        &self.at
    }
}

/// First axis of a tensor, or 0 where it is missing or absurd (the loader reports it at the end).
pub fn rows(at: &Loader<'_>, name: &str) -> usize {
    at.shape(name)
        .and_then(|s| s.first().copied())
        .filter(|&rows| rows <= WIDEST)
        .unwrap_or(0)
}

/// `name.weight` [n, k] and `name.bias` [n].
pub fn linear(at: &Loader<'_>, name: &str, n: usize, k: usize) -> Result<Linear> {
    let at = at.path(name);
    Linear::new(at.device, &at.tensor("weight", &[n, k]), n, k, Some(&at.tensor("bias", &[n])))
}

/// A 1x1 convolution as a linear layer.
pub fn conv1x1(at: &Loader<'_>, name: &str, n: usize, k: usize) -> Result<Linear> {
    let (weight, bias) = conv1x1_values(at, name, n, k);
    Linear::new(at.device, &weight, n, k, Some(&bias))
}

/// Its weight [n, k] and bias [n].
pub fn conv1x1_values(at: &Loader<'_>, name: &str, n: usize, k: usize) -> (Vec<f32>, Vec<f32>) {
    let at = at.path(name);
    (at.tensor("weight", &[n, k, 1, 1]), at.tensor("bias", &[n]))
}

/// `name.weight` and `name.bias` of a LayerNorm.
pub fn norm(at: &Loader<'_>, name: &str, channels: usize, eps: f32) -> Result<Norm> {
    let at = at.path(name);
    Norm::new(at.device, at.tensor("weight", &[channels]), at.tensor("bias", &[channels]), eps)
}

/// A square convolution of this kernel, stride and padding.
pub fn conv(at: &Loader<'_>, name: &str, n: usize, channels: usize, geometry: [usize; 3]) -> Result<Conv> {
    let at = at.path(name);
    let weight = at.tensor("weight", &[n, channels, geometry[0], geometry[0]]);
    Conv::new(at.device, &weight, [n, channels], geometry, Some(&at.tensor("bias", &[n])))
}

/// The product b a of two linear maps, y = Wb (Wa x + ba) + bb, as one: weight [n, k] and bias [n]; sums in f64.
pub fn folded(outer: (&[f32], &[f32]), inner: (&[f32], &[f32]), k: usize) -> (Vec<f32>, Vec<f32>) {
    let (n, middle) = (outer.1.len(), inner.1.len());
    let mut weight = Vec::with_capacity(n * k);
    let mut bias = Vec::with_capacity(n);
    let mut sums = vec![0f64; k];
    for o in 0..n {
        let row = &outer.0[o * middle..][..middle];
        sums.fill(0.0);
        for (e, &factor) in row.iter().enumerate() {
            for (sum, &value) in sums.iter_mut().zip(&inner.0[e * k..][..k]) {
                *sum += f64::from(factor) * f64::from(value);
            }
        }
        weight.extend(sums.iter().map(|&s| s as f32));
        let extra: f64 = row.iter().zip(inner.1).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        bias.push((f64::from(outer.1[o]) + extra) as f32);
    }
    (weight, bias)
}
