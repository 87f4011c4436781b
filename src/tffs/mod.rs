//! TFFS: training-free few-shot pseudo-labels (Algorithm 2 of SSL-MedSAM2).
//!
//! "Unlabelled volume with a labelled one inserted" is read as a video: labelled slices are prompts, and the network tracks the organ through the unlabelled ones. R random
//! insertions of each of M labelled volumes are averaged.

pub mod ensemble;
pub mod intensity;
pub mod lane;
pub mod places;
pub mod plan;
pub mod prepare;
pub mod schedule;
pub mod source;
pub mod store;
pub mod support;
