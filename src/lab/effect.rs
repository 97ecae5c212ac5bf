//! What an effect on a token is measured on: its log-probability, its centred logit, or its raw logit.
//!
//! A raw logit has no zero: what moves every token alike is part of it, and softmax does not see that. The gradient of a token's
//! log-probability with respect to the stream after the final norm is `W_U[t] − Σ_j p_j W_U[j]` at the run's own distribution `p`
//! (before the norm, `γ ⊙` that); where a family soft-caps its logits, each term carries the cap's own slope. Effects along it are
//! to first order, and a sum of parts along it comes to `z[t] − Σ p z`, which is `ln p(t)` plus the entropy of `p`. Centred, the
//! mean takes the place of `p`: TransformerLens centres its unembedding so. Invariant: a difference of two logits is the difference
//! of the log-probabilities, so for it all three are the same. To add a scale, add a variant and its weights.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use candle_core::Tensor;

use super::capture::{After, Output};
use super::finite_guard::not_finite;
use super::lab::Lab;
use super::readout::RowStats;
use super::run::Run;
use super::sample::{NO_TOKEN, log_sum_exp, top};
use super::target::LogitTarget;
use crate::error::Result;
use crate::model::Model;
use crate::model::host::ToHost;
use crate::model::network::finite;
use crate::model::network::readout::StatisticsOn;
use crate::model::network::site::Site;

/// What an effect on a token is an effect on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EffectScale {
    /// The token's log-probability.
    #[default]
    LogProb,
    /// The token's logit minus the mean logit of the vocabulary.
    Centred,
    /// The token's logit.
    Logit,
}

impl EffectScale {
    /// What is measured, in words: `the log-probability of Paris`, without the article.
    pub fn of(self, target: LogitTarget, lab: &Lab) -> String {
        self.of_named(&target.spell(lab), target.minus.is_some())
    }

    /// As [`EffectScale::of`], of a target that is already spelled.
    pub fn of_named(self, name: &str, difference: bool) -> String {
        match self {
            _ if difference => format!("logit difference {name}"),
            Self::LogProb => format!("log-probability of {name}"),
            Self::Centred => format!("centred logit of {name}"),
            Self::Logit => format!("logit of {name}"),
        }
    }

    /// What direct effects sum to, in words: along the gradient of a log-probability that and the entropy of the distribution.
    pub fn sum_of(self, target: LogitTarget, lab: &Lab) -> String {
        let own = self.of(target, lab);
        match self {
            Self::LogProb if target.minus.is_none() => format!("{own} + entropy"),
            Self::LogProb | Self::Centred | Self::Logit => own,
        }
    }

    /// Why direct effects sum to that, where it is not what the effects are on.
    pub fn sum_note(self) -> Option<&'static str> {
        match self {
            Self::LogProb => Some(
                "the sum is the log-probability plus the entropy of the distribution, which is the logit minus the mean of all logits weighted by p",
            ),
            Self::Centred | Self::Logit => None,
        }
    }

    /// As a heading of a column.
    pub fn heading(self, target: LogitTarget) -> &'static str {
        match self {
            _ if target.minus.is_some() => "difference",
            Self::LogProb => "log p",
            Self::Centred => "centred",
            Self::Logit => "logit",
        }
    }

    /// What a reader must know of it.
    pub fn note(self) -> &'static str {
        match self {
            Self::LogProb => {
                "log-probability: effects along its gradient at the run's own distribution p, γ⊙(W_U[t] − Σ p W_U): what moves every token alike counts for nothing, as softmax does not see it; on=centred and on=logit are the other scales"
            }
            Self::Centred => "centred: the mean logit over the vocabulary is subtracted",
            Self::Logit => {
                "the logit of a single token has no natural zero, and what moves all tokens alike is part of it, which softmax does not see: compare it with another token (\"A\" - \"B\") or use on=logprob"
            }
        }
    }

    /// What must be read after a run to measure the target: its tokens' statistics.
    pub fn output(self, target: LogitTarget) -> Output {
        Output {
            whole: self == Self::Centred && target.minus.is_none(),
            ..Output::tokens(&target.tokens())
        }
    }

    /// The target's value in what [`EffectScale::output`] read; the first `known` tokens are the vocabulary.
    pub fn value(self, target: LogitTarget, stats: &RowStats, known: usize) -> f32 {
        match self {
            _ if target.minus.is_some() => target.logit(stats),
            Self::LogProb => stats.token(target.token).logprob,
            Self::Centred => {
                let known = &stats.logits[..known.min(stats.logits.len())];
                let sum: f64 = known.iter().map(|z| f64::from(*z)).sum();
                (f64::from(target.logit(stats)) - sum / known.len() as f64) as f32
            }
            Self::Logit => target.logit(stats),
        }
    }
}

