//! The U-Net and what surrounds it.

mod augment;
mod commands;
mod exchange;
mod loss;
mod memory;
mod network;
mod plan;
mod predict;
mod preprocess;
mod resample;
mod residual;
mod train_command;
mod training;
