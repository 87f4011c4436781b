//! The one integration binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

#[path = "ops/resize.rs"]
mod ops_resize;
#[path = "ops/resize_nearest.rs"]
mod ops_resize_nearest;
#[path = "ops/resize_u8.rs"]
mod ops_resize_u8;
#[path = "volume/phantom.rs"]
mod volume_phantom;
