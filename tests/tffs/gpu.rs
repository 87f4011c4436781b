//! The whole of TFFS on a GPU, where there is one: near the authors' program, and the same bytes however it is planned.

use super::bf16::{self, plan, run};
use crate::support::gpu::on_the_gpu;

#[test]
fn tiny_run_is_as_near_the_authors_as_bf16_allows() {
    on_the_gpu(bf16::tiny_seed_10);
}

#[test]
fn tiny_run_with_holes_filled_is_as_near_the_authors_as_bf16_allows() {
    on_the_gpu(bf16::tiny_seed_1_filled);
}

#[test]
fn full_size_run_is_as_near_the_authors_as_bf16_allows() {
    on_the_gpu(bf16::full);
}

#[test]
fn plans_do_not_change_a_byte() {
    on_the_gpu(|device| {
        let case = bf16::small();
        let bytes = |lanes, batch, spilled| {
            let done = run(device, ("tiny", 1), &case, &plan(lanes, batch, spilled), 8);
            (done.labels, done.uncertainty, done.probabilities)
        };
        let want = bytes(2, 3, false);
        assert!(want.2.iter().flatten().any(|&p| p > 0.0), "an empty result shows nothing");
        for (lanes, batch, spilled) in [(1, 1, false), (2, 2, true), (5, 1, true), (2, 3, false)] {
            assert!(
                bytes(lanes, batch, spilled) == want,
                "{lanes} lanes, {batch} slices at once, spilled: {spilled}"
            );
        }
    });
}
