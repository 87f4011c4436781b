//! The network against PyTorch, stage by stage.

mod stages;
