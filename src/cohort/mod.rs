//! A cohort is a set of cases worked on by one command: which cases exist, who supports whom, and what became of each.
//!
//! The way through it: [`discover`] finds the cases, [`groups`] says which labelled volumes a case may meet, [`runner`] takes the cases one
//! by one, skips what the [`journal`] knows as finished, and keeps going when one of them [fails](failed); [`case_record`] is what is
//! written down about each.

pub mod case_record;
pub mod demo;
pub mod discover;
pub mod estimate;
pub mod evaluation;
pub mod failed;
pub mod groups;
pub mod hashes;
pub mod held_out;
pub mod journal;
pub mod labeller;
pub mod layouts;
pub mod output;
pub mod phantoms;
pub mod postprocessing;
pub mod presence;
pub mod runner;
pub mod settings;
pub mod signals;
