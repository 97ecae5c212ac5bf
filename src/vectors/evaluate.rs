//! What a vector is worth: how often queries without examples are answered right when it is put into their last token.
//!
//! Invariant: the layer is chosen on pairs that the vector may have been made from, and what is claimed is counted on pairs
//! that were held out, beside the bare model, a random vector of the same length (another one for every query, seeded), and
//! the model behind examples. Right means: the most probable next token is the first token of the answer.
//! To evaluate by something else, extend [`Accuracy`].

use candle_core::{DType, Tensor};

use super::few_shot::FewShotPrompt;
use crate::edit::direction::{Direction, random_like};
use crate::error::{Error, Result};
use crate::figure::builders::entries;
use crate::figure::{Anchor, Figure, Table, TableRow};
use crate::lab::Lab;
use crate::lab::capture::Output;
use crate::lab::pass::{Pass, PassRow, Patch};
use crate::lab::readout::RowStats;
use crate::lab::run::Run;
use crate::model::Fingerprint;
use crate::model::network::finite::order;
use crate::model::network::site::{Address, Site};

/// Right answers among queries.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Accuracy {
    /// How many were right.
    pub right: usize,
    /// How many were asked.
    pub of: usize,
    /// Sum of the answers' probabilities.
    pub probability: f64,
}

impl Accuracy {
    /// The share of right answers.
    pub fn accuracy(self) -> f64 {
        self.right as f64 / self.of.max(1) as f64
    }

    /// The mean probability of the answer.
    pub fn mean(self) -> f64 {
        self.probability / self.of.max(1) as f64
    }

    /// Counts what was said where the answer was asked about.
    fn count(&mut self, stats: &RowStats, answer: u32) {
        self.right += usize::from(stats.first().0 == answer);
        self.of += 1;
        self.probability += stats.share();
    }
}

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Questions {
    /// Queries alone, of pairs that the layer may be chosen on.
    pub fit: Vec<FewShotPrompt>,
    /// Queries alone, of the pairs that were held out.
    pub held: Vec<FewShotPrompt>,
    /// The held-out queries behind examples.
    pub answered: Vec<FewShotPrompt>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerScore {
    /// The block whose output was changed.
    pub layer: usize,
    /// Accuracy on the pairs that the layer is chosen on.
    pub fit: Accuracy,
    /// Accuracy on the held-out pairs.
    pub held: Accuracy,
    /// Control: accuracy on the held-out pairs with a random vector of the same norm.
    pub random: Accuracy,
}

/// How a vector enters the residual stream of the last token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insertion {
    /// The vector is added to the state.
    Add,
    /// The vector replaces the state.
    Replace,
}

impl Insertion {
    /// The operation of an edit that does it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Replace => "replace",
        }
    }
}

/// What was counted.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskEvaluation {
    /// How the vector entered.
    pub insertion: Insertion,
    pub layers: Vec<LayerScore>,
    /// The held-out queries alone.
    pub bare: Accuracy,
    /// The held-out queries behind demonstrations.
    pub answered: Accuracy,
}

impl TaskEvaluation {
    /// Puts a direction into the last token of every query, at the output of every layer that it has a vector for; a
    /// direction with one vector is tried at all of them.
    pub fn evaluate(
        lab: &mut Lab,
        direction: &Direction,
        insertion: Insertion,
        questions: &Questions,
        seed: u64,
    ) -> Result<Self> {
        let layers = layers_of(direction, lab.model.card.layers)?;
        let vectors = layers
            .iter()
            .map(|l| Ok(direction.at(Site::ResidPost.at(*l))?.to_vec()))
            .collect::<Result<Vec<_>>>()?;
        let width = lab.model.card.d_model;
        if let Some(bad) = vectors.iter().find(|v| v.len() != width) {
            return Err(Error::argument(
                "direction",
                format!("{} numbers", bad.len()),
                format!("{width}, the width of this model"),
            ));
        }
        let unscored = |layer: &usize| LayerScore {
            layer: *layer,
            ..LayerScore::default()
        };
        let mut out = Self {
            insertion,
            layers: layers.iter().map(unscored).collect(),
            bare: Accuracy::default(),
            answered: Accuracy::default(),
        };
        let total = (questions.fit.len() + questions.held.len() + questions.answered.len()) as f32;
        let wanted: Vec<Address> = layers.iter().map(|l| Site::ResidPost.at(*l)).collect();
        for (number, ask) in questions.fit.iter().chain(&questions.held).enumerate() {
            lab.report(number as f32 / total)?;
            let held = number.checked_sub(questions.fit.len());
            let position = ask.tokens.len().saturating_sub(1);
            let own = Pass {
                from: Some(position),
                record: wanted.clone(),
                ..Pass::after(
                    Run::plain(ask.tokens.clone()),
                    Output::tokens(&[ask.answer]),
                )
            };
            let read = lab.run_one(&own)?;
            let put = |at: &Address, vector: &[f32]| -> Result<PassRow> {
                let value = Tensor::new(vector, &lab.model.transformer.device)?;
                let value = match insertion {
                    Insertion::Replace => value,
                    Insertion::Add => {
                        (read.get(*at)?.flatten_all()?.to_dtype(DType::F32)? + value)?
                    }
                };
                Ok(PassRow::patched(vec![Patch::new(*at, position, value)]))
            };
            let mut rows: Vec<PassRow> = wanted
                .iter()
                .zip(&vectors)
                .map(|(at, vector)| put(at, vector))
                .collect::<Result<_>>()?;
            if held.is_some() {
                out.bare.count(read.last(), ask.answer);
                for (at, vector) in wanted.iter().zip(&vectors) {
                    let seed = Fingerprint::of([seed, u64::from(at.layer), number as u64]);
                    rows.push(put(at, &random_like(vector, seed))?);
                }
            }
            let rows = lab.run(&Pass {
                rows,
                record: Vec::new(),
                ..own
            })?;
            let (with, random) = rows.split_at(layers.len());
            for (score, row) in out.layers.iter_mut().zip(with) {
                let side = if held.is_some() {
                    &mut score.held
                } else {
                    &mut score.fit
                };
                side.count(row.last(), ask.answer);
            }
            for (score, row) in out.layers.iter_mut().zip(random) {
                score.random.count(row.last(), ask.answer);
            }
        }
        for (number, ask) in questions.answered.iter().enumerate() {
            lab.report((questions.fit.len() + questions.held.len() + number) as f32 / total)?;
            let run = Run::plain(ask.tokens.clone());
            let stats = lab.last(&run, Output::tokens(&[ask.answer]))?;
            out.answered.count(&stats, ask.answer);
        }
        Ok(out)
    }

