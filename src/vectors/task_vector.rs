//! Vectors from demonstrations: task vectors (Hendel et al. 2023, 2310.15916), the layer average with which function vectors
//! are compared (Todd et al. 2024, 2310.15213), and the choice of a method by name.
//!
//! Invariant: states are measured at `resid_post` of the last token, which predicts the answer, at every layer; means are in
//! f64, and the mean over one prompt is that prompt's state bit for bit.
//! To add a method on demonstrations, add a variant of [`InContext`] and its arm in [`InContext::make`].

use std::fmt;
use std::str::FromStr;

use super::evaluate::Insertion;
use super::few_shot::{FewShotPrompt, Shots};
use super::function_vector::{Effects, Head, HeadMeans, add, assemble, at_the_end, mean, value};
use crate::edit::direction::{Direction, DirectionOrigin};
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::effect::AnswerMeasure;
use crate::lab::run::Run;
use crate::model::network::site::{Address, Site};

/// How a vector is made from demonstrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InContext {
    /// The mean state at the last token of prompts with examples; added to the stream (the baseline of Todd et al. 2024).
    LayerAverage,
    /// The state at the last token of prompts with examples, averaged over a few dummy queries; replaces the state (Hendel et
    /// al. 2023).
    TaskVector,
    /// The sum of the outputs of the heads with the largest effects; added to the stream (Todd et al. 2024).
    FunctionVector,
}

/// Names and descriptions of the methods.
const METHODS: [(&str, InContext, &str); 3] = [
    (
        "layer-average",
        InContext::LayerAverage,
        "layer average (Todd et al. 2024)",
    ),
    (
        "task-vector",
        InContext::TaskVector,
        "task vector (Hendel et al. 2023)",
    ),
    (
        "function-vector",
        InContext::FunctionVector,
        "function vector (Todd et al. 2024)",
    ),
];

/// The prompts, which do not show the task, in which heads are replaced by their means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadRanking {
    /// Examples with permuted labels (Todd et al. 2024).
    Shuffled,
    /// Queries without examples, for tasks that permuted labels do not hide.
    ZeroShot,
}

/// If the mean probability of the answer reaches this, the prompts leave little for heads to restore.
const KNOWN: f64 = 0.8;

/// The sizes of the measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The number of prompts with correct labels, for the means.
    pub trials: usize,
    /// The number of prompts that do not show the task, for the effects of heads.
    pub shuffled: usize,
    pub rank: HeadRanking,
    /// The number of heads in a function vector.
    pub heads: usize,
    /// The number of dummy queries for a task vector.
    pub dummies: usize,
}

impl Default for Recipe {
    /// The numbers in the papers' code.
    fn default() -> Self {
        Self {
            trials: 100,
            shuffled: 25,
            rank: HeadRanking::Shuffled,
            heads: 10,
            dummies: 2,
        }
    }
}

impl InContext {
    /// The names of all methods, for flags.
    pub fn names() -> [&'static str; 3] {
        METHODS.map(|(name, ..)| name)
    }

    /// Whether the method's vectors are added to the state or replace it.
    pub fn insertion(self) -> Insertion {
        match self {
            Self::TaskVector => Insertion::Replace,
            Self::LayerAverage | Self::FunctionVector => Insertion::Add,
        }
    }

