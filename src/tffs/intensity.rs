//! Intensities: the map from a volume's own values to the 0..255 the network was trained on.
//!
//! Contract (specs/tffs.md, "Intensities"), for a volume v:
//! * without a window (MR): lower, upper = the 0.5 and 99.5 percentiles of the voxels above zero, linear between order statistics (numpy's
//!   default); c = clip(v, lower, upper); (c - min c) / (max c - min c) * 255; voxels that were exactly 0 become 0;
//! * with a window (CT): lower, upper = level -+ width / 2; the same map; zeros stay what it makes of them.
//!
//! A volume that is constant after clipping gives zeros, and so does one without a voxel above zero where percentiles are needed.
//! Arithmetic is f64 on voxels that come as f32, as numpy's on a float64 array, and the result is rounded to f32 once.

use anyhow::{Result, ensure};
use rayon::prelude::*;

use crate::bad_input;
use crate::ops::normalise::{Map, mapped};

/// A CT window in the volume's units (HU).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// Its centre.
    pub level: f64,
    /// Its full width.
    pub width: f64,
}

/// The map of one volume, and what was seen on the way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Intensity {
    /// Values below are raised to this.
    pub lower: f64,
    /// Values above are lowered to this.
    pub upper: f64,
    /// Smallest value after clipping; it becomes 0.
    pub min: f64,
    /// Largest value after clipping; it becomes 255.
    pub max: f64,
    /// Whether voxels that were exactly 0 are set back to 0 (no window).
    pub keep_zeros: bool,
    /// Voxels below zero.
    pub negative: u64,
    /// All voxels.
    pub voxels: u64,
}

/// Reads one slice `[H, W]`, by its number, into the buffer.
pub type ReadSlice<'a> = dyn Fn(usize, &mut [f32]) -> Result<()> + Sync + 'a;

impl Intensity {
    /// Measures a volume of `dims` [z, y, x] on the threads of the pool that this is called in, reading its slices twice when there is no window.
    ///
    /// # Errors
    /// Whatever `read` fails with; a voxel that is NaN or infinite (the first is named); a window that is not finite or not wider than 0.
    pub fn measure(dims: [usize; 3], window: Option<Window>, read: &ReadSlice) -> Result<Self> {
        let area = dims[1]
            .checked_mul(dims[2])
            .and_then(|area| area.checked_mul(dims[0]).map(|_| area));
        let Some(area) = area else {
            bad_input!("a volume of {dims:?} voxels (z, y, x) is too large to address")
        };
        let parts = parts(dims[0], area, read, Seen::new, |seen, slice, z| seen.add(slice, z, dims[2]))?;
        let seen = parts.into_iter().fold(Seen::new(), Seen::and);
        let (lower, upper) = match window {
            Some(Window { level, width }) => {
                if !level.is_finite() || !width.is_finite() || width <= 0.0 {
                    bad_input!("a window needs a finite level and a width above 0, not {level},{width}");
                }
                (level - width / 2.0, level + width / 2.0)
            }
            None => seen
                .percentiles(&[0.5, 99.5], dims[0], area, read)?
                .map_or((0.0, 0.0), |p| (p[0], p[1])),
        };
        let (min, max) = if seen.voxels > 0 { (seen.min, seen.max) } else { (0.0, 0.0) };
        Ok(Self {
            lower,
            upper,
            min: f64::from(min).clamp(lower, upper),
            max: f64::from(max).clamp(lower, upper),
            keep_zeros: window.is_none(),
            negative: seen.negative,
            voxels: seen.voxels,
        })
    }

    /// The map of voxels that are stored with this slope and intercept.
    pub fn map(&self, (slope, intercept): (f64, f64)) -> Map {
        Map {
            slope,
            intercept,
            lower: self.lower,
            upper: self.upper,
            min: self.min,
            max: self.max,
            keep_zeros: self.keep_zeros,
        }
    }

    /// Maps one slice (or any part of the volume) in place.
    pub fn apply(&self, slice: &mut [f32]) {
        let map = self.map((1.0, 0.0));
        for voxel in slice {
            *voxel = mapped(f64::from(*voxel), &map);
        }
    }

    /// Whether the whole volume becomes zeros.
    pub fn is_constant(&self) -> bool {
        self.max <= self.min
    }

    /// What the user should be told about this volume, if anything.
    pub fn warning(&self) -> Option<String> {
        if self.is_constant() {
            let remedy = "check the file, its channel and the window";
            Some(format!(
                "the volume is constant after clipping: every voxel becomes 0 and nothing can be segmented in it; {remedy}"
            ))
        } else if self.keep_zeros && self.negative > 0 {
            let percent = 100.0 * self.negative as f64 / self.voxels as f64;
            Some(format!(
                "{percent:.1} % of the voxels are negative: probably CT; give its window with --window LEVEL,WIDTH (for example 40,400)"
            ))
        } else {
            None
        }
    }
}

