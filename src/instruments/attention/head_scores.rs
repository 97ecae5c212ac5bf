//! Types of attention heads: induction, previous-token, duplicate-token and sink scores (Olsson et al. 2022, 2209.11895; Wang
//! et al. 2023, 2211.00593).
//!
//! A score is the attention that a head's queries pay to the source positions that its type names, averaged over the queries
//! that have such positions. On a token sequence repeated with period P after the begin token, `induction` is the mean of `A[i,
//! i-P+1]` over the second copy and `duplicate` that of `A[i, i-P]`. The same definitions hold on any text. Invariants: the
//! begin token is neither query nor source except for `sink`; sequences are seeded.
//! To add a type, add a variant of [`HeadScore`] and its sources.

use candle_core::DType;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::edit::op::{Op, UnitChoice};
use crate::edit::schedule::Schedule;
use crate::edit::{Edit, EditPlace};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::capture::{After, Output};
use crate::lab::pass::Pass;
use crate::lab::run::Run;
use crate::model::Model;
use crate::model::host::ToHost;
use crate::model::network::site::{Address, Site};
use crate::model::tokenizer::Tokenizer;
use crate::vectors::function_vector::{Head, highest};
use crate::vectors::interval::standard_error;

/// A type of head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadScore {
    /// Attends to the tokens after earlier occurrences of the current token.
    Induction,
    /// Attends to the previous token.
    Previous,
    /// Attends to earlier occurrences of the current token.
    Duplicate,
    /// Attends to the first token of the text.
    Sink,
}

impl HeadScore {
    /// The words for all kinds.
    pub const WORDS: &'static [&'static str] = &["induction", "previous", "duplicate", "sink"];

    pub fn word(self) -> &'static str {
        Self::WORDS[self as usize]
    }

    /// The earlier positions that a head of this type attends to from `query`; `first` is the first position after the begin
    /// token.
    pub fn sources(self, tokens: &[u32], query: usize, first: usize) -> Vec<usize> {
        let before = first..query;
        match self {
            Self::Sink => (0..query.min(1)).collect(),
            _ if query < first => Vec::new(),
            Self::Previous => before.rev().take(1).collect(),
            Self::Duplicate => before.filter(|j| tokens[*j] == tokens[query]).collect(),
            Self::Induction => (first + 1..query)
                .filter(|j| tokens[j - 1] == tokens[query])
                .collect(),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct HeadScores {
    /// `[layers][heads]`.
    pub values: Vec<Vec<f64>>,
    /// Their standard errors over the runs, `[layers][heads]`; not-a-number of a single run.
    pub errors: Vec<Vec<f64>>,
    /// The score of a head with uniform attention, `[layers]`.
    pub uniform: Vec<f64>,
    /// The number of queries averaged over.
    pub queries: usize,
}

/// A token sequence followed by a copy of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repeated {
    /// The begin token, if the model has one, and two equal copies of the sequence.
    pub tokens: Vec<u32>,
    /// The position at which the first copy begins.
    pub first: usize,
    /// The length of one copy, in tokens.
    pub period: usize,
}

impl Repeated {
    /// A random sequence of distinct tokens, none of them special, after the begin token.
    pub fn random(model: &Model, period: usize, seed: u64) -> Result<Self> {
        let tokenizer = model.tokenizer.as_ref();
        let special = |id: &u32| tokenizer.is_some_and(|t| t.is_special(*id));
        let mut known: Vec<u32> = (0..model.known_tokens() as u32).collect();
        known.retain(|id| !special(id));
        known.shuffle(&mut StdRng::seed_from_u64(seed));
        let begin: Vec<u32> = tokenizer.and_then(Tokenizer::bos).into_iter().collect();
        let most = known.len().min((model.card.context - begin.len()) / 2);
        if period > most || period < 2 {
            return Err(Error::argument(
                "period",
                period,
                format!("2 to {most} tokens, so that two copies fit into the context"),
            ));
        }
        known.truncate(period);
        Ok(Self {
            first: begin.len(),
            tokens: [begin, known.clone(), known].concat(),
            period,
        })
    }
}

/// The first position after the begin token, or 0 if the text has none.
pub fn beginning(model: &Model, tokens: &[u32]) -> usize {
    let begin = model.tokenizer.as_ref().and_then(Tokenizer::bos);
    usize::from(begin.is_some() && tokens.first().copied() == begin)
}

impl HeadScores {
    /// Measures one score on some runs, averaged over all their queries. Each run comes with its first position after the begin
    /// token.
    pub fn measure(lab: &mut Lab, score: HeadScore, runs: &[(Run, usize)]) -> Result<Self> {
        let card = &lab.model.card;
        let (layers, heads) = (card.layers, card.heads);
        let wanted: Vec<Address> = (0..layers).map(|l| Site::AttnProbs.at(l)).collect();
        let mut out = Self {
            values: vec![vec![0.0; heads]; layers],
            errors: vec![vec![f64::NAN; heads]; layers],
            uniform: vec![0.0; layers],
            queries: 0,
        };
        // The mean score of each run, `[layers][heads][runs]`.
        let mut each = vec![vec![Vec::with_capacity(runs.len()); heads]; layers];
        for (done, (run, first)) in runs.iter().enumerate() {
            lab.report(done as f32 / runs.len() as f32)?;
            let length = run.tokens.len();
            let read = (0..length).map(|i| score.sources(&run.tokens, i, *first));
            let read: Vec<Vec<usize>> = read.collect();
            let queries = read.iter().filter(|s| !s.is_empty()).count();
            out.queries += queries;
            let slice = lab.attention_layers(length);
            let mut recording = None;
            for (layer, at) in wanted.iter().enumerate() {
                if layer % slice == 0 {
                    let some = &wanted[layer..layers.min(layer + slice)];
                    recording = Some(lab.record(run, some)?);
                }
                let Some(recording) = &recording else {
                    continue;
                };
                let probs = recording.get(*at)?.to_dtype(DType::F32)?;
                let probs: Vec<f32> = probs.flatten_all()?.host_vec1()?;
                let before = out.values[layer].clone();
                let window = lab.model.transformer.blueprint.layers[layer].window;
                for (query, sources) in read.iter().enumerate() {
                    for (head, sum) in out.values[layer].iter_mut().enumerate() {
                        let row = &probs[(head * length + query) * length..][..length];
                        *sum += sources.iter().map(|j| f64::from(row[*j])).sum::<f64>();
                    }
                    let seen = window.map_or(query + 1, |w| w.min(query + 1));
                    let within = sources.iter().filter(|j| **j + seen > query).count();
                    out.uniform[layer] += within as f64 / seen as f64;
                }
                let sums = out.values[layer].iter().zip(before).zip(&mut each[layer]);
                for ((after, before), scores) in sums {
                    scores.push((after - before) / queries.max(1) as f64);
                }
            }
        }
        for (errors, heads) in out.errors.iter_mut().zip(&each) {
            for (error, scores) in errors.iter_mut().zip(heads) {
                *error = standard_error(scores).1;
            }
        }
        let count = out.queries.max(1) as f64;
        out.values.iter_mut().flatten().for_each(|v| *v /= count);
        out.uniform.iter_mut().for_each(|v| *v /= count);
        Ok(out)
    }

    /// The heads with the highest scores, highest first; ties are in the order of layers and heads.
    pub fn top(&self, count: usize) -> Vec<(Head, f64)> {
        highest(&self.values, count)
    }
}

/// How well the model copies a repeated sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CopyScores {
    /// Mean probability of the correct next token within the second copy.
    pub probability: f64,
    /// Share of positions at which the correct next token is the top prediction.
    pub right: f64,
}

