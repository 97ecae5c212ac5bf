//! The weights that are trained.
//!
//! With the norms `n_f = ‖w_f‖` of the decoder's vectors, `h_f = n_f ((x − b) · e_f + c_f)` and `x̂ = b + Σ a_f w_f / n_f`: activations
//! are in units of the decoder's norms, so that their size cannot drift from the vectors into the activations (SAELens,
//! `rescale_acts_by_decoder_norm`). `x` is the activation times one factor, which gives it the mean norm `√width`.
//!
//! Invariant: encoder and decoder have a row of `width` numbers for every feature; norms are those of the decoder.
//! To train another vector, add a field here, its moments in [`super::optimiser`] and its tensor in [`super::state`].

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;

use super::{TrainKind, TrainOptions};

/// The norm of the decoder's vectors at the beginning (Anthropic, April 2024 update; SAELens `decoder_init_norm`).
const NORM: f64 = 0.1;

/// The threshold of JumpReLU at the beginning (SAELens `jumprelu_init_threshold`).
const THRESHOLD: f32 = 0.01;

#[derive(Clone, Debug, PartialEq)]
pub struct TrainingWeights {
    pub width: usize,
    pub features: usize,
    /// `e`, `[features, width]`.
    pub encoder: Vec<f32>,
    /// `w`, `[features, width]`.
    pub decoder: Vec<f32>,
    /// `c`, `[features]`.
    pub encoder_bias: Vec<f32>,
    /// `b`, `[width]`.
    pub decoder_bias: Vec<f32>,
    /// `[features]` of JumpReLU; else empty.
    pub thresholds: Vec<f32>,
    /// `n`, `[features]`.
    pub norms: Vec<f32>,
}

impl TrainingWeights {
    /// Random unit vectors times 0.1, an encoder that is the decoder, and the mean of some rows, `[.., width]`, as the bias.
    pub fn new(options: &TrainOptions, width: usize, rows: &[f32]) -> Self {
        let features = options.features;
        let mut rng = StdRng::seed_from_u64(options.seed);
        let mut decoder = Vec::with_capacity(features * width);
        for _ in 0..features {
            let row: Vec<f64> = (0..width).map(|_| rng.sample(StandardNormal)).collect();
            let norm = row.iter().map(|w| w * w).sum::<f64>().sqrt();
            let by = NORM / norm.max(f64::MIN_POSITIVE);
            decoder.extend(row.iter().map(|w| (w * by) as f32));
        }
        let count = (rows.len() / width.max(1)).max(1) as f64;
        let mut mean = vec![0f64; width];
        for row in rows.chunks_exact(width.max(1)) {
            mean.iter_mut()
                .zip(row)
                .for_each(|(m, x)| *m += f64::from(*x));
        }
        let mut weights = Self {
            width,
            features,
            encoder: decoder.clone(),
            decoder,
            encoder_bias: vec![0.0; features],
            decoder_bias: mean.into_iter().map(|m| (m / count) as f32).collect(),
            thresholds: match options.kind {
                TrainKind::JumpRelu => vec![THRESHOLD; features],
                TrainKind::TopK | TrainKind::BatchTopK | TrainKind::Standard => Vec::new(),
            },
            norms: Vec::new(),
        };
        weights.measure();
        weights
    }

    /// Measures the norms of the decoder's vectors.
    pub fn measure(&mut self) {
        let rows = self.decoder.chunks_exact(self.width.max(1));
        self.norms = rows
            .map(|row| {
                let square = row.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>();
                (square.sqrt() as f32).max(f32::MIN_POSITIVE)
            })
            .collect();
    }
}
