//! Metrics: how well one label map agrees with another, class by class.
//!
//! Overlap is counted in voxels ([`overlap`]); distances between surfaces are in mm and know the spacing ([`surface`]), by an exact distance
//! transform ([`distance`]). What counts as a surface, and which percentile is meant by HD95, differs between programs: a [`measures::Preset`]
//! names whose rules are followed. [`bootstrap`] says how sure a mean over cases is.

pub mod bootstrap;
pub mod dice;
pub mod distance;
pub mod measures;
pub mod overlap;
pub mod surface;
pub mod surfels;
