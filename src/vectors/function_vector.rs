//! Function vectors: the summed outputs of a few heads on prompts with examples of a task (Todd et al. 2024, 2310.15213).
//!
//! The method: measure the mean output of every head at the last token of prompts with correct examples; measure the average
//! indirect effect of each head, by how much its mean raises the probability of the correct answer when it replaces the head's
//! output at the last token of label-shuffled prompts; sum the outputs of the heads with the largest effects. Invariants: means
//! and sums are in f64; no bias is added, however many heads are summed, so that `vector(A ∪ B) = vector(A) + vector(B)` for
//! disjoint sets. To rank heads by something else, write a function that returns [`Effects`].

use candle_core::{DType, Tensor};

use super::few_shot::FewShotPrompt;
use crate::edit::direction::random_like;
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::capture::Capture;
use crate::lab::effect::AnswerMeasure;
use crate::lab::pass::{Pass, PassRow, Patch};
use crate::lab::run::Run;
use crate::model::Fingerprint;
use crate::model::Model;
use crate::model::host::ToHost;
use crate::model::network::site::{Address, Site};

/// A head: its layer and its index.
pub type Head = (usize, usize);

/// The mean outputs of all heads at the last token.
#[derive(Clone, Debug)]
pub struct HeadMeans {
    /// `z` by layer, heads concatenated: `[layers][heads * head_dim]`.
    pub values: Vec<Vec<f32>>,
    /// The mean scale of the norm of the attention output, by layer; 1 if the family has no such norm.
    pub scales: Vec<f32>,
    pub width: usize,
}

impl HeadMeans {
    /// Measures the means over prompts, with one pass for each.
    pub fn measure(lab: &mut Lab, asks: &[FewShotPrompt]) -> Result<Self> {
        let layers = lab.model.card.layers;
        let wanted: Vec<Address> = (0..layers)
            .flat_map(|l| [Site::Z.at(l), Site::AttnOut.at(l)])
            .collect();
        let mut values = vec![vec![0f64; lab.model.width(Site::Z)]; layers];
        let mut scales = vec![0f64; layers];
        for (done, ask) in asks.iter().enumerate() {
            lab.report(done as f32 / asks.len() as f32)?;
            let read = at_the_end(lab, &Run::plain(ask.tokens.clone()), &wanted)?;
            for layer in 0..layers {
                add(&mut values[layer], &value(&read, Site::Z.at(layer))?);
                let out = value(&read, Site::AttnOut.at(layer))?;
                scales[layer] += f64::from(lab.model.transformer.attention_scale(layer, &out));
            }
        }
        Ok(Self {
            values: values.iter().map(|sums| mean(sums, asks.len())).collect(),
            scales: mean(&scales, asks.len()),
            width: lab.model.transformer.blueprint.head_dim,
        })
    }

    /// The outputs of heads at the last token of one run.
    pub fn of_run(lab: &mut Lab, run: &Run) -> Result<Self> {
        let layers = lab.model.card.layers;
        let wanted: Vec<Address> = (0..layers).map(|l| Site::Z.at(l)).collect();
        let read = at_the_end(lab, run, &wanted)?;
        let values = wanted.iter().map(|at| value(&read, *at));
        Ok(Self {
            values: values.collect::<Result<_>>()?,
            scales: vec![1.0; layers],
            width: lab.model.transformer.blueprint.head_dim,
        })
    }

    /// The mean output of a head, `[head_dim]`.
    pub fn head(&self, (layer, head): Head) -> &[f32] {
        &self.values[layer][head * self.width..(head + 1) * self.width]
    }

    /// Random vectors with the norm of each head's mean: the control.
    pub fn random_like(&self, seed: u64) -> Self {
        let mut out = self.clone();
        for (layer, values) in out.values.iter_mut().enumerate() {
            for (head, value) in values.chunks_exact_mut(self.width).enumerate() {
                let seed = Fingerprint::of([seed, layer as u64, head as u64]);
                value.copy_from_slice(&random_like(value, seed));
            }
        }
        out
    }
}

/// The effects of heads on an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Effects {
    /// Mean change of what is measured of the answer, `[layers][heads]`.
    pub values: Vec<Vec<f64>>,
    /// Its mean in the unpatched prompts.
    pub base: f64,
    /// The number of prompts averaged over.
    pub prompts: usize,
}

impl Effects {
    /// The average indirect effect of every head: its mean replaces its output at the last token of prompts that do not show
    /// the task, `p(answer | z.layer.head := mean) − p(answer)` or the same of another measure, averaged over the prompts.
    pub fn indirect(
        lab: &mut Lab,
        asks: &[FewShotPrompt],
        means: &HeadMeans,
        measure: AnswerMeasure,
    ) -> Result<Self> {
        let mut total = Self::zeros(lab);
        for (done, ask) in asks.iter().enumerate() {
            lab.report(done as f32 / asks.len() as f32)?;
            let run = Run::plain(ask.tokens.clone());
            let mean = |head| means.head(head).to_vec();
            total.add(&Self::of(lab, &run, (ask.answer, measure), mean)?);
        }
        Ok(total.averaged())
    }

