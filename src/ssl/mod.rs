//! Algorithm 1 of SSL-MedSAM2: pseudo-labels of a frozen network, refined by networks that are trained on them, round by round.
//!
//! [`steps`] says what there is to do, [`work`] does a step, [`depends`] says what it depends on, and the [`driver`] takes the steps one by one and writes them into the journal.

pub mod agreement;
pub mod depends;
pub mod driver;
pub mod folds;
pub mod places;
pub mod report;
pub mod round;
pub mod settings;
pub mod status;
pub mod steps;
pub mod summary;
pub mod suspicion;
mod testing;
pub mod work;