/// Statistics of a first pass. Positive floats order as their bits do, so a histogram of their upper 16 bits says where an order
/// statistic lies, and one of the lower 16 bits, in a second pass, what it is: exact, in constant memory, whatever the values.
struct Seen {
    min: f32,
    max: f32,
    negative: u64,
    voxels: u64,
    positive: u64,
    coarse: Vec<u64>, // [2^15] voxels above zero by the upper 16 bits
}

impl Seen {
    fn new() -> Self {
        Self {
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            negative: 0,
            voxels: 0,
            positive: 0,
            coarse: vec![0; 1 << 15],
        }
    }

    fn add(&mut self, slice: &[f32], z: usize, width: usize) -> Result<()> {
        if let Some(i) = slice.iter().position(|v| !v.is_finite()) {
            let (x, y, value) = (i % width, i / width, slice[i]);
            bad_input!(
                "voxel x {x}, y {y}, z {z} is {value}: intensities must be finite, and below 3.4e38; replace it (for example by 0) and start again"
            );
        }
        for &value in slice {
            self.min = self.min.min(value);
            self.max = self.max.max(value);
            self.negative += u64::from(value < 0.0);
            if value > 0.0 {
                self.positive += 1;
                self.coarse[(value.to_bits() >> 16) as usize] += 1;
            }
        }
        self.voxels += slice.len() as u64;
        Ok(())
    }

    /// Both together.
    fn and(self, other: Self) -> Self {
        Self {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
            negative: self.negative + other.negative,
            voxels: self.voxels + other.voxels,
            positive: self.positive + other.positive,
            coarse: sums(self.coarse, other.coarse),
        }
    }

    /// Percentiles of the voxels above zero as numpy's `percentile` (method "linear"); `None` if there are none.
    fn percentiles(&self, percents: &[f64], depth: usize, area: usize, read: &ReadSlice) -> Result<Option<Vec<f64>>> {
        if self.positive == 0 {
            return Ok(None);
        }
        let last = self.positive - 1;
        let places: Vec<f64> = percents.iter().map(|percent| last as f64 * (percent / 100.0)).collect();
        let ranks: Vec<u64> = places
            .iter()
            .flat_map(|place| [*place as u64, (*place as u64 + 1).min(last)])
            .collect();
        let values = self.order_statistics(&ranks, depth, area, read)?;
        let between = |(place, pair): (&f64, &[f32])| {
            let (a, b) = (f64::from(pair[0]), f64::from(pair[1]));
            let t = place - place.floor();
            // numpy goes from the nearer end, so that equal ends and t = 1 come out exactly.
            if t >= 0.5 { b - (b - a) * (1.0 - t) } else { a + (b - a) * t }
        };
        Ok(Some(places.iter().zip(values.chunks_exact(2)).map(between).collect()))
    }

    /// The values of these ranks (from 0) among the voxels above zero.
    fn order_statistics(&self, ranks: &[u64], depth: usize, area: usize, read: &ReadSlice) -> Result<Vec<f32>> {
        let bins: Vec<(usize, u64)> = ranks.iter().map(|&rank| find_rank(&self.coarse, rank)).collect();
        let mut slot_of_bin = vec![u8::MAX; self.coarse.len()];
        let mut slots = 0;
        for &(bin, _) in &bins {
            if slot_of_bin[bin] == u8::MAX {
                slot_of_bin[bin] = slots;
                slots += 1;
            }
        }
        // [slots, 2^16] voxels of each of these bins by their lower 16 bits.
        let none = || vec![0_u64; usize::from(slots) << 16];
        let add = |fine: &mut Vec<u64>, slice: &[f32], _| {
            for bits in slice.iter().filter(|v| **v > 0.0).map(|v| v.to_bits()) {
                let slot = slot_of_bin[(bits >> 16) as usize & (self.coarse.len() - 1)];
                if slot != u8::MAX {
                    fine[usize::from(slot) << 16 | (bits & 0xFFFF) as usize] += 1;
                }
            }
            Ok(())
        };
        let fine = parts(depth, area, read, none, add)?.into_iter().fold(none(), sums);
        let value = |&(bin, rank): &(usize, u64)| {
            let counts = &fine[usize::from(slot_of_bin[bin]) << 16..][..1 << 16];
            ensure!(
                counts.iter().sum::<u64>() == self.coarse[bin],
                "the volume changed while it was read twice"
            );
            Ok(f32::from_bits((bin << 16 | find_rank(counts, rank).0) as u32))
        };
        bins.iter().map(value).collect()
    }
}

