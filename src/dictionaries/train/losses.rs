//! The loss of a batch and its gradient.
//!
//! `‖x − x̂‖²`, summed over the width and averaged over the rows, and beside it: for JumpReLU a penalty on the number of active
//! features, with the straight-through gradient of the thresholds (2407.14435, equations 11 and 12); for the standard kind one on the
//! sum of their activations; for all kinds AuxK (2406.04093, appendix A.2): the dead features with the largest `h` reconstruct what
//! is left out, and the loss of that is added.
//!
//! Invariant: the product with the encoder is dense, and everything else touches active features alone; sums over rows are taken in
//! the order of the rows. To add a kind, add its arms in `Batch::select` and `LossSlopes::of`.

use super::select::{cut_of_all, largest};
use super::weights::TrainingWeights;
use super::{TrainKind, TrainOptions};
use crate::error::{Error, Result};
use crate::model::kernels::sparse::{RowLists, add_rows, row_products};
use crate::model::kernels::{PlainWeights, Product, StoredRows, hand_out, products};
use crate::model::network::finite;

/// Bytes of products that are laid out at once.
const ROOM: usize = 32 << 20;

/// The width around a threshold in which JumpReLU's gradient of it is estimated (SAELens `jumprelu_bandwidth`).
const BANDWIDTH: f32 = 0.05;

/// The gradient of the loss of a batch.
#[derive(Clone, Debug)]
pub struct LossGradient {
    pub encoder: Vec<f32>,
    pub decoder: Vec<f32>,
    pub encoder_bias: Vec<f32>,
    pub decoder_bias: Vec<f32>,
    pub thresholds: Vec<f32>,
    /// Whether a feature has a gradient.
    pub touched: Vec<bool>,
}

/// What a batch came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BatchMeasures {
    pub rows: usize,
    /// The whole loss, averaged over rows.
    pub loss: f64,
    /// `‖x − x̂‖²`, averaged over rows.
    pub error: f64,
    /// `‖x − mean x‖²`, averaged over rows.
    pub variance: f64,
    pub l0: f64,
    /// Whether a feature was active in any row.
    pub active: Vec<bool>,
    /// The smallest activation, of BatchTopK.
    pub smallest: f32,
}

impl BatchMeasures {
    /// `1 − Σ‖x − x̂‖² / Σ‖x − mean x‖²`.
    pub fn explained(&self) -> f64 {
        1.0 - self.error / self.variance.max(f64::MIN_POSITIVE)
    }
}

/// What is asked of a batch besides reconstruction.
#[derive(Clone, Copy, Debug)]
pub struct LossTerms<'a> {
    /// The factor of the penalty now.
    pub penalty: f32,
    /// The dead features.
    pub dead: &'a [bool],
    /// How many there are.
    pub dead_count: usize,
}

/// Rows that are read together, with the features that matter in each.
struct Batch {
    /// `x − b`, `[rows, width]`.
    x: Vec<f32>,
    /// By row, `h` of the features that are active, or close enough to their threshold to move it.
    main: Vec<Vec<(u32, f32)>>,
    /// By row, `h` of the dead features that are asked to reconstruct the rest.
    aux: Vec<Vec<(u32, f32)>>,
}

impl LossGradient {
    pub fn new(weights: &TrainingWeights) -> Self {
        Self {
            encoder: vec![0.0; weights.encoder.len()],
            decoder: vec![0.0; weights.decoder.len()],
            encoder_bias: vec![0.0; weights.features],
            decoder_bias: vec![0.0; weights.width],
            thresholds: vec![0.0; weights.thresholds.len()],
            touched: vec![false; weights.features],
        }
    }

    fn clear(&mut self, width: usize) {
        for (f, touched) in self.touched.iter_mut().enumerate() {
            if std::mem::take(touched) {
                self.encoder[f * width..(f + 1) * width].fill(0.0);
                self.decoder[f * width..(f + 1) * width].fill(0.0);
            }
        }
        self.encoder_bias.fill(0.0);
        self.decoder_bias.fill(0.0);
        self.thresholds.fill(0.0);
    }

