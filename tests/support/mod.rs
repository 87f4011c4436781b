//! What several tests share.

pub mod fast;
pub mod golden;
pub mod literal;
pub mod ops;
