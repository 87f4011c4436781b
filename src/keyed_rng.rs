//! Random numbers keyed by what they are for: the same (seed, case, purpose) gives the same numbers whatever ran before.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::{Digest, Sha256};

/// The generator that belongs to `seed` and `parts`, for instance `["insertion", case, support]`.
///
/// Its key is the SHA-256 of the seed and of every part preceded by its length (so `["ab", "c"]` and `["a", "bc"]` differ).
pub fn keyed_rng(seed: u64, parts: &[&str]) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    ChaCha8Rng::from_seed(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::Rng;

    fn first(seed: u64, parts: &[&str]) -> u64 {
        keyed_rng(seed, parts).next_u64()
    }

    #[test]
    fn every_part_and_its_borders_choose_the_stream() {
        let streams = [
            first(0, &[]),
            first(1, &[]),
            first(0, &["ab", "c"]),
            first(0, &["a", "bc"]),
            first(0, &["abc"]),
            first(0, &[""]),
        ];
        for (i, a) in streams.iter().enumerate() {
            assert!(streams[i + 1..].iter().all(|b| a != b));
        }
        assert_eq!(first(7, &["case"]), first(7, &["case"]));
    }

    // python: import hashlib; hashlib.sha256((42).to_bytes(8, "little") + (4).to_bytes(8, "little") + b"case").hexdigest()
    // gives the key; ChaCha's rounds written out in Python (4 double rounds, counter and nonce 0) gave the number.
    #[test]
    fn the_stream_of_a_key_never_changes() {
        assert_eq!(first(42, &["case"]), 0x191292a9819d835e);
    }
}
