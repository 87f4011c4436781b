//! Distance: how far voxels are from the nearest of a set of voxels, exactly, in mm.
//!
//! Squared Euclidean distances separate over the axes: D(z, y, x) = min over (z', y', x') of sz^2 (z - z')^2 + (sy^2 (y - y')^2 + sx^2 (x - x')^2),
//! and each minimum is the lower envelope of a row of parabolas, found in linear time (Felzenszwalb and Huttenlocher, Distance transforms of sampled
//! functions, 2012). Along x a sweep each way is enough. The last axis is only looked at where somebody asks.
//!
//! Cost: O(voxels) operations, about 12 bytes of memory traffic a voxel and axis; 8 bytes are allocated per voxel of the grid, which callers crop to
//! what both masks occupy. Every row is computed alone, so results do not depend on the number of threads.

use rayon::prelude::*;

/// The grid that masks lie on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// Points along (z, y, x); the arrays are [D, H, W].
    pub shape: [usize; 3],
    /// Distance of neighbouring points along (z, y, x), mm.
    pub spacing: [f64; 3],
}

impl Grid {
    /// Points in all.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Columns taken from a plane together, so that a cache line that is loaded is used.
const ABREAST: usize = 8;

/// For every query: its index, and its distance in mm to the nearest site (infinite where there is no site). Queries come in the order (y, x, z).
///
/// `sites` and `queries` are [D, H, W].
pub fn to_nearest(sites: &[bool], queries: &[bool], grid: Grid) -> Vec<(usize, f64)> {
    assert!(
        sites.len() == grid.len() && queries.len() == grid.len(),
        "to_nearest: {} sites and {} queries on a grid of {:?}",
        sites.len(),
        queries.len(),
        grid.shape
    );
    if grid.is_empty() {
        return Vec::new();
    }
    let [_, rows, columns] = grid.shape;
    let mut squared = vec![f64::INFINITY; grid.len()]; // [D, H, W]
    squared
        .par_chunks_mut(rows * columns)
        .zip(sites.par_chunks(rows * columns))
        .for_each(|(plane, sites)| {
            for (row, sites) in plane.chunks_mut(columns).zip(sites.chunks(columns)) {
                along_row(row, sites, grid.spacing[2]);
            }
            down_columns(plane, columns, grid.spacing[1]);
        });
    (0..rows)
        .into_par_iter()
        .flat_map_iter(|y| through_planes(&squared, queries, grid, y))
        .collect()
}

/// Squared distances along x alone; `row` comes infinite.
fn along_row(row: &mut [f64], sites: &[bool], spacing: f64) {
    let squared = |a: usize, b: usize| (a.abs_diff(b) as f64 * spacing).powi(2);
    let mut before = None;
    for x in 0..row.len() {
        before = if sites[x] { Some(x) } else { before };
        row[x] = before.map_or(f64::INFINITY, |site| squared(x, site));
    }
    let mut after = None;
    for x in (0..row.len()).rev() {
        after = if sites[x] { Some(x) } else { after };
        row[x] = after.map_or(row[x], |site| squared(x, site).min(row[x]));
    }
}

/// Adds the second axis to a plane [H, W] of squared distances along the first.
fn down_columns(plane: &mut [f64], columns: usize, spacing: f64) {
    let rows = plane.len() / columns;
    let mut lines = vec![0.0; ABREAST * rows];
    let mut envelope = Envelope::new(spacing);
    for first in (0..columns).step_by(ABREAST) {
        let width = ABREAST.min(columns - first);
        for y in 0..rows {
            for x in 0..width {
                lines[x * rows + y] = plane[y * columns + first + x];
            }
        }
        for line in lines.chunks_mut(rows).take(width) {
            envelope.fit(line);
            let mut at = 0;
            for (y, value) in line.iter_mut().enumerate() {
                *value = envelope.value(y, &mut at);
            }
        }
        for y in 0..rows {
            for x in 0..width {
                plane[y * columns + first + x] = lines[x * rows + y];
            }
        }
    }
}

/// Adds the last axis for row `y` of all planes, at the queries.
fn through_planes(squared: &[f64], queries: &[bool], grid: Grid, y: usize) -> Vec<(usize, f64)> {
    let [depth, rows, columns] = grid.shape;
    let mut found = Vec::new();
    let mut lines = vec![0.0; ABREAST * depth];
    let mut envelope = Envelope::new(grid.spacing[0]);
    for first in (0..columns).step_by(ABREAST) {
        let width = ABREAST.min(columns - first);
        let index = |z: usize, x: usize| (z * rows + y) * columns + first + x;
        if !(0..depth).any(|z| queries[index(z, 0)..index(z, width)].contains(&true)) {
            continue;
        }
        for z in 0..depth {
            for x in 0..width {
                lines[x * depth + z] = squared[index(z, x)];
            }
        }
        for (x, line) in lines.chunks(depth).take(width).enumerate() {
            let mut asked = (0..depth).filter(|&z| queries[index(z, x)]).peekable();
            if asked.peek().is_none() {
                continue;
            }
            envelope.fit(line);
            let mut at = 0;
            found.extend(asked.map(|z| (index(z, x), envelope.value(z, &mut at).sqrt())));
        }
    }
    found
}

/// The lower envelope of the parabolas f(q) + (s (p - q))^2 over the places q of a line.
struct Envelope {
    spacing: f64,
    /// Places whose parabolas are lowest somewhere, ascending, with their f.
    roots: Vec<(usize, f64)>,
    /// From where on each is the lowest.
    from: Vec<f64>,
}

impl Envelope {
    fn new(spacing: f64) -> Self {
        Self {
            spacing,
            roots: Vec::new(),
            from: Vec::new(),
        }
    }

    fn fit(&mut self, line: &[f64]) {
        self.roots.clear();
        self.from.clear();
        let per_step = self.spacing * self.spacing;
        for (q, &f) in line.iter().enumerate().filter(|(_, f)| f.is_finite()) {
            let mut start = f64::NEG_INFINITY;
            while let (Some(&(r, g)), Some(&begins)) = (self.roots.last(), self.from.last()) {
                // Where the parabolas of q and r meet; q is lower beyond.
                start = ((f - g) / per_step + (q * q - r * r) as f64) / (2 * (q - r)) as f64;
                if start > begins {
                    break;
                }
                self.roots.pop();
                self.from.pop();
                start = f64::NEG_INFINITY;
            }
            self.roots.push((q, f));
            self.from.push(start);
        }
    }

    /// The envelope at `p`; calls must come with ascending `p`, and the same `at`, 0 at first.
    fn value(&self, p: usize, at: &mut usize) -> f64 {
        while self.from.get(*at + 1).is_some_and(|&begins| begins <= p as f64) {
            *at += 1;
        }
        self.roots
            .get(*at)
            .map_or(f64::INFINITY, |&(q, f)| f + (p.abs_diff(q) as f64 * self.spacing).powi(2))
    }
}
