//! Masks at the network's size: the resizes of specs/tffs.md, "Labels", planned once per volume.

use anyhow::{Result, ensure};

use crate::ops::resize::ResizePlan;
use crate::ops::resize_nearest::NearestPlan;

/// Brings labelled masks `[h, w]` first to the query's plane `[H, W]` (nearest), then to `[S, S]` (antialiased bilinear, >= 0.5).
#[derive(Debug, Clone)]
pub struct MaskPlan {
    to_query: NearestPlan,
    to_network: ResizePlan,
}

impl MaskPlan {
    /// For masks of `input` = (h, w), a query of `query` = (H, W) and a network of `size` S.
    ///
    /// # Errors
    /// A size of zero, or above 2^24.
    pub fn new(input: (usize, usize), query: (usize, usize), size: usize) -> Result<Self> {
        let to_query = NearestPlan::new(input, query)?;
        Ok(Self {
            to_query,
            to_network: ResizePlan::bilinear_antialiased(query, (size, size))?,
        })
    }

    /// `mask` `[h, w]` (foreground where it equals `class`) to `nearest` `[H, W]` and `square` `[S, S]`, both of 0 and 1.
    ///
    /// Returns whether `nearest` has foreground: whether this counts as a labelled slice, even if `square` has lost it.
    /// `scratch` grows to what it needs on the first call and is reused after that.
    ///
    /// # Errors
    /// A slice of another size.
    pub fn prepare(&self, mask: &[u8], class: u8, nearest: &mut [u8], square: &mut [u8], scratch: &mut Vec<f32>) -> Result<bool> {
        let (h, w) = self.to_network.output();
        ensure!(square.len() == h * w, "prepare: room for {} pixels, need {h} x {w}", square.len());
        self.to_query.resize(mask, nearest)?;
        let mut any = false;
        for pixel in nearest.iter_mut() {
            *pixel = u8::from(*pixel == class);
            any |= *pixel == 1;
        }
        if !any {
            square.fill(0);
            return Ok(false);
        }
        scratch.resize(nearest.len() + self.to_network.scratch_len(1) + square.len(), 0.0);
        let (plane, rest) = scratch.split_at_mut(nearest.len());
        let (between, resized) = rest.split_at_mut(self.to_network.scratch_len(1));
        for (value, &pixel) in plane.iter_mut().zip(nearest.iter()) {
            *value = f32::from(pixel);
        }
        self.to_network.resize(plane, between, resized)?;
        for (pixel, &value) in square.iter_mut().zip(resized.iter()) {
            *pixel = u8::from(value >= 0.5);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_goes_by_way_of_the_querys_plane() {
        // One pixel of 4 x 4 becomes 2 x 2 of 8 x 8 and, of 2 x 2 pixels there, a quarter: under one half.
        let mut mask = [0; 16];
        mask[5] = 3;
        let (mut nearest, mut square, mut scratch) = (vec![9; 64], vec![9; 4], Vec::new());
        let plan = MaskPlan::new((4, 4), (8, 8), 2).unwrap();
        assert!(plan.prepare(&mask, 3, &mut nearest, &mut square, &mut scratch).unwrap());
        let expected: Vec<u8> = (0..64)
            .map(|i| u8::from((2..4).contains(&(i / 8)) && (2..4).contains(&(i % 8))))
            .collect();
        assert_eq!((nearest.as_slice(), square.as_slice()), (expected.as_slice(), [0; 4].as_slice()));
        assert!(!plan.prepare(&mask, 1, &mut nearest, &mut square, &mut scratch).unwrap());
        assert_eq!((nearest, square), (vec![0; 64], vec![0; 4]));
    }

    #[test]
    fn a_pixel_that_nearest_skips_makes_no_labelled_slice() {
        let mut mask = [0; 9];
        mask[1] = 1;
        let (mut nearest, mut square) = ([9], [9; 25]);
        let plan = MaskPlan::new((3, 3), (1, 1), 5).unwrap();
        assert!(!plan.prepare(&mask, 1, &mut nearest, &mut square, &mut Vec::new()).unwrap());
        mask[0] = 1;
        assert!(plan.prepare(&mask, 1, &mut nearest, &mut square, &mut Vec::new()).unwrap());
        assert_eq!((nearest, square), ([1], [1; 25]));
    }

    #[test]
    fn one_half_exactly_is_foreground() {
        // 2 columns to 1: each has the weight one half.
        let (mask, mut nearest, mut square) = ([1, 0], [9; 2], [9; 1]);
        MaskPlan::new((1, 2), (1, 2), 1)
            .unwrap()
            .prepare(&mask, 1, &mut nearest, &mut square, &mut Vec::new())
            .unwrap();
        assert_eq!(square, [1]);
    }

    // torch 2.15.0: y, x = np.mgrid[:h, :w]
    //   mask = ((2*y-h)**2*w*w + (2*x-w)**2*h*h < h*h*w*w//3) | ((x + 3*y) % 17 < 6)
    //   n = F.interpolate(mask as float32, size=(H, W), mode="nearest")
    //   r = F.interpolate(n, size=(S, S), mode="bilinear", align_corners=False, antialias=True).numpy().ravel() >= 0.5
    //   number of ones and sum of their places, for n and for r
    #[test]
    fn masks_are_those_of_pytorch_pixel_for_pixel() {
        let cases = [
            ((208, 176), (208, 176), 512, None, (136879, 17963133848)),
            ((512, 512), (512, 512), 128, None, (4362, 35810414)),
            ((224, 368), (224, 368), 512, None, (136895, 17967404929)),
            ((640, 600), (640, 600), 512, None, (136868, 17947170674)),
            ((208, 176), (176, 208), 512, Some((19115, 350934798)), (136635, 17960472437)),
            ((224, 100), (368, 120), 128, Some((23066, 509986589)), (8551, 70082163_usize)),
        ];
        let summary = |mask: &[u8]| {
            mask.iter()
                .enumerate()
                .filter(|(_, v)| **v == 1)
                .fold((0, 0), |(n, sum), (i, _)| (n + 1, sum + i))
        };
        for (input, query, size, expected_nearest, expected) in cases {
            let (h, w) = (input.0 as i64, input.1 as i64);
            let inside =
                |y: i64, x: i64| (2 * y - h).pow(2) * w * w + (2 * x - w).pow(2) * h * h < h * h * w * w / 3 || (x + 3 * y) % 17 < 6;
            let mask: Vec<u8> = (0..h * w).map(|i| u8::from(inside(i / w, i % w))).collect();
            let (mut nearest, mut square) = (vec![9; query.0 * query.1], vec![9; size * size]);
            MaskPlan::new(input, query, size)
                .unwrap()
                .prepare(&mask, 1, &mut nearest, &mut square, &mut Vec::new())
                .unwrap();
            assert_eq!(
                summary(&nearest),
                expected_nearest.unwrap_or(summary(&mask)),
                "{input:?} to {query:?}"
            );
            assert_eq!(summary(&square), expected, "{input:?} to {query:?} to {size}");
        }
    }

    #[test]
    fn masks_of_another_size_are_refused() {
        let plan = MaskPlan::new((4, 4), (8, 8), 2).unwrap();
        assert!(plan.prepare(&[0; 15], 1, &mut [0; 64], &mut [0; 4], &mut Vec::new()).is_err());
        assert!(plan.prepare(&[0; 16], 1, &mut [0; 64], &mut [0; 5], &mut Vec::new()).is_err());
    }
}
