//! A picture of a segmentation: about 12 slices of a volume with each class's outline, as one PNG.
//!
//! Slices cover the mask's extent evenly, in reading order. Greys are scaled between the 0.5 and 99.5 percentiles of what is shown. Pixels
//! keep their physical aspect and every slice is enlarged to a readable size: grey bilinearly, labels by nearest, outlines one pixel wide in
//! the enlarged picture, so they stay thin. A second label map (a reference) is drawn as a dimmer dashed outline under the first.

use anyhow::{Result, ensure};
use rayon::prelude::*;

use crate::bad_input;
use crate::ops::resize::ResizePlan;
use crate::ops::resize_nearest::NearestPlan;

/// Slices in a picture, at most.
const SLICES: usize = 12;
/// A slice is enlarged until its longer side has at least this many pixels.
const SIDE: usize = 256;
/// No slice is drawn larger than this, whatever its size.
const MAX_SIDE: usize = 1024;
/// The brightest grey: outlines must stand out from it.
const WHITE: f32 = 215.0;
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
    /// Whether to turn the picture upside down, and left to right: for volumes whose y or x axis runs against the reader's habit.
    pub flip: [bool; 2],
}

/// Reads one slice `[H, W]` of intensities, by its number, into the buffer.
pub type ReadSlice<'a> = dyn FnMut(usize, &mut [f32]) -> Result<()> + 'a;

/// The picture of `labels` over the volume that `volume` reads, both of `dims` [z, y, x], as the bytes of a PNG file.
///
/// `spacing` is in millimetres along z, y, x; only the ratio of y to x matters, and one that is not positive counts as 1.
///
/// # Errors
/// Label maps of another size than the volume; whatever `volume` fails with.
pub fn montage(volume: &mut ReadSlice, labels: &[u8], dims: [usize; 3], spacing: [f64; 3], extras: Extras) -> Result<Vec<u8>> {
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
        bad_input!("a volume without voxels ({dims:?} along z, y, x) cannot be drawn");
    }
    let area = dims[1] * dims[2];
    let chosen = choose_slices(labels, extras.reference, dims);
    let mut greys = vec![0.0; chosen.len() * area];
    for (&z, slice) in chosen.iter().zip(greys.chunks_exact_mut(area)) {
        volume(z, slice)?;
    }
    let (low, high) = grey_range(&greys);
    let tile = Tile::new(dims, spacing, extras.flip)?;
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
    encode_png(&picture, width, height)
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
    flip: [bool; 2],
}

