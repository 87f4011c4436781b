//! Algorithm 2: the literal form against the authors' program, the fast form against both.

mod against_literal;
mod goldens;
mod memory;