    /// The loss of `x`, `[rows, width]`, and its gradient, which replaces what is here.
    ///
    /// # Errors
    ///
    /// When a product is not finite.
    pub fn take(
        &mut self,
        options: &TrainOptions,
        weights: &TrainingWeights,
        terms: LossTerms,
        x: &[f32],
    ) -> Result<BatchMeasures> {
        let width = weights.width;
        self.clear(width);
        let rows = x.len() / width;
        let mut measures = BatchMeasures {
            rows,
            variance: variance(x, width),
            active: vec![false; weights.features],
            smallest: f32::INFINITY,
            ..BatchMeasures::default()
        };
        let at_once = (ROOM / (4 * weights.features).max(1)).clamp(1, 256);
        // Sums that go through the norms: Σ p g.
        let mut by_norm = vec![0f32; weights.features];
        let parts = x.chunks(at_once * width);
        let mut batches = Vec::new();
        for part in parts {
            let batch = Batch::select(options, weights, terms, part)?;
            if options.kind == TrainKind::BatchTopK {
                batches.push(batch);
            } else {
                self.add(
                    options,
                    weights,
                    terms,
                    &batch,
                    part,
                    rows,
                    &mut by_norm,
                    &mut measures,
                );
            }
        }
        if options.kind == TrainKind::BatchTopK {
            let all: Vec<Vec<(u32, f32)>> = batches
                .iter()
                .flat_map(|b| b.main.iter().cloned())
                .collect();
            let bound = cut_of_all(&all, options.k * rows);
            for (batch, part) in batches.iter_mut().zip(x.chunks(at_once * width)) {
                batch
                    .main
                    .iter_mut()
                    .for_each(|row| row.retain(|(_, h)| *h >= bound));
                self.add(
                    options,
                    weights,
                    terms,
                    batch,
                    part,
                    rows,
                    &mut by_norm,
                    &mut measures,
                );
            }
        }
        self.through_norms(weights, &by_norm);
        let encoder = weights.encoder.chunks_exact(width).zip(&self.encoder_bias);
        for (row, slope) in encoder.filter(|(_, slope)| **slope != 0.0) {
            let sums = self.decoder_bias.iter_mut().zip(row);
            sums.for_each(|(sum, e)| *sum -= slope * e);
        }
        Ok(measures)
    }

