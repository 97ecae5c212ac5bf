//! Function vectors: what a few heads write when they have seen examples of a task (Todd et al. 2024, 2310.15213).
//!
//! Mean outputs of every head at the last token of prompts with true examples; by how much each, put into the last token of
//! label-shuffled prompts, raises the probability of the right answer (the average indirect effect); and the sum of what the
//! strongest heads write. Invariants: means and sums are in f64; no bias is added, however many heads are summed, so that
//! `vector(A ∪ B) = vector(A) + vector(B)` for sets apart. To rank heads by something else, write a function that returns
//! [`Effects`].

use super::shots::Ask;
use crate::edit::direction::random_like;
use crate::error::{Error, Result};
use crate::lab::bench::Bench;
use crate::lab::fork::Fork;
use crate::lab::run::Run;
use crate::lab::sample::log_softmax;
use crate::model::Fingerprint;
use crate::model::Model;
use crate::model::network::site::{Address, Site};

/// A head: its layer and its number.
pub type Head = (usize, usize);

/// Mean outputs of heads at the last token.
#[derive(Clone, Debug)]
pub struct HeadMeans {
    /// `z` by layer, the heads one after the other: `[layers][heads * head_dim]`.
    pub values: Vec<Vec<f32>>,
    /// Mean scale of the norm behind attention, by layer; 1 where the family has none.
    pub scales: Vec<f32>,
    /// Width of a head.
    pub width: usize,
}

impl HeadMeans {
    /// Measures prompts, a pass each.
    pub fn measure(bench: &mut Bench, asks: &[Ask]) -> Result<Self> {
        let layers = bench.model.card.layers;
        let wanted: Vec<Address> = (0..layers)
            .flat_map(|l| [Site::Z.at(l), Site::AttnOut.at(l)])
            .collect();
        let mut values = vec![vec![0f64; bench.model.width(Site::Z)]; layers];
        let mut scales = vec![0f64; layers];
        for (done, ask) in asks.iter().enumerate() {
            bench.report(done as f32 / asks.len() as f32)?;
            let fork = bench.fork(&Run::plain(ask.tokens.clone()), &wanted)?;
            for layer in 0..layers {
                let z = fork.value(Site::Z.at(layer));
                values[layer]
                    .iter_mut()
                    .zip(z)
                    .for_each(|(s, v)| *s += f64::from(*v));
                let out = fork.value(Site::AttnOut.at(layer));
                scales[layer] += f64::from(bench.model.transformer.attention_scale(layer, out));
            }
        }
        let count = asks.len().max(1) as f64;
        let mean = |sums: Vec<f64>| sums.into_iter().map(|s| (s / count) as f32).collect();
        Ok(Self {
            values: values.into_iter().map(mean).collect(),
            scales: mean(scales),
            width: bench.model.transformer.blueprint.head_dim,
        })
    }

    /// What heads are at the last token of one run.
    pub fn of_run(bench: &mut Bench, run: &Run) -> Result<Self> {
        let layers = bench.model.card.layers;
        let wanted: Vec<Address> = (0..layers).map(|l| Site::Z.at(l)).collect();
        let fork = bench.fork(run, &wanted)?;
        Ok(Self {
            values: wanted.iter().map(|at| fork.value(*at).to_vec()).collect(),
            scales: vec![1.0; layers],
            width: bench.model.transformer.blueprint.head_dim,
        })
    }

    /// What a head was on average, `[head_dim]`.
    pub fn head(&self, (layer, head): Head) -> &[f32] {
        &self.values[layer][head * self.width..(head + 1) * self.width]
    }

    /// Random vectors of the same lengths, head by head: the null.
    pub fn random_like(&self, seed: u64) -> Self {
        let mut out = self.clone();
        for (layer, values) in out.values.iter_mut().enumerate() {
            for (head, value) in values.chunks_exact_mut(self.width).enumerate() {
                let mut hash = Fingerprint::default();
                [seed, layer as u64, head as u64]
                    .iter()
                    .for_each(|n| hash.write(&n.to_le_bytes()));
                value.copy_from_slice(&random_like(value, hash.finish()));
            }
        }
        out
    }
}

/// What heads do for an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Effects {
    /// Mean change of the answer's probability, `[layers][heads]`.
    pub values: Vec<Vec<f64>>,
    /// Mean probability of the answer without a change.
    pub base: f64,
    /// Over how many prompts.
    pub prompts: usize,
}

impl Effects {
    /// The average indirect effect of every head: its mean put into the last token of prompts that do not show the task,
    /// `p(answer | z.layer.head := mean) − p(answer)`, averaged.
    pub fn indirect(bench: &mut Bench, asks: &[Ask], means: &HeadMeans) -> Result<Self> {
        let mut total = Self::none(bench);
        for (done, ask) in asks.iter().enumerate() {
            bench.report(done as f32 / asks.len() as f32)?;
            let run = Run::plain(ask.tokens.clone());
            total.add(&Self::of(bench, &run, ask.answer, |head| {
                means.head(head).to_vec()
            })?);
        }
        Ok(total.averaged())
    }

