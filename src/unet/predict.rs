//! A case segmented by one network or the mean of several: a sliding window over the preprocessed image, the logits brought back to the file's grid, the likeliest class of each voxel.
//!
//! Tiles, mirrored views and networks are averaged as logits, as nnU-Net does. Memory: 4 bytes for each class and voxel of the preprocessed image, twice with several networks, and
//! a few maps of the file's size; probabilities, if they are wanted, 4 bytes for each class and voxel of the file.

use super::crop;
use super::network::Network;
use super::plan::Plans;
use super::resample::{Order, resample, separate_axis};
use super::store::{Preprocessed, Properties};
use super::tiles::{gaussian, tiles};
use crate::device::Device;
use crate::stop::Stop;
use crate::tensor::Tensor;
use anyhow::Result;
use half::f16;
use rayon::prelude::*;

/// Networks of one plan, and how they are asked.
pub struct Predictor {
    /// The plan.
    pub plans: Plans,
    /// One per fold.
    pub networks: Vec<Network>,
    /// Axes along which mirrored views are predicted too.
    pub mirrored: Vec<usize>,
    /// Whether logits are added up in half precision, as nnU-Net does, instead of single.
    pub half: bool,
}

/// A segmentation on the file's grid, along (z, y, x).
#[derive(Clone, Debug, PartialEq)]
pub struct Segmentation {
    /// The class of each voxel.
    pub labels: Vec<u8>,
    /// Probabilities [class, z, y, x], if they were asked for.
    pub probabilities: Option<Vec<f32>>,
}

impl Predictor {
    /// Segments a preprocessed case; `done` is told of every tile.
    ///
    /// # Errors
    /// When the device's budget has no room, a stop.
    pub fn segment(&self, device: &Device, case: &Preprocessed, probabilities: bool, stop: &Stop, done: &dyn Fn()) -> Result<Segmentation> {
        let logits = self.logits(device, case, stop, done)?;
        Ok(self.bring_back(logits, case.shape, &case.properties, probabilities))
    }

    /// Tiles of all networks for a preprocessed image of these sizes.
    pub fn tiles(&self, shape: [usize; 3]) -> usize {
        let patch = self.plans.configuration.patch_size;
        self.networks.len() * tiles(std::array::from_fn(|axis| shape[axis].max(patch[axis])), patch).len()
    }

    /// Mean logits of all networks, class by class: [class][D, H, W].
    fn logits(&self, device: &Device, case: &Preprocessed, stop: &Stop, done: &dyn Fn()) -> Result<Vec<Vec<f32>>> {
        let patch = self.plans.configuration.patch_size;
        let channels = case.image.len() / case.label.len();
        let size: [usize; 3] = std::array::from_fn(|axis| case.shape[axis].max(patch[axis]));
        let before: [usize; 3] = std::array::from_fn(|axis| (size[axis] - case.shape[axis]) / 2);
        let weights = gaussian(patch);
        let places = tiles(size, patch);
        let mut total: Option<Vec<f32>> = None;
        for network in &self.networks {
            let classes = network.classes();
            let mut sums = Sums::new(size.iter().product(), classes, self.half);
            for place in &places {
                stop.check()?;
                let tile = cut_tile(
                    &case.image,
                    case.shape,
                    channels,
                    patch,
                    std::array::from_fn(|axis| (place[axis], before[axis])),
                );
                let logits = self.tile(device, network, &tile, channels)?;
                sums.add(&logits, &weights, *place, (size, patch));
                done();
            }
            let mean = sums.finish();
            total = Some(match total {
                None => mean,
                Some(mut total) => {
                    total
                        .par_iter_mut()
                        .zip(mean)
                        .for_each(|(total, v)| *total = rounded(*total + v, self.half));
                    total
                }
            });
        }
        let (total, networks) = (total.unwrap_or_default(), self.networks.len() as f32);
        let classes = total.len() / size.iter().product::<usize>();
        let [d, h, w] = case.shape;
        let class = |class: usize| {
            let voxel = |i: usize| {
                let at = [i / (h * w) + before[0], i / w % h + before[1], i % w + before[2]];
                let v = total[((at[0] * size[1] + at[1]) * size[2] + at[2]) * classes + class];
                rounded(v / networks, self.half)
            };
            (0..d * h * w).map(voxel).collect()
        };
        Ok((0..classes).into_par_iter().map(class).collect())
    }