    /// Adds the gradient of some rows of a batch of `count`.
    #[allow(clippy::too_many_arguments)] // Two sums that go on from part to part.
    fn add(
        &mut self,
        options: &TrainOptions,
        weights: &TrainingWeights,
        terms: LossTerms,
        batch: &Batch,
        x: &[f32],
        count: usize,
        by_norm: &mut [f32],
        measures: &mut BatchMeasures,
    ) {
        let (width, share) = (weights.width, 1.0 / count as f32);
        let active = |f: u32, h: f32| match options.kind {
            TrainKind::JumpRelu => h > weights.thresholds[f as usize],
            TrainKind::TopK | TrainKind::BatchTopK | TrainKind::Standard => true,
        };
        let mut entries = RowLists::default();
        let mut made = RowLists::default();
        let (mut sum, mut number) = (0f64, 0usize);
        for row in &batch.main {
            entries.push(row.iter().copied());
            made.push(row.iter().filter(|(f, h)| active(*f, *h)).map(|(f, h)| {
                measures.active[*f as usize] = true;
                measures.smallest = measures.smallest.min(*h);
                sum += f64::from(*h);
                number += 1;
                (*f, h / weights.norms[*f as usize])
            }));
        }
        // From the reconstruction to its error, to the gradient with respect to the reconstruction.
        let mut slopes: Vec<f32> = batch
            .main
            .iter()
            .flat_map(|_| &weights.decoder_bias)
            .copied()
            .collect();
        add_rows(width, &weights.decoder, &made, &mut slopes);
        slopes.iter_mut().zip(x).for_each(|(made, x)| *made -= x);
        let error: f64 = slopes.iter().map(|e| f64::from(*e).powi(2)).sum();
        let penalty = match options.kind {
            TrainKind::TopK | TrainKind::BatchTopK => 0.0,
            TrainKind::JumpRelu => f64::from(terms.penalty) * number as f64,
            TrainKind::Standard => f64::from(terms.penalty) * sum,
        };
        let share64 = f64::from(share);
        measures.error += error * share64;
        measures.loss += (error + penalty) * share64;
        measures.l0 += number as f64 * share64;
        if batch.aux.iter().any(|row| !row.is_empty()) {
            self.add_aux(
                options, weights, terms, batch, &slopes, share, by_norm, measures,
            );
        }
        slopes.iter_mut().for_each(|e| *e *= 2.0 * share);
        for row in slopes.chunks_exact(width) {
            self.decoder_bias
                .iter_mut()
                .zip(row)
                .for_each(|(sum, g)| *sum += g);
        }
        let along = row_products(width, &weights.decoder, &entries, &slopes);
        let mut own = LossSlopes::with(entries.rows.len());
        for (entry, along) in along.into_iter().enumerate() {
            let (f, h) = (entries.rows[entry], entries.factors[entry]);
            let along = along / weights.norms[f as usize];
            let slope = LossSlopes::of(
                options.kind,
                along,
                h,
                weights.thresholds.get(f as usize),
                terms.penalty * share,
            );
            if let Some(to) = self.thresholds.get_mut(f as usize) {
                *to += slope.threshold;
            }
            own.h.push(slope.h);
            own.activation.push(if active(f, h) { h } else { 0.0 });
        }
        self.spread(weights, &entries, &own, &batch.x, &slopes, by_norm);
    }

    /// Adds the gradient of AuxK; `error` is `x̂ − x`, which is not differentiated.
    #[allow(clippy::too_many_arguments)]
    fn add_aux(
        &mut self,
        options: &TrainOptions,
        weights: &TrainingWeights,
        terms: LossTerms,
        batch: &Batch,
        error: &[f32],
        share: f32,
        by_norm: &mut [f32],
        measures: &mut BatchMeasures,
    ) {
        let width = weights.width;
        let mut entries = RowLists::default();
        let mut made = RowLists::default();
        for row in &batch.aux {
            entries.push(row.iter().copied());
            made.push(
                row.iter()
                    .map(|(f, h)| (*f, h / weights.norms[*f as usize])),
            );
        }
        // ê − (x − x̂).
        let mut slopes = error.to_vec();
        add_rows(width, &weights.decoder, &made, &mut slopes);
        // Less where there are few of them, as in SAELens.
        let scale = options.aux * (terms.dead_count as f32 / most_aux(width) as f32).min(1.0);
        let loss: f64 = slopes.iter().map(|e| f64::from(*e).powi(2)).sum();
        measures.loss += loss * f64::from(scale * share);
        slopes.iter_mut().for_each(|e| *e *= 2.0 * scale * share);
        let along = row_products(width, &weights.decoder, &entries, &slopes);
        let mut own = LossSlopes::with(entries.rows.len());
        for (entry, along) in along.into_iter().enumerate() {
            own.h
                .push(along / weights.norms[entries.rows[entry] as usize]);
            own.activation.push(entries.factors[entry]);
        }
        self.spread(weights, &entries, &own, &batch.x, &slopes, by_norm);
    }

