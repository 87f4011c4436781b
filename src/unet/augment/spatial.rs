//! Patches cut out of their box, rotated and scaled about its centre, and mirrored.

use crate::unet::patches::Window;
use half::f16;

/// Maps offsets from the patch's centre to offsets from the box's centre.
pub type Matrix = [[f64; 3]; 3];

/// Scores of labels are compared in half precision, times this.
const SCALE: f32 = 1000.0;
/// The label of what lies outside.
const OUTSIDE: i16 = -1;

/// A patch.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Voxels along each axis.
    pub shape: [usize; 3],
    /// Channel by channel, [D, H, W].
    pub image: Vec<Vec<f32>>,
    /// [D, H, W]; -1 outside.
    pub label: Vec<i16>,
    /// From 0 to 1, [D, H, W]; only of pseudo-labelled cases.
    pub uncertainty: Option<Vec<f32>>,
}

/// Rz Ry Rx diag(scales), R by these angles (radians) about a0, a1, a2.
pub fn rotation_and_scale([x, y, z]: [f64; 3], scales: [f64; 3]) -> Matrix {
    let ((sx, cx), (sy, cy), (sz, cz)) = (x.sin_cos(), y.sin_cos(), z.sin_cos());
    let rx = [[1.0, 0.0, 0.0], [0.0, cx, -sx], [0.0, sx, cx]];
    let ry = [[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]];
    let rz = [[cz, -sz, 0.0], [sz, cz, 0.0], [0.0, 0.0, 1.0]];
    let turned = product(rz, product(ry, rx));
    turned.map(|row| std::array::from_fn(|column| row[column] * scales[column]))
}

fn product(a: Matrix, b: Matrix) -> Matrix {
    a.map(|row| std::array::from_fn(|column| (0..3).map(|k| row[k] * b[k][column]).sum()))
}

/// A patch of `shape` out of the middle of a box. With a matrix, the voxel at offset g from the patch's centre is read at matrix g from the box's: the image linearly, 0 outside;
/// the label as the one with the largest linear weight, of equal ones the nearest.
pub fn cut(window: &Window<'_>, shape: [usize; 3], matrix: Option<Matrix>) -> Sample {
    let voxels = shape.iter().product();
    let mut sample = Sample {
        shape,
        image: vec![vec![0.0; voxels]; window.case.channels],
        label: vec![OUTSIDE; voxels],
        uncertainty: window.case.uncertainty.map(|_| vec![0.0; voxels]),
    };
    match matrix {
        None => copy(window, &mut sample),
        Some(matrix) => interpolate(window, matrix, &mut sample),
    }
    sample
}

fn copy(window: &Window<'_>, sample: &mut Sample) {
    let [d, h, w] = sample.shape;
    let start: [i64; 3] = std::array::from_fn(|axis| (window.size[axis] / 2) as i64 - (sample.shape[axis] / 2) as i64);
    let channels = window.case.channels;
    for row in 0..d * h {
        let [z, y] = [row / h, row % h].map(|at| at as i64);
        let Some((inside, place)) = window.row([start[0] + z, start[1] + y, start[2]], w) else {
            continue;
        };
        let (first, count) = (row * w + inside.start, inside.len());
        sample.label[first..first + count].copy_from_slice(&window.case.label[place..place + count]);
        if let (Some(to), Some(from)) = (&mut sample.uncertainty, window.case.uncertainty) {
            to[first..first + count].copy_from_slice(&from[place..place + count]);
        }
        for (channel, to) in sample.image.iter_mut().enumerate() {
            let from = window.case.image[place * channels..(place + count) * channels].iter();
            let from = from.skip(channel).step_by(channels);
            to[first..first + count].iter_mut().zip(from).for_each(|(to, v)| *to = *v);
        }
    }
}

