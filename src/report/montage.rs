//! A picture of a segmentation: about 12 slices of a volume with each class's outline, as one PNG.
//!
//! Slices cover the mask's extent evenly, in reading order. Greys are scaled between the 0.5 and 99.5 percentiles of what is shown. Pixels keep
//! their physical aspect and every slice is enlarged to a readable size: grey bilinearly, labels by nearest, outlines one pixel wide in the
//! enlarged picture, so they stay thin. A second label map (a reference) is drawn as a dimmer dashed outline under the first.

use std::fs::{File, Permissions};
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;

use crate::bad_input;
use crate::ops::resize::{NearestPlan, ResizePlan};

/// Slices in a picture, at most.
const SLICES: usize = 12;
/// A slice is enlarged until its longer side has at least this many pixels.
const SIDE: usize = 256;
/// No slice is drawn larger than this, whatever its size.
const MAX_SIDE: usize = 1024;
/// Black pixels between slices.
const GAP: usize = 4;

/// Outlines by class (from 1, then again from the start): Okabe and Ito's colours, told apart by colour-blind readers; the brighter first.
const COLOURS: [[u8; 3]; 7] = [
    [230, 159, 0],
    [86, 180, 233],
    [0, 200, 140],
    [240, 228, 66],
    [213, 94, 0],
    [204, 121, 167],
    [0, 114, 178],
];

/// What to draw besides the grey image and the outlines.
#[derive(Default, Clone, Copy)]
pub struct Extras<'a> {
    /// A second label map `[z, y, x]`, drawn dashed and dimmer.
    pub reference: Option<&'a [u8]>,
    /// Uncertainty `[z, y, x]` in nats (0 to ln 2), tinted red where it is high.
    pub uncertainty: Option<&'a [f32]>,
}

/// Reads one slice `[H, W]` of intensities, by its number, into the buffer.
pub type ReadSlice<'a> = dyn FnMut(usize, &mut [f32]) -> Result<()> + 'a;

/// Writes the picture of `labels` over the volume that `volume` reads, both of `dims` [z, y, x], to `path`, atomically.
///
/// `spacing` is in millimetres along z, y, x; only the ratio of y to x matters, and one that is not positive counts as 1.
///
/// # Errors
/// Label maps of another size than the volume; whatever `volume` fails with; a path that cannot be written.
pub fn montage(volume: &mut ReadSlice, labels: &[u8], dims: [usize; 3], spacing: [f64; 3], extras: Extras, path: &Path) -> Result<()> {
    let voxels = dims[0].checked_mul(dims[1]).and_then(|n| n.checked_mul(dims[2]));
    ensure!(
        voxels == Some(labels.len()),
        "montage: {} labels for a volume of {dims:?}",
        labels.len()
    );
    ensure!(
        extras.reference.is_none_or(|r| r.len() == labels.len()),
        "montage: the reference's size differs from the volume's {dims:?}"
    );
    ensure!(
        extras.uncertainty.is_none_or(|u| u.len() == labels.len()),
        "montage: the uncertainty's size differs from the volume's {dims:?}"
    );
    if labels.is_empty() {
        bad_input!("{}: cannot draw a volume without voxels ({dims:?} along z, y, x)", path.display());
    }
    let area = dims[1] * dims[2];
    let chosen = choose_slices(labels, extras.reference, dims);
    let mut greys = vec![0.0; chosen.len() * area];
    for (&z, slice) in chosen.iter().zip(greys.chunks_exact_mut(area)) {
        volume(z, slice)?;
    }
    let (low, high) = grey_range(&greys);
    let tile = Tile::new(dims, spacing)?;
    let tiles: Vec<Vec<[u8; 3]>> = chosen
        .par_iter()
        .zip(greys.par_chunks_exact(area))
        .map(|(&z, slice)| {
            let at = z * area..(z + 1) * area;
            let reference = extras.reference.map(|r| &r[at.clone()]);
            let uncertainty = extras.uncertainty.map(|u| &u[at.clone()]);
            tile.draw(slice, (low, high), &labels[at.clone()], reference, uncertainty)
        })
        .collect::<Result<_>>()?;
    let (picture, width, height) = tile.arrange(&tiles);
    write_png(&picture, width, height, path)
}