    /// Adds what the entries of some rows give to the rows of encoder and decoder.
    fn spread(
        &mut self,
        weights: &TrainingWeights,
        entries: &RowLists,
        own: &LossSlopes,
        x: &[f32],
        slopes: &[f32],
        by_norm: &mut [f32],
    ) {
        let (width, features) = (weights.width, weights.features);
        // The same entries by feature, in the order of their rows.
        let mut starts = vec![0usize; features + 1];
        entries
            .rows
            .iter()
            .for_each(|f| starts[*f as usize + 1] += 1);
        let used: Vec<u32> = (0..features as u32)
            .filter(|f| starts[*f as usize + 1] > 0)
            .collect();
        for f in 0..features {
            starts[f + 1] += starts[f];
        }
        let mut next = starts.clone();
        let (mut rows, mut on_encoder, mut on_decoder) = (
            vec![0u32; entries.rows.len()],
            vec![0f32; entries.rows.len()],
            vec![0f32; entries.rows.len()],
        );
        for row in 0..entries.len() {
            for entry in entries.starts[row]..entries.starts[row + 1] {
                let f = entries.rows[entry] as usize;
                let to = next[f];
                next[f] += 1;
                rows[to] = row as u32;
                let norm = weights.norms[f];
                on_encoder[to] = own.h[entry] * norm;
                on_decoder[to] = own.activation[entry];
                self.encoder_bias[f] += own.h[entry] * norm;
                by_norm[f] += own.h[entry] * entries.factors[entry] / norm;
                self.touched[f] = true;
            }
        }
        // Only rows of features that are used are handed to the threads, in groups of about equal work.
        for (matrix, factors, to) in [
            (x, on_encoder, &mut self.encoder),
            (slopes, on_decoder, &mut self.decoder),
        ] {
            let mut parts = Vec::new();
            let mut left = &mut to[..];
            let mut passed = 0;
            let share = (entries.rows.len() / 64).max(64);
            let mut group: Vec<(usize, &mut [f32])> = Vec::new();
            let mut size = 0;
            for f in used.iter().map(|f| *f as usize) {
                let (_, rest) = std::mem::take(&mut left).split_at_mut((f - passed) * width);
                let (own, rest) = rest.split_at_mut(width);
                (left, passed) = (rest, f + 1);
                group.push((f, own));
                size += starts[f + 1] - starts[f];
                if size >= share {
                    parts.push(std::mem::take(&mut group));
                    size = 0;
                }
            }
            parts.push(group);
            hand_out(parts, entries.rows.len() * width, |group| {
                for (f, to) in group {
                    let span = starts[f]..starts[f + 1];
                    let list = RowLists {
                        starts: vec![0, span.len()],
                        rows: rows[span.clone()].to_vec(),
                        factors: factors[span].to_vec(),
                    };
                    add_rows(width, matrix, &list, to);
                }
            });
        }
    }

    /// From the gradient with respect to unit vectors to that with respect to the decoder: `w / n` and `n` both depend on `w`.
    fn through_norms(&mut self, weights: &TrainingWeights, by_norm: &[f32]) {
        let width = weights.width;
        let rows = self
            .decoder
            .chunks_exact_mut(width)
            .zip(weights.decoder.chunks_exact(width));
        let parts: Vec<_> = rows.enumerate().filter(|(f, _)| self.touched[*f]).collect();
        let cost = 4 * parts.len() * width;
        let mut groups = Vec::new();
        let mut parts = parts.into_iter().peekable();
        while parts.peek().is_some() {
            groups.push(parts.by_ref().take(64).collect::<Vec<_>>());
        }
        hand_out(groups, cost, |group| {
            for (f, (slope, w)) in group {
                let norm = weights.norms[f];
                let along: f32 = slope.iter().zip(w).map(|(g, w)| g * w).sum::<f32>() / norm;
                // (g − (g·u) u) / n + by_norm u, with u = w / n.
                let back = (by_norm[f] - along / norm) / norm;
                slope
                    .iter_mut()
                    .zip(w)
                    .for_each(|(g, w)| *g = *g / norm + back * w);
            }
        });
    }

