//! What the tests of ops share: data, poison, tolerances and the same bytes for any number of threads.

use super::golden::distance;
use hpc_seg::device::Device;
use hpc_seg::ops;
use hpc_seg::ops::normalise::Voxel;
use hpc_seg::tensor::Tensor;

/// Rows between two sampled ones where a case is too large to compute whole by plain loops: a prime, so that samples fall everywhere within tiles.
const STRIDE: usize = 997;
/// Largest oracle, in multiply-adds, that is computed whole.
const WHOLE: f64 = 3e7;

/// `n` numbers in [-1, 1), by a linear congruential generator.
pub fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x1234_5678_9ABC_DEF1;
    (0..n)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

/// Stored voxels with zeros among them, as bytes and as the numbers they are.
pub fn stored_voxels(voxel: Voxel, seed: u64, len: usize) -> (Vec<u8>, Vec<f64>) {
    let spiky = noise(len, seed).into_iter().enumerate();
    let spiky = spiky.map(|(at, value)| if at % 7 == 3 { 0.0 } else { 2.0 * value });
    let each = spiky.map(|value| match voxel {
        Voxel::I16 => {
            let stored = (value * 1000.0) as i16;
            (stored.to_le_bytes().to_vec(), f64::from(stored))
        }
        Voxel::U8 => {
            let stored = (value.abs() * 120.0) as u8;
            (vec![stored], f64::from(stored))
        }
        Voxel::F32 => {
            let stored = value * 100.123_f32;
            (stored.to_le_bytes().to_vec(), f64::from(stored))
        }
    });
    let (bytes, numbers): (Vec<_>, Vec<_>) = each.unzip();
    (bytes.concat(), numbers)
}

/// The same in f64.
pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

/// A tensor of noise.
pub fn tensor(device: &Device, shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_slice(device, shape, &noise(shape.iter().product(), seed)).unwrap()
}

/// A tensor of NaN: an op that leaves a place unwritten shows it.
pub fn poisoned(device: &Device, shape: &[usize]) -> Tensor {
    let mut out = Tensor::empty(device, shape).unwrap();
    out.values_mut().fill(f32::NAN);
    out
}

/// Leaves NaN in the buffers an op that makes tensors of `len` values will get.
pub fn poison(device: &Device, len: usize) {
    let buffers: Vec<Tensor> = (0..3).map(|_| poisoned(device, &[len])).collect();
    drop(buffers);
}

/// Runs `op` with 1, 2 and 5 threads and demands the same bytes, which it returns.
pub fn on_any_threads(name: &str, op: impl Fn(&Device) -> Vec<f32> + Sync) -> Vec<f32> {
    let run = |threads: usize| {
        let device = Device::cpu(threads).unwrap();
        device.install(|| op(&device))
    };
    let one = run(1);
    for threads in [2, 5] {
        assert_same(&format!("{name} with {threads} threads"), &run(threads), &one);
    }
    one
}

/// Demands equal bits.
pub fn assert_same(name: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{name}: lengths differ");
    let differ = got.iter().zip(want).position(|(a, b)| a.to_bits() != b.to_bits());
    assert!(differ.is_none(), "{name}: place {differ:?} differs");
}

/// Demands NMSE <= 1e-7 and no value off by more than 1e-4 of the largest, as the goldens do.
pub fn assert_close(name: &str, got: &[f32], want: &[f64]) {
    let rounded: Vec<f32> = want.iter().map(|&v| v as f32).collect();
    let (nmse, worst) = distance(got, &rounded);
    assert!(
        nmse <= 1e-7 && worst <= 1e-4,
        "{name}: NMSE {nmse:.2e} (1e-7), worst {worst:.2e} (1e-4)"
    );
}

/// Compares rows of `got` with `oracle(row)`, which costs `each` multiply-adds: all of them where that is quick, else every 997th and the last.
pub fn assert_rows(name: &str, got: &[f32], width: usize, each: f64, oracle: impl Fn(usize) -> Vec<f64>) {
    let rows = got.len() / width;
    assert!(
        got.iter().all(|v| v.is_finite()),
        "{name}: a value is not finite, or was not written"
    );
    let stride = if each * rows as f64 <= WHOLE { 1 } else { STRIDE };
    let sample: Vec<usize> = (0..rows).step_by(stride).chain([rows - 1]).collect();
    let want: Vec<f64> = sample.iter().flat_map(|&row| oracle(row)).collect();
    let got: Vec<f32> = sample.iter().flat_map(|&row| got[row * width..][..width].to_vec()).collect();
    assert_close(name, &got, &want);
}

/// Whether this run takes the network's sizes too, or (for the lesser vector levels) the awkward ones alone.
pub fn takes(name: &str) -> bool {
    !ops::in_network(name) || std::env::var_os("HPC_SEG_AWKWARD_ONLY").is_none()
}

/// LayerNorm of a row in f64.
pub fn layer_norm(row: &[f64], gamma: &[f32], beta: &[f32], eps: f32) -> Vec<f64> {
    let n = row.len() as f64;
    let mean = row.iter().sum::<f64>() / n;
    let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
    let affine = gamma.iter().zip(beta);
    row.iter()
        .zip(affine)
        .map(|(v, (g, b))| (v - mean) / (variance + f64::from(eps)).sqrt() * f64::from(*g) + f64::from(*b))
        .collect()
}

/// x (1 + erf(x / sqrt 2)) / 2 in f64, by erf's Taylor series, or its complement's continued fraction far out.
pub fn gelu(x: f64) -> f64 {
    let z = (x / 2f64.sqrt()).abs();
    let erf = if z < 3.0 {
        let (mut term, mut sum) = (z, z);
        for n in 1..200 {
            term *= -z * z / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        2.0 / std::f64::consts::PI.sqrt() * sum
    } else {
        let mut fraction = 0.0;
        for n in (1..60).rev() {
            fraction = f64::from(n) / 2.0 / (z + fraction);
        }
        1.0 - (-z * z).exp() / std::f64::consts::PI.sqrt() / (z + fraction)
    };
    0.5 * x * (1.0 + erf.copysign(x))
}

/// softmax(scores) weighted sum of the values.
pub fn attend(scores: &[f64], values: impl Fn(usize) -> Vec<f64>) -> Vec<f64> {
    let top = scores.iter().copied().fold(f64::MIN, f64::max);
    let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
    let mut out = Vec::new();
    for (j, score) in scores.iter().enumerate() {
        let value = values(j);
        out.resize(value.len(), 0.0);
        let weight = (score - top).exp() / total;
        out.iter_mut().zip(&value).for_each(|(o, v)| *o += weight * v);
    }
    out
}
