//! The loop: blocks of contexts are read by the model, their rows are shuffled, and every batch of them is a step.
//!
//! Invariant: a [`DictionaryTrainer`] holds everything that the next step depends on, so that one that was saved and loaded goes on
//! as if it had never stopped; a step that fails leaves it as it was. To change what a step does, see [`super::losses`].

use serde::{Deserialize, Serialize};

use super::super::gate::FeatureGate;
use super::TrainOptions;
use super::activations::{SplitText, inside, limit_of, rows, rows_of, shuffled};
use super::losses::{BatchMeasures, LossGradient, LossTerms, not_finite};
use super::optimiser::Optimiser;
use super::weights::TrainingWeights;
use super::{TrainKind, file::TrainedDictionary};
use crate::error::Result;
use crate::lab::Lab;
use crate::model::network::site::Address;

/// Rows that are shuffled together, at least; and the bytes that they may take.
const BUFFER: usize = 1 << 15;
const BYTES: usize = 256 << 20;

/// How quickly the threshold of BatchTopK follows the smallest activation of a batch (SAELens `topk_threshold_lr`).
const THRESHOLD_RATE: f64 = 0.01;

/// What is kept of the course of a training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    pub tokens: usize,
    pub loss: f64,
    pub explained: f64,
    pub l0: f64,
    /// The share of dead features.
    pub dead: f64,
}

/// A dictionary in training.
#[derive(Clone, Debug)]
pub struct DictionaryTrainer {
    pub options: TrainOptions,
    pub weights: TrainingWeights,
    pub optimiser: Optimiser,
    /// By feature, in how many rows it was inactive since it was last active.
    pub silent: Vec<u64>,
    /// Rows read.
    pub seen: usize,
    /// The factor on activations.
    pub scale: f32,
    /// The norm beyond which a row is left out.
    pub limit: f32,
    /// The running mean of the smallest activation of a batch, and the weight that it has by now.
    pub threshold: (f64, f64),
    /// Which block of the text is being read, and how many of its batches were.
    pub place: (usize, usize),
    pub curve: Vec<CurvePoint>,
    gradient: LossGradient,
}

impl DictionaryTrainer {
    /// Begins with what some rows, `[.., width]`, say of the activations: their mean and their mean norm.
    pub fn new(options: &TrainOptions, width: usize, rows: &[f32]) -> Self {
        let norms = rows.chunks_exact(width).map(|row| {
            row.iter()
                .map(|x| f64::from(*x).powi(2))
                .sum::<f64>()
                .sqrt()
        });
        let count = (rows.len() / width).max(1) as f64;
        let mean = norms.sum::<f64>() / count;
        let scale = if mean > 0.0 {
            ((width as f64).sqrt() / mean) as f32
        } else {
            1.0
        };
        let scaled: Vec<f32> = rows.iter().map(|x| x * scale).collect();
        let weights = TrainingWeights::new(options, width, &scaled);
        Self::with(options, weights, scale)
    }

    /// Begins with given weights.
    pub fn with(options: &TrainOptions, weights: TrainingWeights, scale: f32) -> Self {
        Self {
            limit: f32::INFINITY,
            optimiser: Optimiser::new(&weights),
            silent: vec![0; weights.features],
            gradient: LossGradient::new(&weights),
            options: options.clone(),
            weights,
            seen: 0,
            scale,
            threshold: (0.0, 0.0),
            place: (0, 0),
            curve: Vec::new(),
        }
    }

    /// Whether all rows have been read.
    pub fn is_done(&self) -> bool {
        self.seen >= self.options.tokens
    }

    /// The share of features that are dead.
    pub fn dead_share(&self) -> f64 {
        let dead = self.silent.iter().filter(|n| self.is_dead(**n)).count();
        dead as f64 / self.silent.len().max(1) as f64
    }

    fn is_dead(&self, silent: u64) -> bool {
        silent >= self.options.dead_after as u64
    }

    /// The learning rate of the next step: constant, and over the last fifth falling to zero.
    fn rate(&self) -> f32 {
        let left = 1.0 - self.seen as f32 / self.options.tokens.max(1) as f32;
        self.options.rate * (left / 0.2).clamp(0.0, 1.0)
    }

    /// The factor of the penalty in the next step: it grows over the first tenth.
    fn penalty(&self) -> f32 {
        let done = self.seen as f32 / self.options.tokens.max(1) as f32;
        self.options.penalty * (done / 0.1).min(1.0)
    }

    /// Takes a step on rows as the model has them, `[rows, width]`.
    ///
    /// # Errors
    ///
    /// When the loss is not finite; nothing has changed then.
    pub fn step(&mut self, x: &[f32]) -> Result<BatchMeasures> {
        let x: Vec<f32> = x.iter().map(|x| x * self.scale).collect();
        let dead: Vec<bool> = self.silent.iter().map(|n| self.is_dead(*n)).collect();
        let terms = LossTerms {
            penalty: self.penalty(),
            dead: &dead,
            dead_count: dead.iter().filter(|dead| **dead).count(),
        };
        let measures = self
            .gradient
            .take(&self.options, &self.weights, terms, &x)?;
        if !measures.loss.is_finite() || !self.gradient.norm(self.weights.width).is_finite() {
            return Err(not_finite());
        }
        let rate = self.rate();
        self.optimiser.step(&mut self.weights, &self.gradient, rate);
        for (silent, active) in self.silent.iter_mut().zip(&measures.active) {
            *silent = if *active {
                0
            } else {
                *silent + measures.rows as u64
            };
        }
        if self.options.kind == TrainKind::BatchTopK && measures.smallest.is_finite() {
            let (mean, weight) = &mut self.threshold;
            *mean += THRESHOLD_RATE * (f64::from(measures.smallest) - *mean);
            *weight += THRESHOLD_RATE * (1.0 - *weight);
        }
        self.seen += measures.rows;
        Ok(measures)
    }

