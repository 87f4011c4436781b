//! The U-Net and what surrounds it.

mod loss;
mod network;
mod plan;
mod preprocess;
mod resample;
