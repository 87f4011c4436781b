//! Algorithm 2: the literal form against the authors' program, the fast form against both.

mod against_literal;
mod bf16;
#[cfg(feature = "emu")]
mod emulated;
mod goldens;
mod gpu;
mod memory;
mod planned;