    /// The layer with the most right answers among the pairs it is chosen on; of equal ones that with the more probable
    /// answers, then the lowest.
    pub fn best(&self) -> Option<&LayerScore> {
        self.layers.iter().min_by(|a, b| {
            let score = |s: &LayerScore| (s.fit.accuracy(), s.fit.mean());
            let ((hits_a, mean_a), (hits_b, mean_b)) = (score(a), score(b));
            order(hits_b, hits_a).then(order(mean_b, mean_a))
        })
    }

    /// The result at the best layer, in a sentence.
    pub fn sentence(&self) -> String {
        let Some(best) = self.best() else {
            return "no layer was tried".into();
        };
        let behind = if self.answered.of == 0 {
            String::new()
        } else {
            format!(", with demonstrations {:.2}", self.answered.accuracy())
        };
        format!(
            "layer {} chosen on {} pairs (zero-shot accuracy {:.2}); on {} held-out pairs {:.2}, without the vector {:.2}, control: random vectors of its norm {:.2}{behind}",
            best.layer,
            best.fit.of,
            best.fit.accuracy(),
            best.held.of,
            best.held.accuracy(),
            self.bare.accuracy(),
            best.random.accuracy(),
        )
    }

    /// A row a layer.
    pub fn figure(
        &self,
        lab: &Lab,
        name: &str,
        seed: u64,
        parameters: Vec<(String, String)>,
    ) -> Figure {
        let row = |score: &LayerScore| {
            let entries = entries![
                score.layer,
                score.fit.accuracy() as f32,
                score.held.accuracy() as f32,
                score.random.accuracy() as f32,
                score.held.mean() as f32,
                score.random.mean() as f32,
            ];
            TableRow::at(Anchor::layer(score.layer), entries)
        };
        let columns = [
            "layer",
            "chosen on",
            "held out",
            "random",
            "p(answer)",
            "p, random",
        ];
        let run = Run {
            seed,
            ..Run::default()
        };
        Figure {
            title: format!("zero-shot accuracy · {} {name} at the last token of resid_post", self.insertion.name()),
            body: Table::of(&columns, self.layers.iter().map(row).collect()).into(),
            notes: vec![
                self.sentence(),
                "accuracy: how often the top prediction is the first token of the answer; chosen on: the pairs that chose the layer; random: the control, a vector of the same norm, a new one for every query".into(),
            ],
            check: None,
            provenance: lab.provenance(&run, parameters),
        }
    }
}

/// The layers a direction can be tried at.
fn layers_of(direction: &Direction, layers: usize) -> Result<Vec<usize>> {
    if direction.rows.len() == 1 {
        return Ok((0..layers).collect());
    }
    let own: Vec<usize> = direction
        .rows
        .iter()
        .filter(|(at, _)| at.site == Site::ResidPost && usize::from(at.layer) < layers)
        .map(|(at, _)| usize::from(at.layer))
        .collect();
    if own.is_empty() {
        return Err(Error::Refused {
            address: "resid_post.*".into(),
            why: format!(
                "the direction was measured at {}. Evaluate one with a single vector, or with vectors of block outputs.",
                direction.places()
            ),
        });
    }
    Ok(own)
}
