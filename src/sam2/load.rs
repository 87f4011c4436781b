//! Tensors into ops' parameters, by dotted name.

use crate::ops::conv::Conv;
use crate::ops::linear::Linear;
use crate::ops::norm::Norm;
use crate::weights::StrictLoader;

/// Hidden widths above this are no network's: a damaged file must not decide how much memory is taken.
const WIDEST: usize = 1 << 16;

/// First axis of a tensor, or 0 where it is missing or absurd (the loader reports it at the end).
pub fn rows(at: &StrictLoader<'_>, name: &str) -> usize {
    at.shape(name)
        .and_then(|s| s.first().copied())
        .filter(|&rows| rows <= WIDEST)
        .unwrap_or(0)
}

/// `name.weight` [n, k] and `name.bias` [n].
pub fn linear(at: &StrictLoader<'_>, name: &str, n: usize, k: usize) -> Linear {
    let at = at.path(name);
    Linear::new(&at.tensor("weight", &[n, k]), n, k, Some(&at.tensor("bias", &[n])))
}

/// A 1x1 convolution as a linear layer.
pub fn conv1x1(at: &StrictLoader<'_>, name: &str, n: usize, k: usize) -> Linear {
    let (weight, bias) = conv1x1_values(at, name, n, k);
    Linear::new(&weight, n, k, Some(&bias))
}

/// Its weight [n, k] and bias [n].
pub fn conv1x1_values(at: &StrictLoader<'_>, name: &str, n: usize, k: usize) -> (Vec<f32>, Vec<f32>) {
    let at = at.path(name);
    (at.tensor("weight", &[n, k, 1, 1]), at.tensor("bias", &[n]))
}

/// `name.weight` and `name.bias` of a LayerNorm.
pub fn norm(at: &StrictLoader<'_>, name: &str, channels: usize, eps: f32) -> Norm {
    let at = at.path(name);
    Norm {
        gamma: at.tensor("weight", &[channels]),
        beta: at.tensor("bias", &[channels]),
        eps,
    }
}

/// A square convolution.
pub fn conv(at: &StrictLoader<'_>, name: &str, n: usize, channels: usize, [kernel, stride, padding]: [usize; 3]) -> Conv {
    let at = at.path(name);
    let weight = at.tensor("weight", &[n, channels, kernel, kernel]);
    Conv::new(&weight, n, channels, kernel, stride, padding, Some(&at.tensor("bias", &[n])))
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
