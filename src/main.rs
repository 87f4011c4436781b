//! The `hpc-seg` program: parse, run, report, exit code.

fn main() {}
