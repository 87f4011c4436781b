//! Training: batches cut and augmented ahead of the steps, epochs of steps, what is written down about them, checkpoints, and going on where a run was interrupted.
//!
//! Batches are functions of (seed, number) alone and the parameters' arithmetic has one order, so that an interrupted and resumed run is an unbroken one, bit for bit.

pub mod batches;
pub mod checkpoint;
pub mod fold;
pub mod history;
pub mod run;
pub mod schedule;
pub mod siblings;
pub mod timing;
