//! Metrics: how well one label map agrees with another.

pub mod dice;
pub mod distance;
pub mod preset;
pub mod scores;
pub mod summary;
