//! What several tests share.

pub mod golden;
pub mod literal;
pub mod ops;