/// On what the effect of a change of a run on its answer is measured: total effects, which may be on the probability as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerMeasure {
    LogProb,
    /// That of the average indirect effect (Todd et al. 2024).
    Probability,
    Centred,
    Logit,
}

impl AnswerMeasure {
    /// The scale; none for a probability.
    fn scale(self) -> Option<EffectScale> {
        match self {
            Self::LogProb => Some(EffectScale::LogProb),
            Self::Probability => None,
            Self::Centred => Some(EffectScale::Centred),
            Self::Logit => Some(EffectScale::Logit),
        }
    }

    /// In words, as [`EffectScale::of_named`].
    pub fn of_named(self, name: &str) -> String {
        match self.scale() {
            Some(scale) => scale.of_named(name, false),
            None => format!("probability of {name}"),
        }
    }

    /// What must be read after the last token.
    pub fn output(self, answer: u32) -> Output {
        match self.scale() {
            Some(scale) => scale.output(LogitTarget::one(answer)),
            None => Output::tokens(&[answer]),
        }
    }

    /// The answer's value in that.
    pub fn value(self, answer: u32, stats: &RowStats, known: usize) -> f64 {
        match self.scale() {
            Some(scale) => f64::from(scale.value(LogitTarget::one(answer), stats, known)),
            None => stats.share(),
        }
    }
}

/// Along which directions effects on targets are read, at some rows of the final stream.
#[derive(Clone, Debug)]
pub struct EffectDirections {
    pub scale: EffectScale,
    /// The target of each row.
    pub targets: Vec<LogitTarget>,
    /// The gradients with respect to the stream after the final norm, `[n, d_model]`, f32.
    pub after_norm: Tensor,
    /// The model's own value of each target before a soft-cap: the same weighted sum of its logits.
    pub values: Vec<f32>,
    /// What the biases of the unembedding add to each.
    pub biases: Vec<f32>,
    /// The probability of each target; not-a-number where the direction does not depend on it.
    pub shares: Vec<f32>,
}

impl EffectDirections {
    /// Those of no target yet, at rows of the final stream.
    pub(super) fn at(last: &Tensor, scale: EffectScale) -> Self {
        Self {
            scale,
            targets: Vec::new(),
            after_norm: last.clone(),
            values: Vec::new(),
            biases: Vec::new(),
            shares: Vec::new(),
        }
    }
}

/// Of which weighted sum of logits each target is, at some rows of the final stream.
#[derive(Clone, Debug)]
pub struct EffectWeights {
    pub scale: EffectScale,
    pub targets: Vec<LogitTarget>,
    /// The weight of every logit before the soft-cap, `[vocab]`; empty where the target's direction needs no distribution.
    pub weights: Vec<Vec<f32>>,
    /// The directions that need none, `[d_model]`, with what the biases of the unembedding add.
    pub fixed: HashMap<LogitTarget, (Tensor, f32)>,
    /// The weighted sums of the model's own logits.
    pub values: Vec<f32>,
    pub biases: Vec<f32>,
    pub shares: Vec<f32>,
}

impl EffectWeights {
    /// The gradients with respect to the stream after the final norm, `[n, d_model]`, f32.
    fn directions(&self, model: &Model) -> Result<Tensor> {
        let all: Vec<f32> = self.weights.concat();
        let rows = self.weights.iter().filter(|row| !row.is_empty()).count();
        let mut own = match rows {
            0 => Vec::new(),
            _ => (model.transformer.weighted_logit_directions(all, rows)?).chunk(rows, 0)?,
        }
        .into_iter();
        let mut out = Vec::with_capacity(self.targets.len());
        for (target, weights) in self.targets.iter().zip(&self.weights) {
            out.extend(if weights.is_empty() {
                self.fixed
                    .get(target)
                    .map(|(row, _)| row.unsqueeze(0))
                    .transpose()?
            } else {
                own.next()
            });
        }
        Ok(Tensor::cat(&out, 0)?)
    }
}

/// Above this probability an answer is as good as certain.
const CERTAIN: f32 = 0.99;

