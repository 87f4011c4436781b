//! Few labelled and many unlabelled medical volumes in, segmentations and a trained network out.
//!
//! The method is SSL-MedSAM2: a frozen SAM 2.1 / MedSAM2 network labels unlabelled volumes from a few labelled ones (TFFS). The modules
//! stand in the order of the data's way; imports point downwards only, and a structure test checks it.

pub mod commands;

pub mod cli;

pub mod bench;

pub mod cohort;

pub mod ssl;

pub mod tffs;

pub mod sam2;

pub mod unet;

pub mod volume;

pub mod metrics;

pub mod report;

pub mod weights;

pub mod ops;
pub mod tensor;

pub mod device;

pub mod cpu;

pub mod cuda;

// Free-standing machinery: nothing here knows about volumes or networks.
pub mod atomic_file;
pub mod clock;
pub mod error;
pub mod keyed_rng;
pub mod machine;
pub mod messages;
pub mod panics;
pub mod sha256;
pub mod stop;
