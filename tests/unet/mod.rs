//! The U-Net and what surrounds it.

mod plan;
mod preprocess;
mod resample;
