//! The methods: gradient × input, integrated gradients, erasing, and what they are taken of.
//!
//! With `x` the embeddings of a text and `b` a baseline in their place, and `F` a scalar of the next token: gradient × input of
//! token `i` is `Σ_d (x_i − b)_d ∂F/∂x_id` (with `b` = 0 that of Shrikumar et al. 2016; with another the first-order term of
//! going there); integrated gradients are `Σ_d (x_i − b)_d ∫ ∂F/∂x_id (b + α(x − b)) dα` over 0 to 1 (Sundararajan et al. 2017,
//! equation 1), and their sum is `F(x) − F(b)` (completeness, proposition 1), to the error of the integral ([`super::path`]);
//! erasing is `F(x) − F(x with b in the place of token i)`.
//!
//! `x` is what enters block 0, after edits there and less a learned position vector, which stays where it is. Invariant: all of
//! it is measured under the run's edits. To add a method, measure it here and add its column beside.

use std::cell::OnceCell;

use candle_core::{D, DType, Tensor};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::path::{GradientPath, PathPoint};
use super::{EmbeddingBaseline, SaliencyOf, SaliencyParams};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::capture::{Capture, Output};
use crate::lab::gradient::{GradientRequest, Scalar};
use crate::lab::pass::{Pass, PassRow, Patch};
use crate::lab::readout::RowStats;
use crate::lab::run::Run;
use crate::lab::target::LogitTarget;
use crate::model::host::ToHost;
use crate::model::network::site::Site;
use crate::model::{Fingerprint, Model};

/// Rows of the embedding table whose mean is taken together.
const ROWS: usize = 4096;

/// What each token of a text does to the scalar, by method.
#[derive(Clone, Debug, Default)]
pub(super) struct InputEffects {
    /// Gradient × input.
    pub gradient: Vec<f64>,
    /// Integrated gradients.
    pub integrated: Vec<f64>,
    /// What erasing the token takes away.
    pub erased: Vec<f64>,
    /// What a random word in its place takes away, on average: the control of erasing.
    pub swapped: Vec<f64>,
    /// The scalar of the text.
    pub value: f64,
    /// The scalar with every embedding at the baseline.
    pub at_baseline: f64,
    /// Points of the way from there at which integrated gradients took a gradient.
    pub points: usize,
}

impl InputEffects {
    /// What integrated gradients sum to, less what they should.
    pub fn completeness_error(&self) -> f64 {
        self.integrated.iter().sum::<f64>() - (self.value - self.at_baseline)
    }
}

/// What one gradient says of each token of a text.
#[derive(Clone, Debug)]
pub(super) struct InputSlopes {
    /// Gradient × input.
    pub gradient: Vec<f64>,
    /// That of random words in the same places, root mean square.
    pub random: Vec<f64>,
    /// The scalar of the text.
    pub value: f64,
    /// The scalar with every embedding at the baseline.
    pub at_baseline: f64,
}

/// The question.
pub(super) struct SaliencyMethods<'a> {
    pub params: &'a SaliencyParams,
    pub target: LogitTarget,
}

/// The embeddings of a text as they enter block 0 and as they do at the baseline: `[positions, d_model]` each, f32.
struct Embeddings {
    own: Tensor,
    baseline: Tensor,
}

impl Embeddings {
    /// What integrated gradients and gradient × input are multiplied with.
    fn difference(&self) -> Result<Tensor> {
        Ok((&self.own - &self.baseline)?)
    }

    /// Every position at a share of the way from the baseline to the text.
    fn at(&self, share: f64) -> Result<PassRow> {
        let rows = (&self.baseline + (self.difference()? * share)?)?;
        let patches = (0..rows.dim(0)?).map(|position| put(position, rows.get(position)?));
        Ok(PassRow::patched(patches.collect::<Result<_>>()?))
    }
}

/// An embedding in the place of another.
fn put(position: usize, value: Tensor) -> Result<Patch> {
    // In storage of its own, or it would keep the embeddings of the whole text.
    Ok(Patch::new(Site::Embed.at(0), position, value.copy()?))
}

