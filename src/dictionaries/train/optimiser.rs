//! Adam (Kingma and Ba, 1412.6980) on the weights of a dictionary, without weight decay.
//!
//! Invariant: a gradient with a norm above `MOST` is scaled down to it first, as in SAELens; a feature that never had a gradient is
//! not touched; no sum depends on the number of threads. To train another vector, add its moments here.

use super::losses::LossGradient;
use super::weights::TrainingWeights;
use crate::model::kernels::hand_out;

/// The largest norm of a gradient.
const MOST: f64 = 1.0;

const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f32 = 1e-8;

/// Running means of a vector's gradient and of its square.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GradientMoments {
    pub mean: Vec<f32>,
    pub square: Vec<f32>,
}

/// The state of the optimiser.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Optimiser {
    pub steps: u32,
    pub encoder: GradientMoments,
    pub decoder: GradientMoments,
    pub encoder_bias: GradientMoments,
    pub decoder_bias: GradientMoments,
    pub thresholds: GradientMoments,
    /// Whether a feature ever had a gradient.
    pub begun: Vec<bool>,
}

/// The factors of a step.
#[derive(Clone, Copy)]
struct AdamStep {
    /// On the gradient.
    scale: f32,
    /// The learning rate over the correction of the mean.
    rate: f32,
    /// The correction of the square.
    square: f32,
}

impl GradientMoments {
    fn new(length: usize) -> Self {
        Self {
            mean: vec![0.0; length],
            square: vec![0.0; length],
        }
    }
}

impl Optimiser {
    pub fn new(weights: &TrainingWeights) -> Self {
        Self {
            steps: 0,
            encoder: GradientMoments::new(weights.encoder.len()),
            decoder: GradientMoments::new(weights.decoder.len()),
            encoder_bias: GradientMoments::new(weights.features),
            decoder_bias: GradientMoments::new(weights.width),
            thresholds: GradientMoments::new(weights.thresholds.len()),
            begun: vec![false; weights.features],
        }
    }

    /// Takes a step against the gradient.
    pub fn step(&mut self, weights: &mut TrainingWeights, gradient: &LossGradient, rate: f32) {
        self.steps += 1;
        let width = weights.width;
        let norm = gradient.norm(width);
        let steps = self.steps as i32;
        let step = AdamStep {
            scale: if norm > MOST {
                (MOST / norm) as f32
            } else {
                1.0
            },
            rate: (f64::from(rate) / (1.0 - BETAS.0.powi(steps))) as f32,
            square: (1.0 - BETAS.1.powi(steps)).recip() as f32,
        };
        let begun = self.begun.iter_mut().zip(&gradient.touched);
        begun.for_each(|(begun, touched)| *begun |= touched);
        for (weights, gradient, moments) in [
            (&mut weights.encoder, &gradient.encoder, &mut self.encoder),
            (&mut weights.decoder, &gradient.decoder, &mut self.decoder),
        ] {
            let rows = weights
                .chunks_exact_mut(width)
                .zip(gradient.chunks_exact(width))
                .zip(moments.mean.chunks_exact_mut(width))
                .zip(moments.square.chunks_exact_mut(width))
                .zip(&self.begun);
            let mut rows = rows
                .filter(|(_, begun)| **begun)
                .map(|(row, _)| row)
                .peekable();
            let mut groups = Vec::new();
            while rows.peek().is_some() {
                groups.push(rows.by_ref().take(64).collect::<Vec<_>>());
            }
            let cost = groups.len() * 64 * width * 8;
            hand_out(groups, cost, |group| {
                for (((weights, gradient), mean), square) in group {
                    step.follow(weights, gradient, mean, square);
                }
            });
        }
        for (weights, gradient, moments) in [
            (
                &mut weights.encoder_bias,
                &gradient.encoder_bias,
                &mut self.encoder_bias,
            ),
            (
                &mut weights.decoder_bias,
                &gradient.decoder_bias,
                &mut self.decoder_bias,
            ),
            (
                &mut weights.thresholds,
                &gradient.thresholds,
                &mut self.thresholds,
            ),
        ] {
            step.follow(weights, gradient, &mut moments.mean, &mut moments.square);
        }
        // Below zero the gate would let negative numbers through.
        weights.thresholds.iter_mut().for_each(|t| *t = t.max(0.0));
        weights.measure();
    }
}

impl AdamStep {
    fn follow(self, weights: &mut [f32], gradient: &[f32], mean: &mut [f32], square: &mut [f32]) {
        let (keep, keep_square) = (BETAS.0 as f32, BETAS.1 as f32);
        let moments = mean.iter_mut().zip(square);
        for ((w, g), (mean, square)) in weights.iter_mut().zip(gradient).zip(moments) {
            let g = g * self.scale;
            *mean = keep * *mean + (1.0 - keep) * g;
            *square = keep_square * *square + (1.0 - keep_square) * g * g;
            *w -= self.rate * *mean / ((*square * self.square).sqrt() + EPSILON);
        }
    }
}
