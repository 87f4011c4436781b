//! The second branch: a 3-D U-Net planned, fed and trained as nnU-Net's `3d_fullres`, on arrays of this program's own.
//!
//! Axes are nnU-Net's: arrays are `[D, H, W]` = (a0, a1, a2), that is the file's (z, y, x) after the plan's `transpose_forward`; channels come last.

pub mod architecture;
pub mod augment;
pub mod case;
pub mod crop;
pub mod dataset;
pub mod exchange;
pub mod fingerprint;
pub mod labelling;
pub mod loss;
pub mod memory;
pub mod model;
pub mod names;
pub mod network;
pub mod normalise;
pub mod numpy_random;
pub mod optimiser;
pub mod patches;
pub mod plan;
pub mod predict;
pub mod preprocess;
pub mod resample;
pub mod splits;
pub mod store;
pub mod tiles;
pub mod trainer;
pub mod transfer;