impl SaliencyMethods<'_> {
    pub(super) fn measure(&self, run: &Run, lab: &mut Lab) -> Result<InputEffects> {
        let positions: Vec<usize> = (0..run.tokens.len()).collect();
        let asked = Pass {
            record: vec![Site::Embed.at(0)],
            ..self.gradients(run, &positions)
        };
        let own = lab.part(0.0..0.04, |lab| lab.run_one(&asked))?;
        let embeddings = self.embeddings(&own, run, lab)?;
        let end = point(1.0, &own, &embeddings)?;
        let mut found = InputEffects {
            gradient: end
                .slopes
                .clone()
                .unwrap_or_else(|| vec![f64::NAN; positions.len()]),
            value: end.scalar,
            ..InputEffects::default()
        };
        let path = lab.part(0.04..0.7, |lab| {
            self.path(run, &positions, &embeddings, end, lab)
        })?;
        found.integrated = path.integral(positions.len());
        found.at_baseline = path.start();
        found.points = path.gradients();
        lab.part(0.7..1.0, |lab| {
            self.erase(run, &embeddings, &mut found, lab)
        })?;
        Ok(found)
    }

    /// A pass that asks for the gradient with respect to the embeddings.
    fn gradients(&self, run: &Run, positions: &[usize]) -> Pass {
        let of = match (self.target.minus, self.params.of) {
            (None, SaliencyOf::LogProbability) => Scalar::LogProbability(self.target.token),
            (Some(_), _) | (None, SaliencyOf::Logit) => Scalar::Logit(self.target),
        };
        Pass {
            gradient: Some(GradientRequest {
                each: Vec::new(),
                of,
                after: run.tokens.len() - 1,
                from: None,
                at: vec![Site::Embed.at(0)],
                positions: positions.to_vec(),
            }),
            ..Pass::of(run.clone())
        }
    }

    /// The embeddings that a run has, and those of the baseline.
    fn embeddings(&self, of: &Capture, run: &Run, lab: &mut Lab) -> Result<Embeddings> {
        let own = of.get(Site::Embed.at(0))?.to_dtype(DType::F32)?;
        let (tokens, width) = own.dims2()?;
        let token = match self.params.baseline {
            EmbeddingBaseline::Zero => Tensor::zeros((1, width), DType::F32, own.device())?,
            EmbeddingBaseline::Mean => {
                let mean = mean_embedding(lab)?;
                Tensor::from_vec(mean, (1, width), own.device())?
            }
        };
        let baseline = token.repeat((tokens, 1))?;
        let places = lab
            .model
            .transformer
            .position_vectors(0, run.tokens.len())?;
        let baseline = match places {
            Some(places) => (baseline + places)?,
            None => baseline,
        };
        Ok(Embeddings { own, baseline })
    }

    /// The way from the baseline to the text, at as many points as were asked for, or fewer where they are enough.
    fn path(
        &self,
        run: &Run,
        positions: &[usize],
        embeddings: &Embeddings,
        end: PathPoint,
        lab: &mut Lab,
    ) -> Result<GradientPath> {
        let mut path = GradientPath::ending_in(end);
        let steps = self.params.steps.0;
        loop {
            let done = path.gradients();
            let next = path.next_points(steps);
            if next.is_empty() {
                return Ok(path);
            }
            let rows = next.iter().map(|share| embeddings.at(*share));
            let pass = Pass {
                rows: rows.collect::<Result<_>>()?,
                ..self.gradients(run, positions)
            };
            let share = |count: usize| (count as f32 / steps as f32).min(1.0);
            let part = share(done)..share(done + next.len());
            let read = lab.part(part, |lab| lab.run(&pass))?;
            for (share, row) in next.into_iter().zip(&read) {
                path.add(point(share, row, embeddings)?);
            }
        }
    }

    /// The embeddings of random words at every position, `[positions, d_model]` each.
    fn swaps(&self, run: &Run, lab: &Lab) -> Result<Vec<Tensor>> {
        let words = words(&lab.model);
        let transformer = &lab.model.transformer;
        let places = transformer.position_vectors(0, run.tokens.len())?;
        let draws = 0..self.params.swaps.0;
        draws
            .map(|draw| {
                let ids = Tensor::new(random_words(run, draw, &words)?, &transformer.device)?;
                let drawn = transformer.embed_tokens(&ids)?.to_dtype(DType::F32)?;
                Ok(match &places {
                    Some(places) => (drawn + places)?,
                    None => drawn,
                })
            })
            .collect()
    }

    /// Gradient × input alone, from one gradient; what random words would score at each position; and the scalar here and at the
    /// baseline.
    pub(super) fn slopes(&self, run: &Run, lab: &mut Lab) -> Result<InputSlopes> {
        let positions: Vec<usize> = (0..run.tokens.len()).collect();
        let asked = Pass {
            record: vec![Site::Embed.at(0)],
            ..self.gradients(run, &positions)
        };
        let own = lab.part(0.0..0.8, |lab| lab.run_one(&asked))?;
        let embeddings = self.embeddings(&own, run, lab)?;
        let end = point(1.0, &own, &embeddings)?;
        let mut squares = vec![0f64; positions.len()];
        let swaps = self.swaps(run, lab)?;
        for words in &swaps {
            let random = Embeddings {
                own: words.clone(),
                baseline: embeddings.baseline.clone(),
            };
            let each = point(1.0, &own, &random)?.slopes.into_iter().flatten();
            squares
                .iter_mut()
                .zip(each)
                .for_each(|(sum, x)| *sum += x * x);
        }
        let start = lab.run_one(&Pass {
            rows: vec![embeddings.at(0.0)?],
            ..Pass::after(run.clone(), Output::tokens(&self.target.tokens()))
        })?;
        Ok(InputSlopes {
            gradient: end
                .slopes
                .unwrap_or_else(|| vec![f64::NAN; positions.len()]),
            random: squares
                .into_iter()
                .map(|sum| (sum / swaps.len() as f64).sqrt())
                .collect(),
            value: end.scalar,
            at_baseline: self.value(start.last()),
        })
    }

    /// What is lost without each token, and on average with random ones in its place.
    fn erase(
        &self,
        run: &Run,
        embeddings: &Embeddings,
        found: &mut InputEffects,
        lab: &mut Lab,
    ) -> Result<()> {
        let swaps = self.params.swaps.0;
        let mut others = vec![embeddings.baseline.clone()];
        others.extend(self.swaps(run, lab)?);
        let mut rows = Vec::with_capacity(others.len() * run.tokens.len());
        for values in &others {
            for position in 0..run.tokens.len() {
                let patch = put(position, values.get(position)?)?;
                rows.push(PassRow::patched(vec![patch]));
            }
        }
        let read = lab.run(&Pass {
            rows,
            ..Pass::after(run.clone(), Output::tokens(&self.target.tokens()))
        })?;
        let lost: Vec<f64> = read
            .iter()
            .map(|row| found.value - self.value(row.last()))
            .collect();
        let mut each = lost.chunks(run.tokens.len());
        found.erased = each.next().unwrap_or_default().to_vec();
        found.swapped = vec![0.0; run.tokens.len()];
        for own in each {
            let sums = found.swapped.iter_mut().zip(own);
            sums.for_each(|(sum, lost)| *sum += lost / swaps as f64);
        }
        Ok(())
    }

    /// The scalar as a row of the output has it.
    fn value(&self, stats: &RowStats) -> f64 {
        let logit = |token: u32| f64::from(stats.token(token).logit);
        match (self.target.minus, self.params.of) {
            (Some(minus), _) => logit(self.target.token) - logit(minus),
            (None, SaliencyOf::LogProbability) => logit(self.target.token) - stats.total,
            (None, SaliencyOf::Logit) => logit(self.target.token),
        }
    }
}