/// A caution about the gradients of log-probabilities of answers that are as good as certain; none where no answer is.
pub fn saturation(shares: &[f32]) -> Option<String> {
    let certain = shares.iter().filter(|p| **p > CERTAIN).count();
    (certain > 0).then(|| {
        format!(
            "of {} answers {certain} are as good as certain (p above {CERTAIN}): the gradient of such a log-probability is nearly nothing, and is about the answer's runners-up alone; compare with on=centred, or with a difference of two answers",
            shares.len()
        )
    })
}

impl EffectDirections {
    /// The gradients with respect to the stream before the final norm, at a scale of 1: `[n, d_model]`.
    ///
    /// # Errors
    ///
    /// Those of the tensor library.
    pub fn of_stream(&self, model: &Model) -> Result<Tensor> {
        model.transformer.norm.seen_from_behind(&self.after_norm)
    }

    /// The direction of a target without any text: a log-probability is then that of an even distribution, which is the centred
    /// logit.
    ///
    /// # Errors
    ///
    /// Those of the tensor library.
    pub fn without_text(model: &Model, target: LogitTarget, scale: EffectScale) -> Result<Self> {
        let scale = match scale {
            EffectScale::LogProb if target.minus.is_none() => EffectScale::Centred,
            EffectScale::LogProb | EffectScale::Centred | EffectScale::Logit => scale,
        };
        let (direction, bias) = from_weights(model, target, scale)?;
        Ok(Self {
            scale,
            targets: vec![target],
            after_norm: direction.unsqueeze(0)?,
            values: vec![f32::NAN],
            biases: vec![bias],
            shares: vec![f32::NAN],
        })
    }
}

impl Lab {
    /// The weights of targets at rows of the final stream, `[n, d_model]`; one target for each row, or if none are given each row's top
    /// prediction.
    ///
    /// # Errors
    ///
    /// When a row's logits are no distribution, and those of the tensor library.
    pub fn effect_weights(
        &self,
        last: &Tensor,
        targets: Option<&[LogitTarget]>,
        scale: EffectScale,
    ) -> Result<EffectWeights> {
        let model = &self.model;
        let known = model.known_tokens();
        let mut out = EffectWeights {
            scale,
            targets: Vec::new(),
            weights: Vec::new(),
            fixed: HashMap::new(),
            values: Vec::new(),
            biases: Vec::new(),
            shares: Vec::new(),
        };
        let logits = model.transformer.uncapped(&last.contiguous()?)?;
        for (i, row) in logits.host_vec2::<f32>()?.iter().enumerate() {
            if !finite::distribution(row) {
                return Err(not_finite(
                    &model.transformer,
                    "The logits of the residual stream are",
                ));
            }
            let top_prediction =
                || LogitTarget::one(top(row, known, 1).first().map_or(NO_TOKEN, |t| t.0));
            let given = targets.and_then(|targets| targets.get(i).copied());
            let target = given.unwrap_or_else(top_prediction);
            out.targets.push(target);
            if of_distribution(target, scale) {
                let (own, share) = log_prob_weights(model, target.token, row);
                let pairs = own.iter().zip(row).filter(|(w, _)| w.abs() > 0.0);
                let value: f64 = pairs.map(|(w, z)| f64::from(*w) * f64::from(*z)).sum();
                out.values.push(value as f32);
                out.biases.push(weighted_bias(model, &own)?);
                out.shares.push(share);
                out.weights.push(own);
            } else {
                let bias = match out.fixed.entry(target) {
                    Entry::Occupied(held) => held.get().1,
                    Entry::Vacant(free) => free.insert(from_weights(model, target, scale)?).1,
                };
                out.values.push(value(target, scale, &row[..known]));
                out.biases.push(bias);
                out.shares.push(f32::NAN);
                out.weights.push(Vec::new());
            }
        }
        Ok(out)
    }

    /// The directions of targets at rows of the final stream, as [`Lab::effect_weights`].
    ///
    /// # Errors
    ///
    /// Those of [`Lab::effect_weights`].
    pub fn effect_directions(
        &self,
        last: &Tensor,
        targets: Option<&[LogitTarget]>,
        scale: EffectScale,
    ) -> Result<EffectDirections> {
        let model = &self.model;
        if model.transformer.statistics == StatisticsOn::Device {
            return self.effect_directions_on_device(last, targets, scale);
        }
        let count = last.dim(0)?;
        let mut out = EffectDirections::at(last, scale);
        let mut directions = Vec::new();
        // A row of logits and one of weights.
        let most = self.room(8 * model.card.vocab);
        for start in (0..count).step_by(most) {
            let rows = start..count.min(start + most);
            let some = last.narrow(0, start, rows.len())?;
            let targets = targets.map(|targets| &targets[rows]);
            let found = self.effect_weights(&some, targets, scale)?;
            directions.push(found.directions(model)?);
            out.targets.extend(found.targets);
            out.values.extend(found.values);
            out.biases.extend(found.biases);
            out.shares.extend(found.shares);
        }
        out.after_norm = Tensor::cat(&directions, 0)?;
        Ok(out)
    }

