//! Algorithm 1 of SSL-MedSAM2: pseudo-labels of a frozen network, refined by networks that are trained on them, round by round.

pub mod agreement;
pub mod folds;
pub mod round;
