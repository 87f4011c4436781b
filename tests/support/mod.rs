//! What several tests share.

#[cfg(feature = "emu")]
pub mod emulated;
pub mod fast;
pub mod full_disk;
pub mod golden;
pub mod gpu;
pub mod literal;
pub mod ops;
