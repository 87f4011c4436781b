//! Cards by name: what a plan or a roofline assumes of a card that is not there. Numbers are NVIDIA's data sheets', and are never mixed with measured ones.

use super::driver::{LEAST_SHARED_BYTES, Limits, SHARED_BYTES_OF_SM_80};
use crate::bad_input;
use anyhow::Result;
use std::fmt;

/// A kind of GPU, or a slice of one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Card {
    /// Its name in options, such as `a100-1g.10gb`.
    pub name: &'static str,
    /// Compute capability, such as `sm_80`.
    pub architecture: &'static str,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that one block may have, in bytes.
    pub shared_bytes: u32,
    /// Bytes of memory a program finds free on it.
    pub memory: usize,
    /// Bytes of its memory per second, in 10^9.
    pub gigabytes_per_second: f64,
    /// bf16 multiply-adds with f32 sums, in 10^12 operations per second.
    pub teraflops: f64,
}

const GIB: usize = 1 << 30;

const fn card(name: &'static str, multiprocessors: u32, memory: usize, gigabytes_per_second: f64, teraflops: f64) -> Card {
    Card {
        name,
        architecture: "sm_80",
        multiprocessors,
        shared_bytes: SHARED_BYTES_OF_SM_80,
        memory,
        gigabytes_per_second,
        teraflops,
    }
}

const fn hopper(card: Card) -> Card {
    Card {
        architecture: "sm_90",
        shared_bytes: 227 << 10,
        ..card
    }
}

/// A card for graphics.
const fn graphics(architecture: &'static str, card: Card) -> Card {
    Card {
        architecture,
        shared_bytes: LEAST_SHARED_BYTES,
        ..card
    }
}

/// All cards known by name. A slice has its share of the multiprocessors and of the memory's width.
pub const CARDS: [Card; 13] = [
    card("a100-1g.10gb", 14, 19 * GIB / 2, 240.0, 40.4),
    card("a100-2g.10gb", 28, 19 * GIB / 2, 389.0, 80.9), // of a 40 GB card, whose memory is slower
    card("a100-3g.40gb", 42, 39 * GIB, 967.0, 121.3),
    card("a100-40gb", 108, 39 * GIB, 1555.0, 312.0),
    card("a100-80gb", 108, 79 * GIB, 1935.0, 312.0),
    hopper(card("h100-80gb", 132, 79 * GIB, 3350.0, 989.0)),
    hopper(card("h200", 132, 139 * GIB, 4800.0, 989.0)),
    graphics("sm_86", card("a10", 72, 22 * GIB, 600.0, 125.0)),
    graphics("sm_86", card("rtx-3090", 82, 23 * GIB, 936.0, 71.0)), // GeForce sums in f32 at half the rate
    graphics("sm_89", card("l4", 58, 22 * GIB, 300.0, 121.0)),
    graphics("sm_89", card("l40s", 142, 44 * GIB, 864.0, 362.0)),
    graphics("sm_89", card("rtx-4090", 128, 23 * GIB, 1008.0, 165.2)),
    graphics("sm_120", card("rtx-5090", 170, 31 * GIB, 1792.0, 209.5)),
];

impl Card {
    /// The card of this name.
    ///
    /// # Errors
    /// When it is not known; with those that are.
    pub fn named(name: &str) -> Result<Self> {
        let Some(found) = CARDS.into_iter().find(|card| card.name == name) else {
            let known: Vec<&str> = CARDS.iter().map(|card| card.name).collect();
            bad_input!("no card is known as {name}; name one of {}", known.join(", "));
        };
        Ok(found)
    }

    /// Limits of a launch on it.
    pub fn limits(&self) -> Limits {
        Limits {
            threads: 1024,
            shared_bytes: self.shared_bytes,
            multiprocessors: self.multiprocessors,
        }
    }

    /// The least seconds this work can take on it.
    pub fn seconds(&self, flops: f64, bytes: f64) -> f64 {
        (flops / (self.teraflops * 1e12)).max(bytes / (self.gigabytes_per_second * 1e9))
    }
}

impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({} multiprocessors, {} TFLOP/s, {} GB/s, {:.1} GiB)",
            self.name,
            self.multiprocessors,
            self.teraflops,
            self.gigabytes_per_second,
            self.memory as f64 / GIB as f64
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_found_by_its_name_and_an_unknown_one_lists_those_known() {
        let slice = Card::named("a100-1g.10gb").unwrap();
        assert_eq!((slice.limits().multiprocessors, slice.architecture), (14, "sm_80"));
        let message = Card::named("gtx").unwrap_err().to_string();
        assert!(message.contains("known as gtx") && message.contains("a100-2g.10gb"), "{message}");
    }

    #[test]
    fn the_slower_of_arithmetic_and_memory_decides_the_time() {
        let slice = Card::named("a100-1g.10gb").unwrap();
        assert!((slice.seconds(0.0, 480e9) - 2.0).abs() < 1e-9);
        assert!((slice.seconds(80.8e12, 480e9 / 2.0) - 2.0).abs() < 1e-9);
    }
}
