//! Stochastic gradient descent as nnU-Net uses it: gradients clipped to a common length, weight decay on every parameter, Nesterov momentum (PyTorch's `SGD`).

pub(super) const MOMENTUM: f32 = 0.99;
pub(super) const WEIGHT_DECAY: f32 = 3e-5;
/// Longest gradient.
const CLIP: f64 = 12.0;

/// Momentum of every parameter; none before the first step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Optimiser {
    /// As the parameters.
    pub momentum: Vec<Option<Vec<f32>>>,
}

/// The length of all gradients together; a parameter without gradient counts as zero.
pub fn norm(gradients: &[Option<Vec<f32>>]) -> f64 {
    let squares = gradients
        .iter()
        .flatten()
        .map(|gradient| gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>());
    squares.sum::<f64>().sqrt()
}

impl Optimiser {
    /// One step: g <- g min(1, 12 / (norm + 1e-6)) + 3e-5 p; b <- g at first, then 0.99 b + g; p <- p - rate (g + 0.99 b). Parameters without a gradient stay as they are.
    pub fn step(&mut self, parameters: &mut [Vec<f32>], gradients: &[Option<Vec<f32>>], rate: f64) {
        assert_eq!(parameters.len(), gradients.len(), "optimiser: gradients of other parameters");
        self.momentum.resize(parameters.len(), None);
        let factor = (CLIP / (norm(gradients) + 1e-6)).min(1.0) as f32;
        let rate = rate as f32;
        for ((p, gradient), momentum) in parameters.iter_mut().zip(gradients).zip(&mut self.momentum) {
            let Some(gradient) = gradient else { continue };
            let is_first = momentum.is_none();
            let momentum = momentum.get_or_insert_with(|| vec![0.0; p.len()]);
            for ((p, g), b) in p.iter_mut().zip(gradient).zip(momentum) {
                let g = g * factor + WEIGHT_DECAY * *p;
                *b = if is_first { g } else { MOMENTUM * *b + g };
                *p -= rate * (g + MOMENTUM * *b);
            }
        }
    }
}