    /// The indirect effects of single heads on each prompt: one list for each head and what is put in the place of its output,
    /// `[head_dim]`.
    pub fn by_prompt(
        lab: &mut Lab,
        asks: &[FewShotPrompt],
        values: &[(Head, Vec<f32>)],
        measure: AnswerMeasure,
    ) -> Result<Vec<Vec<f64>>> {
        let mut out = vec![Vec::with_capacity(asks.len()); values.len()];
        for (done, ask) in asks.iter().enumerate() {
            lab.report(done as f32 / asks.len() as f32)?;
            let run = Run::plain(ask.tokens.clone());
            let (_, changes) = changes(lab, &run, values, (ask.answer, measure))?;
            out.iter_mut()
                .zip(changes)
                .for_each(|(all, own)| all.push(own));
        }
        Ok(out)
    }

    /// The change of what is measured of a run's answer when one head's output at the last token is replaced by `value`,
    /// `[head_dim]`, for every head.
    pub fn of(
        lab: &mut Lab,
        run: &Run,
        answer: (u32, AnswerMeasure),
        value: impl Fn(Head) -> Vec<f32>,
    ) -> Result<Self> {
        let (layers, heads) = (lab.model.card.layers, lab.model.card.heads);
        let all = (0..layers).flat_map(|l| (0..heads).map(move |h| (l, h)));
        let values: Vec<(Head, Vec<f32>)> = all.map(|head| (head, value(head))).collect();
        let (base, changes) = changes(lab, run, &values, answer)?;
        Ok(Self {
            values: changes.chunks(heads).map(<[f64]>::to_vec).collect(),
            base,
            prompts: 1,
        })
    }

    /// The change of what is measured of a run's answer when single heads' outputs at the last token are replaced, one for each entry.
    pub fn of_heads(
        lab: &mut Lab,
        run: &Run,
        answer: (u32, AnswerMeasure),
        values: &[(Head, Vec<f32>)],
    ) -> Result<Vec<f64>> {
        Ok(changes(lab, run, values, answer)?.1)
    }

    /// The heads whose values are largest in size, largest first.
    pub fn strongest(&self, count: usize) -> Vec<Head> {
        let sizes = self
            .values
            .iter()
            .map(|row| row.iter().map(|v| v.abs()).collect());
        let sizes: Vec<Vec<f64>> = sizes.collect();
        highest(&sizes, count)
            .into_iter()
            .map(|(head, _)| head)
            .collect()
    }

    fn zeros(lab: &Lab) -> Self {
        let card = &lab.model.card;
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

    /// The heads with the largest effects, largest first; ties are in the order of layers and heads.
    pub fn top(&self, count: usize) -> Vec<(Head, f64)> {
        highest(&self.values, count)
    }
}

/// A capture of a run's last token.
pub(crate) fn at_the_end(lab: &mut Lab, run: &Run, wanted: &[Address]) -> Result<Capture> {
    lab.run_one(&Pass {
        from: Some(run.tokens.len().saturating_sub(1)),
        record: wanted.to_vec(),
        ..Pass::of(run.clone())
    })
}

/// The values of all heads at a recorded address, concatenated.
pub(crate) fn value(read: &Capture, at: Address) -> Result<Vec<f32>> {
    let value = read.get(at)?.to_dtype(DType::F32)?;
    Ok(value.flatten_all()?.host_vec1()?)
}

/// What is measured of an answer after a run, and its change when the output of each single head at the last token is replaced.
fn changes(
    lab: &mut Lab,
    run: &Run,
    heads: &[(Head, Vec<f32>)],
    (answer, measure): (u32, AnswerMeasure),
) -> Result<(f64, Vec<f64>)> {
    let position = run.tokens.len().saturating_sub(1);
    let device = lab.model.transformer.device.clone();
    let patched = heads.iter().map(|((layer, head), value)| {
        let value = Tensor::new(value.as_slice(), &device)?;
        Ok(PassRow::patched(vec![Patch {
            head: Some(*head),
            ..Patch::new(Site::Z.at(*layer), position, value)
        }]))
    });
    let rows = std::iter::once(Ok(PassRow::default())).chain(patched);
    let pass = Pass {
        rows: rows.collect::<Result<_>>()?,
        from: Some(position),
        ..Pass::after(run.clone(), measure.output(answer))
    };
    let found = lab.run(&pass)?;
    let known = lab.model.known_tokens();
    let value = |row: &Capture| measure.value(answer, row.last(), known);
    let base = value(&found[0]);
    let changes = found[1..].iter().map(|row| value(row) - base);
    Ok((base, changes.collect()))
}

pub(crate) fn add(sums: &mut [f64], numbers: &[f32]) {
    let pairs = sums.iter_mut().zip(numbers);
    pairs.for_each(|(sum, number)| *sum += f64::from(*number));
}

pub(crate) fn mean(sums: &[f64], count: usize) -> Vec<f32> {
    let count = count.max(1) as f64;
    sums.iter().map(|sum| (sum / count) as f32).collect()
}

/// The sum of the heads' mean outputs as added to the stream: `Σ W_O ā`, without a bias. If the family norms the attention
/// output, the sum passes that norm's gain and its mean scale over the prompts, and the residual multiplier. Refused if the
/// family norms the stream itself.
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
        add(&mut sum, &added);
    }
    Ok(sum.into_iter().map(|v| v as f32).collect())
}

/// The heads with the highest finite values, highest first, as layer and head; ties are in the order of layers and heads.
pub fn highest(values: &[Vec<f64>], count: usize) -> Vec<(Head, f64)> {
    let rows = values.iter().enumerate();
    let mut all: Vec<(Head, f64)> = rows
        .flat_map(|(layer, row)| row.iter().enumerate().map(move |(h, v)| ((layer, h), *v)))
        .collect();
    all.retain(|(_, v)| v.is_finite());
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(count);
    all
}