    /// Mean logits of a tile [D, H, W, C] and its mirrored views: [D, H, W, classes].
    fn tile(&self, device: &Device, network: &Network, tile: &[f32], channels: usize) -> Result<Vec<f32>> {
        let patch = self.plans.configuration.patch_size;
        let mut sum: Vec<f32> = Vec::new();
        // As the reference adds them: the plain view, single axes, pairs, all three.
        let mut views: Vec<Vec<usize>> = (0..1usize << self.mirrored.len())
            .map(|set| {
                (0..self.mirrored.len())
                    .filter(|at| set >> at & 1 == 1)
                    .map(|at| self.mirrored[at])
                    .collect()
            })
            .collect();
        views.sort_by_key(|view| (view.len(), view.clone()));
        for view in &views {
            let turned = mirror(tile, patch, channels, view);
            let image = Tensor::from_slice(device, &[1, patch[0], patch[1], patch[2], channels], &turned)?;
            let logits = network.infer(&image)?;
            let logits = mirror(logits.values(), patch, network.classes(), view);
            if sum.is_empty() {
                sum = logits;
            } else {
                sum.iter_mut().zip(&logits).for_each(|(sum, v)| *sum += v);
            }
        }
        let count = views.len() as f32;
        sum.iter_mut().for_each(|v| *v /= count);
        Ok(sum)
    }

    /// Logits on the plan's grid to a segmentation on the file's.
    fn bring_back(&self, logits: Vec<Vec<f32>>, shape: [usize; 3], properties: &Properties, probabilities: bool) -> Segmentation {
        let (forward, half) = (self.plans.transpose_forward, self.half);
        let spacing = forward.map(|axis| properties.spacing[axis]);
        let separate = separate_axis(self.plans.configuration.spacing, spacing);
        let cropped = properties.shape_after_cropping_and_before_resampling;
        let classes = logits.len();
        let resampled = logits.into_iter().map(|class| {
            let mut class = resample(&class, shape, cropped, separate, Order::Linear).into_owned();
            class.par_iter_mut().for_each(|v| *v = rounded(*v, half));
            class
        });
        let place = Place::new(properties, self.plans.transpose_backward);
        let (mut labels, mut best) = (vec![0u8; place.inside.len()], Vec::new());
        let mut kept = Vec::new();
        for (number, class) in resampled.enumerate() {
            if number == 0 {
                best.clone_from(&class);
            }
            // Of equal ones the first.
            for ((label, best), v) in labels.iter_mut().zip(&mut best).zip(&class) {
                if v > best {
                    (*label, *best) = (number as u8, *v);
                }
            }
            if probabilities {
                kept.push(class);
            }
        }
        Segmentation {
            labels: place.put(&labels, 0),
            probabilities: probabilities.then(|| {
                softmax(&mut kept);
                let all = kept.iter().enumerate();
                // Outside of what was kept all is background.
                let placed = all.flat_map(|(class, p)| place.put(p, if class == 0 { 1.0 } else { 0.0 }));
                let mut out = Vec::with_capacity(classes * place.voxels());
                out.extend(placed);
                out
            }),
        }
    }
}

fn softmax(logits: &mut [Vec<f32>]) {
    let voxels = logits.first().map_or(0, Vec::len);
    for at in 0..voxels {
        let most = logits.iter().map(|class| class[at]).fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for class in logits.iter_mut() {
            class[at] = (class[at] - most).exp();
            sum += class[at];
        }
        logits.iter_mut().for_each(|class| class[at] /= sum);
    }
}

fn rounded(v: f32, half: bool) -> f32 {
    if half { f16::from_f32(v).to_f32() } else { v }
}

/// Sums of weighted logits [D, H, W, classes] and of weights.
struct Sums {
    logits: Vec<f32>,
    weights: Vec<f32>,
    classes: usize,
    half: bool,
}

