//! Where labelled volumes are inserted into an unlabelled one.

use crate::keyed_rng::keyed_rng;
use rand::seq::index::sample;

/// `count` distinct insertion places of a labelled volume in an unlabelled one of `slices` slices, ascending; all places if there are fewer. Place F puts the labelled
/// slices before slice F. Drawn from a generator keyed by (seed, both cases), so that a result does not depend on what else a run contains.
pub fn insertion_places(seed: u64, unlabelled: &str, labelled: &str, slices: usize, count: usize) -> Vec<usize> {
    if count >= slices {
        return (0..slices).collect();
    }
    let mut rng = keyed_rng(seed, &["insertion places", unlabelled, labelled]);
    let mut places = sample(&mut rng, slices, count).into_vec();
    places.sort_unstable();
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_distinct_in_range_and_keyed_by_both_cases() {
        let places = insertion_places(0, "query", "support", 40, 5);
        assert_eq!(places.len(), 5);
        assert!(places.windows(2).all(|w| w[0] < w[1]) && places[4] < 40);
        assert_eq!(places, insertion_places(0, "query", "support", 40, 5));
        let others = [(1, "query", "support"), (0, "other", "support"), (0, "query", "other")];
        assert!(others.iter().all(|&(seed, a, b)| insertion_places(seed, a, b, 40, 5) != places));
    }

    #[test]
    fn fewer_slices_than_insertions_use_every_place() {
        assert_eq!(insertion_places(0, "a", "b", 3, 5), [0, 1, 2]);
        assert_eq!(insertion_places(0, "a", "b", 1, 1), [0]);
    }
}
