//! `ops::resize_nearest` against PyTorch's rule, where it is exact and where it is not.

use hpc_seg::ops::resize_nearest::NearestPlan;

fn indices(input: usize, output: usize) -> Vec<usize> {
    let (src, mut out) = ((0..input).collect::<Vec<usize>>(), vec![usize::MAX; output]);
    NearestPlan::new((1, input), (1, output)).unwrap().resize(&src, &mut out).unwrap();
    let mut down = vec![usize::MAX; output];
    NearestPlan::new((input, 1), (output, 1)).unwrap().resize(&src, &mut down).unwrap();
    assert_eq!(out, down, "both axes follow one rule");
    out
}

// torch 2.15.0: F.interpolate(torch.arange(n_in).float()[None, None], size=n_out, mode="nearest").long().ravel(): number of places
// where it differs from i * n_in // n_out, and the sum of all.
#[test]
fn nearest_differs_from_exact_arithmetic_where_pytorch_does() {
    for (input, output, differences, sum) in [
        (208, 176, 9, 18111),
        (224, 368, 9, 40919),
        (512, 511, 0, 130305),
        (97, 1021, 0, 48960),
        (1021, 97, 0, 48960),
    ] {
        let indices = indices(input, output);
        let differ = (0..output).filter(|&i| indices[i] != i * input / output).count();
        assert_eq!((differ, indices.iter().sum::<usize>()), (differences, sum), "{input} to {output}");
    }
}

#[test]
fn doubling_equal_and_single_sizes_are_exact() {
    assert_eq!(indices(3, 6), [0, 0, 1, 1, 2, 2]);
    assert_eq!(indices(5, 5), [0, 1, 2, 3, 4]);
    assert_eq!(indices(1, 3), [0, 0, 0]);
    assert_eq!(indices(7, 3), [0, 2, 4]);
}

#[test]
fn rows_and_columns_are_picked_together() {
    let mut out = [9u8; 6];
    NearestPlan::new((2, 2), (3, 2)).unwrap().resize(&[1, 2, 3, 4], &mut out).unwrap();
    assert_eq!(out, [1, 2, 1, 2, 3, 4]);
}

#[test]
fn sizes_of_zero_and_slices_of_another_size_are_refused() {
    assert!(NearestPlan::new((2, 3), (2, 0)).is_err());
    let plan = NearestPlan::new((2, 2), (3, 2)).unwrap();
    assert!(plan.resize(&[1u8; 4], &mut [0; 5]).is_err());
    assert!(plan.resize(&[1u8; 3], &mut [0; 6]).is_err());
}
