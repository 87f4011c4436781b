//! The loss against its formula in plain loops, its gradient against differences.

use crate::support::ops::noise;
use hpc_seg::unet::loss::{Settings, Targets, head_weights, loss};

/// By the text of the specification: one-hot targets, sums per item or batch, means.
fn oracle(logits: &[f64], labels: &[i16], weights: &[f64], n: usize, classes: usize, settings: Settings) -> f64 {
    let voxels = labels.len() / n;
    let counts: Vec<f64> = labels
        .iter()
        .map(|label| f64::from(u8::from(Some(*label) != settings.ignore)))
        .collect();
    let p: Vec<f64> = logits
        .chunks_exact(classes)
        .flat_map(|z| {
            let sum: f64 = z.iter().map(|z| z.exp()).sum();
            z.iter().map(move |z| z.exp() / sum).collect::<Vec<_>>()
        })
        .collect();
    let y = |at: usize, class: usize| f64::from(u8::from(labels[at] == class as i16));
    let ce: f64 = (0..labels.len())
        .map(|at| -(0..classes).map(|class| y(at, class) * p[at * classes + class].ln()).sum::<f64>() * weights[at] * counts[at])
        .sum();
    let ce = ce / counts.iter().sum::<f64>().max(1.0);
    let groups: Vec<Vec<usize>> = match settings.batch_dice {
        true => vec![(0..labels.len()).collect()],
        false => (0..n).map(|item| (item * voxels..(item + 1) * voxels).collect()).collect(),
    };
    let mut dice = Vec::new();
    for group in groups {
        for class in 1..classes {
            let sum = |of: &dyn Fn(usize) -> f64| group.iter().map(|&at| of(at) * weights[at] * counts[at]).sum::<f64>();
            let i = sum(&|at| p[at * classes + class] * y(at, class));
            let (all, g) = (sum(&|at| p[at * classes + class]), sum(&|at| y(at, class)));
            dice.push((2.0 * i + 1e-5) / (all + g + 1e-5).max(1e-8));
        }
    }
    ce - dice.iter().sum::<f64>() / dice.len() as f64
}

#[test]
fn losses_are_the_formula_and_gradients_its_differences() {
    let (n, voxels) = (2, 15);
    for classes in [2, 4] {
        for (batch_dice, ignore, weighted) in [
            (false, None, false),
            (true, None, false),
            (false, Some(classes as i16), true),
            (true, Some(classes as i16), true),
        ] {
            let settings = Settings { batch_dice, ignore };
            let logits: Vec<f32> = noise(n * voxels * classes, 1).iter().map(|z| 3.0 * z).collect();
            let kinds = classes + usize::from(ignore.is_some());
            // One item lacks the last class.
            let labels: Vec<i16> = (0..n * voxels)
                .map(|i| ((i * 7 + i / 3) % if i < voxels { kinds } else { kinds - 1 }) as i16)
                .collect();
            let weights: Vec<f32> = noise(n * voxels, 2).iter().map(|w| w.abs()).collect();
            let wide: Vec<f64> = weights.iter().map(|w| if weighted { f64::from(*w) } else { 1.0 }).collect();
            let targets = Targets {
                labels: &labels,
                weights: weighted.then_some(&weights[..]),
            };
            let name = format!("{classes} classes, {settings:?}, weighted {weighted}");
            let mut d = vec![f32::NAN; logits.len()];
            let got = loss(&logits, targets, n, settings, 0.25, &mut d).unwrap();
            let z: Vec<f64> = logits.iter().map(|z| f64::from(*z)).collect();
            let want = |z: &[f64]| oracle(z, &labels, &wide, n, classes, settings);
            assert!((got - want(&z)).abs() < 1e-12, "{name}: {got}, wanted {}", want(&z));
            for at in 0..z.len() {
                let (mut up, mut down) = (z.clone(), z.clone());
                (up[at], down[at]) = (z[at] + 1e-5, z[at] - 1e-5);
                let difference = 0.25 * (want(&up) - want(&down)) / 2e-5;
                assert!(
                    (f64::from(d[at]) - difference).abs() < 1e-8,
                    "{name}, {at}: {}, wanted {difference}",
                    d[at]
                );
            }
        }
    }
}

#[test]
fn a_batch_without_anything_known_has_no_gradient() {
    let settings = Settings {
        batch_dice: false,
        ignore: Some(2),
    };
    let mut d = [f32::NAN; 8];
    let targets = Targets {
        labels: &[2; 4],
        weights: None,
    };
    let got = loss(&noise(8, 1), targets, 2, settings, 1.0, &mut d).unwrap();
    assert!(got.is_finite() && d == [0.0; 8]);
}

#[test]
fn a_target_that_is_no_class_is_an_error() {
    let settings = Settings {
        batch_dice: false,
        ignore: None,
    };
    for label in [-1, 2] {
        let targets = Targets {
            labels: &[0, label],
            weights: None,
        };
        let error = loss(&[0.0; 4], targets, 1, settings, 1.0, &mut [0.0; 4]).unwrap_err();
        assert!(error.to_string().contains(&format!("a target of {label} for 2 classes")), "{error}");
    }
}

#[test]
fn deep_heads_weigh_less_and_the_deepest_nothing() {
    let want = [4.0 / 7.0, 2.0 / 7.0, 1.0 / 7.0, 0.0];
    assert!(head_weights(4).iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-15));
    assert_eq!(head_weights(1), [1.0]);
}
