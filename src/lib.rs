//! Few labelled and many unlabelled medical volumes in, segmentations and a trained network out.
//!
//! The method is SSL-MedSAM2: a frozen SAM 2.1 / MedSAM2 network labels unlabelled volumes from a few labelled ones (TFFS). The modules
//! stand in the order of the data's way; imports point downwards only, and a structure test checks it.

pub mod error;
pub mod volume;
