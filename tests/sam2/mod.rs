//! The network against PyTorch, stage by stage.

mod published;
mod stages;
