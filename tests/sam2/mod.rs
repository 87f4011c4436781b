//! The network against PyTorch, stage by stage.

mod absurd;
mod published;
mod stages;
