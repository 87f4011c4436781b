//! Reports: what a person looks at afterwards.

pub mod montage;
