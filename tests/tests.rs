//! The one integration binary.

// clippy.toml exempts functions marked #[test] only; their helpers are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod cli;
mod cohort;
mod cuda;
mod e2e;
mod metrics;
mod ops;
mod sam2;
mod structure;
mod support;
mod tffs;
mod unet;
mod volume;
mod weights;
