//! Reports: what a person looks at afterwards.

pub mod chart;
pub mod html;
pub mod montage;
pub mod tensorboard;
