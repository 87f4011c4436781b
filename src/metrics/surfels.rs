//! A surfel is the piece of a mask's surface inside a cube between eight voxel centres, as marching cubes cuts it (Lorensen and Cline 1987) at the
//! middle of the cube's edges. Its area in mm^2 weighs the distance of the cube's centre to the other surface.
//!
//! The surface is derived here instead of being looked up. A face of the cube whose corners are in and out by turns keeps the two
//! corners in apart; more than four corners in are treated as the complement (so that a mask and its background share one surface). The crossings then form loops of
//! three to six edges, cut into triangles like this: a pentagon loses the crossing whose edge runs parallel to those of both neighbours, and the
//! quadrilateral left is flat; a hexagon becomes the triangle of every other crossing, and one triangle beyond each of its sides. That gives the areas of DeepMind's
//! surface-distance for all 256 cases (compared once, over anisotropic spacings).

use super::distance::Grid;

/// A place in the cube, along (z, y, x), in halves of its side.
type Point = [u8; 3];

/// Area in mm^2 by code: bit 4 z + 2 y + x of a code says whether the corner (z, y, x) of the cube is in the mask. `spacing` along (z, y, x).
pub fn areas(spacing: [f64; 3]) -> [f64; 256] {
    let mut areas = [0.0; 256];
    for code in 0..=255_u8 {
        let loops = loops(if code.count_ones() > 4 { !code } else { code });
        let triangles = loops.iter().flat_map(|crossings| triangles(crossings));
        areas[usize::from(code)] = triangles.map(|triangle| area(triangle, spacing)).sum();
    }
    areas
}

/// The grid of cubes around the voxels of a grid: one more along each axis; outside the voxels everything is out.
pub fn cubes(voxels: Grid) -> Grid {
    Grid {
        shape: voxels.shape.map(|n| n + 1),
        ..voxels
    }
}

/// The code of every cube [D + 1, H + 1, W + 1] of a mask [D, H, W].
pub fn codes(mask: &[bool], voxels: Grid) -> Vec<u8> {
    let [_, rows, columns] = voxels.shape;
    let [_, above, wide] = cubes(voxels).shape;
    let mut codes = vec![0; cubes(voxels).len()];
    for (index, _) in mask.iter().enumerate().filter(|(_, inside)| **inside) {
        let [z, y, x] = [index / (rows * columns), index / columns % rows, index % columns];
        for corner in 0..8 {
            // The voxel is the corner of eight cubes: of the cube with the same index the last one.
            let [dz, dy, dx] = [corner >> 2 & 1, corner >> 1 & 1, corner & 1];
            let cube = ((z + dz) * above + y + dy) * wide + x + dx;
            codes[cube] |= 1 << (7 - corner);
        }
    }
    codes
}

/// Where the surface crosses the cube's edges, as closed loops.
fn loops(code: u8) -> Vec<Vec<Point>> {
    let is_in = |corner: Point| code >> (4 * corner[0] + 2 * corner[1] + corner[2]) & 1 == 1;
    let mut open = Vec::new(); // pieces of the surface's border on the faces
    for axis in 0..3 {
        for side in 0..2 {
            let corners = [[0, 0], [1, 0], [1, 1], [0, 1]].map(|[u, v]| {
                let mut corner = [side; 3];
                corner[(axis + 1) % 3] = u;
                corner[(axis + 2) % 3] = v;
                corner
            });
            let edge = |i: usize| [0, 1, 2].map(|a| corners[i % 4][a] + corners[(i + 1) % 4][a]);
            let crossed: Vec<usize> = (0..4).filter(|&i| is_in(corners[i]) != is_in(corners[(i + 1) % 4])).collect();
            match crossed[..] {
                [a, b] => open.push([edge(a), edge(b)]),
                [] => {}
                // In and out by turns: each corner that is in is cut off by itself.
                _ => open.extend((0..4).filter(|&i| is_in(corners[i])).map(|i| [edge(i + 3), edge(i)])),
            }
        }
    }
    let mut loops = Vec::new();
    while let Some([start, mut end]) = open.pop() {
        let mut crossings = vec![start];
        while end != start {
            crossings.push(end);
            let Some(next) = open.iter().position(|piece| piece.contains(&end)) else {
                break; // cannot be: every crossed edge lies on two faces
            };
            let [a, b] = open.swap_remove(next);
            end = if a == end { b } else { a };
        }
        loops.push(crossings);
    }
    loops
}

