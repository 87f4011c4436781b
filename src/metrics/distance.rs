//! Exact Euclidean distances of voxels to the nearest voxel of a set, and between the borders of two masks.
//!
//! The transform is separable (Felzenszwalb and Huttenlocher 2012): one axis after the other, each line the lower envelope of parabolas, in double precision; time linear in the
//! voxels, 8 bytes for each, parallel over lines. Borders are those of medpy and MONAI: voxels of a mask with a neighbour (6) outside of it, the volume's rim included.

use rayon::prelude::*;

/// Squared distance in mm of each voxel [D, H, W] to the nearest of `sites`; infinite if there is none.
pub fn squared(sites: &[bool], shape: [usize; 3], spacing: [f64; 3]) -> Vec<f64> {
    let [d, h, w] = shape;
    let mut field: Vec<f64> = sites.par_iter().map(|site| if *site { 0.0 } else { f64::INFINITY }).collect();
    field
        .par_chunks_mut(w.max(1))
        .for_each_init(Envelope::default, |envelope, line| envelope.transform(line, spacing[2]));
    field.par_chunks_mut((h * w).max(1)).for_each_init(
        || (Envelope::default(), vec![0.0; h]),
        |(envelope, line), plane| {
            for x in 0..w {
                (0..h).for_each(|y| line[y] = plane[y * w + x]);
                envelope.transform(line, spacing[1]);
                (0..h).for_each(|y| plane[y * w + x] = line[y]);
            }
        },
    );
    // Lines along the first axis: [H W, D] and back.
    let mut turned = vec![0.0; field.len()];
    turned
        .par_chunks_mut(d.max(1))
        .enumerate()
        .for_each_init(Envelope::default, |envelope, (at, line)| {
            (0..d).for_each(|z| line[z] = field[z * h * w + at]);
            envelope.transform(line, spacing[0]);
        });
    field.par_chunks_mut((h * w).max(1)).enumerate().for_each(|(z, plane)| {
        plane.iter_mut().enumerate().for_each(|(at, v)| *v = turned[at * d + z]);
    });
    field
}

/// Working memory of a line: parabolas of the lower envelope, and where each takes over.
#[derive(Default)]
struct Envelope {
    vertices: Vec<usize>,
    borders: Vec<f64>,
    values: Vec<f64>,
}

impl Envelope {
    /// line[q] <- the least over p of line[p] + (spacing (q - p))^2.
    fn transform(&mut self, line: &mut [f64], spacing: f64) {
        self.vertices.clear();
        self.borders.clear();
        self.values.clear();
        self.values.extend_from_slice(line);
        let (f, scale) = (&self.values, spacing * spacing);
        for q in (0..line.len()).filter(|q| f[*q].is_finite()) {
            let crossing = |p: usize| (f[q] - f[p] + scale * ((q * q) as f64 - (p * p) as f64)) / (2.0 * scale * (q - p) as f64);
            let mut border = f64::NEG_INFINITY;
            while let Some(&p) = self.vertices.last() {
                border = crossing(p);
                if self.borders.last().is_some_and(|before| border <= *before) {
                    self.vertices.pop();
                    self.borders.pop();
                    border = f64::NEG_INFINITY;
                } else {
                    break;
                }
            }
            self.vertices.push(q);
            self.borders.push(border);
        }
        let mut at = 0;
        for (q, out) in line.iter_mut().enumerate() {
            while self.borders.get(at + 1).is_some_and(|border| *border < q as f64) {
                at += 1;
            }
            if let Some(&p) = self.vertices.get(at) {
                *out = f[p] + scale * (q as f64 - p as f64).powi(2);
            }
        }
    }
}

/// Voxels of a mask [D, H, W] that have a neighbour outside of it.
pub fn border(mask: &[bool], shape: [usize; 3]) -> Vec<bool> {
    let [d, h, w] = shape;
    let mut out = vec![false; mask.len()];
    out.par_chunks_mut((h * w).max(1)).enumerate().for_each(|(z, plane)| {
        for (i, out) in plane.iter_mut().enumerate() {
            let (at, y, x) = (z * h * w + i, i / w, i % w);
            let is_rim = z == 0 || z + 1 == d || y == 0 || y + 1 == h || x == 0 || x + 1 == w;
            *out = mask[at]
                && (is_rim
                    || [at - h * w, at + h * w, at - w, at + w, at - 1, at + 1]
                        .iter()
                        .any(|&next| !mask[next]));
        }
    });
    out
}

/// Distances in mm from each border voxel of one mask to the other's border.
#[derive(Clone, Debug, PartialEq)]
pub struct Borders {
    /// Of the prediction's, to the reference.
    pub of_prediction: Vec<f64>,
    /// Of the reference's, to the prediction.
    pub of_reference: Vec<f64>,
}

/// Distances between the borders of two masks; none if one of them is empty. Only the box around both is looked at.
pub fn borders(prediction: &[bool], reference: &[bool], shape: [usize; 3], spacing: [f64; 3]) -> Option<Borders> {
    let (a, b, shape) = boxed(prediction, reference, shape)?;
    let (a, b) = (border(&a, shape), border(&b, shape));
    Some(Borders {
        of_prediction: distances(&a, &b, shape, spacing),
        of_reference: distances(&b, &a, shape, spacing),
    })
}

/// The largest distance in mm from any voxel of one mask to the other mask, 0 inside it: SimpleITK's Hausdorff distance. None if one of them is empty.
pub fn largest_between_masks(prediction: &[bool], reference: &[bool], shape: [usize; 3], spacing: [f64; 3]) -> Option<f64> {
    let (a, b, shape) = boxed(prediction, reference, shape)?;
    let both = [distances(&a, &b, shape, spacing), distances(&b, &a, shape, spacing)];
    Some(both.iter().flatten().copied().fold(0.0, f64::max))
}

/// From each voxel of `from`, in memory order.
fn distances(from: &[bool], to: &[bool], shape: [usize; 3], spacing: [f64; 3]) -> Vec<f64> {
    let squared = squared(to, shape, spacing);
    from.iter()
        .zip(squared)
        .filter(|(from, _)| **from)
        .map(|(_, squared)| squared.sqrt())
        .collect()
}

/// Both masks within the box around them, and its sizes; none if one is empty.
fn boxed(a: &[bool], b: &[bool], [d, h, w]: [usize; 3]) -> Option<(Vec<bool>, Vec<bool>, [usize; 3])> {
    if !a.contains(&true) || !b.contains(&true) {
        return None;
    }
    let (mut low, mut high) = ([d, h, w], [0; 3]);
    for at in (0..a.len()).filter(|at| a[*at] || b[*at]) {
        for (axis, place) in [at / (h * w), at / w % h, at % w].into_iter().enumerate() {
            low[axis] = low[axis].min(place);
            high[axis] = high[axis].max(place + 1);
        }
    }
    let cut = |mask: &[bool]| -> Vec<bool> {
        let rows = (low[0]..high[0]).flat_map(|z| (low[1]..high[1]).map(move |y| (z * h + y) * w));
        rows.flat_map(|row| &mask[row + low[2]..row + high[2]]).copied().collect()
    };
    Some((cut(a), cut(b), std::array::from_fn(|axis| high[axis] - low[axis])))
}