    /// The directions of one target after the last token of a run.
    ///
    /// # Errors
    ///
    /// Those of the pass.
    pub fn effect_direction(
        &mut self,
        run: &Run,
        target: LogitTarget,
        scale: EffectScale,
    ) -> Result<EffectDirections> {
        if !of_distribution(target, scale) {
            return EffectDirections::without_text(&self.model, target, scale);
        }
        let at = Site::ResidPost.at(self.model.card.layers - 1);
        let last = self.record(run, &[at])?;
        let last = last.get(at)?.narrow(0, run.tokens.len() - 1, 1)?;
        self.effect_directions(&last, Some(&[target]), scale)
    }

    /// The target's value after the last token of a run.
    ///
    /// # Errors
    ///
    /// Those of the pass.
    pub fn effect_value(
        &mut self,
        run: &Run,
        target: LogitTarget,
        scale: EffectScale,
    ) -> Result<f32> {
        let known = self.model.known_tokens();
        let output = Output {
            after: After::Last(1),
            ..scale.output(target)
        };
        Ok(scale.value(target, &self.last(run, output)?, known))
    }
}

/// Whether the direction depends on the run's own distribution.
pub(super) fn of_distribution(target: LogitTarget, scale: EffectScale) -> bool {
    scale == EffectScale::LogProb && target.minus.is_none()
}

/// The gradient of a token's log-probability with respect to a row of logits before the soft-cap, `[vocab]`, and its probability.
fn log_prob_weights(model: &Model, token: u32, row: &[f32]) -> (Vec<f32>, f32) {
    let cap = model.transformer.blueprint.logit_cap.map(|cap| cap as f32);
    let capped: Vec<f32> = match cap {
        Some(cap) => row.iter().map(|z| cap * (z / cap).tanh()).collect(),
        None => row.to_vec(),
    };
    let total = log_sum_exp(&capped);
    let each = capped.iter().enumerate().map(|(id, z)| {
        let own = if id == token as usize { 1.0 } else { 0.0 };
        let slope = cap.map_or(1.0, |cap| 1.0 - (z / cap).powi(2));
        (own - (z - total).exp()) * slope
    });
    let share = capped
        .get(token as usize)
        .map_or(f32::NAN, |z| (z - total).exp());
    (each.collect(), share)
}

/// A target's value in a row of logits, on a scale that needs no distribution.
fn value(target: LogitTarget, scale: EffectScale, known: &[f32]) -> f32 {
    let own = target.of(known);
    if scale == EffectScale::Centred && target.minus.is_none() {
        let sum: f64 = known.iter().map(|z| f64::from(*z)).sum();
        return (f64::from(own) - sum / known.len() as f64) as f32;
    }
    own
}

/// The direction of a target on a scale that needs no distribution, and what the biases of the unembedding add.
pub(super) fn from_weights(
    model: &Model,
    target: LogitTarget,
    scale: EffectScale,
) -> Result<(Tensor, f32)> {
    let transformer = &model.transformer;
    let direction = target.direction(model)?;
    let bias = transformer.logit_bias(target.token)?;
    match (target.minus, scale) {
        (Some(less), _) => Ok((direction, bias - transformer.logit_bias(less)?)),
        (None, EffectScale::Centred) => {
            let (mean, own) = transformer.mean_logit_direction(model.known_tokens())?;
            Ok(((direction - mean)?, bias - own))
        }
        (None, EffectScale::LogProb | EffectScale::Logit) => Ok((direction, bias)),
    }
}

/// What the biases of the unembedding add to a weighted sum of logits.
fn weighted_bias(model: &Model, weights: &[f32]) -> Result<f32> {
    let transformer = &model.transformer;
    let Some(bias) = &transformer.head.bias else {
        return Ok(0.0);
    };
    let bias = bias.to_dtype(candle_core::DType::F32)?.host_vec1::<f32>()?;
    let pairs = weights.iter().zip(&bias);
    let sum: f64 = pairs.map(|(w, b)| f64::from(*w) * f64::from(*b)).sum();
    Ok((sum * transformer.blueprint.logit_scale) as f32)
}
