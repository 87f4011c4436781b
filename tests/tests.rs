//! The one integration binary.

// clippy.toml exempts functions marked #[test] only; their helpers are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod cli;
mod cohort;
mod cuda;
mod sam2;
mod structure;
mod support;
mod tffs;
mod volume;
mod weights;

#[path = "ops/resize.rs"]
mod ops_resize;
#[path = "ops/resize_nearest.rs"]
mod ops_resize_nearest;
#[path = "ops/resize_u8.rs"]
mod ops_resize_u8;
