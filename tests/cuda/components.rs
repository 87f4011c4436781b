//! `components` against `ops::components::largest_component`: exact.

use super::conformance::{Bench, values};
use anyhow::{Result, ensure};
use hpc_seg::cuda::components::{Components, Found};
use hpc_seg::ops::components::largest_component;

/// Bugs that [`check`] must notice.
pub const MUTATIONS: &[super::suites::Mutation] = &[
    (
        "corners do not touch",
        "components.cu",
        "constexpr int EARLIER = 13;",
        "constexpr int EARLIER = 12;",
    ),
    (
        "cells join whatever their voxels",
        "components.cu",
        "return (own & side(d.z, d.y, d.x)) && (other & side(-d.z, -d.y, -d.x));",
        "return own && other;",
    ),
    (
        "sides are mistaken",
        "components.cu",
        "y < 0 ? 0x33 : y > 0 ? 0xcc",
        "y < 0 ? 0xcc : y > 0 ? 0x33",
    ),
    (
        "tiles are not joined across x",
        "components.cu",
        " && other.x / TILE_X == cell.x / TILE_X;",
        ";",
    ),
    (
        "the tile is joined before it is there",
        "components.cu",
        "tile_voxels[t] = own;\n    __syncthreads();",
        "tile_voxels[t] = own;",
    ),
    (
        "voxels beyond the last row",
        "components.cu",
        "c.y * 2 + bit / 2 % 2 < v.height && ",
        "",
    ),
    (
        "roots of tiles count",
        "components.cu",
        "is_root = root == at;",
        "is_root = sizes[at] > 0;",
    ),
    (
        "sizes of tiles are not added",
        "components.cu",
        "if (sizes[at]) atomicAdd(sizes + root, sizes[at]);",
        "",
    ),
    (
        "sizes are added without atomics",
        "components.cu",
        "if (sizes[at]) atomicAdd(sizes + root, sizes[at]);",
        "if (sizes[at]) sizes[root] += sizes[at];",
    ),
    (
        "of equals the one of the smallest cell stays",
        "components.cu",
        "const u32 voxel = voxel_of(volume, cell_at(volume, at), __ffs(voxels[at]) - 1);",
        "const u32 voxel = voxel_of(volume, cell_at(volume, parent[at]), 0);",
    ),
    (
        "the last of equals stays",
        "components.cu",
        "if (voxel < load_relaxed(found + 2)) atomicMin(found + 2, voxel);",
        "if (found[2] == NONE || voxel > found[2]) found[2] = voxel;",
    ),
    (
        "paths are written without atomics",
        "components.cu",
        "atomicMin(parent + at, root);",
        "parent[at] = root;",
    ),
    ("paths are not shortened", "components.cu", "atomicMin(parent + at, root);", ""),
    (
        "one cell too many",
        "components.cu",
        "if (at >= cells) return;",
        "if (at > cells) return;",
    ),
];

const SHAPES: [[usize; 3]; 9] = [
    [1, 1, 1],
    [1, 1, 71],
    [1, 19, 1],
    [23, 1, 1],
    [2, 3, 5],
    [5, 7, 11],
    [1, 31, 67],
    [19, 3, 35],
    [9, 17, 33],
];

type Pattern = fn([usize; 3], f32) -> bool;

/// Volumes that are hard in one way or another: by the place of a voxel [z, y, x] and a normal number.
const PATTERNS: [Pattern; 13] = [
    |_, noise| noise > 1.9,
    |_, noise| noise > 1.2,
    |_, noise| noise > 0.7,
    |_, noise| noise > -1.5,
    |[z, y, x], _| (z + y + x) % 2 == 0,
    |at, _| at.iter().all(|place| place % 2 == 0), // no two touch: all are equal
    |at, _| at.iter().all(|place| place % 2 == 1),
    |at, _| at.iter().all(|place| place % 4 < 2) || at.iter().all(|place| place % 4 == 3), // corners of cells
    |[_, y, x], _| x % 3 == 0 || (y == 0 && x % 9 < 5),                                    // combs
    |[z, y, x], _| y % 4 == 0 || (y % 4 == 2 && z % 2 == 0) || (y % 2 == 1 && x == if y % 4 == 1 { 0 } else { 2 }), // a meander
    |[z, y, x], _| z % 2 == 0 && y % 2 == 0 && (x + y / 2) % 5 < 2,                        // pieces of equal size, shifted against cells
    |_, _| true,
    |_, _| false,
];