    /// Makes a vector for every layer's output. A function vector is the same at all layers.
    pub fn make(self, lab: &mut Lab, shots: &ShotPrompts, recipe: Recipe) -> Result<Direction> {
        let mut notes = vec![format!(
            "{} demonstrations a prompt, seed {}",
            shots.count, shots.seed
        )];
        let (vectors, prompts) = match self {
            Self::LayerAverage => {
                let asks = shots.on(lab).clean(recipe.trials)?;
                (states(lab, &asks)?, asks.len())
            }
            Self::TaskVector => {
                let asks = shots.on(lab).with_dummy_queries(recipe.dummies)?;
                (states(lab, &asks)?, asks.len())
            }
            Self::FunctionVector => {
                lab.model.transformer.check_head_writes()?;
                let asks = shots.on(lab).clean(recipe.trials)?;
                let (corrupt, on) = match recipe.rank {
                    HeadRanking::Shuffled => {
                        (shots.on(lab).shuffled(recipe.shuffled)?, "shuffled prompts")
                    }
                    HeadRanking::ZeroShot => (
                        shots.on(lab).zero_shot(recipe.shuffled)?,
                        "prompts without demonstrations",
                    ),
                };
                let means = HeadMeans::measure(lab, &asks)?;
                let effects = Effects::indirect(lab, &corrupt, &means, AnswerMeasure::Probability)?;
                let chosen = effects.top(recipe.heads);
                let heads: Vec<Head> = chosen.iter().map(|(head, _)| *head).collect();
                let vector = assemble(&lab.model, &means, &heads)?;
                let listed: Vec<String> = chosen
                    .iter()
                    .map(|((layer, head), effect)| format!("{layer}.{head} {}", signed(*effect)))
                    .collect();
                notes.push(format!(
                    "heads (layer.head, average indirect effect over {} {on}, where the answer has probability {:.3}): {}",
                    effects.prompts,
                    effects.base,
                    listed.join(", ")
                ));
                if effects.base > KNOWN {
                    notes.push("WARNING: the prompts that heads were ranked on are answered already, so the ranking says little; rank on prompts that do not show the task".into());
                }
                if lab.model.transformer.norms_writes() {
                    notes.push("this family normalizes the attention output: the vector went through that norm's gain, at its mean scale over the prompts".into());
                }
                (vec![vector; lab.model.card.layers], asks.len())
            }
        };
        let rows = vectors.into_iter().enumerate();
        Ok(Direction {
            rows: rows.map(|(l, v)| (Site::ResidPost.at(l), v)).collect(),
            origin: DirectionOrigin {
                method: self.to_string(),
                positions: "last prompt token".into(),
                prompts: (prompts, 0),
                notes,
                ..DirectionOrigin::of(&lab.model.card)
            },
        })
    }
}

impl fmt::Display for InContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = METHODS.iter().find(|(_, method, _)| method == self);
        f.write_str(row.map_or("", |row| row.2))
    }
}

impl FromStr for InContext {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let row = METHODS.iter().find(|(name, ..)| *name == s);
        row.map(|row| row.1)
            .ok_or_else(|| Error::argument("method", s, Self::names().join(", ")))
    }
}

/// An effect with its sign; small ones in scientific notation.
fn signed(effect: f64) -> String {
    if effect.abs() >= 0.001 {
        format!("{effect:+.3}")
    } else {
        format!("{effect:+.0e}")
    }
}

/// [`Shots`] without the model, for which the lab must be borrowed only while prompts are made.
#[derive(Clone, Copy, Debug)]
pub struct ShotPrompts<'a> {
    pub pairs: &'a [super::few_shot::ShotPair],
    pub layout: &'a super::few_shot::ShotLayout,
    pub query_layout: &'a super::few_shot::ShotLayout,
    pub count: usize,
    pub seed: u64,
}

impl<'a> ShotPrompts<'a> {
    /// The prompts together with the lab's model.
    pub fn on(self, lab: &'a Lab) -> Shots<'a> {
        Shots {
            model: &lab.model,
            pairs: self.pairs,
            layout: self.layout,
            query_layout: self.query_layout,
            count: self.count,
            seed: self.seed,
        }
    }
}

/// The mean of `resid_post` at the last token, by layer: `[layers][d_model]`. One pass for each prompt.
pub fn states(lab: &mut Lab, asks: &[FewShotPrompt]) -> Result<Vec<Vec<f32>>> {
    let layers = lab.model.card.layers;
    let wanted: Vec<Address> = (0..layers).map(|l| Site::ResidPost.at(l)).collect();
    let mut sums = vec![vec![0f64; lab.model.card.d_model]; layers];
    for (done, ask) in asks.iter().enumerate() {
        lab.report(done as f32 / asks.len() as f32)?;
        let read = at_the_end(lab, &Run::plain(ask.tokens.clone()), &wanted)?;
        for (sum, at) in sums.iter_mut().zip(&wanted) {
            add(sum, &value(&read, *at)?);
        }
    }
    let mean = |sum: Vec<f64>| mean(&sum, asks.len());
    Ok(sums.into_iter().map(mean).collect())
}
