//! A list of prompts in tokens, with the positions that are read and the tokens of the answers.
//!
//! Invariant: nothing is measured before the whole list was read and placed. To know something else of a prompt, add a field to
//! [`PlacedText`].

use std::path::PathBuf;
use std::time::Duration;

use super::numbers::PromptPlace;
use super::parameters::{PromptPositions, PromptsAsked};
use crate::edit::positions::Positions;
use crate::error::{Error, Result};
use crate::instruments::params::ParameterValue;
use crate::lab::Lab;
use crate::lab::list_cost::{ListCost, SLACK};
use crate::lab::pairs::span_of;
use crate::lab::prompt_list::{self, ListedPrompt, PositionRole, in_list};
use crate::lab::target::{cut_to_first, first_token};
use crate::model::Fingerprint;

/// The shortest beginning that is read once for several prompts, in tokens.
const WORTH_SHARING: usize = 16;

/// A prompt in tokens.
pub struct PlacedText {
    pub prompt: ListedPrompt,
    pub tokens: Vec<u32>,
    /// The positions that are read, ascending; at least one.
    pub positions: Vec<usize>,
    /// The first token of the answer.
    pub answer: Option<u32>,
    /// Those of the alternatives.
    pub alternatives: Vec<u32>,
}

/// A list of prompts in tokens.
pub struct PlacedList {
    pub file: PathBuf,
    pub texts: Vec<PlacedText>,
}

impl PlacedText {
    /// One of its positions, as a method is asked about it.
    pub(super) fn place(&self, position: usize) -> PromptPlace {
        PromptPlace {
            position,
            window: self.tokens.len() - self.positions[0],
            answer: self.answer,
            alternatives: self.alternatives.clone(),
            entity: self.prompt.entity.clone(),
        }
    }
}

impl PlacedList {
    /// The list that is asked about; none where none is.
    ///
    /// # Errors
    ///
    /// When it cannot be read, a prompt does not fit the model or has no such position, or some prompts have answers and others have
    /// none.
    pub fn read(asked: &PromptsAsked, lab: &Lab) -> Result<Option<Self>> {
        let Some(file) = &asked.file else {
            return Ok(None);
        };
        let prompts = prompt_list::read(file)?;
        for (what, known) in [
            (
                "answer",
                (|p| p.answer.is_some()) as fn(&ListedPrompt) -> bool,
            ),
            ("alternatives", |p| !p.alternatives.is_empty()),
        ] {
            let lacking = prompts.iter().position(|prompt| !known(prompt));
            if let Some(first) = lacking.filter(|_| prompts.iter().any(known)) {
                let found = format!("its prompt {} has no `{what}`, and others have", first + 1);
                let next = format!("Give every prompt `{what}`, or none.");
                return Err(Error::bad_file(file, found, next));
            }
        }
        let place =
            |(i, prompt)| placed(prompt, asked, lab).map_err(|error| in_list(file, i, error));
        let texts = prompts.into_iter().enumerate().map(place);
        Ok(Some(Self {
            file: file.clone(),
            texts: texts.collect::<Result<_>>()?,
        }))
    }

    /// How many tokens all prompts have.
    pub fn tokens(&self) -> usize {
        self.texts.iter().map(|text| text.tokens.len()).sum()
    }

    /// What it will take, where a prompt of so many tokens took that long.
    pub(super) fn cost(&self, tokens: usize, took: Duration, memory: u64) -> ListCost {
        let all = self.tokens();
        // What a prompt takes grows with its length, or does not: the larger of both, and half as much again for other work on the machine.
        let alike = self.texts.len() as f64;
        let by_length = all as f64 / tokens.max(1) as f64;
        ListCost {
            what: "prompt",
            count: self.texts.len(),
            tokens: all,
            time: took.mul_f64(SLACK * alike.max(by_length)),
            memory,
            keeps: true,
        }
    }