/// Adds up the slices of a volume, a run of neighbours on each thread of the pool that this is called in; outside of one, on this thread alone. Of several
/// complaints it is the one of the first slice that is made.
fn parts<T: Send>(
    depth: usize,
    area: usize,
    read: &ReadSlice,
    none: impl Fn() -> T + Sync,
    add: impl Fn(&mut T, &[f32], usize) -> Result<()> + Sync,
) -> Result<Vec<T>> {
    let threads = rayon::current_thread_index().map_or(1, |_| rayon::current_num_threads());
    let each = depth.div_ceil(threads).max(1);
    let part = |first: usize| {
        let (mut sum, mut slice) = (none(), vec![0.0; area]);
        for z in first..depth.min(first + each) {
            read(z, &mut slice)?;
            add(&mut sum, &slice, z)?;
        }
        Ok(sum)
    };
    if each >= depth {
        return Ok(vec![part(0)?]);
    }
    let parts: Vec<Result<T>> = (0..depth).into_par_iter().step_by(each).map(part).collect();
    parts.into_iter().collect()
}

fn sums(mut some: Vec<u64>, others: Vec<u64>) -> Vec<u64> {
    some.iter_mut().zip(others).for_each(|(sum, other)| *sum += other);
    some
}

/// The bin that holds this rank, and the rank within it.
fn find_rank(counts: &[u64], mut rank: u64) -> (usize, u64) {
    for (bin, &count) in counts.iter().enumerate() {
        if rank < count {
            return (bin, rank);
        }
        rank -= count;
    }
    (counts.len() - 1, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(volume: &[f32], dims: [usize; 3], window: Option<Window>) -> Result<Intensity> {
        let area = dims[1] * dims[2];
        Intensity::measure(dims, window, &|z, slice| {
            slice.copy_from_slice(&volume[z * area..][..area]);
            Ok(())
        })
    }

    fn mapped(volume: &[f32], dims: [usize; 3], window: Option<Window>) -> Vec<f32> {
        let mut out = volume.to_vec();
        measure(volume, dims, window).unwrap().apply(&mut out);
        out
    }

    /// (i^2 * 2654435761 + i * 40503 mod 2^64 >> 13) mod 4096, less an offset, over a divisor.
    fn volume(n: usize, offset: i64, divisor: f32) -> Vec<f32> {
        let word = |i: u64| ((i * i * 2_654_435_761 + i * 40_503) >> 13) % 4096;
        (0..n as u64)
            .map(|i| (word(i) as i64 - offset).max(if offset > 2000 { -4096 } else { 0 }) as f32 / divisor)
            .collect()
    }

    // numpy 2.4.6, float64, XOR over voxels i of (2 i + 1) * bits of the float32 result as the check word:
    //   word = ((i * i * 2654435761 + i * 40503) >> 13) % 4096 - offset; if offset <= 2000: word = np.maximum(word, 0)
    //   v = (word.astype(np.float32) / np.float32(divisor)).astype(np.float64)
    //   lower, upper = np.percentile(v[v > 0], [0.5, 99.5])   (or level -+ width / 2)
    //   c = np.clip(v, lower, upper); out = (c - c.min()) / (c.max() - c.min()) * 255; without a window out[v == 0] = 0
    #[test]
    fn percentiles_windows_and_every_voxel_are_bit_equal_to_numpy() {
        let window = |level, width| Some(Window { level, width });
        let cases = [
            ([7, 11, 13], 500, 1.0, None, (20.39, 3577.0), 0x62e4aa9717),
            ([3, 31, 33], 1000, 7.0, None, (1.8271428203582765, 439.6314398193359), 0x3adb18821),
            ([5, 2, 3], 0, 3.0, None, (44.126665954589846, 1338.0533740234375), 0x6ec257554),
            ([2, 16, 17], 3000, 1.0, None, (8.55, 1065.865), 0x12cce752a32),
            ([2, 16, 17], 3000, 1.0, window(40.0, 400.0), (-160.0, 240.0), 0x1072e4f467c),
            ([4, 9, 5], 2100, 3.0, window(-10.5, 77.0), (-49.0, 28.0), 0x76b282b477),
            ([3, 5, 7], 0, 1.0, window(-3000.0, 7001.0), (-6500.5, 500.5), 0x1bbe18381e_u64),
        ];
        for (dims, offset, divisor, window, bounds, check) in cases {
            let volume = volume(dims.iter().product(), offset, divisor);
            let intensity = measure(&volume, dims, window).unwrap();
            assert_eq!((intensity.lower, intensity.upper), bounds, "{dims:?}, offset {offset}");
            let mut out = volume;
            intensity.apply(&mut out);
            let words = out.iter().enumerate().map(|(i, v)| u64::from(v.to_bits()) * (2 * i as u64 + 1));
            assert_eq!(words.fold(0, |a, b| a ^ b), check, "{dims:?}, offset {offset}, window {window:?}");
        }
    }

    #[test]
    fn order_statistics_are_those_of_a_sorted_array() {
        // Values of close bits, so that several ranks fall into one coarse bin and others do not.
        let volume: Vec<f32> = (0..700)
            .map(|i| 1.0 + ((i * 37) % 701) as f32 * if i % 2 == 0 { 1e-5 } else { 1e3 })
            .collect();
        let mut sorted = volume.clone();
        sorted.sort_by(f32::total_cmp);
        let mut seen = Seen::new();
        seen.add(&volume, 0, 700).unwrap();
        let ranks = [0, 1, 2, 349, 350, 351, 698, 699];
        let read = |_: usize, slice: &mut [f32]| {
            slice.copy_from_slice(&volume);
            Ok(())
        };
        let values = seen.order_statistics(&ranks, 1, 700, &read).unwrap();
        assert_eq!(values, ranks.map(|rank| sorted[rank as usize]));
    }

    #[test]
    fn voxels_that_are_zero_stay_zero_without_a_window_and_move_with_one() {
        let volume = [0.0, -50.0, 50.0, 100.0];
        assert_eq!(
            mapped(&volume, [1, 2, 2], Some(Window { level: 0.0, width: 200.0 })),
            [85.0, 0.0, 170.0, 255.0]
        );
        let out = mapped(&volume, [1, 2, 2], None);
        assert_eq!((out[0], out[1], out[3]), (0.0, 0.0, 255.0));
        assert!(
            measure(&volume, [1, 2, 2], None)
                .unwrap()
                .warning()
                .unwrap()
                .contains("25.0 % of the voxels are negative: probably CT")
        );
        assert_eq!(measure(&volume[2..], [1, 1, 2], None).unwrap().warning(), None);
    }

    #[test]
    fn constant_volumes_and_volumes_without_a_positive_voxel_become_zeros_with_a_warning() {
        for volume in [[3.0; 6], [0.0; 6], [-2.0, -1.0, 0.0, -3.0, -4.0, -5.0]] {
            assert_eq!(mapped(&volume, [1, 2, 3], None), [0.0; 6]);
            assert!(measure(&volume, [1, 2, 3], None).unwrap().warning().unwrap().contains("constant"));
        }
        assert_eq!(
            mapped(&[900.0, 1000.0], [1, 1, 2], Some(Window { level: 40.0, width: 400.0 })),
            [0.0; 2]
        );
        assert!(measure(&[], [0, 2, 3], None).unwrap().is_constant());
    }

    #[test]
    fn the_first_voxel_that_is_not_finite_is_named() {
        let mut volume = vec![1.0; 24];
        volume[23] = f32::NAN;
        volume[12 + 4 + 2] = f32::NEG_INFINITY;
        let error = measure(&volume, [2, 3, 4], None).unwrap_err();
        assert!(crate::error::is_input_error(&error));
        assert!(error.to_string().contains("voxel x 2, y 1, z 1 is -inf"), "{error}");
    }

    #[test]
    fn threads_change_nothing_neither_numbers_nor_complaints() {
        let dims = [7, 6, 5];
        let (volume, mut broken) = (volume(210, 300, 7.0), volume(210, 300, 7.0));
        broken[4 * 30 + 8] = f32::NAN;
        broken[5 * 30] = f32::INFINITY;
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let complaint = measure(&broken, dims, None).unwrap_err().to_string();
                (measure(&volume, dims, None).unwrap(), complaint)
            })
        };
        let one = on(1);
        assert!(one.1.contains("voxel x 3, y 1, z 4 is NaN"), "{}", one.1);
        for threads in [2, 3, 7, 9] {
            assert_eq!(on(threads), one, "{threads} threads");
        }
        assert_eq!(measure(&volume, dims, None).unwrap(), one.0, "outside of a pool");
    }

    #[test]
    fn windows_without_width_are_refused() {
        for (level, width) in [(40.0, 0.0), (40.0, -1.0), (f64::NAN, 400.0), (0.0, f64::INFINITY)] {
            let error = measure(&[1.0, 2.0], [1, 1, 2], Some(Window { level, width })).unwrap_err();
            assert!(error.to_string().contains("width above 0"), "{error}");
        }
    }
}
