//! Volumes: voxels on a grid in space.

pub mod components;
pub mod phantom;