    /// The beginning of a prompt that one of its neighbours shares, where it is worth being read once: the longest that leaves both a
    /// token.
    pub(super) fn shared_prefix(&self, index: usize) -> &[u32] {
        let own = &self.texts[index].tokens;
        let neighbours = [index.checked_sub(1), Some(index + 1)];
        let neighbours = neighbours.into_iter().flatten();
        let neighbours = neighbours.filter_map(|i| self.texts.get(i));
        let shared = neighbours.map(|other| {
            let most = own.len().min(other.tokens.len()).saturating_sub(1);
            let pairs = own.iter().zip(&other.tokens).take(most);
            pairs.take_while(|(a, b)| a == b).count()
        });
        let shared = shared.max().filter(|shared| *shared >= WORTH_SHARING);
        &own[..shared.unwrap_or(0)]
    }

    /// Whether it names answers; alternatives.
    pub(super) fn answers(&self) -> (bool, bool) {
        let first = self.texts.first();
        (
            first.is_some_and(|text| text.answer.is_some()),
            first.is_some_and(|text| !text.alternatives.is_empty()),
        )
    }

    /// A digest of everything that is read of it.
    pub(super) fn digest(&self) -> u64 {
        let mut digest = Fingerprint::default();
        for text in &self.texts {
            let counts = [text.tokens.len(), text.positions.len()];
            let numbers = counts.iter().chain(&text.positions).map(|n| *n as u64);
            let tokens = text.tokens.iter().chain(&text.answer);
            let tokens = tokens.chain(&text.alternatives).map(|t| u64::from(*t));
            let all = numbers.chain(tokens);
            all.for_each(|n| digest.write(&n.to_le_bytes()));
        }
        digest.finish()
    }

    /// What is to be said of answers that have several tokens, of which the first alone is looked at.
    pub(super) fn cut_answers(&self, lab: &Lab) -> Option<String> {
        let answers = self
            .texts
            .iter()
            .filter_map(|text| text.prompt.answer.as_deref());
        let cut: Vec<String> = answers
            .flat_map(|answer| cut_to_first("answer", answer, &lab.model))
            .collect();
        let first = cut.first()?;
        Some(format!(
            "{} of {} answers have several tokens, of which the first alone is looked at; {first}",
            cut.len(),
            self.texts.len()
        ))
    }
}

fn placed(prompt: ListedPrompt, asked: &PromptsAsked, lab: &Lab) -> Result<PlacedText> {
    if asked.at == PromptPositions::Role(PositionRole::ResponseMean) {
        // The answer is what is read: nothing is asked about it.
        let text = prompt.response(lab, "at", &asked.at.print())?;
        return Ok(PlacedText {
            positions: text.positions.collect(),
            answer: None,
            alternatives: Vec::new(),
            tokens: text.tokens,
            prompt,
        });
    }
    let text = prompt.tokens(lab, asked.chat)?;
    lab.model.check_prompt(&text.tokens)?;
    if let Some(entity) = &prompt.entity {
        span_of(lab, &text.tokens, "entity", entity)?;
    }
    let positions = match &asked.at {
        PromptPositions::Role(role) => {
            let word = asked.at.print();
            prompt
                .positions(lab, &text, *role, ("at", &word))?
                .collect()
        }
        PromptPositions::Rule(rule) => covered(rule, &text.tokens, lab)?,
    };
    let first = |name: &str, word: &str| first_token(name, word, &lab.model);
    let answer = prompt.answer.as_deref().map(|word| first("answer", word));
    let others = prompt.alternatives.iter();
    let alternatives = others.map(|word| first("alternatives", word));
    Ok(PlacedText {
        positions,
        answer: answer.transpose()?,
        alternatives: alternatives.collect::<Result<_>>()?,
        tokens: text.tokens,
        prompt,
    })
}

/// The positions that a rule covers.
fn covered(rule: &Positions, tokens: &[u32], lab: &Lab) -> Result<Vec<usize>> {
    let bad = |expected: String| Error::argument("at", rule.to_string(), expected);
    match rule.in_prompt(&lab.model.pieces(tokens)) {
        Err(_) => Err(bad("a text that occurs in it, letter for letter".into())),
        Ok(found) if found.is_empty() => Err(bad(format!(
            "a position that it has; it has {} tokens",
            tokens.len()
        ))),
        Ok(found) => Ok(found),
    }
}
