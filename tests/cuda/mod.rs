//! The CUDA runtime: what needs no kernels to run; every kernel against its CPU op, on a GPU if there is one, and on the emulator under the features `emu` and
//! `emu-check`.

#[cfg(feature = "emu")]
mod arena;
mod cache;
mod compile;
mod conformance;
mod gpu;
#[cfg(feature = "emu")]
mod launching;
mod linear;
mod max_pool;
#[cfg(feature = "emu-check")]
mod mutations;
mod norm;
