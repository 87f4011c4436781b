//! Formula weights: tensors computed from their names, so that references and benches need no file of weights.
//!
//! The formula (all in 64-bit wrapping arithmetic, u in f64), for tensor `name`, seed `s`, flat index i in C order:
//! h = FNV-1a of "name#s"; z = splitmix64's output for state h + (i + 1) * 0x9E3779B97F4A7C15; u = 2 (z >> 40) / 2^24 - 1;
//! value = u * sqrt(3 / product of shape[1..]) with two or more axes, 1 + 0.1 u with one axis and a name that ends in `.weight` or `.gamma`,
//! 0.1 u otherwise.

use super::checkpoint::Checkpoint;
use super::dtype::element_count;
use crate::bad_input;
use anyhow::Result;
use rayon::prelude::*;

/// Values per parallel piece.
const PIECE: usize = 1 << 16;

/// The values of one formula tensor, in C order; empty for a shape whose product does not fit.
pub fn formula_tensor(name: &str, seed: u64, shape: &[usize]) -> Vec<f32> {
    let hash = fnv1a(format!("{name}#{seed}").as_bytes());
    let fan_in = element_count(shape.get(1..).unwrap_or(&[])).unwrap_or(usize::MAX);
    let scale = (3.0 / fan_in as f64).sqrt();
    let is_scale = name.ends_with(".weight") || name.ends_with(".gamma");
    let value = |i: usize| {
        let u = unit(hash, i as u64);
        (match shape.len() {
            2.. => u * scale,
            1 if is_scale => 1.0 + 0.1 * u,
            _ => 0.1 * u,
        }) as f32
    };
    let mut values = vec![0.0f32; element_count(shape).unwrap_or(0)];
    values.par_chunks_mut(PIECE).enumerate().for_each(|(piece, chunk)| {
        for (offset, out) in chunk.iter_mut().enumerate() {
            *out = value(piece * PIECE + offset);
        }
    });
    values
}

/// A checkpoint in memory with all these tensors (name, shape) as formula weights.
///
/// # Errors
/// A shape whose product does not fit, or a name given twice.
pub fn formula_checkpoint(list: &[(String, Vec<usize>)], seed: u64) -> Result<Checkpoint> {
    let tensors = list
        .iter()
        .map(|(name, shape)| (name.clone(), shape.clone(), formula_tensor(name, seed, shape)))
        .collect();
    Checkpoint::from_tensors(&format!("formula weights, seed {seed}"), tensors)
}

/// Reads a list of tensors, a JSON object of name to shape as in `weights/expected/`, in the order of the file. `file` is for messages.
///
/// # Errors
/// Text that is no such object.
pub fn read_tensor_list(file: &str, json: &str) -> Result<Vec<(String, Vec<usize>)>> {
    let object: serde_json::Map<String, serde_json::Value> = match serde_json::from_str(json) {
        Ok(object) => object,
        Err(error) => bad_input!("{file}: not a list of tensors ({error}); expected a JSON object of name to shape"),
    };
    let mut list = Vec::new();
    for (name, shape) in object {
        match serde_json::from_value(shape) {
            Ok(shape) => list.push((name, shape)),
            Err(error) => bad_input!("{file}: the shape of {name} is not a list of sizes ({error}); expected for instance [64, 256, 1, 1]"),
        }
    }
    Ok(list)
}

/// A number in [-1, 1) with 24 bits.
fn unit(hash: u64, i: u64) -> f64 {
    let mut z = hash.wrapping_add(i.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    2.0 * ((z >> 40) as f64 / f64::from(1 << 24)) - 1.0
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formula_weights_begin_as_the_goldens_say() {
        // From goldens/README.md, which any language can reproduce.
        let expected = [-0.00868487f32, -0.07547768, -0.14399411, 0.21123044];
        let values = formula_tensor("no_mem_embed", 1, &[1, 1, 64]);
        assert_eq!(values.len(), 64);
        for (value, expected) in values.iter().zip(expected) {
            assert!((value - expected).abs() < 5e-9, "{value} is not {expected}");
        }
    }

    #[test]
    fn vectors_are_near_one_when_they_scale_and_near_zero_otherwise() {
        let scale = formula_tensor("norm1.weight", 3, &[1000]);
        assert!(scale.iter().all(|v| (0.9..1.1).contains(v)) && scale.iter().any(|v| *v < 0.92) && scale.iter().any(|v| *v > 1.08));
        let bias = formula_tensor("norm1.bias", 3, &[1000]);
        assert!(bias.iter().all(|v| v.abs() <= 0.1) && bias.iter().any(|v| v.abs() > 0.09));
        assert_eq!(formula_tensor("x", 3, &[]).len(), 1);
        assert!(formula_tensor("x", 3, &[0, 4]).is_empty());
    }

    #[test]
    fn pieces_do_not_change_values() {
        let long = formula_tensor("a", 7, &[PIECE + 5]);
        assert_eq!(long[..5], formula_tensor("a", 7, &[5])[..]);
        assert_eq!(long[PIECE + 4], (0.1 * unit(fnv1a(b"a#7"), PIECE as u64 + 4)) as f32);
    }
}
