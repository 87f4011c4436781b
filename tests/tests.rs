//! The one integration binary.

mod cli;
mod cohort;
mod structure;
