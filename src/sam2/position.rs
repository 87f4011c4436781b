//! Position encodings: constants, computed once per network.

use std::f64::consts::TAU;

/// Sine position of a grid [height * width, channels]: y in the first half of the channels, x in the second, sine and cosine interleaved; coordinates from 1,
/// normalised to 2 pi, temperature 10000 (SAM 2's PositionEmbeddingSine).
pub fn sine_2d(height: usize, width: usize, channels: usize) -> Vec<f32> {
    let half = channels / 2;
    let mut out = Vec::with_capacity(height * width * channels);
    for y in 0..height {
        for x in 0..width {
            for (at, side) in [(y, height), (x, width)] {
                let coordinate = (at + 1) as f64 / (side as f64 + 1e-6) * TAU;
                out.extend((0..half).map(|i| {
                    let angle = coordinate / 10000f64.powf((2 * (i / 2)) as f64 / half as f64);
                    (if i % 2 == 0 { angle.sin() } else { angle.cos() }) as f32
                }));
            }
        }
    }
    out
}

/// 1-D sine position of a distance: sines, then cosines, `channels` in all (SAM 2's get_1d_sine_pe).
pub fn sine_1d(distance: f32, channels: usize) -> Vec<f32> {
    let half = channels / 2;
    let angle = |i: usize| f64::from(distance) / 10000f64.powf((2 * (i / 2)) as f64 / half as f64);
    (0..half)
        .map(|i| angle(i).sin() as f32)
        .chain((0..half).map(|i| angle(i).cos() as f32))
        .collect()
}

/// Random Fourier position of a grid's pixel centres [side * side, 2 f]: sine then cosine of 2 pi (2 c - 1) G, c = (x, y) in [0, 1], G [2, f]
/// (SAM's PositionEmbeddingRandom).
pub fn random_fourier(side: usize, matrix: &[f32]) -> Vec<f32> {
    let f = matrix.len() / 2;
    let mut out = Vec::with_capacity(side * side * 2 * f);
    for y in 0..side {
        for x in 0..side {
            let centre = |at: usize| 2.0 * ((at as f64 + 0.5) / side as f64) - 1.0;
            let angle = |i: usize| TAU * (centre(x) * f64::from(matrix[i]) + centre(y) * f64::from(matrix[f + i]));
            out.extend((0..f).map(|i| angle(i).sin() as f32));
            out.extend((0..f).map(|i| angle(i).cos() as f32));
        }
    }
    out
}
