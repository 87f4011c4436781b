//! The part of a volume that was measured: what is not zero in any channel, holes filled; all else is cut off or marked.

use std::ops::Range;

/// Where something was cut out: half-open along each axis.
pub type Box3 = [Range<usize>; 3];

/// Whether a voxel is outside: connected to the border through voxels (6 neighbours) that are zero in every channel. `image` are channels [D, H, W].
///
/// What is not outside is nnU-Net's nonzero mask after hole filling (scipy's `binary_fill_holes`).
pub fn outside(image: &[Vec<f32>], shape: [usize; 3]) -> Vec<bool> {
    let [d, h, w] = shape;
    let voxels = d * h * w;
    let is_zero = |at: usize| image.iter().all(|channel| channel[at] == 0.0);
    let mut outside = vec![false; voxels];
    let mut open = Vec::new();
    for at in 0..voxels {
        let (z, y, x) = (at / (h * w), at / w % h, at % w);
        let is_border = z == 0 || z + 1 == d || y == 0 || y + 1 == h || x == 0 || x + 1 == w;
        if is_border && is_zero(at) {
            outside[at] = true;
            open.push(at);
        }
    }
    while let Some(at) = open.pop() {
        let (z, y, x) = (at / (h * w), at / w % h, at % w);
        let neighbours = [
            (z > 0).then(|| at - h * w),
            (z + 1 < d).then(|| at + h * w),
            (y > 0).then(|| at - w),
            (y + 1 < h).then(|| at + w),
            (x > 0).then(|| at - 1),
            (x + 1 < w).then(|| at + 1),
        ];
        for next in neighbours.into_iter().flatten() {
            if !outside[next] && is_zero(next) {
                outside[next] = true;
                open.push(next);
            }
        }
    }
    outside
}

/// The smallest box with everything that is not outside; the whole volume if all of it is.
pub fn bounds(outside: &[bool], shape: [usize; 3]) -> Box3 {
    let [d, h, w] = shape;
    let (mut low, mut high) = ([d, h, w], [0; 3]);
    for (row, voxels) in outside.chunks_exact(w).enumerate() {
        let Some(first) = voxels.iter().position(|outside| !outside) else {
            continue;
        };
        let last = voxels.iter().rposition(|outside| !outside).unwrap_or(first);
        for (axis, (from, to)) in [(row / h, row / h), (row % h, row % h), (first, last)].into_iter().enumerate() {
            low[axis] = low[axis].min(from);
            high[axis] = high[axis].max(to + 1);
        }
    }
    if high[0] == 0 {
        return [0..d, 0..h, 0..w];
    }
    [low[0]..high[0], low[1]..high[1], low[2]..high[2]]
}

/// The voxels of a box.
pub fn cut<T: Copy>(volume: &[T], shape: [usize; 3], bounds: &Box3) -> Vec<T> {
    let [_, h, w] = shape;
    let rows = bounds[0].clone().flat_map(|z| bounds[1].clone().map(move |y| (z * h + y) * w));
    rows.flat_map(|row| &volume[row + bounds[2].start..row + bounds[2].end])
        .copied()
        .collect()
}

/// Sizes of a box.
pub fn size(bounds: &Box3) -> [usize; 3] {
    bounds.each_ref().map(ExactSizeIterator::len)
}
