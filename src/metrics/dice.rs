//! Dice: how much two label maps overlap, 2 |A and B| / (|A| + |B|), class by class.

use anyhow::{Result, ensure};

/// Dice of each of `classes` between two label maps of the same voxels; `None` where neither map holds the class.
///
/// # Errors
/// Maps of different length.
pub fn dice_per_class(prediction: &[u8], reference: &[u8], classes: &[u8]) -> Result<Vec<Option<f64>>> {
    ensure!(
        prediction.len() == reference.len(),
        "Dice needs two label maps of the same size; one has {} voxels, the other {}",
        prediction.len(),
        reference.len()
    );
    let mut voxels = [0u64; 256]; // of both maps together
    let mut shared = [0u64; 256];
    for (&a, &b) in prediction.iter().zip(reference) {
        voxels[usize::from(a)] += 1;
        voxels[usize::from(b)] += 1;
        shared[usize::from(a)] += u64::from(a == b);
    }
    let dice = |class: usize| (voxels[class] > 0).then(|| 2.0 * shared[class] as f64 / voxels[class] as f64);
    Ok(classes.iter().map(|&class| dice(usize::from(class))).collect())
}

/// Dice of one class; `None` if neither map holds it.
///
/// # Errors
/// Maps of different length.
pub fn dice(prediction: &[u8], reference: &[u8], class: u8) -> Result<Option<f64>> {
    Ok(dice_per_class(prediction, reference, &[class])?[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_each_class_by_itself() {
        let prediction = [0, 1, 1, 2, 2, 2, 0];
        let reference = [0, 1, 0, 2, 2, 1, 3];
        let dice = dice_per_class(&prediction, &reference, &[1, 2, 3, 4]).unwrap();
        assert_eq!(dice, [Some(0.5), Some(0.8), Some(0.0), None]);
    }

    #[test]
    fn empty_against_empty_is_none_and_against_something_is_zero() {
        assert_eq!(dice(&[0, 0], &[0, 0], 1).unwrap(), None);
        assert_eq!(dice(&[0, 0], &[0, 1], 1).unwrap(), Some(0.0));
        assert_eq!(dice(&[1, 1], &[1, 1], 1).unwrap(), Some(1.0));
        assert_eq!(dice(&[], &[], 1).unwrap(), None);
    }

    #[test]
    fn maps_of_different_length_are_refused_with_both_lengths() {
        let text = dice(&[1, 2], &[1], 1).unwrap_err().to_string();
        assert!(text.contains("one has 2 voxels, the other 1"), "{text}");
    }
}
