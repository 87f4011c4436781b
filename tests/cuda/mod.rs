//! The CUDA runtime: what needs no kernels to run, and, under the features `emu` and `emu-check`, every kernel against its CPU op.

mod cache;
mod compile;

#[cfg(feature = "emu")]
mod arena;
#[cfg(feature = "emu")]
mod conformance;
#[cfg(feature = "emu")]
mod launching;
#[cfg(feature = "emu")]
mod linear;
#[cfg(feature = "emu")]
mod max_pool;
#[cfg(feature = "emu-check")]
mod mutations;
#[cfg(feature = "emu")]
mod norm;
