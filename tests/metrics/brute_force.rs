//! Distances against the definition: every voxel with every other, in f64.

use hpc_seg::device::Device;
use hpc_seg::keyed_rng::keyed_rng;
use hpc_seg::metrics::distance::{Grid, to_nearest};
use hpc_seg::metrics::measures::{Maps, Measure, Rules, of_class};
use hpc_seg::metrics::overlap::Overlaps;
use rand_chacha::rand_core::Rng;

/// Awkward grids: single planes, rows and voxels, primes, widths beside the block of eight, strong anisotropy.
const GRIDS: &[([usize; 3], [f64; 3])] = &[
    ([1, 1, 1], [1.0, 1.0, 1.0]),
    ([1, 1, 9], [3.0, 2.0, 0.7]),
    ([1, 7, 1], [3.0, 2.0, 0.7]),
    ([8, 1, 1], [3.0, 2.0, 0.7]),
    ([5, 7, 11], [6.0, 2.3, 2.3]),
    ([11, 8, 16], [0.1, 5.0, 1.3]),
    ([9, 13, 17], [1.5, 1.5, 1.5]),
];

/// A map of `shape` in which about `share` of 256 voxels have label 1 and some label 2.
fn labels(shape: [usize; 3], share: u32, seed: u64) -> Vec<u16> {
    let mut rng = keyed_rng(seed, &["labels"]);
    (0..shape.iter().product())
        .map(|_| match rng.next_u32() % 256 {
            n if n < share => 1,
            n if n > 240 => 2,
            _ => 0,
        })
        .collect()
}

fn place(index: usize, grid: Grid) -> [usize; 3] {
    let [_, rows, columns] = grid.shape;
    [index / (rows * columns), index / columns % rows, index % columns]
}

fn between(a: usize, b: usize, grid: Grid) -> f64 {
    let (a, b) = (place(a, grid), place(b, grid));
    (0..3)
        .map(|axis| (a[axis].abs_diff(b[axis]) as f64 * grid.spacing[axis]).powi(2))
        .sum::<f64>()
        .sqrt()
}

fn nearest(sites: &[usize], from: usize, grid: Grid) -> f64 {
    sites.iter().map(|&site| between(site, from, grid)).fold(f64::INFINITY, f64::min)
}

fn where_true(mask: &[bool]) -> Vec<usize> {
    (0..mask.len()).filter(|&index| mask[index]).collect()
}

/// Voxels of class 1 with a face neighbour that is not, or that lies outside.
fn border(labels: &[u16], grid: Grid) -> Vec<usize> {
    let is_one = |at: [isize; 3]| {
        let inside = (0..3).all(|axis| at[axis] >= 0 && at[axis] < grid.shape[axis] as isize);
        inside && labels[((at[0] * grid.shape[1] as isize + at[1]) * grid.shape[2] as isize + at[2]) as usize] == 1
    };
    let mut found = Vec::new();
    for index in 0..labels.len() {
        let at = place(index, grid).map(|n| n as isize);
        let mut open = false;
        for axis in 0..3 {
            for step in [-1, 1] {
                let mut next = at;
                next[axis] += step;
                open |= !is_one(next);
            }
        }
        if is_one(at) && open {
            found.push(index);
        }
    }
    found
}

#[test]
fn the_distance_transform_is_exact_and_the_same_on_any_number_of_threads() {
    for &(shape, spacing) in GRIDS {
        let grid = Grid { shape, spacing };
        for (seed, share) in [(0, 0), (1, 4), (2, 60), (3, 256)] {
            let sites: Vec<bool> = labels(shape, share, seed).iter().map(|&label| label == 1).collect();
            let queries: Vec<bool> = labels(shape, 128, seed + 10).iter().map(|&label| label == 1).collect();
            let run = |threads| Device::cpu(threads).unwrap().install(|| to_nearest(&sites, &queries, grid));
            let found = run(1);
            assert_eq!(found, run(3));
            let mut indices: Vec<usize> = found.iter().map(|(index, _)| *index).collect();
            indices.sort_unstable();
            assert_eq!(indices, where_true(&queries), "{shape:?}");
            for (index, distance) in found {
                let expected = nearest(&where_true(&sites), index, grid);
                assert!(
                    distance == expected || (distance - expected).abs() <= 1e-14 * expected,
                    "{shape:?} {share} {index}: {distance} for {expected}"
                );
            }
        }
    }
}

