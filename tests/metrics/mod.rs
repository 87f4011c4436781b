//! Metrics against other tools' values and plain loops, and the command that shows them.

mod command;
mod distances;
mod summary;
