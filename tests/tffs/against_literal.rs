//! The fast path (caches, lanes, shared attention) against Algorithm 2 to the letter.

use crate::support::fast::{self, Prepared, device};
use crate::support::golden::formula_network;
use crate::support::literal;
use hpc_seg::sam2::Sam2;
use hpc_seg::tffs::ensemble::Labelling;

/// Slices with a moving bright disc, different per seed.
fn slices(count: usize, seed: usize) -> Vec<Vec<f32>> {
    (0..count)
        .map(|z| {
            (0..128 * 128)
                .map(|i| {
                    let (y, x) = ((i / 128) as f32, (i % 128) as f32);
                    let (cy, cx) = (50.0 + 3.0 * z as f32 + seed as f32, 60.0 - 2.0 * z as f32 + 5.0 * seed as f32);
                    let inside = (y - cy).hypot(x - cx) < 22.0;
                    let texture = ((i * 7919 + seed * 104_729 + z * 31) % 37) as f32;
                    if inside { 180.0 + texture } else { 40.0 + 1.5 * texture }
                })
                .collect()
        })
        .collect()
}

/// A mask: '#' a disc, 'o' a labelled slice whose mask vanished at S x S, '.' none.
fn prompts(pattern: &str, seed: usize) -> Vec<Option<Vec<u8>>> {
    let disc = |z: usize| {
        let (cy, cx) = (50 + 3 * z + seed, 60 + 5 * seed - 2 * z);
        (0..128 * 128)
            .map(|i| u8::from((i / 128usize).abs_diff(cy).pow(2) + (i % 128usize).abs_diff(cx).pow(2) < 400))
            .collect::<Vec<u8>>()
    };
    pattern
        .chars()
        .enumerate()
        .map(|(z, c)| match c {
            '#' => Some(disc(z)),
            'o' => Some(vec![0; 128 * 128]),
            _ => None,
        })
        .collect()
}

fn prepared(seed: usize, patterns: &[&str], places: &[usize]) -> Prepared {
    Prepared {
        slices: slices(patterns[0].len(), seed),
        prompts: patterns.iter().map(|p| prompts(p, seed)).collect(),
        places: places.to_vec(),
    }
}

/// Compares the mean probability of every class over all supports.
fn compare(net: &Sam2, query: usize, plane: (usize, usize), labelled: &[Prepared], fill_holes: usize) -> Labelling {
    let query = slices(query, 9);
    net.device().install(|| {
        let done = fast::run(net, &query, plane, labelled, 3, fill_holes);
        let got = done.probabilities.as_ref().unwrap();
        let voxels = query.len() * plane.0 * plane.1;
        for class in 0..labelled[0].prompts.len() {
            let (mut sum, mut runs) = (vec![0f64; voxels], 0);
            for volume in labelled.iter().filter(|v| v.prompts[class].iter().any(Option::is_some)) {
                let map = literal::mean_probability(
                    net,
                    &query,
                    &volume.slices,
                    &volume.prompts[class],
                    &volume.places,
                    plane,
                    fill_holes,
                );
                sum.iter_mut().zip(&map).for_each(|(s, p)| *s += p * volume.places.len() as f64);
                runs += volume.places.len();
            }
            let differences = sum
                .iter()
                .zip(&got[class * voxels..][..voxels])
                .map(|(s, &p)| (s / f64::from(runs.max(1) as u32) - f64::from(p)).abs());
            let worst = differences.fold(0f64, f64::max);
            assert!(worst <= 5e-5, "class {}: literal and fast differ by {worst:.2e}", class + 1);
        }
        done
    })
}

#[test]
fn several_supports_classes_and_the_first_and_last_place() {
    let net = formula_network("tiny", 1, &device(2));
    let labelled = [
        prepared(1, &["####", "##.."], &[0, 3, 7]),
        prepared(2, &["#####", "....."], &[0, 4]),
        prepared(3, &["....", "..##"], &[7]),
    ];
    let done = compare(&net, 8, (128, 128), &labelled, 0);
    assert_eq!(done.classes.iter().map(|c| c.runs).collect::<Vec<_>>(), [5, 4]);
}

#[test]
fn empty_labelled_slices_before_between_and_after() {
    let net = formula_network("tiny", 1, &device(2));
    compare(&net, 10, (128, 128), &[prepared(1, &["..##.#..#..."], &[0, 5, 9])], 0);
    compare(
        &net,
        3,
        (128, 128),
        &[prepared(2, &[&(".#".to_owned() + &"#.".repeat(5) + &".".repeat(9))], &[1])],
        0,
    );
}

#[test]
fn a_labelled_block_too_long_to_see_past() {
    // Empty slices 18 positions from the query on one side and 2 on the other: some are never tracked in the fast path.
    let net = formula_network("tiny", 10, &device(2));
    compare(&net, 4, (128, 128), &[prepared(1, &["#.##################.#"], &[0, 2])], 0);
}

#[test]
fn masks_that_vanish_at_the_networks_size_stay_conditioning() {
    let net = formula_network("tiny", 1, &device(2));
    compare(&net, 6, (128, 128), &[prepared(1, &["#o#o"], &[2])], 0);
    compare(&net, 6, (128, 128), &[prepared(1, &["oo"], &[2])], 0);
}

#[test]
fn sequences_shorter_than_sixteen_and_one_slice_volumes() {
    let net = formula_network("tiny", 39, &device(2));
    compare(&net, 1, (128, 128), &[prepared(1, &["#"], &[0])], 0);
    compare(&net, 2, (128, 128), &[prepared(1, &["#.#."], &[0, 1])], 0);
    compare(&net, 5, (128, 128), &[prepared(2, &[".##.."], &[4])], 0);
}

#[test]
fn other_matrix_sizes_and_hole_filling() {
    let net = formula_network("tiny", 10, &device(2));
    compare(&net, 4, (176, 208), &[prepared(1, &["###"], &[1, 3])], 8);
    compare(&net, 4, (61, 47), &[prepared(1, &["##."], &[2])], 8);
}

#[test]
fn same_bytes_for_any_threads_and_lanes_per_step() {
    let labelled = [
        prepared(1, &["####.", "##..."], &[0, 2, 3, 5, 6]),
        prepared(2, &["####", "...."], &[1, 4]),
    ];
    let query = slices(7, 9);
    let run = |threads: usize, lanes: usize| {
        let device = device(threads);
        let net = formula_network("tiny", 1, &device);
        let done = device.install(|| fast::run(&net, &query, (96, 112), &labelled, lanes, 8));
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        (
            done.labels.clone(),
            bits(&done.uncertainty),
            bits(done.probabilities.as_ref().unwrap()),
            done.classes,
        )
    };
    let one = run(1, 1);
    for (threads, lanes) in [(2, 5), (5, 2), (1, 4)] {
        assert!(run(threads, lanes) == one, "{threads} threads, {lanes} lanes per step");
    }
}