    /// The norm of the whole gradient.
    pub fn norm(&self, width: usize) -> f64 {
        let square = |values: &[f32]| values.iter().map(|g| f64::from(g * g)).sum::<f64>();
        let rows = self
            .touched
            .iter()
            .enumerate()
            .filter(|(_, touched)| **touched);
        let sums = rows.map(|(f, _)| {
            let span = f * width..(f + 1) * width;
            square(&self.encoder[span.clone()]) + square(&self.decoder[span])
        });
        let biases =
            square(&self.encoder_bias) + square(&self.decoder_bias) + square(&self.thresholds);
        (sums.sum::<f64>() + biases).sqrt()
    }
}

/// The number of dead features that reconstruct the rest of a row: half the width (2406.04093, appendix B.1).
fn most_aux(width: usize) -> usize {
    (width / 2).max(1)
}

/// Of every entry the gradient with respect to `h`, and the activation.
struct LossSlopes {
    h: Vec<f32>,
    activation: Vec<f32>,
}

/// The gradients of one entry.
struct EntrySlope {
    h: f32,
    threshold: f32,
}

impl LossSlopes {
    fn with(entries: usize) -> Self {
        Self {
            h: Vec::with_capacity(entries),
            activation: Vec::with_capacity(entries),
        }
    }

    /// Those of an entry, from the gradient with respect to its activation and the penalty's share of a row.
    fn of(
        kind: TrainKind,
        along: f32,
        h: f32,
        threshold: Option<&f32>,
        penalty: f32,
    ) -> EntrySlope {
        match (kind, threshold) {
            (TrainKind::JumpRelu, Some(threshold)) => {
                let near = ((h - threshold) / BANDWIDTH).abs() < 0.5;
                EntrySlope {
                    h: if h > *threshold { along } else { 0.0 },
                    threshold: if near {
                        -(threshold * along + penalty) / BANDWIDTH
                    } else {
                        0.0
                    },
                }
            }
            (TrainKind::Standard, _) => EntrySlope {
                h: along + penalty,
                threshold: 0.0,
            },
            (TrainKind::TopK | TrainKind::BatchTopK | TrainKind::JumpRelu, _) => EntrySlope {
                h: along,
                threshold: 0.0,
            },
        }
    }
}

impl Batch {
    /// Encodes some rows, `[rows, width]`, and keeps what matters of each.
    fn select(
        options: &TrainOptions,
        weights: &TrainingWeights,
        terms: LossTerms,
        x: &[f32],
    ) -> Result<Self> {
        let (width, features) = (weights.width, weights.features);
        let mut less = x.to_vec();
        for row in less.chunks_exact_mut(width) {
            row.iter_mut()
                .zip(&weights.decoder_bias)
                .for_each(|(x, b)| *x -= b);
        }
        let rows = x.len() / width;
        let mut h = vec![0f32; rows * features];
        let encoder = StoredRows::Plain(PlainWeights::F32(&weights.encoder));
        products(
            width,
            &less,
            &mut [Product {
                weights: encoder,
                y: &mut h,
            }],
        );
        let mut found: Vec<Option<RowChoice>> = (0..rows).map(|_| None).collect();
        let parts: Vec<_> = h.chunks_exact_mut(features).zip(&mut found).collect();
        hand_out(parts, rows * features * 4, |(h, found)| {
            let scaled = h.iter_mut().zip(&weights.encoder_bias).zip(&weights.norms);
            scaled.for_each(|((h, bias), norm)| *h = (*h + bias) * norm);
            *found = finite::all(h).then(|| RowChoice::of(options, weights, terms, h));
        });
        let (mut main, mut aux) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        for found in found {
            let Some(found) = found else {
                return Err(not_finite());
            };
            main.push(found.main);
            aux.push(found.aux);
        }
        Ok(Self { x: less, main, aux })
    }
}

