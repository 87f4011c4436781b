//! The waist: one file per fused op.

pub mod resize;
pub mod resize_nearest;
pub mod resize_u8;