fn interpolate(window: &Window<'_>, matrix: Matrix, sample: &mut Sample) {
    let [d, h, w] = sample.shape;
    let middle: [f64; 3] = window.size.map(|size| (size as f64 - 1.0) / 2.0);
    let offset = |at: usize, axis: usize| at as f64 - (sample.shape[axis] as f64 - 1.0) / 2.0;
    let channels = window.case.channels;
    for at in 0..d * h * w {
        let g = [offset(at / (h * w), 0), offset(at / w % h, 1), offset(at % w, 2)];
        let position: [f64; 3] = std::array::from_fn(|axis| (0..3).map(|k| matrix[axis][k] * g[k]).sum::<f64>() + middle[axis]);
        let corners = Corners::at(window, position);
        for (place, weight) in corners.inside() {
            for (channel, to) in sample.image.iter_mut().enumerate() {
                to[at] += weight * window.case.image[place * channels + channel];
            }
            if let (Some(to), Some(from)) = (&mut sample.uncertainty, window.case.uncertainty) {
                to[at] += weight * from[place];
            }
        }
        sample.label[at] = corners.label(window);
    }
}

/// The eight voxels around a position: where they are in the case's arrays (none outside) and how much each counts.
struct Corners {
    places: [Option<usize>; 8],
    weights: [f32; 8],
    /// The voxel nearest to the position.
    nearest: Option<usize>,
}

impl Corners {
    fn at(window: &Window<'_>, position: [f64; 3]) -> Self {
        let below = position.map(f64::floor);
        let share: [f32; 3] = std::array::from_fn(|axis| (position[axis] - below[axis]) as f32);
        let upper = |corner: usize, axis: usize| corner >> (2 - axis) & 1;
        let place = |corner: usize| window.place(std::array::from_fn(|axis| below[axis] as i64 + upper(corner, axis) as i64));
        let weight = |corner: usize| {
            (0..3)
                .map(|axis| if upper(corner, axis) == 1 { share[axis] } else { 1.0 - share[axis] })
                .product()
        };
        Self {
            places: std::array::from_fn(place),
            weights: std::array::from_fn(weight),
            nearest: window.place(position.map(|at| at.round_ties_even() as i64)),
        }
    }

    fn inside(&self) -> impl Iterator<Item = (usize, f32)> {
        let corners = self.places.iter().zip(&self.weights);
        corners.filter_map(|(place, weight)| Some(((*place)?, *weight)))
    }

    fn label(&self, window: &Window<'_>) -> i16 {
        let of = |place: Option<usize>| place.map_or(OUTSIDE, |place| window.case.label[place]);
        let labels = self.places.map(of);
        if labels.iter().all(|label| *label == labels[0]) {
            return labels[0];
        }
        let score = |label: i16| {
            let weights = labels.iter().zip(&self.weights).filter(|(l, _)| **l == label);
            f16::from_f32(SCALE * weights.map(|(_, weight)| weight).sum::<f32>())
        };
        let most = labels.iter().map(|label| score(*label)).fold(f16::ZERO, f16::max);
        let nearest = of(self.nearest);
        if score(nearest) == most {
            return nearest;
        }
        let tied = labels.into_iter().filter(|label| score(*label) == most);
        tied.min().unwrap_or(OUTSIDE)
    }
}

impl Sample {
    /// Turns the patch around along an axis.
    pub fn mirror(&mut self, axis: usize) {
        let shape = self.shape;
        self.image.iter_mut().for_each(|channel| reverse(channel, shape, axis));
        reverse(&mut self.label, shape, axis);
        if let Some(uncertainty) = &mut self.uncertainty {
            reverse(uncertainty, shape, axis);
        }
    }

    /// Labels below 0, which lie outside of the nonzero mask or the volume, become background.
    pub fn background_outside(&mut self) {
        self.label.iter_mut().for_each(|label| *label = (*label).max(0));
    }
}

fn reverse<T>(volume: &mut [T], shape: [usize; 3], axis: usize) {
    let after: usize = shape[axis + 1..].iter().product();
    for plane in volume.chunks_exact_mut(shape[axis] * after) {
        for at in 0..shape[axis] / 2 {
            let (first, second) = plane.split_at_mut((shape[axis] - 1 - at) * after);
            first[at * after..(at + 1) * after].swap_with_slice(&mut second[..after]);
        }
    }
}