/// What is kept of one row.
struct RowChoice {
    main: Vec<(u32, f32)>,
    aux: Vec<(u32, f32)>,
}

impl RowChoice {
    fn of(options: &TrainOptions, weights: &TrainingWeights, terms: LossTerms, h: &[f32]) -> Self {
        let numbered = h.iter().enumerate().map(|(f, h)| (f as u32, *h));
        let main = match options.kind {
            TrainKind::TopK => {
                let mut kept = largest(h, options.k);
                kept.retain(|(_, h)| *h > 0.0);
                kept
            }
            // What is not among so many of its own row is not among those of the batch, but for rows with very many.
            TrainKind::BatchTopK => {
                let mut kept = largest(h, (16 * options.k).max(64));
                kept.retain(|(_, h)| *h > 0.0);
                kept
            }
            TrainKind::Standard => numbered.filter(|(_, h)| *h > 0.0).collect(),
            TrainKind::JumpRelu => numbered
                .filter(|(f, h)| *h > weights.thresholds[*f as usize] - BANDWIDTH / 2.0)
                .collect(),
        };
        let aux = if options.aux > 0.0 && terms.dead_count > 0 {
            let dead: Vec<f32> = h
                .iter()
                .zip(terms.dead)
                .map(|(h, dead)| if *dead { *h } else { f32::NEG_INFINITY })
                .collect();
            largest(&dead, most_aux(weights.width).min(terms.dead_count))
        } else {
            Vec::new()
        };
        Self { main, aux }
    }
}

/// The mean of `‖x − mean x‖²` over rows.
fn variance(x: &[f32], width: usize) -> f64 {
    let rows = (x.len() / width).max(1) as f64;
    let mut sums = vec![0f64; width];
    let mut squares = 0f64;
    for row in x.chunks_exact(width) {
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum += f64::from(*x);
            squares += f64::from(*x).powi(2);
        }
    }
    let means: f64 = sums.iter().map(|sum| (sum / rows).powi(2)).sum();
    (squares / rows - means).max(0.0)
}

