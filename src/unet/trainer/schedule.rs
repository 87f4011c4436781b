//! How long training runs and how fast it learns: nnU-Net's polynomial decay, and a number of epochs made of a time budget.

/// Seconds of a batch of validation, of those of a step.
const VALIDATION_COST: f64 = 0.35;

/// Batches of validation of an epoch of so many steps: of nnU-Net's 250, 50.
pub fn validation_iterations(iterations: usize) -> usize {
    iterations.div_ceil(5)
}

/// Seconds of an epoch whose steps take `step_seconds`.
pub fn epoch_seconds(step_seconds: f64, iterations: usize, validation_iterations: usize) -> f64 {
    step_seconds * (iterations as f64 + VALIDATION_COST * validation_iterations as f64)
}

/// The first learning rate.
pub const LEARNING_RATE: f64 = 0.01;
/// Of the decay.
const POWER: f64 = 0.9;

/// The learning rate of an epoch (from 0) out of `epochs`: 0.01 (1 - epoch / epochs)^0.9, set once at its start.
pub fn learning_rate(epoch: usize, epochs: usize) -> f64 {
    LEARNING_RATE * (1.0 - epoch as f64 / epochs.max(1) as f64).powf(POWER)
}

/// Epochs that fit into `seconds`, at least 1 and at most `most`, when one takes `epoch_seconds`.
pub fn epochs_within(seconds: f64, epoch_seconds: f64, most: usize) -> usize {
    ((seconds / epoch_seconds.max(1e-9)) as usize).clamp(1, most.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_is_nnu_nets() {
        for (epoch, rate) in [(0, 0.01), (1, 0.009_990_999_5), (500, 0.005_358_867_3), (999, 1.995_262_3e-5)] {
            let got = learning_rate(epoch, 1000);
            assert!((got / rate - 1.0).abs() < 1e-6, "epoch {epoch}: {got}, wanted {rate}");
        }
    }

    #[test]
    fn a_budget_becomes_epochs() {
        assert_eq!(epochs_within(3600.0, 60.0, 1000), 60);
        assert_eq!(epochs_within(3600.0, 4000.0, 1000), 1);
        assert_eq!(epochs_within(1e9, 1.0, 1000), 1000);
    }
}