/// Slices to show: spread evenly over those that have a label, both ends included; over all of them if none has.
fn choose_slices(labels: &[u8], reference: Option<&[u8]>, dims: [usize; 3]) -> Vec<usize> {
    let area = dims[1] * dims[2];
    let labelled = |z: &usize| {
        [Some(labels), reference]
            .iter()
            .flatten()
            .any(|map| map[z * area..(z + 1) * area].iter().any(|&l| l != 0))
    };
    let first = (0..dims[0]).find(labelled).unwrap_or(0);
    let last = (0..dims[0]).rev().find(labelled).unwrap_or(dims[0] - 1);
    let count = SLICES.min(last - first + 1);
    (0..count).map(|i| first + (last - first) * i / (count - 1).max(1)).collect()
}

/// The 0.5 and 99.5 percentiles of the finite values above the smallest (of all, if that leaves none).
fn grey_range(values: &[f32]) -> (f32, f32) {
    let floor = values.iter().copied().filter(|v| v.is_finite()).fold(f32::INFINITY, f32::min);
    let mut shown: Vec<f32> = values.iter().copied().filter(|v| v.is_finite() && *v > floor).collect();
    if shown.is_empty() {
        return (0.0, 1.0);
    }
    let mut rank = |share: f64| {
        let place = ((shown.len() - 1) as f64 * share).round() as usize;
        *shown.select_nth_unstable_by(place, f32::total_cmp).1
    };
    let (low, high) = (rank(0.005), rank(0.995));
    if high > low { (low, high) } else { (floor, high) }
}

/// How one slice is enlarged.
struct Tile {
    height: usize,
    width: usize,
    grey: ResizePlan,
    label: NearestPlan,
}

impl Tile {
    fn new(dims: [usize; 3], spacing: [f64; 3]) -> Result<Self> {
        let step = |mm: f64| if mm.is_finite() && mm > 0.0 { mm } else { 1.0 };
        // One axis is stretched to square pixels (within reason), then both by the same whole number.
        let aspect = (step(spacing[1]) / step(spacing[2])).clamp(0.1, 10.0);
        let (height, width) = (dims[1] as f64 * aspect.max(1.0), dims[2] as f64 / aspect.min(1.0));
        let longer = height.max(width);
        let factor = (SIDE as f64 / longer).ceil().min(MAX_SIDE as f64 / longer);
        let size = |n: f64| ((n * factor).round() as usize).max(1);
        let (height, width) = (size(height), size(width));
        let input = (dims[1], dims[2]);
        Ok(Self {
            height,
            width,
            grey: ResizePlan::bilinear(input, (height, width))?,
            label: NearestPlan::new(input, (height, width))?,
        })
    }

    fn draw(
        &self,
        slice: &[f32],
        (low, high): (f32, f32),
        labels: &[u8],
        reference: Option<&[u8]>,
        uncertainty: Option<&[f32]>,
    ) -> Result<Vec<[u8; 3]>> {
        let size = self.height * self.width;
        let mut scratch = vec![0.0; self.grey.scratch_len(1)];
        let mut plane = vec![0.0; size];
        let finite: Vec<f32> = slice.iter().map(|v| if v.is_finite() { *v } else { low }).collect();
        self.grey.resize(&finite, &mut scratch, &mut plane)?;
        let mut pixels: Vec<[u8; 3]> = plane.iter().map(|v| [((v - low) / (high - low) * 255.0) as u8; 3]).collect();
        if let Some(uncertainty) = uncertainty {
            self.grey.resize(uncertainty, &mut scratch, &mut plane)?;
            for (pixel, entropy) in pixels.iter_mut().zip(&plane) {
                *pixel = blend(*pixel, [255, 40, 40], 0.6 * (entropy / std::f32::consts::LN_2).clamp(0.0, 1.0));
            }
        }
        let mut enlarged = vec![0; size];
        if let Some(reference) = reference {
            self.label.resize(reference, &mut enlarged)?;
            self.outline(&enlarged, &mut pixels, |pixel, colour, y, x| {
                if (x + y) % 8 < 5 { blend(pixel, colour, 0.65) } else { pixel }
            });
        }
        self.label.resize(labels, &mut enlarged)?;
        self.outline(&enlarged, &mut pixels, |_, colour, _, _| colour);
        Ok(pixels)
    }

