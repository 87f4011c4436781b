//! The vector unit, seen through one small trait.
//!
//! Kernels are written once over [`Simd`] and compiled for AVX-512, AVX2 + FMA and plain Rust; the best the running processor offers is chosen once, at run
//! time ([`level`]). Nothing is built for the machine that compiles.

use std::sync::OnceLock;

/// A vector of `LANES` f32 and what kernels do with it.
///
/// # Safety
/// Every method may be called only where the features of the implementing level are enabled, that is inside [`Kernel::run`] as started by [`run`]; pointers must be
/// valid for `LANES` floats (unaligned is fine).
#[allow(clippy::missing_safety_doc)] // one contract for all, above
pub trait Simd: Copy + Send + Sync + 'static {
    /// The vector register.
    type V: Copy;
    /// f32 values per vector.
    const LANES: usize;
    /// Rows of the register tile whose columns are two vectors: as many as leave the accumulators in registers.
    const ROWS: usize;
    #[allow(missing_docs)]
    unsafe fn splat(x: f32) -> Self::V;
    #[allow(missing_docs)]
    unsafe fn load(p: *const f32) -> Self::V;
    #[allow(missing_docs)]
    unsafe fn store(p: *mut f32, v: Self::V);
    #[allow(missing_docs)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    #[allow(missing_docs)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    #[allow(missing_docs)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    #[allow(missing_docs)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    #[allow(missing_docs)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    #[allow(missing_docs)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// a * b + c.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// x rounded to the nearest integer (ties to even), and 2^integer times y.
    unsafe fn round(x: Self::V) -> Self::V;
    /// y * 2^n for integral n in [-126, 127].
    unsafe fn scale(y: Self::V, n: Self::V) -> Self::V;
    /// Whether any lane of a is greater than b's.
    unsafe fn any_greater(a: Self::V, b: Self::V) -> bool;
}

/// A piece of work written over [`Simd`]; its `run` must be `#[inline(always)]` so that it is compiled inside the level's target features.
pub trait Kernel {
    /// Does the work.
    ///
    /// # Safety
    /// Called by [`run`] only, where the features of `S` are enabled.
    unsafe fn run<S: Simd>(self);
}

/// What the processor offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// 512-bit vectors.
    Avx512,
    /// 256-bit vectors with fused multiply-add.
    Avx2,
    /// Whatever the compiler makes of eight-wide arrays.
    Portable,
}

impl Level {
    /// The name recorded with results: bytes are reproducible per level.
    pub fn name(self) -> &'static str {
        match self {
            Level::Avx512 => "avx512",
            Level::Avx2 => "avx2",
            Level::Portable => "portable",
        }
    }

    /// f32 values per vector.
    pub fn lanes(self) -> usize {
        match self {
            Level::Avx512 => 16,
            Level::Avx2 | Level::Portable => 8,
        }
    }
}

/// The level in use: the best available, or the lesser one named by `HPC_SEG_CPU` (avx512, avx2, portable).
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let best = detect();
        match std::env::var("HPC_SEG_CPU").as_deref() {
            Ok("portable") => Level::Portable,
            Ok("avx2") if best == Level::Avx512 => Level::Avx2,
            _ => best,
        }
    })
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") && is_x86_feature_detected!("fma") {
        Level::Avx512
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        Level::Avx2
    } else {
        Level::Portable
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Portable
}

/// Runs a kernel at the processor's [`level`].
#[inline]
pub fn run<K: Kernel>(kernel: K) {
    match level() {
        // SAFETY: `level` has found the features of each branch on this processor.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::run_avx512(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::run_avx2(kernel) },
        // SAFETY: the portable level needs no feature.
        _ => unsafe { kernel.run::<Portable>() },
    }
}

/// Asks for `len` floats from `p` on to be brought near: a hint, so any address will do.
#[inline(always)]
pub fn prefetch(p: *const f32, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..len).step_by(16) {
        // SAFETY: a prefetch reads nothing and never faults.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.wrapping_add(at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (p, len);
}

/// Eight floats in an array.
#[derive(Clone, Copy)]
pub struct Portable;

macro_rules! lanewise {
    ($a:ident, $b:ident, $f:expr) => {{
        let mut out = $a;
        for i in 0..8 {
            out[i] = $f($a[i], $b[i]);
        }
        out
    }};
}

// SAFETY of the bodies below: plain arithmetic, and pointers valid for 8 floats by the trait's contract.
impl Simd for Portable {
    type V = [f32; 8];
    const LANES: usize = 8;
    const ROWS: usize = 4;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: valid for 8 floats by contract.
        unsafe { p.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        // SAFETY: valid for 8 floats by contract.
        unsafe { p.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(a, b, |x: f32, y: f32| x + y)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(a, b, |x: f32, y: f32| x - y)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(a, b, |x: f32, y: f32| x * y)
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(a, b, |x: f32, y: f32| x / y)
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(a, b, |x: f32, y: f32| if x > y { x } else { y })
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(a, b, |x: f32, y: f32| if x < y { x } else { y })
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        let mut out = c;
        for i in 0..8 {
            out[i] += a[i] * b[i];
        }
        out
    }
    #[inline(always)]
    unsafe fn round(x: Self::V) -> Self::V {
        let mut out = x;
        for v in &mut out {
            // Adding and taking away 1.5 * 2^23 rounds |x| < 2^22 to an integer, without a library call.
            *v = (*v + 12_582_912.0) - 12_582_912.0;
        }
        out
    }
    #[inline(always)]
    unsafe fn scale(y: Self::V, n: Self::V) -> Self::V {
        let mut out = y;
        for i in 0..8 {
            out[i] *= f32::from_bits((((n[i] as i32) + 127) << 23) as u32);
        }
        out
    }
    #[inline(always)]
    unsafe fn any_greater(a: Self::V, b: Self::V) -> bool {
        (0..8).any(|i| a[i] > b[i])
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Kernel, Simd};
    use std::arch::x86_64::*;

    // SAFETY: the caller has checked the features; `run` is inlined into this function and compiled with them.
    #[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
    pub unsafe fn run_avx512<K: Kernel>(kernel: K) {
        // SAFETY: the features of the level are enabled here.
        unsafe { kernel.run::<Avx512>() }
    }

    // SAFETY: as above.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn run_avx2<K: Kernel>(kernel: K) {
        // SAFETY: the features of the level are enabled here.
        unsafe { kernel.run::<Avx2>() }
    }

