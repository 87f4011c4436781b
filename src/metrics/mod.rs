//! Metrics: how well one label map agrees with another.

pub mod dice;
