//! What comes of an edit: to the next token of a text, or to a list of prompts and to what is written after them.
//!
//! Invariant: the outcome without an edit is measured once, by the same passes, and everything is told against it.
//! To measure something else of every trial, add a field to [`SteeringOutcome`].

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::edit::Edit;
use crate::edit::schedule::Schedule;
use crate::error::Result;
use crate::lab::Lab;
use crate::lab::capture::{After, Capture, Output};
use crate::lab::pass::{Pass, PassRow};
use crate::lab::readout::RowStats;
use crate::lab::run::Run;
use crate::model::network::finite::NOT_FINITE;

/// What is tried.
#[derive(Clone, Debug)]
pub enum SteeringTrial {
    /// The text that is there.
    Text(Run),
    /// A list of prompts, under the edits that are there already.
    Prompts(Vec<Vec<u32>>, Schedule),
}

/// What is looked at.
#[derive(Clone, Debug)]
pub struct Trial {
    /// What is tried.
    pub subject: SteeringTrial,
    /// First tokens of the answers.
    pub answers: Vec<u32>,
    /// The answers, as they are looked for in what is written.
    pub looks: Vec<String>,
    /// Whether a success begins with an answer, or contains it anywhere.
    pub begins: bool,
    /// How many tokens are written after every prompt; none where the next one is enough.
    pub tokens: Option<usize>,
}

/// What one pass, or one list of passes, came to; of a list, means over its prompts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SteeringOutcome {
    /// The most probable next token, of a list the commonest.
    pub label: String,
    /// Probability of the answers' first tokens after the last token.
    pub answers: f32,
    /// KL(unedited ‖ edited) after the last token, nats.
    pub kl: f32,
    /// Share of prompts whose continuation says an answer; 0 where nothing is written.
    pub success: f32,
    /// Negative log-likelihood of what is written under the unedited model, nats a token; 0 where nothing is written.
    pub fluency: f32,
    /// Of a list, by prompt: whether its continuation says an answer (1 or 0), or where nothing is written the answers' probability.
    #[serde(default)]
    pub each: Vec<f32>,
    /// The most probable next tokens, for a single text.
    pub top: Vec<(String, f32)>,
}

impl SteeringOutcome {
    /// That of a trial which was not made: numbers that are none.
    pub fn unmeasured() -> Self {
        Self::without_numbers("–")
    }

    /// That of a trial whose numbers are not finite.
    pub fn not_finite() -> Self {
        Self::without_numbers(NOT_FINITE)
    }

    fn without_numbers(label: &str) -> Self {
        Self {
            label: label.into(),
            answers: f32::NAN,
            kl: f32::NAN,
            success: f32::NAN,
            fluency: f32::NAN,
            each: Vec::new(),
            top: Vec::new(),
        }
    }
}

/// What is said after the last token, whole, by prompt.
pub type UneditedLogProbs = Arc<Vec<Vec<RowStats>>>;

impl Trial {
    /// The outcome without another edit, and what others are told against.
    ///
    /// # Errors
    ///
    /// When a prompt does not fit or the work is stopped.
    pub fn unedited(&self, lab: &mut Lab) -> Result<(SteeringOutcome, UneditedLogProbs)> {
        let output = Output {
            tokens: self.answers.clone(),
            ..Output::whole(After::Last(1))
        };
        let read = self.passes(lab, &[None], output)?;
        let (out, rows) = read.into_iter().next().unwrap_or_default();
        if rows.is_empty() {
            // Without edits of the trial's own, that is an edit that was there before.
            return Err(lab.not_finite("Its logits are"));
        }
        Ok((
            out,
            Arc::new(rows.into_iter().map(|said| vec![said]).collect()),
        ))
    }

    /// The outcomes under one more edit each, read side by side.
    ///
    /// # Errors
    ///
    /// As [`Trial::unedited`], and when an edit cannot be applied.
    pub fn under(
        &self,
        lab: &mut Lab,
        edits: &[Edit],
        base: &UneditedLogProbs,
    ) -> Result<Vec<SteeringOutcome>> {
        let output = Output {
            kl: Some(base.clone()),
            ..Output::tokens(&self.answers)
        };
        let edits: Vec<Option<&Edit>> = edits.iter().map(Some).collect();
        let read = self.passes(lab, &edits, output)?.into_iter();
        let told = read.map(|(mut out, rows)| {
            let moved = rows.iter().map(|said| f64::from(said.kl));
            out.kl = (moved.sum::<f64>() / rows.len() as f64) as f32;
            out
        });
        Ok(told.collect())
    }

    /// How many rows of a pass an edit takes.
    pub fn rows(&self) -> usize {
        match &self.subject {
            SteeringTrial::Text(_) => 1,
            SteeringTrial::Prompts(prompts, _) => prompts.len().max(1),
        }
    }