#[test]
fn distances_of_a_class_are_those_of_the_definitions() {
    for &(shape, spacing) in GRIDS {
        for seed in 0..4 {
            let grid = Grid { shape, spacing };
            let (prediction, reference) = (labels(shape, 40 + 60 * seed as u32, seed), labels(shape, 130, seed + 20));
            let [a, b] = [&prediction, &reference].map(|map| border(map, grid));
            if a.is_empty() || b.is_empty() {
                continue;
            }
            let ways = [(&a, &b), (&b, &a)].map(|(from, to)| from.iter().map(|&at| nearest(to, at, grid)).collect::<Vec<f64>>());
            let largest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
            let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
            let solid = [(&prediction, &reference), (&reference, &prediction)].map(|(from, to)| {
                let all = |map: &[u16]| (0..map.len()).filter(|&i| map[i] == 1).collect::<Vec<_>>();
                let to = all(to);
                largest(&all(from).iter().map(|&at| nearest(&to, at, grid)).collect::<Vec<f64>>())
            });
            let close = ways.concat().iter().filter(|distance| **distance <= 2.5).count();
            let expected = [
                close as f64 / ways.concat().len() as f64,
                largest(&ways.concat()),
                mean(&ways.concat()),
                largest(&solid),
            ];
            let overlaps = Overlaps::count(&prediction, &reference, shape, None).unwrap();
            let maps = Maps {
                prediction: &prediction,
                reference: &reference,
                grid,
                ignored: None,
            };
            let measures = [
                Measure::Nsd(Rules::Monai, 2.5),
                Measure::Hd(Rules::MedPy),
                Measure::Assd,
                Measure::Hd(Rules::SimpleItk),
            ];
            for (got, expected) in of_class(&measures, maps, &overlaps, 1).iter().zip(expected) {
                assert!((got - expected).abs() <= 1e-12 * expected, "{shape:?} {seed}: {got} for {expected}");
            }
        }
    }
}

#[test]
fn ignored_voxels_belong_to_neither_map() {
    // A prediction that is right but for a far voxel, which the reference declares unknown.
    let (prediction, reference) = ([1, 1, 0, 0, 0, 1], [1, 1, 0, 0, 0, 9]);
    let grid = Grid {
        shape: [1, 1, 6],
        spacing: [1.0, 1.0, 2.0],
    };
    for (ignored, expected) in [(Some(9), [1.0, 0.0]), (None, [0.8, 8.0])] {
        let overlaps = Overlaps::count(&prediction, &reference, grid.shape, ignored).unwrap();
        let maps = Maps {
            prediction: &prediction,
            reference: &reference,
            grid,
            ignored,
        };
        assert_eq!(of_class(&[Measure::Dice, Measure::Hd(Rules::MedPy)], maps, &overlaps, 1), expected);
    }
}

#[test]
fn a_class_that_is_missing_has_the_documented_values() {
    let grid = Grid {
        shape: [1, 2, 2],
        spacing: [1.0; 3],
    };
    let (prediction, reference) = ([0, 1, 0, 0], [0, 0, 2, 0]);
    let maps = Maps {
        prediction: &prediction,
        reference: &reference,
        grid,
        ignored: None,
    };
    let overlaps = Overlaps::count(&prediction, &reference, grid.shape, None).unwrap();
    let measures = [
        Measure::Dice,
        Measure::Iou,
        Measure::VolumeErrorMl,
        Measure::VolumeErrorPercent,
        Measure::Hd(Rules::SurfaceDistance),
        Measure::Hd95(Rules::Monai),
        Measure::Assd,
        Measure::Nsd(Rules::SurfaceDistance, 3.0),
    ];
    let inf = f64::INFINITY;
    let text = |class| format!("{:?}", of_class(&measures, maps, &overlaps, class));
    assert_eq!(text(1), format!("{:?}", [0.0, 0.0, 0.001, f64::NAN, inf, inf, inf, 0.0]));
    assert_eq!(text(2), format!("{:?}", [0.0, 0.0, -0.001, -100.0, inf, inf, inf, 0.0]));
    let nan = f64::NAN;
    assert_eq!(text(3), format!("{:?}", [nan, nan, 0.0, nan, nan, nan, nan, nan]));
}
