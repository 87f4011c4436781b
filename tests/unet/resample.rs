//! Resampling is scikit-image's and batchgenerators', to the golden vectors of the specification.

use hpc_seg::unet::resample::{Order, new_shape, resample, resample_labels, separate_axis};

/// A line along each axis in turn, and in the middle of a volume that is constant across it.
fn along_every_axis(line: &[f32], m: usize, order: Order) -> Vec<f32> {
    let n = line.len();
    let mut results = Vec::new();
    for axis in 0..3 {
        let (mut shape, mut new) = ([2; 3], [2; 3]);
        (shape[axis], new[axis]) = (n, m);
        let at = |index: usize, shape: [usize; 3]| [index / (shape[1] * shape[2]), index / shape[2] % shape[1], index % shape[2]][axis];
        let volume: Vec<f32> = (0..4 * n).map(|index| line[at(index, shape)]).collect();
        let done = resample(&volume, shape, new, None, order);
        let mut result = vec![f32::NAN; m];
        for (index, v) in done.iter().enumerate() {
            let k = at(index, new);
            assert!(result[k].is_nan() || (result[k] - v).abs() <= 1e-5, "axis {axis}, sample {k}");
            result[k] = *v;
        }
        results.push(result);
    }
    let [a, b, c] = [&results[0], &results[1], &results[2]];
    assert!(
        a.iter()
            .zip(b)
            .zip(c)
            .all(|((a, b), c)| (a - b).abs() <= 1e-5 && (a - c).abs() <= 1e-5)
    );
    results.swap_remove(0)
}

fn assert_near(got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= 2e-6 * 16.0, "{got:?}, wanted {want:?}");
}

#[test]
fn lines_are_resized_as_by_scikit_image() {
    let x = [0.0, 1.0, 4.0, 9.0, 16.0, 9.0, 4.0, 1.0];
    assert_near(&along_every_axis(&x, 5, Order::Linear), &[0.3, 3.7, 12.5, 8.5, 1.9]);
    let five = [0.121_523_45, 3.655_616_4, 13.519_238, 8.237_018, 1.632_247_8];
    assert_near(&along_every_axis(&x, 5, Order::Cubic), &five);
    let twelve = [
        0.0,
        0.271_318_8,
        1.382_840_5,
        3.427_082_6,
        5.912_957_8,
        10.461_128,
        15.671_359,
        13.510_091,
        7.776_655,
        4.601_566_4,
        2.228_311,
        0.824_083_8,
    ];
    assert_near(&along_every_axis(&x, 12, Order::Cubic), &twelve);
    let step = [0.0, 0.0, 10.0, 10.0, 0.0, 0.0];
    let nine = [
        0.192_276_06,
        0.0,
        1.235_749_7,
        8.465_097,
        10.0,
        8.465_097,
        1.235_749_7,
        0.0,
        0.192_276_06,
    ];
    assert_near(&along_every_axis(&step, 9, Order::Cubic), &nine);
    assert_near(&along_every_axis(&[3.0], 4, Order::Cubic), &[3.0; 4]);
}

#[test]
fn along_a_coarse_axis_slices_are_taken_as_they_are() {
    let line: Vec<f32> = (0..8).map(|v| v as f32).collect();
    for axis in 0..3 {
        for (n, m, want) in [(5, 8, &[0, 0, 1, 2, 2, 3, 4, 4][..]), (8, 5, &[0, 2, 4, 5, 7])] {
            let (mut shape, mut new) = ([3; 3], [3; 3]);
            (shape[axis], new[axis]) = (n, m);
            let place =
                |index: usize, shape: [usize; 3]| [index / (shape[1] * shape[2]), index / shape[2] % shape[1], index % shape[2]][axis];
            let voxels = 9 * n;
            let volume: Vec<f32> = (0..voxels).map(|index| line[place(index, shape)]).collect();
            let labels: Vec<i16> = volume.iter().map(|v| *v as i16).collect();
            let done = resample(&volume, shape, new, Some(axis), Order::Cubic);
            let labels = resample_labels(&labels, shape, new, Some(axis));
            for (index, (v, label)) in done.iter().zip(labels.iter()).enumerate() {
                let want = want[place(index, new)];
                assert_eq!((*v, *label), (want as f32, want as i16), "axis {axis}, {n} to {m}");
            }
        }
    }
}

#[test]
fn slices_are_clipped_to_their_own_range() {
    // Two slices of different ranges, resized in plane: overshoot of the spline stays within each.
    let slice = |high: f32| (0..36).map(move |i| if i % 6 < 3 { 0.0 } else { high });
    let volume: Vec<f32> = slice(1.0).chain(slice(10.0)).collect();
    let done = resample(&volume, [2, 6, 6], [2, 6, 9], Some(0), Order::Cubic);
    let most = |z: usize| done[z * 54..(z + 1) * 54].iter().copied().fold(0.0, f32::max);
    assert_eq!((most(0), most(1)), (1.0, 10.0));
    assert!(done.iter().all(|v| *v >= 0.0));
}

#[test]
fn axes_are_separate_only_where_one_is_coarse() {
    assert_eq!(separate_axis([5.0, 1.0, 1.0], [1.0; 3]), Some(0));
    assert_eq!(separate_axis([1.0; 3], [1.0, 1.0, 3.5]), Some(2));
    assert_eq!(separate_axis([3.0, 1.0, 1.0], [1.0; 3]), None, "more than three times");
    assert_eq!(separate_axis([5.0, 5.0, 1.0], [1.0; 3]), None, "two of them");
    assert_eq!(
        separate_axis([1.0, 4.0, 1.0], [9.0, 1.0, 1.0]),
        Some(1),
        "the first spacing decides"
    );
    assert_eq!(new_shape([20, 80, 96], [5.0, 2.5, 1.0], [2.0, 1.0, 3.0]), [50, 200, 32]);
    assert_eq!(
        new_shape([5, 1, 3], [0.5, 1.0, 0.5], [1.0, 9.0, 1.0]),
        [2, 1, 2],
        "halves to even; one voxel at least"
    );
}

#[test]
fn equal_labels_go_to_the_nearest_voxel_else_to_the_smallest() {
    // New samples at -0.25, 0.25, 0.75, 1.25, ... of the old axis.
    assert_eq!(*resample_labels(&[3, 7], [1, 1, 2], [1, 1, 4], None), [3, 3, 7, 7]);
    // 4 to 2: each new sample lies half-way between two old ones; the nearest of index c + 1/2 is the upper.
    assert_eq!(*resample_labels(&[5, 2, 2, 9], [1, 1, 4], [1, 1, 2], None), [2, 9]);
    // In the middle of four labels, all equal: the nearest is the last.
    assert_eq!(*resample_labels(&[4, 3, 2, 1], [1, 2, 2], [1, 1, 1], None), [1]);
    // Two thirds against one.
    assert_eq!(*resample_labels(&[1, 1, 8], [1, 1, 3], [1, 1, 1], None), [1]);
    assert_eq!(*resample_labels(&[-1, -1, 0, 0], [1, 1, 4], [1, 1, 4], None), [-1, -1, 0, 0]);
}

#[test]
fn threads_do_not_change_a_byte() {
    let volume: Vec<f32> = (0..7 * 9 * 11).map(|i| (i * 37 % 101) as f32).collect();
    let done = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| resample(&volume, [7, 9, 11], [10, 8, 13], None, Order::Cubic).into_owned())
    };
    assert!(done(1) == done(5));
}