/// Edits that set the outputs of some heads to 0 at every position.
pub fn ablation_of(heads: &[Head]) -> Vec<Edit> {
    let mut layers: Vec<usize> = heads.iter().map(|h| h.0).collect();
    layers.sort_unstable();
    layers.dedup();
    let of = |layer: usize| {
        let own = heads.iter().filter(|h| h.0 == layer);
        let heads = UnitChoice::List(own.map(|h| h.1 as u32).collect());
        Edit::new(Op::Zero(heads), EditPlace::At(Site::Z.at(layer)))
    };
    layers.into_iter().map(of).collect()
}

/// As many random heads that are not among `heads`: a control.
pub fn other_heads(lab: &Lab, heads: &[Head], seed: u64) -> Vec<Head> {
    let card = &lab.model.card;
    let all = (0..card.layers).flat_map(|l| (0..card.heads).map(move |h| (l, h)));
    let mut others: Vec<Head> = all.filter(|head| !heads.contains(head)).collect();
    others.shuffle(&mut StdRng::seed_from_u64(seed));
    others.truncate(heads.len());
    others
}

impl CopyScores {
    /// Measures copying under some edits at the tokens of the second copy, except for its first token, which is unpredictable.
    pub fn measure(lab: &mut Lab, texts: &[Repeated], schedule: &Schedule) -> Result<Self> {
        let (mut probability, mut right, mut count) = (0f64, 0usize, 0usize);
        for text in texts {
            let run = Run::plain(text.tokens.clone()).under(schedule);
            let end = text.tokens.len() - 1;
            let output = Output {
                after: After::Each(text.first + text.period..end),
                each: vec![text.tokens[text.first + text.period + 1..].to_vec()],
                ranks: true,
                ..Output::default()
            };
            let read = lab.run_one(&Pass::after(run.until(end), output))?;
            for stats in &read.output {
                probability += stats.share();
                right += usize::from(stats.tokens[0].rank == 0);
                count += 1;
            }
        }
        let count = count.max(1) as f64;
        Ok(Self {
            probability: probability / count,
            right: right as f64 / count,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn kinds_name_the_positions_that_they_read() {
        // A begin token, then the sequence 5 6 7 twice.
        let tokens = [0u32, 5, 6, 7, 5, 6, 7];
        let of = |score: HeadScore, query| score.sources(&tokens, query, 1);
        assert_eq!(
            of(HeadScore::Induction, 4),
            [2],
            "the 6 after the earlier 5"
        );
        assert_eq!(
            of(HeadScore::Induction, 6),
            [4],
            "the 5 after the earlier 7"
        );
        assert_eq!(of(HeadScore::Induction, 3), [0; 0]);
        assert_eq!(of(HeadScore::Duplicate, 5), [2]);
        assert_eq!(of(HeadScore::Previous, 5), [4]);
        assert_eq!(
            of(HeadScore::Previous, 1),
            [0; 0],
            "what begins a text is no text"
        );
        assert_eq!(of(HeadScore::Sink, 3), [0]);
        assert_eq!(of(HeadScore::Sink, 0), [0; 0]);
        assert_eq!(HeadScore::Previous.sources(&tokens, 1, 0), [0]);
        let twice = [3u32, 3, 3];
        assert_eq!(
            HeadScore::Induction.sources(&twice, 2, 0),
            [1],
            "never itself"
        );
        assert_eq!(HeadScore::Duplicate.sources(&twice, 2, 0), [0, 1]);
        for word in HeadScore::WORDS {
            let score = <HeadScore as crate::instruments::params::ParameterValue>::parse(word);
            assert_eq!(score.unwrap().word(), *word);
        }
    }
}