fn triangles(crossings: &[Point]) -> Vec<[Point; 3]> {
    let n = crossings.len();
    let ear = |i: usize| [crossings[(i + n - 1) % n], crossings[i], crossings[(i + 1) % n]];
    match n {
        5 => {
            let axis = |point: Point| point.iter().position(|&at| at == 1);
            let parallel = |i: &usize| ear(*i).iter().all(|&point| axis(point) == axis(crossings[*i]));
            let tip = (0..5).find(parallel).unwrap_or(0);
            let [a, b, c, d] = [1, 2, 3, 4].map(|step| crossings[(tip + step) % 5]);
            vec![ear(tip), [a, b, c], [a, c, d]]
        }
        6 => vec![ear(1), ear(3), ear(5), [crossings[0], crossings[2], crossings[4]]],
        _ => (2..n).map(|i| [crossings[0], crossings[i - 1], crossings[i]]).collect(),
    }
}

/// Half the length of the cross product of two sides, mm^2.
fn area(triangle: [Point; 3], spacing: [f64; 3]) -> f64 {
    let [a, b, c] = triangle.map(|point| [0, 1, 2].map(|axis| f64::from(point[axis]) / 2.0 * spacing[axis]));
    let (u, v) = ([0, 1, 2].map(|i| b[i] - a[i]), [0, 1, 2].map(|i| c[i] - a[i]));
    let cross = [0, 1, 2].map(|i| u[(i + 1) % 3] * v[(i + 2) % 3] - u[(i + 2) % 3] * v[(i + 1) % 3]);
    cross.iter().map(|part| part * part).sum::<f64>().sqrt() / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simple_surfaces_have_the_areas_of_geometry() {
        let areas = areas([1.0, 1.0, 1.0]);
        let (corner, slope) = (3_f64.sqrt() / 8.0, 0.5_f64.sqrt());
        for (code, expected) in [
            (0, 0.0),
            (255, 0.0),
            (0b0000_0001, corner),
            (0b1000_0001, 2.0 * corner),             // across the cube
            (0b0000_0011, slope),                    // an edge
            (0b0000_1001, 2.0 * corner),             // across a face
            (0b0000_1111, 1.0),                      // a face
            (0b0001_0111, 3.0 * 3_f64.sqrt() / 4.0), // a corner and its neighbours: the regular hexagon
            (0b0110_1001, 4.0 * corner),             // every other corner
        ] {
            assert!((areas[code] - expected).abs() < 1e-12, "{code:08b}: {} for {expected}", areas[code]);
        }
    }

    #[test]
    fn a_mask_and_its_background_have_the_same_surface_and_axes_may_be_swapped() {
        let straight = areas([1.0, 2.0, 3.5]);
        let swapped = areas([3.5, 2.0, 1.0]);
        for code in 0..256 {
            assert_eq!(straight[code], straight[255 - code]);
            let mirrored = (0..8)
                .filter(|bit| code >> bit & 1 == 1)
                .map(|bit| 1 << (bit >> 2 | bit & 2 | (bit & 1) << 2))
                .sum::<usize>();
            assert!((straight[code] - swapped[mirrored]).abs() < 1e-12, "{code:08b}");
        }
    }

    // The sums were computed in Python from the lookup table of surface-distance 0.1, its codes renumbered to this module's.
    #[test]
    fn all_cases_have_the_areas_of_surface_distance() {
        let areas = areas([1.0, 2.0, 3.5]);
        let sum = |of: &dyn Fn(f64, f64) -> f64| areas.iter().enumerate().map(|(code, &area)| of(code as f64, area)).sum::<f64>();
        for (got, expected) in [
            (sum(&|_, area| area), 1_092.994_632_284_047_8),
            (sum(&|_, area| area * area), 5_643.866_101_723_25),
            (sum(&|code, area| code * code * area), 23_359_822.494_497_25),
            (sum(&|code, area| code.powi(4) * area.powi(3)), 26_425_310_731_238.023),
        ] {
            assert!((got / expected - 1.0).abs() < 1e-12, "{got} for {expected}");
        }
    }
}