    /// Sixteen floats; 12 x 2 accumulators, two operands and a broadcast fit 32 registers.
    #[derive(Clone, Copy)]
    pub struct Avx512;

    /// Eight floats; 6 x 2 accumulators fit 16 registers.
    #[derive(Clone, Copy)]
    pub struct Avx2;

    macro_rules! implement {
        ($level:ident, $v:ty, $lanes:literal, $rows:literal, $set1:ident, $loadu:ident, $storeu:ident, $add:ident, $sub:ident, $mul:ident, $div:ident,
         $max:ident, $min:ident, $fma:ident, $round:ident, $scale:ident, $greater:ident) => {
            // SAFETY of the bodies: the trait's contract (features enabled, pointers valid for LANES floats) is the intrinsics'.
            #[allow(clippy::undocumented_unsafe_blocks)]
            impl Simd for $level {
                type V = $v;
                const LANES: usize = $lanes;
                const ROWS: usize = $rows;
                #[inline(always)]
                unsafe fn splat(x: f32) -> Self::V {
                    unsafe { $set1(x) }
                }
                #[inline(always)]
                unsafe fn load(p: *const f32) -> Self::V {
                    unsafe { $loadu(p) }
                }
                #[inline(always)]
                unsafe fn store(p: *mut f32, v: Self::V) {
                    unsafe { $storeu(p, v) }
                }
                #[inline(always)]
                unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
                    unsafe { $add(a, b) }
                }
                #[inline(always)]
                unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
                    unsafe { $sub(a, b) }
                }
                #[inline(always)]
                unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
                    unsafe { $mul(a, b) }
                }
                #[inline(always)]
                unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
                    unsafe { $div(a, b) }
                }
                #[inline(always)]
                unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
                    unsafe { $max(a, b) }
                }
                #[inline(always)]
                unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
                    unsafe { $min(a, b) }
                }
                #[inline(always)]
                unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                    unsafe { $fma(a, b, c) }
                }
                #[inline(always)]
                unsafe fn round(x: Self::V) -> Self::V {
                    unsafe { $round(x) }
                }
                #[inline(always)]
                unsafe fn scale(y: Self::V, n: Self::V) -> Self::V {
                    unsafe { $scale(y, n) }
                }
                #[inline(always)]
                unsafe fn any_greater(a: Self::V, b: Self::V) -> bool {
                    unsafe { $greater(a, b) }
                }
            }
        };
    }

    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

    macro_rules! helpers {
        ($v:ty, $round:ident => |$x:ident| $round_body:expr, $scale:ident => |$y:ident, $n:ident| $scale_body:expr,
         $greater:ident => |$a:ident, $b:ident| $greater_body:expr) => {
            // SAFETY of the bodies: the features are enabled where these are inlined.
            #[inline(always)]
            #[allow(clippy::undocumented_unsafe_blocks)]
            unsafe fn $round($x: $v) -> $v {
                unsafe { $round_body }
            }
            #[inline(always)]
            #[allow(clippy::undocumented_unsafe_blocks)]
            unsafe fn $scale($y: $v, $n: $v) -> $v {
                unsafe { $scale_body }
            }
            #[inline(always)]
            #[allow(clippy::undocumented_unsafe_blocks)]
            unsafe fn $greater($a: $v, $b: $v) -> bool {
                unsafe { $greater_body }
            }
        };
    }

    helpers!(__m512,
        round_512 => |x| _mm512_roundscale_ps::<NEAREST>(x),
        scale_512 => |y, n| _mm512_scalef_ps(y, n),
        greater_512 => |a, b| _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) != 0);

    helpers!(__m256,
        round_256 => |x| _mm256_round_ps::<NEAREST>(x),
        scale_256 => |y, n| _mm256_mul_ps(y, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127))))),
        greater_256 => |a, b| _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) != 0);

    implement!(
        Avx512,
        __m512,
        16,
        12,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_mul_ps,
        _mm512_div_ps,
        _mm512_max_ps,
        _mm512_min_ps,
        _mm512_fmadd_ps,
        round_512,
        scale_512,
        greater_512
    );

    implement!(
        Avx2,
        __m256,
        8,
        6,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_mul_ps,
        _mm256_div_ps,
        _mm256_max_ps,
        _mm256_min_ps,
        _mm256_fmadd_ps,
        round_256,
        scale_256,
        greater_256
    );
}
