//! The CUDA runtime: what needs no kernels to run; every kernel against its CPU op, on a GPU if there is one, and on the emulator under the features `emu` and
//! `emu-check`.

mod add_rows;
#[cfg(feature = "emu")]
mod arena;
mod attention;
mod bench;
mod cache;
mod compile;
mod components;
mod conformance;
mod conv;
mod copy_rows;
mod depthwise;
mod ensemble;
mod failures;
mod fault;
pub mod faulty;
mod fill_holes;
mod gpu;
mod gpu_script;
mod guards;
#[cfg(feature = "emu")]
mod launching;
mod linear;
mod mask_product;
mod max_pool;
mod memory_attention;
mod memory_mask;
mod mma_rate;
#[cfg(feature = "emu-check")]
mod mutations;
mod nearest_add;
mod norm;
mod normalise;
mod prompt_mask;
mod ptx;
mod rope;
mod suites;
mod take;
mod transfers;
mod upscale;