    /// The average indirect effect of one head.
    pub fn at(
        bench: &mut Bench,
        asks: &[Ask],
        means: &HeadMeans,
        (layer, head): Head,
    ) -> Result<f64> {
        let at = Site::Z.at(layer);
        let mut sum = 0.0;
        for (done, ask) in asks.iter().enumerate() {
            bench.report(done as f32 / asks.len() as f32)?;
            let mut fork = bench.fork(&Run::plain(ask.tokens.clone()), &[at])?;
            let base = probability(&fork.logits, ask.answer);
            let branch = put(fork.value(at), head, means.head((layer, head)));
            sum += changes(bench, &mut fork, &[(at, branch)], ask.answer, base)?[0];
        }
        Ok(sum / asks.len().max(1) as f64)
    }

    /// What one run's answer loses or wins when each head's output at its last token is put to `value`, `[head_dim]`.
    pub fn of(
        bench: &mut Bench,
        run: &Run,
        answer: u32,
        value: impl Fn(Head) -> Vec<f32>,
    ) -> Result<Self> {
        let (layers, heads) = (bench.model.card.layers, bench.model.card.heads);
        let wanted: Vec<Address> = (0..layers).map(|l| Site::Z.at(l)).collect();
        let mut fork = bench.fork(run, &wanted)?;
        let mut out = Self::none(bench);
        out.base = probability(&fork.logits, answer);
        out.prompts = 1;
        for layer in 0..layers {
            let at = Site::Z.at(layer);
            let branches: Vec<(Address, Vec<f32>)> = (0..heads)
                .map(|head| (at, put(fork.value(at), head, &value((layer, head)))))
                .collect();
            out.values[layer] = changes(bench, &mut fork, &branches, answer, out.base)?;
        }
        Ok(out)
    }

    fn none(bench: &Bench) -> Self {
        let card = &bench.model.card;
        Self {
            values: vec![vec![0.0; card.heads]; card.layers],
            base: 0.0,
            prompts: 0,
        }
    }

    fn add(&mut self, other: &Self) {
        for (sums, more) in self.values.iter_mut().zip(&other.values) {
            sums.iter_mut().zip(more).for_each(|(s, m)| *s += m);
        }
        self.base += other.base;
        self.prompts += other.prompts;
    }

    fn averaged(mut self) -> Self {
        let count = self.prompts.max(1) as f64;
        self.values.iter_mut().flatten().for_each(|v| *v /= count);
        self.base /= count;
        self
    }

    /// The heads with the largest effects, strongest first; equal ones in the order of layers and heads.
    pub fn top(&self, count: usize) -> Vec<(Head, f64)> {
        let rows = self.values.iter().enumerate();
        let mut all: Vec<(Head, f64)> = rows
            .flat_map(|(layer, row)| row.iter().enumerate().map(move |(h, v)| ((layer, h), *v)))
            .collect();
        all.retain(|(_, v)| v.is_finite());
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all.truncate(count);
        all
    }
}

/// All heads' outputs with one of them put to `value`.
fn put(z: &[f32], head: usize, value: &[f32]) -> Vec<f32> {
    let mut z = z.to_vec();
    z[head * value.len()..(head + 1) * value.len()].copy_from_slice(value);
    z
}

fn changes(
    bench: &Bench,
    fork: &mut Fork,
    branches: &[(Address, Vec<f32>)],
    answer: u32,
    base: f64,
) -> Result<Vec<f64>> {
    let rows = fork.branches(bench, branches)?;
    Ok(rows
        .iter()
        .map(|row| probability(row, answer) - base)
        .collect())
}

/// The probability of a token under a row of logits.
pub(crate) fn probability(logits: &[f32], token: u32) -> f64 {
    let mut row = logits.to_vec();
    log_softmax(&mut row);
    f64::from(row[token as usize]).exp()
}

/// The sum of what heads write at their means, as it is added to the stream: `Σ W_O ā`, without a bias; where the family
/// norms what attention writes, through that norm's gain and its mean scale over the prompts, and times the residual
/// multiplier. Refused where the stream itself is normed.
pub fn assemble(model: &Model, means: &HeadMeans, heads: &[Head]) -> Result<Vec<f32>> {
    let transformer = &model.transformer;
    transformer.check_head_writes()?;
    if heads.is_empty() {
        return Err(Error::argument("heads", "0", "at least one head"));
    }
    let mut sum = vec![0f64; model.card.d_model];
    for (layer, head) in heads {
        let written = transformer.head_write(*layer, *head, means.head((*layer, *head)))?;
        let added = transformer.head_added(*layer, &written, means.scales[*layer])?;
        sum.iter_mut()
            .zip(added)
            .for_each(|(s, v)| *s += f64::from(v));
    }
    Ok(sum.into_iter().map(|v| v as f32).collect())
}