    /// Notes a point of the curve.
    pub fn note(&mut self, measures: &BatchMeasures) {
        self.curve.push(CurvePoint {
            tokens: self.seen,
            loss: measures.loss,
            explained: measures.explained(),
            l0: measures.l0,
            dead: self.dead_share(),
        });
    }

    /// What is written: for activations as the model has them, with decoder vectors of length one.
    pub fn finished(&self) -> TrainedDictionary {
        let (weights, back) = (&self.weights, self.scale.recip());
        let rows = |matrix: &[f32], factor: &dyn Fn(f32) -> f32| -> Vec<f32> {
            let rows = matrix.chunks_exact(weights.width).zip(&weights.norms);
            rows.flat_map(|(row, n)| {
                let by = factor(*n);
                row.iter().map(move |w| w * by)
            })
            .collect()
        };
        let biases = weights.encoder_bias.iter().zip(&weights.norms);
        let thresholds: Vec<f32> = match self.options.kind {
            TrainKind::BatchTopK => {
                let (mean, weight) = self.threshold;
                let one = if weight > 0.0 { mean / weight } else { 0.0 };
                vec![one as f32 * back; weights.features]
            }
            TrainKind::JumpRelu | TrainKind::TopK | TrainKind::Standard => {
                weights.thresholds.iter().map(|t| t * back).collect()
            }
        };
        TrainedDictionary {
            features: weights.features,
            width: weights.width,
            encoder: rows(&weights.encoder, &|n| n),
            encoder_bias: biases.map(|(c, n)| c * n * back).collect(),
            decoder: rows(&weights.decoder, &f32::recip),
            decoder_bias: weights.decoder_bias.iter().map(|b| b * back).collect(),
            gate: match self.options.kind {
                TrainKind::TopK => FeatureGate::TopK(self.options.k),
                TrainKind::BatchTopK | TrainKind::JumpRelu => FeatureGate::JumpRelu(thresholds),
                TrainKind::Standard => FeatureGate::Relu,
            },
        }
    }

    /// The same shape and beginning without any step: what training is compared with.
    pub fn untrained(&self) -> Self {
        let mut weights = TrainingWeights::new(&self.options, self.weights.width, &[]);
        // The mean of the activations is no achievement either.
        weights.decoder_bias.clone_from(&self.weights.decoder_bias);
        Self {
            threshold: self.threshold,
            ..Self::with(&self.options, weights, self.scale)
        }
    }
}

/// What is done between steps.
pub trait TrainingWatch {
    /// A step was taken.
    ///
    /// # Errors
    ///
    /// Ends the training.
    fn stepped(&mut self, trainer: &mut DictionaryTrainer, measures: &BatchMeasures) -> Result<()>;
}

/// Trains until all tokens are read. `trainer` is none at the beginning, or as an earlier call left it.
///
/// # Errors
///
/// When the work is stopped or numbers are not finite: `trainer` is then as after the last step.
pub fn train(
    lab: &mut Lab,
    text: &SplitText,
    at: Address,
    options: &TrainOptions,
    trainer: &mut Option<DictionaryTrainer>,
    watch: &mut dyn TrainingWatch,
) -> Result<()> {
    let width = lab.model.width(at.site);
    let count = text.training.len();
    let mean = (rows_of(&text.training) / count.max(1)).max(1);
    let most = BUFFER
        .max(8 * options.batch)
        .min((BYTES / (4 * width.max(1))).max(options.batch));
    let at_once = most.div_ceil(mean).clamp(1, count);
    let blocks = count.div_ceil(at_once);
    loop {
        if trainer.as_ref().is_some_and(DictionaryTrainer::is_done) {
            return Ok(());
        }
        let (block, within) = trainer.as_ref().map_or((0, 0), |trainer| trainer.place);
        // Every time through the text has an order of its own.
        let order = shuffled(count, options.seed, (block / blocks) as u64);
        let first = block % blocks * at_once;
        let chosen = &order[first..count.min(first + at_once)];
        let contexts: Vec<Vec<u32>> = chosen.iter().map(|i| text.training[*i].clone()).collect();
        let rows = lab.without_progress(|lab| rows(lab, &contexts, at))?;
        let limit = trainer
            .as_ref()
            .map_or_else(|| limit_of(&rows, width), |t| t.limit);
        let rows = inside(&rows, width, limit);
        let total = rows.len() / width;
        let batches = ((total as f64 / options.batch as f64).round() as usize).max(1);
        let order = shuffled(total, options.seed, (1 << 32) + block as u64);
        let trainer = trainer.get_or_insert_with(|| DictionaryTrainer {
            limit,
            ..DictionaryTrainer::new(options, width, &rows)
        });
        for batch in within..batches {
            lab.report(trainer.seen as f32 / options.tokens as f32)?;
            let span = total * batch / batches..total * (batch + 1) / batches;
            let x: Vec<f32> = order[span]
                .iter()
                .flat_map(|row| &rows[row * width..(row + 1) * width])
                .copied()
                .collect();
            let measures = trainer.step(&x)?;
            trainer.place = (block, batch + 1);
            watch.stepped(trainer, &measures)?;
            if trainer.is_done() {
                return Ok(());
            }
        }
        trainer.place = (block + 1, 0);
    }
}
