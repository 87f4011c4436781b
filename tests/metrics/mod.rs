//! Metrics against brute force, against other programs' values, and as a command.

mod brute_force;
mod command;
mod goldens;
