//! The one integration binary.

mod volume;
