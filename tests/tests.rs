//! The one integration binary.

// Clippy's exemption for tests covers functions marked as tests, not their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod volume;
