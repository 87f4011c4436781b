//! What a slice attends to: policy in integers, no arithmetic on tensors.
//!
//! Positions are in the direction of the pass: a backward pass is a forward pass over the mirrored sequence. Source: SAM 2's `_prepare_memory_conditioned_features`.

/// Recent slices by temporal index: slice t - distance, distance 1 ... `slices - 1`, uses index `distance - 1` of the temporal positions; conditioning slices use the
/// last index.
///
/// Returns (position, temporal index) of each tracked (not conditioning) slice among the last `slices - 1` before `t`.
pub fn recent(t: usize, tracked: impl Fn(usize) -> bool, slices: usize) -> Vec<(usize, usize)> {
    (1..slices)
        .filter(|&distance| distance <= t && tracked(t - distance))
        .map(|distance| (t - distance, distance - 1))
        .collect()
}

/// How far back pointers of tracked slices reach, exclusive, and (less one) what distances are divided by: min(slices in the sequence, limit).
pub fn pointer_reach(sequence: usize, limit: usize) -> usize {
    sequence.min(limit)
}

/// Object pointers for slice `t`: (position, distance), conditioning slices at or before it first, then tracked slices at distance 1 ... reach - 1.
pub fn pointers(t: usize, conditioning: impl Iterator<Item = usize>, tracked: impl Fn(usize) -> bool, reach: usize) -> Vec<(usize, usize)> {
    let near = (1..reach)
        .filter(|&distance| distance <= t && tracked(t - distance))
        .map(|distance| (t - distance, distance));
    conditioning.filter(|&s| s <= t).map(|s| (s, t - s)).chain(near).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_slices_skip_conditioning_ones_and_stop_at_the_first() {
        // Conditioning at 1, 2, 3; 0 and 4.. tracked.
        let tracked = |s: usize| !(1..4).contains(&s);
        assert_eq!(recent(4, tracked, 7), [(0, 3)]);
        assert_eq!(recent(6, tracked, 7), [(5, 0), (4, 1), (0, 5)]);
        assert_eq!(recent(7, tracked, 7), [(6, 0), (5, 1), (4, 2)]);
        assert_eq!(recent(0, tracked, 7), []);
        assert_eq!(recent(20, |_| true, 7).last(), Some(&(14, 5)));
    }

    #[test]
    fn pointers_take_all_past_conditioning_slices_and_near_tracked_ones() {
        let tracked = |s: usize| !(1..4).contains(&s);
        assert_eq!(pointers(2, [1, 2, 3].into_iter(), tracked, 16), [(1, 1), (2, 0), (0, 2)]);
        assert_eq!(pointers(30, [1, 2, 3].into_iter(), tracked, 16).len(), 3 + 15);
        assert_eq!(pointers(6, [1].into_iter(), tracked, 3), [(1, 5), (5, 1), (4, 2)]);
        assert_eq!(pointer_reach(10, 16), 10);
        assert_eq!(pointer_reach(100, 16), 16);
    }
}
