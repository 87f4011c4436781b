//! A case segmented by one network or the mean of several: a sliding window over the preprocessed image, the logits brought back to the file's grid, the likeliest class of each voxel.
//!
//! Tiles, mirrored views and networks are averaged as logits, as nnU-Net does. Tiles go along the first axis, and planes that no tile reaches any more are labelled at once, so that logits
//! of all classes are there for as many planes as a patch has, for each network, and a few planes of the file. Probabilities, if they are wanted, take 4 bytes for each class and voxel of the
//! file, and of the preprocessed image.

use super::crop::Box3;
use super::labelling::Labelling;
use super::network::Network;
use super::plan::Plans;
use super::resample::{Order, PlaneResampler, resample, separate_axis};
use super::store::{Preprocessed, Properties};
use super::tiles::{gaussian, starts, tiles};
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
        let spacing = self.plans.transpose_forward.map(|axis| case.properties.spacing[axis]);
        let separate = separate_axis(self.plans.configuration.spacing, spacing);
        let cropped = case.properties.shape_after_cropping_and_before_resampling;
        let classes = self.networks.first().map_or(0, Network::classes);
        if let (Some(resampler), false) = (PlaneResampler::new(case.shape, cropped, separate), probabilities) {
            let mut labelling = Labelling::new(resampler, classes, self.half);
            self.planes(device, case, (stop, done), &mut |first, logits| labelling.push(first, logits))?;
            let place = Place::new(&case.properties, self.plans.transpose_backward);
            return Ok(Segmentation {
                labels: place.put(&labelling.finish(), 0),
                probabilities: None,
            });
        }
        let mut logits = vec![Vec::with_capacity(case.label.len()); classes];
        self.planes(device, case, (stop, done), &mut |_, planes| {
            let by_class = logits.par_iter_mut().enumerate();
            by_class.for_each(|(class, to)| to.extend(planes.iter().skip(class).step_by(classes)));
        })?;
        Ok(self.bring_back(logits, case.shape, separate, &case.properties, probabilities))
    }

    /// Tiles of all networks for a preprocessed image of these sizes.
    pub fn tiles(&self, shape: [usize; 3]) -> usize {
        let patch = self.plans.configuration.patch_size;
        self.networks.len() * tiles(std::array::from_fn(|axis| shape[axis].max(patch[axis])), patch).len()
    }

    /// Mean logits of all networks: `sink` takes those of planes [planes, H, W, classes] once no tile reaches them any more, and the first plane's index, in order.
    fn planes(
        &self,
        device: &Device,
        case: &Preprocessed,
        (stop, done): (&Stop, &dyn Fn()),
        sink: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        let patch = self.plans.configuration.patch_size;
        let channels = case.image.len() / case.label.len();
        let size: [usize; 3] = std::array::from_fn(|axis| case.shape[axis].max(patch[axis]));
        let before: [usize; 3] = std::array::from_fn(|axis| (size[axis] - case.shape[axis]) / 2);
        let (weights, slab) = (gaussian(patch), [patch[0], size[1], size[2]]);
        let mut sums: Vec<Sums> = self
            .networks
            .iter()
            .map(|network| Sums::new(slab, network.classes(), self.half))
            .collect();
        let (starts, in_plane) = (starts(size[0], patch[0]), tiles([patch[0], size[1], size[2]], patch));
        for (at, &z) in starts.iter().enumerate() {
            for (network, sums) in self.networks.iter().zip(&mut sums) {
                for &[_, y, x] in &in_plane {
                    stop.check()?;
                    let place = [z, y, x];
                    let tile = cut_tile(
                        &case.image,
                        case.shape,
                        channels,
                        patch,
                        std::array::from_fn(|axis| (place[axis], before[axis])),
                    );
                    let logits = self.tile(device, network, &tile, channels)?;
                    sums.add(&logits, &weights, [0, y, x], patch);
                    done();
                }
            }
            let finished = starts.get(at + 1).copied().unwrap_or(size[0]) - z;
            let mean = self.mean(&mut sums, finished);
            let wanted = z.max(before[0])..(z + finished).min(before[0] + case.shape[0]);
            if !wanted.is_empty() {
                let classes = mean.len() / (finished * size[1] * size[2]);
                let skipped = (wanted.start - z) * size[1] * size[2] * classes;
                let inside = unpadded(&mean[skipped..], (wanted.len(), classes), (size, before), case.shape);
                sink(wanted.start - before[0], &inside);
            }
        }
        Ok(())
    }

    /// Mean logits [planes, H, W, classes] of the networks over the slab's first planes, which leave it.
    fn mean(&self, sums: &mut [Sums], planes: usize) -> Vec<f32> {
        let mut total: Vec<f32> = Vec::new();
        for sums in sums {
            let mean = sums.take(planes);
            if total.is_empty() {
                total = mean;
            } else {
                let both = total.par_iter_mut().zip(mean);
                both.for_each(|(total, v)| *total = rounded(*total + v, self.half));
            }
        }
        let networks = self.networks.len() as f32;
        total.par_iter_mut().for_each(|v| *v = rounded(*v / networks, self.half));
        total
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
    fn bring_back(
        &self,
        logits: Vec<Vec<f32>>,
        shape: [usize; 3],
        separate: Option<usize>,
        properties: &Properties,
        probabilities: bool,
    ) -> Segmentation {
        let half = self.half;
        let cropped = properties.shape_after_cropping_and_before_resampling;
        let classes = logits.len();
        let resampled = logits.into_iter().map(|class| {
            let mut class = resample(&class, shape, cropped, separate, Order::Linear).into_owned();
            class.par_iter_mut().for_each(|v| *v = rounded(*v, half));
            class
        });
        let place = Place::new(properties, self.plans.transpose_backward);
        let (mut labels, mut best) = (vec![0u8; cropped.iter().product()], Vec::new());
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

pub(super) fn rounded(v: f32, half: bool) -> f32 {
    if half { f16::from_f32(v).to_f32() } else { v }
}

/// Weighted logits of one network, added up over the planes that tiles still reach.
struct Sums {
    logits: Vec<f32>,
    weights: Vec<f32>,
    slab: [usize; 3],
    classes: usize,
    half: bool,
}

impl Sums {
    fn new(slab: [usize; 3], classes: usize, half: bool) -> Self {
        let voxels = slab.iter().product::<usize>();
        Self {
            logits: vec![0.0; voxels * classes],
            weights: vec![0.0; voxels],
            slab,
            classes,
            half,
        }
    }

    fn add(&mut self, tile: &[f32], weights: &[f32], place: [usize; 3], patch: [usize; 3]) {
        let (c, half, size) = (self.classes, self.half, self.slab);
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

    /// Weighted means over the first planes; the others move up.
    fn take(&mut self, planes: usize) -> Vec<f32> {
        let (c, half) = (self.classes, self.half);
        let voxels = planes * self.slab[1] * self.slab[2];
        let mut mean = self.logits[..voxels * c].to_vec();
        let both = mean.par_chunks_mut(c).zip(&self.weights[..voxels]);
        both.for_each(|(sums, weight)| sums.iter_mut().for_each(|sum| *sum = rounded(*sum / weight, half)));
        self.logits.copy_within(voxels * c.., 0);
        self.weights.copy_within(voxels.., 0);
        let (logits, weights) = (self.logits.len() - voxels * c, self.weights.len() - voxels);
        self.logits[logits..].fill(0.0);
        self.weights[weights..].fill(0.0);
        mean
    }
}

/// The first planes [planes, H, W, C] without what was padded in plane.
fn unpadded(logits: &[f32], (planes, classes): (usize, usize), (size, before): ([usize; 3], [usize; 3]), shape: [usize; 3]) -> Vec<f32> {
    let rows = (0..planes).flat_map(|z| (0..shape[1]).map(move |y| ((z * size[1] + before[1] + y) * size[2] + before[2]) * classes));
    let mut out = Vec::with_capacity(planes * shape[1] * shape[2] * classes);
    rows.for_each(|row| out.extend_from_slice(&logits[row..row + shape[2] * classes]));
    out
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
struct Place<'a> {
    /// Sizes of the whole volume along the plan's axes.
    shape: [usize; 3],
    /// What was kept of it.
    bounds: &'a Box3,
    backward: [usize; 3],
}

impl<'a> Place<'a> {
    fn new(properties: &'a Properties, backward: [usize; 3]) -> Self {
        Self {
            shape: properties.shape_before_cropping,
            bounds: &properties.bbox_used_for_cropping,
            backward,
        }
    }

    fn voxels(&self) -> usize {
        self.shape.iter().product()
    }

    fn put<T: Copy>(&self, values: &[T], elsewhere: T) -> Vec<T> {
        let mut out = vec![elsewhere; self.voxels()];
        let [z, y, x] = self.bounds;
        let rows = z
            .clone()
            .flat_map(|z| y.clone().map(move |y| (z * self.shape[1] + y) * self.shape[2]));
        for (row, values) in rows.zip(values.chunks_exact(x.len())) {
            out[row + x.start..row + x.end].copy_from_slice(values);
        }
        super::preprocess::transpose(out, self.shape, self.backward)
    }
}