    /// Paints the pixels of each class that have a pixel of another class, or the picture's edge, beside them.
    fn outline(&self, labels: &[u8], pixels: &mut [[u8; 3]], paint: impl Fn([u8; 3], [u8; 3], usize, usize) -> [u8; 3]) {
        let (h, w) = (self.height, self.width);
        for (y, x) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
            let i = y * w + x;
            let label = labels[i];
            if label == 0 {
                continue;
            }
            let edge = y == 0 || x == 0 || y + 1 == h || x + 1 == w;
            if edge || [i - w, i - 1, i + 1, i + w].iter().any(|&j| labels[j] != label) {
                pixels[i] = paint(pixels[i], COLOURS[(usize::from(label) - 1) % COLOURS.len()], y, x);
            }
        }
    }

    /// Tiles in rows, as near to a screen's 4 : 3 as they go. Returns the picture with its width and height.
    fn arrange(&self, tiles: &[Vec<[u8; 3]>]) -> (Vec<u8>, usize, usize) {
        let (cell_h, cell_w) = (self.height + GAP, self.width + GAP);
        let shape = |columns: usize| ((columns * cell_w) as f64 / (tiles.len().div_ceil(columns) * cell_h) as f64).ln();
        let ideal = (4.0f64 / 3.0).ln();
        let distance = |columns: &usize| (shape(*columns) - ideal).abs() + 0.2 * f64::from(tiles.len() % columns != 0);
        let columns = (1..=tiles.len()).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(1);
        let (width, height) = (columns * cell_w + GAP, tiles.len().div_ceil(columns) * cell_h + GAP);
        let mut picture = vec![0; 3 * width * height];
        for (i, tile) in tiles.iter().enumerate() {
            let (top, left) = (GAP + i / columns * cell_h, GAP + i % columns * cell_w);
            for (y, row) in tile.chunks_exact(self.width).enumerate() {
                let at = 3 * ((top + y) * width + left);
                picture[at..at + 3 * self.width].copy_from_slice(row.as_flattened());
            }
        }
        (picture, width, height)
    }
}

fn blend(below: [u8; 3], above: [u8; 3], share: f32) -> [u8; 3] {
    [0, 1, 2].map(|c| (f32::from(below[c]) * (1.0 - share) + f32::from(above[c]) * share) as u8)
}

/// Under a temporary name beside `path`, flushed, then renamed.
fn write_png(rgb: &[u8], width: usize, height: usize, path: &Path) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let cannot = || {
        format!(
            "{}: cannot write the picture; check that the folder exists and has room",
            path.display()
        )
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".montage-").suffix(".tmp");
    // A temporary file is private by default; this one becomes an ordinary file, under the user's umask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let temporary = builder.tempfile_in(folder).with_context(cannot)?;
    let mut encoder = png::Encoder::new(BufWriter::new(temporary.as_file()), u32::try_from(width)?, u32::try_from(height)?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().with_context(cannot)?;
    writer.write_image_data(rgb).with_context(cannot)?;
    writer.finish().with_context(cannot)?;
    temporary.as_file().sync_all().with_context(cannot)?;
    temporary.persist(path).with_context(cannot)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::phantom::{Phantom, Sequence};

    #[test]
    fn tmp_look() {
        let p = Phantom::generate(1, "look", Sequence::Ged4, [24, 128, 128]).unwrap();
        let q = Phantom::generate(1, "look2", Sequence::Ged4, [24, 128, 128]).unwrap();
        let area = 128 * 128;
        let mut read = |z: usize, s: &mut [f32]| {
            for (s, v) in s.iter_mut().zip(&p.image[z * area..]) {
                *s = f32::from(*v);
            }
            Ok(())
        };
        let t = std::time::Instant::now();
        montage(
            &mut read,
            &p.labels,
            p.dims,
            p.spacing,
            Extras {
                reference: Some(&q.labels),
                uncertainty: None,
            },
            Path::new("/tmp/look_ref.png"),
        )
        .unwrap();
        println!("TIME montage {:?}", t.elapsed());
        montage(
            &mut read,
            &p.labels,
            p.dims,
            p.spacing,
            Extras::default(),
            Path::new("/tmp/look.png"),
        )
        .unwrap();
        let u: Vec<f32> = p.labels.iter().map(|&l| if l == 1 { 0.5 } else { 0.0 }).collect();
        let liver: Vec<u8> = p.labels.iter().map(|&l| u8::from(l == 1)).collect();
        montage(
            &mut read,
            &liver,
            p.dims,
            [6.0, 3.0, 2.0],
            Extras {
                reference: None,
                uncertainty: Some(&u),
            },
            Path::new("/tmp/look_u.png"),
        )
        .unwrap();
        let t = std::time::Instant::now();
        for i in 0..10 {
            Phantom::generate(i, "time", Sequence::Ged4, [24, 128, 128]).unwrap();
        }
        println!("TIME phantom {:?}", t.elapsed() / 10);
    }
}
