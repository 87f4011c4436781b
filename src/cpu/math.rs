//! Elementary functions on vectors, accurate to a few units in the last place of f32.
//!
//! The polynomials were fitted for this project: 2^f on [-1/2, 1/2] by reweighted least squares on Chebyshev nodes (relative error 7.5e-8), erf on [0, 4] as
//! x P(x^2) / Q(x^2) (absolute error 2.1e-8 before rounding).

use super::simd::Simd;

const EXP2: [f32; 6] = [1.000_000_1, 0.693_146_97, 0.240_221_2, 0.055_507_133, 0.009_675_542, 0.001_327_647];
#[allow(clippy::approx_constant, clippy::excessive_precision)] // fitted values, as the fit gave them
const ERF_P: [f32; 6] = [
    1.128_379,
    0.196_247_24,
    0.053_467_274,
    0.004_003_579_5,
    0.000_288_041_36,
    1.974_861_1e-6,
];
#[allow(clippy::excessive_precision)]
const ERF_Q: [f32; 6] = [1.0, 0.507_250_74, 0.116_475_73, 0.015_444_286, 0.001_216_346_6, 3.748_118_2e-5];

#[inline(always)]
unsafe fn horner<S: Simd>(x: S::V, coefficients: &[f32; 6]) -> S::V {
    // SAFETY: inlined into a kernel at the level of S.
    unsafe {
        let mut sum = S::splat(coefficients[5]);
        for i in (0..5).rev() {
            sum = S::fma(sum, x, S::splat(coefficients[i]));
        }
        sum
    }
}

/// 2^x; zero or a denormal-sized number below -126, for x <= 127.
///
/// # Safety
/// Inside a kernel at the level of `S` only (so for every function of this file).
#[inline(always)]
pub unsafe fn exp2<S: Simd>(x: S::V) -> S::V {
    // SAFETY: by contract.
    unsafe {
        let x = S::max(x, S::splat(-126.0));
        let n = S::round(x);
        S::scale(horner::<S>(S::sub(x, n), &EXP2), n)
    }
}

/// The Gaussian error linear unit, x (1 + erf(x / sqrt 2)) / 2.
///
/// # Safety
/// As [`exp2`].
#[inline(always)]
pub unsafe fn gelu<S: Simd>(x: S::V) -> S::V {
    // SAFETY: by contract.
    unsafe {
        let z = S::mul(x, S::splat(std::f32::consts::FRAC_1_SQRT_2));
        let z = S::min(S::max(z, S::splat(-4.0)), S::splat(4.0));
        let t = S::mul(z, z);
        let erf = S::div(S::mul(z, horner::<S>(t, &ERF_P)), horner::<S>(t, &ERF_Q));
        let half = S::mul(x, S::splat(0.5));
        S::fma(half, erf, half)
    }
}

/// The logistic function 1 / (1 + e^-x).
///
/// # Safety
/// As [`exp2`].
#[inline(always)]
pub unsafe fn sigmoid<S: Simd>(x: S::V) -> S::V {
    // SAFETY: by contract.
    unsafe {
        let e = exp2::<S>(S::min(S::mul(x, S::splat(-std::f32::consts::LOG2_E)), S::splat(126.0)));
        S::div(S::splat(1.0), S::add(S::splat(1.0), e))
    }
}

/// Sum of the lanes, in lane order pairs.
///
/// # Safety
/// As [`exp2`].
#[inline(always)]
pub unsafe fn sum<S: Simd>(v: S::V) -> f32 {
    let mut lanes = [0f32; 16];
    // SAFETY: 16 floats hold a vector of any level.
    unsafe { S::store(lanes.as_mut_ptr(), v) };
    let mut width = S::LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
    }
    lanes[0]
}

/// GELU of every value of a slice.
///
/// # Safety
/// As [`exp2`].
#[inline(always)]
pub unsafe fn gelu_slice<S: Simd>(values: &mut [f32]) {
    let whole = values.len() / S::LANES * S::LANES;
    // SAFETY: offsets inside the slice; at the level of S.
    unsafe {
        for i in (0..whole).step_by(S::LANES) {
            let p = values.as_mut_ptr().add(i);
            S::store(p, gelu::<S>(S::load(p)));
        }
        let mut edge = [0f32; 16];
        let rest = values.len() - whole;
        edge[..rest].copy_from_slice(&values[whole..]);
        S::store(edge.as_mut_ptr(), gelu::<S>(S::load(edge.as_ptr())));
        values[whole..].copy_from_slice(&edge[..rest]);
    }
}

/// The logistic function of every value of a slice.
///
/// # Safety
/// As [`exp2`].
#[inline(always)]
pub unsafe fn sigmoid_slice<S: Simd>(values: &mut [f32]) {
    let whole = values.len() / S::LANES * S::LANES;
    // SAFETY: offsets inside the slice; at the level of S.
    unsafe {
        for i in (0..whole).step_by(S::LANES) {
            let p = values.as_mut_ptr().add(i);
            S::store(p, sigmoid::<S>(S::load(p)));
        }
        let mut edge = [0f32; 16];
        let rest = values.len() - whole;
        edge[..rest].copy_from_slice(&values[whole..]);
        S::store(edge.as_mut_ptr(), sigmoid::<S>(S::load(edge.as_ptr())));
        values[whole..].copy_from_slice(&edge[..rest]);
    }
}