impl Tile {
    fn new(dims: [usize; 3], spacing: [f64; 3], flip: [bool; 2]) -> Result<Self> {
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
            grey: ResizePlan::bilinear_antialiased(input, (height, width))?,
            label: NearestPlan::new(input, (height, width))?,
            flip,
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
        let mut pixels: Vec<[u8; 3]> = plane
            .iter()
            .map(|v| [((v - low) / (high - low) * WHITE).min(WHITE) as u8; 3])
            .collect();
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
        self.shade_surroundings(&enlarged, &mut pixels);
        self.outline(&enlarged, &mut pixels, |_, colour, _, _| colour);
        if self.flip[0] {
            pixels.reverse(); // turns x as well; turned back below if that was not wanted
        }
        if self.flip[0] != self.flip[1] {
            pixels.chunks_exact_mut(self.width).for_each(<[_]>::reverse);
        }
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

    /// Darkens the background just outside the classes, so that outlines stand out from bright tissue too.
    fn shade_surroundings(&self, labels: &[u8], pixels: &mut [[u8; 3]]) {
        for (y, x) in (1..self.height - 1).flat_map(|y| (1..self.width - 1).map(move |x| (y, x))) {
            let i = y * self.width + x;
            if labels[i] == 0 && [i - self.width, i - 1, i + 1, i + self.width].iter().any(|&j| labels[j] != 0) {
                pixels[i] = blend(pixels[i], [0; 3], 0.5);
            }
        }
    }

    /// Tiles in rows, as near to a screen's 4 : 3 as they go. Returns the picture with its width and height.
    fn arrange(&self, tiles: &[Vec<[u8; 3]>]) -> (Vec<u8>, usize, usize) {
        let (cell_h, cell_w) = (self.height + GAP, self.width + GAP);
        let shape = |columns: usize| ((columns * cell_w) as f64 / (tiles.len().div_ceil(columns) * cell_h) as f64).ln();
        let ideal = (4.0f64 / 3.0).ln();
        let distance = |columns: &usize| (shape(*columns) - ideal).abs() + 0.5 * f64::from(u8::from(!tiles.len().is_multiple_of(*columns)));
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

fn encode_png(rgb: &[u8], width: usize, height: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, u32::try_from(width)?, u32::try_from(height)?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(rgb)?;
    writer.finish()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIMS: [usize; 3] = [3, 20, 30];

    /// A volume whose voxel is its place in the row, with a box of class 1 in slices 1 and 2.
    fn boxed() -> Vec<u8> {
        let inside = |i: usize| i / 600 >= 1 && (5..10).contains(&(i / 30 % 20)) && (10..25).contains(&(i % 30));
        (0..1800).map(|i| u8::from(inside(i))).collect()
    }

    fn ramp(_: usize, slice: &mut [f32]) -> Result<()> {
        slice.iter_mut().enumerate().for_each(|(i, v)| *v = (i % 30) as f32);
        Ok(())
    }

    fn decode(png: &[u8]) -> (usize, usize, Vec<[u8; 3]>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut bytes).unwrap();
        assert_eq!((info.color_type, info.bit_depth), (png::ColorType::Rgb, png::BitDepth::Eight));
        (info.width as usize, info.height as usize, bytes.as_chunks::<3>().0.to_vec())
    }

    #[test]
    fn slices_span_the_labelled_extent_and_all_slices_if_there_is_none() {
        let with = |range: std::ops::Range<usize>| (0..40).map(|z| u8::from(range.contains(&z))).collect::<Vec<u8>>();
        assert_eq!(choose_slices(&with(3..8), None, [40, 1, 1]), [3, 4, 5, 6, 7]);
        assert_eq!(choose_slices(&with(0..0), Some(&with(3..5)), [40, 1, 1]), [3, 4]);
        let all = choose_slices(&with(0..0), None, [40, 1, 1]);
        assert_eq!((all.len(), all[0], all[11]), (12, 0, 39));
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(choose_slices(&[0], None, [1, 1, 1]), [0]);
    }

    #[test]
    fn the_picture_holds_the_labelled_slices_at_their_physical_shape_with_thin_outlines() {
        let png = montage(&mut ramp, &boxed(), DIMS, [5.0, 3.0, 1.0], Extras::default()).unwrap();
        // 20 x 30 at 3 : 1 is 60 x 30, five times enlarged; two slices of 300 x 150 side by side.
        let (width, height, pixels) = decode(&png);
        assert_eq!((width, height), (2 * 150 + 3 * GAP, 300 + 2 * GAP));
        // The box is rows 75 to 150, columns 50 to 125 of each tile: its outline is one pixel wide.
        let outline = pixels.iter().filter(|p| **p == COLOURS[0]).count();
        assert_eq!(outline, 2 * (2 * 75 + 2 * 75 - 4));
        let at = |y: usize, x: usize| pixels[(GAP + y) * width + GAP + x];
        assert!(at(75, 50) == COLOURS[0] && at(149, 124) == COLOURS[0] && at(76, 51) != COLOURS[0]);
        assert!(
            at(10, 0)[0] < at(10, 70)[0] && at(10, 70)[0] < at(10, 149)[0],
            "grey follows the ramp"
        );
    }

    #[test]
    fn a_reference_is_dashed_and_uncertainty_is_red() {
        let (labels, empty, entropy) = (boxed(), vec![0; 1800], vec![std::f32::consts::LN_2; 1800]);
        let extras = Extras {
            reference: Some(&labels),
            ..Extras::default()
        };
        let png = montage(&mut ramp, &empty, DIMS, [1.0; 3], extras).unwrap();
        let coloured = |pixels: &[[u8; 3]]| pixels.iter().filter(|[r, g, b]| r != g || g != b).count();
        let (width, _, pixels) = decode(&png);
        assert_eq!(width, 270 + 2 * GAP, "{width}: tiles of 180 x 270 above each other");
        let outline = 2 * (2 * 45 + 2 * 135 - 4);
        assert!(
            (outline / 2..outline * 3 / 4).contains(&coloured(&pixels)),
            "{} of {outline}",
            coloured(&pixels)
        );
        let png = montage(
            &mut ramp,
            &empty,
            DIMS,
            [1.0; 3],
            Extras {
                uncertainty: Some(&entropy),
                ..Extras::default()
            },
        )
        .unwrap();
        let (_, _, pixels) = decode(&png);
        assert_eq!(coloured(&pixels), 3 * 180 * 270);
    }

    #[test]
    fn flips_turn_the_picture() {
        let picture =
            |flip: [bool; 2]| decode(&montage(&mut ramp, &boxed(), DIMS, [1.0; 3], Extras { flip, ..Extras::default() }).unwrap());
        let (width, height, plain) = picture([false, false]);
        // Both tiles are alike, so that the whole picture turns as each of them does.
        let turned = |flip: [bool; 2]| -> Vec<[u8; 3]> {
            let place = |y: usize, x: usize| (if flip[0] { height - 1 - y } else { y }) * width + if flip[1] { width - 1 - x } else { x };
            (0..height * width).map(|i| plain[place(i / width, i % width)]).collect()
        };
        for flip in [[true, false], [false, true], [true, true]] {
            assert!(picture(flip).2 == turned(flip), "{flip:?}");
            assert!(turned(flip) != plain);
        }
    }

    #[test]
    fn odd_volumes_are_drawn_and_wrong_ones_refused() {
        let mut constant = |_: usize, slice: &mut [f32]| {
            slice.fill(f32::NAN);
            Ok(())
        };
        for (dims, spacing) in [
            ([1, 1, 1], [1.0; 3]),
            ([2, 1, 1500], [f64::NAN, 0.0, -1.0]),
            ([1, 300, 2], [1.0, 1e9, 1e-9]),
        ] {
            let labels = vec![9; dims.iter().product()];
            let png = montage(&mut constant, &labels, dims, spacing, Extras::default()).unwrap();
            let (width, height, _) = decode(&png);
            assert!(width <= 2200 && height <= 2200, "{width} x {height}");
        }
        assert!(montage(&mut ramp, &[0; 5], [1, 2, 3], [1.0; 3], Extras::default()).is_err());
        let extras = Extras {
            reference: Some(&[0; 5]),
            ..Extras::default()
        };
        assert!(montage(&mut ramp, &[0; 6], [1, 2, 3], [1.0; 3], extras).is_err());
        let error = montage(&mut ramp, &[], [0, 2, 3], [1.0; 3], Extras::default()).unwrap_err();
        assert!(crate::error::is_input_error(&error), "{error}");
    }
}
