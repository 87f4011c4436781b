//! `volume::phantom` makes the same family as phantom/phantom.py: volumes and intensities of the organs agree.

use hpc_seg::volume::phantom::{LABELS, Phantom, Sequence};

fn cases(n: usize, sequence: Sequence) -> Vec<Phantom> {
    (0..n)
        .map(|i| Phantom::generate(1, &format!("case{i}"), sequence, [24, 128, 128]).unwrap())
        .collect()
}

/// Mean over the phantoms, which must lie within four standard errors of the family's mean. The family's mean and deviation were
/// measured on 60 phantoms, ours on fewer.
fn assert_same_mean(values: &[f64], mean: f64, deviation: f64, what: &str) {
    let ours = values.iter().sum::<f64>() / values.len() as f64;
    let error = deviation * (1.0 / values.len() as f64 + 1.0 / 60.0).sqrt();
    assert!(
        (ours - mean).abs() < 4.0 * error,
        "{what}: mean {ours}, the family's is {mean} (standard error {error})"
    );
    let spread = (values.iter().map(|v| (v - ours).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
    assert!(
        spread > 0.5 * deviation && spread < 1.7 * deviation,
        "{what}: deviation {spread}, the family's is {deviation}"
    );
}

// phantom.py with numpy 2.4.6, for i in range(60): rng = default_rng(100 + i); labels, body = anatomy(rng, (24, 128, 128));
// mean and standard deviation over i of (labels == k).mean(), k = 1 .. 7.
#[test]
fn organ_volumes_agree_with_the_python_family() {
    let mean = [0.0760, 0.0095, 0.0041, 0.0043, 0.0038, 0.0128, 0.0023];
    let deviation = [0.0144, 0.0021, 0.0012, 0.0010, 0.0017, 0.0021, 0.0004];
    let phantoms = cases(24, Sequence::T1);
    for k in 0..7 {
        let share = |p: &Phantom| p.labels.iter().filter(|&&l| usize::from(l) == k + 1).count() as f64 / p.labels.len() as f64;
        assert_same_mean(
            &phantoms.iter().map(share).collect::<Vec<_>>(),
            mean[k],
            deviation[k],
            LABELS[k + 1],
        );
    }
}

// As above, then img = image(rng, labels, body, s) for s in ged4, t1, t2: mean and deviation over i of img[labels == k].mean(), k = 1 .. 7,
// and of img[labels == 1].std().
#[test]
fn organ_intensities_agree_with_the_python_family() {
    let table = [
        (
            Sequence::Ged4,
            [224.15, 125.21, 161.63, 162.68, 96.51, 76.08, 142.82, 19.24],
            [5.47, 15.81, 18.05, 16.23, 14.21, 11.57, 13.15, 2.78],
        ),
        (
            Sequence::T1,
            [220.32, 141.41, 129.82, 133.50, 98.95, 110.97, 78.27, 20.77],
            [5.58, 19.32, 17.96, 13.40, 15.45, 12.80, 11.58, 2.73],
        ),
        (
            Sequence::T2,
            [109.79, 195.39, 241.52, 242.16, 207.75, 128.83, 51.98, 19.30],
            [13.12, 17.73, 11.42, 10.59, 19.91, 11.72, 7.85, 2.10],
        ),
    ];
    for (sequence, mean, deviation) in table {
        let phantoms = cases(16, sequence);
        let values = |p: &Phantom, k: usize| -> Vec<f64> {
            p.image
                .iter()
                .zip(&p.labels)
                .filter(|(_, l)| usize::from(**l) == k)
                .map(|(v, _)| f64::from(*v))
                .collect()
        };
        let average = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        for k in 0..7 {
            let means: Vec<f64> = phantoms.iter().map(|p| average(&values(p, k + 1))).collect();
            assert_same_mean(&means, mean[k], deviation[k], &format!("{} in {}", LABELS[k + 1], sequence.name()));
        }
        let spread = |p: &Phantom| {
            let liver = values(p, 1);
            let mean = average(&liver);
            (liver.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / liver.len() as f64).sqrt()
        };
        assert_same_mean(
            &phantoms.iter().map(spread).collect::<Vec<_>>(),
            mean[7],
            deviation[7],
            "deviation in the liver",
        );
    }
}
