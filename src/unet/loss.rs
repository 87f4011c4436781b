//! nnU-Net's loss: cross-entropy plus soft Dice on every head, weighted by depth, and its gradient.
//!
//! For each head with logits z [N, voxels, C] and targets t [N, voxels]: p = softmax(z); CE = the mean of -log p_t; I, P, G = sums over the voxels of an item (of the batch, with
//! `batch_dice`) of p y, p, y for each class but the background; D = (2 I + 1e-5) / max(P + G + 1e-5, 1e-8); loss = CE - mean D. Voxels of the ignore label count nowhere. With
//! weights w per voxel, CE is sum(w CE) / sum of voxels that count, and p and y enter the sums of Dice times w: a weight of 0 is the ignore label, of 1 nothing.

use anyhow::Result;

const SMOOTH: f64 = 1e-5;
const LEAST: f64 = 1e-8;

/// What a loss is taken with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Whether Dice sums run over the whole batch.
    pub batch_dice: bool,
    /// The label whose voxels count nowhere.
    pub ignore: Option<i16>,
}

/// Targets of one head.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// Labels [N, voxels].
    pub labels: &'a [i16],
    /// Weights [N, voxels]; none means 1 everywhere.
    pub weights: Option<&'a [f32]>,
}

/// Weights of the heads, the finest first: 1, 1/2, 1/4, ..., 0 for the deepest (unless it is the only one), divided by their sum.
pub fn head_weights(heads: usize) -> Vec<f64> {
    let mut weights: Vec<f64> = (0..heads).map(|head| 0.5f64.powi(head as i32)).collect();
    if let [_, .., deepest] = &mut weights[..] {
        *deepest = 0.0;
    }
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// The loss of one head of `n` items, and its gradient times `scale`, which goes to `d_logits` [N, voxels, C].
///
/// # Errors
/// Targets that are no class.
pub fn loss(logits: &[f32], targets: Targets<'_>, n: usize, settings: Settings, scale: f64, d_logits: &mut [f32]) -> Result<f64> {
    let voxels = targets.labels.len() / n;
    let classes = logits.len() / targets.labels.len();
    assert!(
        logits.len() == n * voxels * classes && d_logits.len() == logits.len(),
        "loss: {} logits for {} targets",
        logits.len(),
        targets.labels.len()
    );
    let counts = |at: usize| Some(targets.labels[at]) != settings.ignore;
    let weight = |at: usize| targets.weights.map_or(1.0, |weights| f64::from(weights[at]));
    if let Some(at) = (0..n * voxels).find(|&at| counts(at) && !(0..classes as i16).contains(&targets.labels[at])) {
        anyhow::bail!(
            "a target of {} for {classes} classes; preprocess the data set again",
            targets.labels[at]
        );
    }
    let counted = (0..n * voxels).filter(|&at| counts(at)).count().max(1) as f64;
    let groups = if settings.batch_dice { 1 } else { n };
    let per_group = n * voxels / groups;
    let foreground = (classes - 1) as f64;
    let mut total = 0.0;
    let mut dice = 0.0;
    let mut p = vec![0f64; classes];
    for group in 0..groups {
        let range = group * per_group..(group + 1) * per_group;
        let mut sums = vec![[0f64; 3]; classes];
        for at in range.clone().filter(|&at| counts(at)) {
            softmax(&logits[at * classes..][..classes], &mut p);
            let (label, w) = (targets.labels[at] as usize, weight(at));
            total -= w * p[label].max(f64::MIN_POSITIVE).ln();
            for (class, sums) in sums.iter_mut().enumerate().skip(1) {
                let y = f64::from(u8::from(class == label));
                sums[0] += w * p[class] * y;
                sums[1] += w * p[class];
                sums[2] += w * y;
            }
        }
        // D = (2 I + s) / B with B = P + G + s: dD/dp = w (2 y - D) / B.
        let terms: Vec<(f64, f64)> = sums
            .iter()
            .map(|[i, p, g]| {
                let below = (p + g + SMOOTH).max(LEAST);
                ((2.0 * i + SMOOTH) / below, below)
            })
            .collect();
        dice += terms.iter().skip(1).map(|(d, _)| d).sum::<f64>();
        for at in range {
            let out = &mut d_logits[at * classes..][..classes];
            if !counts(at) {
                out.fill(0.0);
                continue;
            }
            let (label, w) = (targets.labels[at] as usize, weight(at));
            softmax(&logits[at * classes..][..classes], &mut p);
            // d loss / dp of the Dice term, and its mean under p.
            let slope = |class: usize| {
                let y = f64::from(u8::from(class == label));
                let (d, below) = terms[class];
                if class == 0 {
                    0.0
                } else {
                    -w * (2.0 * y - d) / below / (foreground * groups as f64)
                }
            };
            let mean: f64 = (0..classes).map(|class| p[class] * slope(class)).sum();
            for (class, out) in out.iter_mut().enumerate() {
                let y = f64::from(u8::from(class == label));
                let of_ce = w * (p[class] - y) / counted;
                *out = (scale * (of_ce + p[class] * (slope(class) - mean))) as f32;
            }
        }
    }
    Ok(total / counted - dice / (foreground * groups as f64))
}

fn softmax(logits: &[f32], p: &mut [f64]) {
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let mut sum = 0.0;
    for (p, z) in p.iter_mut().zip(logits) {
        *p = (f64::from(*z) - most).exp();
        sum += *p;
    }
    p.iter_mut().for_each(|p| *p /= sum);
}
