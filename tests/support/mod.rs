//! What several tests share.

pub mod fast;
pub mod golden;
pub mod gpu;
pub mod literal;
pub mod ops;
