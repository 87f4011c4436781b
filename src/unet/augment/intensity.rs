//! Transforms of a channel's intensities, voxel by voxel.

/// A range is never divided by less.
const LEAST: f32 = 1e-7;

/// Adds noise of this standard deviation; `normal` draws from N(0, 1).
pub fn add_noise(channel: &mut [f32], deviation: f32, mut normal: impl FnMut() -> f32) {
    channel.iter_mut().for_each(|v| *v += deviation * normal());
}

/// Stretches the distances to the mean by `factor`; the range stays.
pub fn contrast(channel: &mut [f32], factor: f32) {
    let (least, most) = range(channel);
    let mean = mean(channel) as f32;
    channel
        .iter_mut()
        .for_each(|v| *v = ((*v - mean) * factor + mean).clamp(least, most));
}

/// Raises intensities, brought to 0..1, to the power of `gamma`, and gives them mean and (unbiased) standard deviation back; `inverted`: of the negative image.
pub fn gamma(channel: &mut [f32], gamma: f32, inverted: bool) {
    let sign = if inverted { -1.0 } else { 1.0 };
    channel.iter_mut().for_each(|v| *v *= sign);
    let (least, most) = range(channel);
    let (mean, deviation) = moments(channel);
    let span = most - least;
    channel
        .iter_mut()
        .for_each(|v| *v = ((*v - least) / span.max(LEAST)).powf(gamma) * span + least);
    let (new_mean, new_deviation) = moments(channel);
    let factor = deviation / new_deviation.max(LEAST);
    channel.iter_mut().for_each(|v| *v = sign * ((*v - new_mean) * factor + mean));
}

fn range(channel: &[f32]) -> (f32, f32) {
    channel
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(least, most), &v| (least.min(v), most.max(v)))
}

fn mean(channel: &[f32]) -> f64 {
    channel.iter().map(|v| f64::from(*v)).sum::<f64>() / channel.len() as f64
}

/// Mean and unbiased standard deviation.
fn moments(channel: &[f32]) -> (f32, f32) {
    let mean = mean(channel);
    let squares: f64 = channel.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum();
    (mean as f32, (squares / (channel.len() as f64 - 1.0).max(1.0)).sqrt() as f32)
}
