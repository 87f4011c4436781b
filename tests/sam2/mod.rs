//! The network against PyTorch, stage by stage.

mod absurd;
mod bf16;
#[cfg(feature = "emu")]
mod emulated;
mod gpu;
mod published;
mod stages;