/// A point of the way, from the gradient that was taken there.
fn point(share: f64, row: &Capture, embeddings: &Embeddings) -> Result<PathPoint> {
    let own = row.gradient.as_ref();
    let own = own.ok_or_else(|| Error::Engine("a pass without its gradient".into()))?;
    let slopes = products(own.get(Site::Embed.at(0))?, &embeddings.difference()?)?;
    Ok(PathPoint {
        share,
        scalar: f64::from(own.scalar),
        slopes: slopes.iter().all(|x| x.is_finite()).then_some(slopes),
    })
}

/// `Σ_d a_id b_id` of every row.
fn products(a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
    let sums = (a * b)?.to_dtype(DType::F64)?.sum(D::Minus1)?;
    Ok(sums.host_vec1()?)
}

/// The tokens that are words: special ones stand in no text, and the one that begins it is a sink in some models, of a norm of
/// its own.
fn words(model: &Model) -> Vec<u32> {
    let tokenizer = model.tokenizer.as_ref();
    let special = |id: &u32| tokenizer.is_some_and(|t| t.is_special(*id));
    let known = 0..model.known_tokens() as u32;
    known.filter(|id| !special(id)).collect()
}

/// One word a position, drawn by the run's seed and the number of the draw; never the one that stands there.
fn random_words(run: &Run, draw: usize, words: &[u32]) -> Result<Vec<u32>> {
    let word = |(position, own): (usize, &u32)| {
        let seed = Fingerprint::of([run.seed, draw as u64, position as u64]);
        let mut rng = StdRng::seed_from_u64(seed);
        let drawn = rng.random_range(0..words.len());
        if words[drawn] == *own {
            words[(drawn + 1) % words.len()]
        } else {
            words[drawn]
        }
    };
    if words.is_empty() {
        return Err(Error::Engine("a tokenizer without words".into()));
    }
    Ok(run.tokens.iter().enumerate().map(word).collect())
}

/// The mean row of the embedding table as it enters the stream, kept for the next figure.
#[derive(Default)]
struct MeanEmbedding(OnceCell<Vec<f32>>);

fn mean_embedding(lab: &mut Lab) -> Result<Vec<f32>> {
    let held = lab.derived::<MeanEmbedding>();
    if let Some(mean) = held.0.get() {
        return Ok(mean.clone());
    }
    let mean = mean_of_table(&lab.model)?;
    Ok(held.0.get_or_init(|| mean).clone())
}

fn mean_of_table(model: &Model) -> Result<Vec<f32>> {
    let words = words(model);
    let mut sum = vec![0f64; model.card.d_model];
    for ids in words.chunks(ROWS) {
        let ids = Tensor::new(ids, &model.transformer.device)?;
        let rows = model.transformer.embed_tokens(&ids)?.to_dtype(DType::F64)?;
        let own: Vec<f64> = rows.sum(0)?.host_vec1()?;
        sum.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
    }
    let count = words.len().max(1) as f64;
    Ok(sum.iter().map(|sum| (sum / count) as f32).collect())
}