    /// The outcome of every edit, and what is said after the last token of each text; of an edit that is too strong no numbers
    /// and nothing.
    fn passes(
        &self,
        lab: &mut Lab,
        edits: &[Option<&Edit>],
        output: Output,
    ) -> Result<Vec<(SteeringOutcome, Vec<RowStats>)>> {
        let with = |schedule: &Schedule, edit: Option<&Edit>| edit.map(|edit| schedule.and(edit));
        let pass = match &self.subject {
            SteeringTrial::Text(run) => {
                let rows = edits.iter().map(|edit| PassRow {
                    schedule: with(&run.schedule, *edit),
                    ..PassRow::default()
                });
                Pass {
                    rows: rows.collect(),
                    output: Output { top: 5, ..output },
                    ..Pass::of(run.clone())
                }
            }
            SteeringTrial::Prompts(prompts, schedule) => {
                let rows = edits.iter().flat_map(|edit| {
                    let own = with(schedule, *edit);
                    prompts.iter().map(move |prompt| PassRow {
                        tokens: prompt.clone(),
                        schedule: own.clone(),
                        ..PassRow::default()
                    })
                });
                Pass {
                    rows: rows.collect(),
                    tail: self.tokens.unwrap_or(1).max(1),
                    ..Pass::prompts(&[], schedule, output)
                }
            }
        };
        let mut read = lab.run(&pass)?.into_iter();
        let mut out = Vec::with_capacity(edits.len());
        for _ in edits {
            let own: Vec<Capture> = read.by_ref().take(self.rows()).collect();
            out.push(self.outcome(lab, own)?);
        }
        Ok(out)
    }

    /// What the texts of one edit came to.
    fn outcome(
        &self,
        lab: &mut Lab,
        mut texts: Vec<Capture>,
    ) -> Result<(SteeringOutcome, Vec<RowStats>)> {
        if !texts.iter().all(|text| text.is_finite() && !text.silent) {
            return Ok((SteeringOutcome::not_finite(), Vec::new()));
        }
        let mut out = SteeringOutcome::default();
        match &self.subject {
            SteeringTrial::Text(_) => {
                let top = texts.iter().flat_map(|text| &text.last().top);
                out.top = top.map(|(id, p)| (lab.visible(*id), *p)).collect();
                out.label = out.top.first().map(|t| t.0.clone()).unwrap_or_default();
            }
            SteeringTrial::Prompts(prompts, _) => {
                let firsts = texts.iter().filter_map(|c| c.tail.first().copied());
                out.label = commonest(firsts).map_or_else(String::new, |id| lab.visible(id));
                if self.tokens.is_some() {
                    let said = texts
                        .iter()
                        .map(|c| f32::from(u8::from(self.says(lab, &c.tail))));
                    out.each = said.collect();
                    out.success = out.each.iter().sum::<f32>() / texts.len() as f32;
                    let tails: Vec<&[u32]> = texts.iter().map(|c| c.tail.as_slice()).collect();
                    let nats = mean_surprisal(lab, prompts, &tails)?;
                    out.fluency = (nats.iter().sum::<f64>() / nats.len() as f64) as f32;
                }
            }
        }
        let rows: Vec<RowStats> = texts.iter_mut().filter_map(|c| c.output.pop()).collect();
        if out.each.is_empty() && matches!(self.subject, SteeringTrial::Prompts(..)) {
            out.each = rows.iter().map(|row| row.share() as f32).collect();
        }
        let shares = rows.iter().map(RowStats::share);
        out.answers = (shares.sum::<f64>() / rows.len() as f64) as f32;
        Ok((out, rows))
    }

    /// Whether a continuation says one of the answers.
    fn says(&self, lab: &Lab, tokens: &[u32]) -> bool {
        let tokenizer = lab.model.tokenizer.as_ref();
        let said = tokenizer.map(|t| t.text(tokens)).unwrap_or_default();
        self.looks.iter().any(|look| {
            if self.begins {
                said.trim_start().starts_with(look)
            } else {
                said.contains(look)
            }
        })
    }
}

/// How surprising each prompt's continuation is to the unedited model: mean negative log-likelihood a token, nats.
fn mean_surprisal(lab: &mut Lab, prompts: &[Vec<u32>], written: &[&[u32]]) -> Result<Vec<f64>> {
    // The last token of a text is predicted and not read.
    let texts = prompts.iter().zip(written);
    let texts = texts.map(|(prompt, tail)| [prompt, &tail[..tail.len() - 1]].concat());
    let output = Output {
        after: After::Last(written.iter().map(|tail| tail.len()).max().unwrap_or(0)),
        each: written.iter().map(|tail| tail.to_vec()).collect(),
        ..Output::default()
    };
    let pass = Pass {
        output,
        ..Pass::texts(Run::default(), texts)
    };
    let nats = |row: Capture| {
        let own: Vec<_> = row
            .output
            .into_iter()
            .flat_map(|said| said.tokens)
            .collect();
        let total: f64 = own.iter().map(|told| -f64::from(told.logprob)).sum();
        total / own.len() as f64
    };
    Ok(lab.run(&pass)?.into_iter().map(nats).collect())
}

/// The token that occurs most, the smallest of several.
fn commonest(tokens: impl Iterator<Item = u32>) -> Option<u32> {
    let mut counts: HashMap<u32, usize> = HashMap::new();
    tokens.for_each(|t| *counts.entry(t).or_default() += 1);
    let most = counts
        .into_iter()
        .max_by_key(|(t, n)| (*n, std::cmp::Reverse(*t)));
    most.map(|(t, _)| t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commonest_token_wins_and_ties_go_to_the_smallest() {
        assert_eq!(commonest([3, 9, 9, 4].into_iter()), Some(9));
        assert_eq!(commonest([7, 5, 7, 5].into_iter()), Some(5));
        assert_eq!(commonest(std::iter::empty()), None);
    }
}