/// A square spiral, one voxel wide, through the middle slice.
fn spiral([depth, height, width]: [usize; 3]) -> Vec<u8> {
    let mut labels = vec![0; depth * height * width];
    let base = depth / 2 * height * width;
    let (mut top, mut left, mut bottom, mut right) = (0_usize, 0_usize, height - 1, width - 1);
    while top <= bottom && left <= right {
        (left..=right).for_each(|x| labels[base + top * width + x] = 2);
        (top..=bottom).for_each(|y| labels[base + y * width + right] = 2);
        (left..=right).for_each(|x| labels[base + bottom * width + x] = 2);
        (top + 2..=bottom).for_each(|y| labels[base + y * width + left] = 2);
        if top + 2 <= bottom && left < right {
            labels[base + (top + 2) * width + left + 1] = 2;
        }
        (top, left) = (top + 2, left + 2);
        if bottom < 2 || right < 2 {
            break;
        }
        (bottom, right) = (bottom - 2, right - 2);
    }
    labels
}

/// Every case on this device.
pub fn check(bench: &Bench) -> Result<()> {
    let mut several = 0;
    for dims in SHAPES {
        let [_, height, width] = dims;
        let mut volumes = vec![spiral(dims)];
        for (seed, pattern) in PATTERNS.iter().enumerate() {
            let noise = values(seed as u64 + 1, dims.iter().product());
            let label = |(at, noise): (usize, &f32)| match pattern([at / (height * width), at / width % height, at % width], *noise) {
                true => 2,
                false => (noise.to_bits() >> 16) as u8 % 2,
            };
            volumes.push(noise.iter().enumerate().map(label).collect());
        }
        let mut one = vec![1; dims.iter().product()];
        let last = one.len() - 1;
        one[last] = 2;
        volumes.push(one);
        for (number, labels) in volumes.iter().enumerate() {
            several += usize::from(check_case(bench, dims, labels, number)? > 1);
        }
    }
    ensure!(several > 40, "only {several} volumes had several components");
    Ok(())
}

/// Counts without, then with erasing; the number of components.
fn check_case(bench: &Bench, dims: [usize; 3], labels: &[u8], number: usize) -> Result<usize> {
    let [depth, height, width] = dims;
    let mut expected = labels.to_vec();
    let cpu = largest_component(&mut expected, dims, 2)?;
    let guard = [2; 64];
    for (erase, expected) in [(false, labels), (true, expected.as_slice())] {
        let components = Components {
            depth,
            height,
            width,
            class: 2,
            erase,
        };
        let on_device = bench.arena.filled(&[labels, &guard].concat())?;
        let (scratch, found) = (bench.arena.buffer(components.scratch_bytes()?)?, bench.arena.buffer(Found::BYTES)?);
        components.launch(&bench.runtime, &on_device, &scratch, &found)?;
        let found = Found::read(&found)?;
        let largest = cpu.kept.map_or(0, |kept| cpu.sizes[kept]);
        ensure!(
            found.components as usize == cpu.sizes.len() && found.largest as usize == if erase { largest } else { 0 },
            "{components:?}, volume {number}: {found:?} for {} components, the largest of {largest}",
            cpu.sizes.len()
        );
        ensure!(
            on_device.to_vec()? == [expected, &guard].concat(),
            "{components:?}, volume {number}: other labels"
        );
    }
    Ok(cpu.sizes.len())
}

#[cfg(feature = "emu")]
#[test]
fn components_equal_the_cpu_in_every_schedule() {
    Bench::all().for_each(|bench| check(&bench).unwrap());
}

#[cfg(feature = "emu")]
#[test]
fn a_volume_without_voxels_has_no_components() {
    let bench = Bench::all().next().unwrap();
    let components = Components {
        depth: 0,
        height: 5,
        width: 2,
        class: 1,
        erase: true,
    };
    let buffer = || bench.arena.buffer(Found::BYTES).unwrap();
    let found = buffer();
    components.launch(&bench.runtime, &buffer(), &buffer(), &found).unwrap();
    assert_eq!(Found::read(&found).unwrap(), Found { components: 0, largest: 0 });
}
