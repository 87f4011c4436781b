//! Training: epochs of steps, what is written down about them, checkpoints, and going on where a run was interrupted.

pub mod history;
pub mod schedule;
