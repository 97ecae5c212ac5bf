//! The prompts of a contrast in tokens, with the positions whose activations are averaged.
//!
//! Invariant: a prompt has at least one position. To average at other positions, add a variant of
//! [`ContrastPositions`].

use std::collections::HashMap;
use std::fmt;

use candle_core::DType;

use crate::edit::positions::Positions;
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::pass::Pass;
use crate::lab::prompt_list::ListedPrompt;
use crate::lab::run::Run;
use crate::model::host::ToHost;
use crate::model::network::site::Address;

/// The positions of a prompt whose activations are averaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContrastPositions {
    /// Those that a rule covers, as in edits.
    Rule(Positions),
    /// All tokens of the answer that the prompt ends in.
    Response,
}

impl fmt::Display for ContrastPositions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(Positions::Last) => f.write_str("last prompt token"),
            Self::Rule(rule) => write!(f, "{rule}"),
            Self::Response => f.write_str("mean over the tokens of the answer"),
        }
    }
}

/// A prompt of a side, and where in it activations are averaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContrastPrompt {
    pub tokens: Vec<u32>,
    /// The positions that are averaged, at least one.
    pub positions: Vec<usize>,
}

impl ContrastPrompt {
    /// The positions that a rule covers in a text.
    ///
    /// # Errors
    ///
    /// When the text is empty or too long, or the rule covers none of its positions.
    pub fn by_rule(lab: &Lab, tokens: Vec<u32>, rule: &Positions) -> Result<Self> {
        lab.model.check_prompt(&tokens)?;
        let positions = rule.in_prompt(&lab.model.pieces(&tokens))?;
        if positions.is_empty() {
            return Err(Error::argument(
                "positions",
                rule,
                format!("positions that a prompt of {} tokens has", tokens.len()),
            ));
        }
        Ok(Self { tokens, positions })
    }

    /// A prompt of a list, with these of its positions.
    ///
    /// # Errors
    ///
    /// When it cannot be encoded, has no such position, or is asked for its answer and has none.
    pub fn listed(
        lab: &Lab,
        prompt: &ListedPrompt,
        chat: bool,
        positions: &ContrastPositions,
    ) -> Result<Self> {
        match positions {
            ContrastPositions::Rule(rule) => {
                Self::by_rule(lab, prompt.tokens(lab, chat)?.tokens, rule)
            }
            ContrastPositions::Response => Self::response(lab, prompt),
        }
    }

    /// All tokens of the answer that a prompt of a list ends in.
    fn response(lab: &Lab, prompt: &ListedPrompt) -> Result<Self> {
        let placed = prompt.response(lab, "--positions", RESPONSE)?;
        Ok(Self {
            positions: placed.positions.collect(),
            tokens: placed.tokens,
        })
    }
}

/// The word for all tokens of the answer, where positions are asked for.
pub const RESPONSE: &str = "response";

/// The activations of one prompt, averaged over its positions, one row for each layer.
pub(super) fn vectors(
    lab: &mut Lab,
    prompt: &ContrastPrompt,
    wanted: &[Address],
) -> Result<Vec<Vec<f64>>> {
    let run = Run::plain(prompt.tokens.clone());
    let recording = lab.run_one(&Pass {
        record: wanted.to_vec(),
        ..Pass::of(run)
    })?;
    wanted
        .iter()
        .map(|at| {
            let rows = recording.get(*at)?.flatten_from(1)?.to_dtype(DType::F32)?;
            let rows = rows.host_vec2::<f32>()?;
            let share = 1.0 / prompt.positions.len() as f64;
            let mut sum = vec![0f64; rows[0].len()];
            for position in &prompt.positions {
                let row = sum.iter_mut().zip(&rows[*position]);
                row.for_each(|(sum, value)| *sum += f64::from(*value));
            }
            Ok(sum.iter().map(|x| x * share).collect())
        })
        .collect()
}

/// How many prompts two lists have in common, counting repetitions as often as both have them.
pub(super) fn count_in_both(plus: &[ContrastPrompt], minus: &[ContrastPrompt]) -> usize {
    let mut left: HashMap<&[u32], usize> = HashMap::new();
    for prompt in minus {
        *left.entry(&prompt.tokens).or_default() += 1;
    }
    let own = plus.iter().filter(|prompt| {
        let count = left.get_mut(&prompt.tokens[..]).filter(|n| **n > 0);
        count.is_some_and(|n| {
            *n -= 1;
            true
        })
    });
    own.count()
}