/// The error for a training whose numbers are no longer finite.
pub fn not_finite() -> Error {
    Error::not_finite(
        "The loss of the dictionary is not finite any more, and training stopped; what was saved last is kept",
        "Train anew with a lower --lr, or at another site",
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn options(kind: TrainKind) -> TrainOptions {
        TrainOptions {
            kind,
            features: 12,
            k: 3,
            penalty: 0.3,
            tokens: 100,
            batch: 7,
            rate: 1e-3,
            seed: 5,
            aux: 0.5,
            dead_after: 10,
        }
    }

    /// The gradient is that of finite differences, for every kind and every weight; with AuxK, whose target is held.
    #[test]
    fn gradients_are_those_of_small_differences() {
        let width = 6;
        for kind in TrainKind::ALL {
            let options = options(kind);
            let x: Vec<f32> = (0..7 * width)
                .map(|i| ((i * 37 % 23) as f32 - 11.0) / 6.0)
                .collect();
            let mut weights = TrainingWeights::new(&options, width, &x);
            for (i, w) in weights.decoder.iter_mut().enumerate() {
                *w *= 4.0 + (i % 5) as f32;
            }
            for (i, w) in weights.encoder.iter_mut().enumerate() {
                *w = *w * 6.0 + ((i * 13 % 7) as f32 - 3.0) / 30.0;
            }
            // No h is within the bandwidth of its threshold, where the gradient is estimated and not that of the loss.
            weights.thresholds.iter_mut().for_each(|t| *t = 1e-3);
            weights.measure();
            // Dead features are not active, so that what AuxK holds still does not move.
            let mut dead = vec![false; 12];
            (dead[3], dead[9]) = (true, true);
            for f in [3, 9] {
                weights.encoder_bias[f] = -4.0;
            }
            let terms = LossTerms {
                penalty: 0.3,
                dead: &dead,
                dead_count: 2,
            };
            let mut gradient = LossGradient::new(&weights);
            let whole = gradient.take(&options, &weights, terms, &x).unwrap();
            assert!(whole.l0 > 0.5 && whole.loss.is_finite());
            // Two losses: without AuxK, and AuxK's with what it reconstructs held at the unchanged weights.
            let without = TrainOptions {
                aux: 0.0,
                ..options.clone()
            };
            let mut plain = LossGradient::new(&weights);
            let loss = |weights: &TrainingWeights| {
                let mut weights = weights.clone();
                weights.measure();
                let mut scratch = LossGradient::new(&weights);
                scratch.take(&without, &weights, terms, &x).unwrap()
            };
            plain.take(&without, &weights, terms, &x).unwrap();
            let mut checked = 0;
            let mut check = |name: &str, slope: f32, change: &dyn Fn(&mut TrainingWeights, f32)| {
                let step = 2e-3;
                let (mut up, mut down) = (weights.clone(), weights.clone());
                change(&mut up, step);
                change(&mut down, -step);
                let (up, down) = (loss(&up), loss(&down));
                // Where a step changes which features are active there is no derivative.
                if up.active != down.active || (up.l0 - down.l0).abs() > 1e-9 {
                    return;
                }
                let measured = (up.loss - down.loss) / f64::from(2.0 * step);
                let off = (measured - f64::from(slope)).abs();
                assert!(
                    off < 2e-2 * (1.0 + measured.abs()),
                    "{kind} {name}: {slope} {measured}"
                );
                checked += 1;
            };
            for i in 0..12 * width {
                check("encoder", plain.encoder[i], &|w, by| w.encoder[i] += by);
                check("decoder", plain.decoder[i], &|w, by| w.decoder[i] += by);
            }
            for f in 0..12 {
                check("encoder bias", plain.encoder_bias[f], &|w, by| {
                    w.encoder_bias[f] += by;
                });
            }
            for i in 0..width {
                check("decoder bias", plain.decoder_bias[i], &|w, by| {
                    w.decoder_bias[i] += by;
                });
            }
            assert!(checked > 100, "{kind} {checked}");
            // AuxK adds a gradient to dead features alone (and to the bias through the input).
            for f in 0..12 {
                let span = f * width..(f + 1) * width;
                let same = gradient.encoder[span.clone()] == plain.encoder[span];
                assert_eq!(same, !dead[f], "{kind} {f}");
            }
        }
    }

    #[test]
    fn a_threshold_moves_by_the_straight_through_gradient() {
        let of = |h: f32| LossSlopes::of(TrainKind::JumpRelu, 2.0, h, Some(&0.5), 0.25);
        let near = of(0.51);
        assert!((near.threshold + (0.5 * 2.0 + 0.25) / BANDWIDTH).abs() < 1e-4);
        let close = |a: f32, b: f32| (a - b).abs() < 1e-6;
        let far = of(0.49);
        assert!(close(near.h, 2.0) && close(far.h, 0.0) && close(far.threshold, near.threshold));
        assert!(of(0.53).threshold == 0.0 && of(0.4).threshold == 0.0);
    }

    #[test]
    fn batchtopk_keeps_k_a_row_on_average() {
        let options = options(TrainKind::BatchTopK);
        let width = 6;
        let x: Vec<f32> = (0..20 * width)
            .map(|i| ((i * 57 % 31) as f32 - 15.0) / 6.0)
            .collect();
        let weights = TrainingWeights::new(&options, width, &x);
        let terms = LossTerms {
            penalty: 0.0,
            dead: &[false; 12],
            dead_count: 0,
        };
        let mut gradient = LossGradient::new(&weights);
        let measures = gradient.take(&options, &weights, terms, &x).unwrap();
        assert!((measures.l0 - 3.0).abs() < 1e-6, "{}", measures.l0);
    }
}