impl Sums {
    fn new(voxels: usize, classes: usize, half: bool) -> Self {
        Self {
            logits: vec![0.0; voxels * classes],
            weights: vec![0.0; voxels],
            classes,
            half,
        }
    }

    fn add(&mut self, tile: &[f32], weights: &[f32], place: [usize; 3], (size, patch): ([usize; 3], [usize; 3])) {
        let (c, half) = (self.classes, self.half);
        for (row, (tile, weights)) in tile.chunks_exact(patch[2] * c).zip(weights.chunks_exact(patch[2])).enumerate() {
            let (z, y) = (row / patch[1] + place[0], row % patch[1] + place[1]);
            let at = (z * size[1] + y) * size[2] + place[2];
            let sums = self.logits[at * c..(at + patch[2]) * c]
                .chunks_exact_mut(c)
                .zip(tile.chunks_exact(c));
            for (((sums, logits), total), weight) in sums.zip(&mut self.weights[at..]).zip(weights) {
                for (sum, logit) in sums.iter_mut().zip(logits) {
                    *sum = rounded(*sum + logit * weight, half);
                }
                *total = rounded(*total + weight, half);
            }
        }
    }

    fn finish(mut self) -> Vec<f32> {
        let (c, half) = (self.classes, self.half);
        for (sums, weight) in self.logits.chunks_exact_mut(c).zip(&self.weights) {
            sums.iter_mut().for_each(|sum| *sum = rounded(*sum / weight, half));
        }
        self.logits
    }
}

/// A tile [D, H, W, C] of an image with zeros around; along each axis it begins so many voxels from the padded image's beginning, which lies so many before the image's.
fn cut_tile(image: &[f32], shape: [usize; 3], channels: usize, patch: [usize; 3], at: [(usize, usize); 3]) -> Vec<f32> {
    let mut out = vec![0.0; patch.iter().product::<usize>() * channels];
    let source = |axis: usize, i: usize| (at[axis].0 + i).checked_sub(at[axis].1).filter(|i| *i < shape[axis]);
    for (row, out) in out.chunks_exact_mut(patch[2] * channels).enumerate() {
        let (Some(z), Some(y)) = (source(0, row / patch[1]), source(1, row % patch[1])) else {
            continue;
        };
        let line = (z * shape[1] + y) * shape[2];
        for (x, out) in out.chunks_exact_mut(channels).enumerate() {
            if let Some(x) = source(2, x) {
                out.copy_from_slice(&image[(line + x) * channels..][..channels]);
            }
        }
    }
    out
}

/// A volume [D, H, W, C] turned around along these axes.
fn mirror(volume: &[f32], [d, h, w]: [usize; 3], channels: usize, axes: &[usize]) -> Vec<f32> {
    let turn = |axis: usize, i: usize, n: usize| if axes.contains(&axis) { n - 1 - i } else { i };
    let mut out = Vec::with_capacity(volume.len());
    for z in 0..d {
        for y in 0..h {
            let line = (turn(0, z, d) * h + turn(1, y, h)) * w;
            for x in 0..w {
                out.extend_from_slice(&volume[(line + turn(2, x, w)) * channels..][..channels]);
            }
        }
    }
    out
}

/// Where what was cropped lies in the file, along (z, y, x).
struct Place {
    /// Sizes of the whole volume along the plan's axes.
    shape: [usize; 3],
    /// Where each cropped voxel stands in it.
    inside: Vec<usize>,
    backward: [usize; 3],
}

impl Place {
    fn new(properties: &Properties, backward: [usize; 3]) -> Self {
        let shape = properties.shape_before_cropping;
        let all: Vec<usize> = (0..shape.iter().product()).collect();
        Self {
            inside: crop::cut(&all, shape, &properties.bbox_used_for_cropping),
            shape,
            backward,
        }
    }

    fn voxels(&self) -> usize {
        self.shape.iter().product()
    }

    fn put<T: Copy>(&self, values: &[T], elsewhere: T) -> Vec<T> {
        let mut out = vec![elsewhere; self.voxels()];
        for (at, value) in self.inside.iter().zip(values) {
            out[*at] = *value;
        }
        super::preprocess::transpose(out, self.shape, self.backward)
    }
}
