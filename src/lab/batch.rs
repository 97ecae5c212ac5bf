//! Prompts side by side under one schedule: their next-token logits, and what they go on with.
//!
//! Invariant: a prompt's answer does not depend on its neighbours, but for the rounding of wider products. To add a question
//! about many prompts, say what it wants of them in a [`Pass`].

use std::path::Path;

use super::lab::Lab;
use super::pass::{Logits, Pass, RowCapture};
use super::run::Run;
use super::target::first_token;
use crate::edit::schedule::Schedule;
use crate::error::{Error, Result};

/// What a prompt goes on with, greedily.
#[derive(Clone, Debug, PartialEq)]
pub struct Continuation {
    /// Logits after the prompt, `[vocab]`.
    pub first: Vec<f32>,
    /// The tokens that follow, an end token included.
    pub tokens: Vec<u32>,
}

/// The model's own logits after the last token of every prompt, `[prompts][vocab]`.
///
/// # Errors
///
/// When a prompt does not fit, an edit cannot be applied, or the work was stopped.
pub fn last_logits(
    lab: &mut Lab,
    prompts: &[Vec<u32>],
    schedule: &Schedule,
) -> Result<Vec<Vec<f32>>> {
    let read = lab.run(&Pass {
        logits: Logits::Last(1),
        ..Pass::texts(under(schedule), prompts.iter().cloned())
    })?;
    let last = |mut row: RowCapture| row.logits.pop().unwrap_or_default();
    Ok(read.into_iter().map(last).collect())
}

/// Continues every prompt greedily by at most `count` tokens (one at least), in the order of the prompts.
///
/// # Errors
///
/// As [`last_logits`].
pub fn continuations(
    lab: &mut Lab,
    prompts: &[Vec<u32>],
    schedule: &Schedule,
    count: usize,
) -> Result<Vec<Continuation>> {
    let read = lab.run(&Pass {
        logits: Logits::Last(1),
        tail: count.max(1),
        ..Pass::texts(under(schedule), prompts.iter().cloned())
    })?;
    let continuation = |mut row: RowCapture| Continuation {
        first: row.logits.pop().unwrap_or_default(),
        tokens: row.tail,
    };
    Ok(read.into_iter().map(continuation).collect())
}

/// Nothing yet, under a schedule.
fn under(schedule: &Schedule) -> Run {
    Run {
        schedule: schedule.clone(),
        ..Run::plain(Vec::new())
    }
}

/// How surprising each prompt's continuation is to the unedited model: mean negative log-likelihood a token, nats.
///
/// # Errors
///
/// As [`last_logits`].
pub fn surprise(lab: &mut Lab, prompts: &[Vec<u32>], written: &[Continuation]) -> Result<Vec<f64>> {
    // The last token of a text is predicted and not read.
    let texts: Vec<Vec<u32>> = prompts
        .iter()
        .zip(written)
        .map(|(prompt, c)| [prompt.as_slice(), &c.tokens[..c.tokens.len() - 1]].concat())
        .collect();
    let most = written.iter().map(|c| c.tokens.len()).max().unwrap_or(0);
    let pass = Pass {
        logits: Logits::Last(most),
        ..Pass::texts(Run::default(), texts)
    };
    lab.run_map(&pass, |_, i, row| {
        let tokens = &written[i].tokens;
        let rows = row.log_probs();
        let own = &rows[rows.len() - tokens.len()..];
        let pairs = own.iter().zip(tokens);
        let total: f64 = pairs.map(|(row, t)| -f64::from(row[*t as usize])).sum();
        total / tokens.len() as f64
    })
}

/// The prompts of a file: one a line, empty lines left out.
///
/// # Errors
///
/// When the file cannot be read or holds none.
pub fn read_prompts(path: &Path) -> Result<Vec<String>> {
    let text = crate::file::words(path)?;
    let lines = text.lines().filter(|l| !l.trim().is_empty());
    let prompts: Vec<String> = lines.map(ToString::to_string).collect();
    if prompts.is_empty() {
        return Err(Error::bad_file(
            path,
            "it holds no prompts",
            "Write one prompt a line.",
        ));
    }
    Ok(prompts)
}

/// First tokens of texts separated by `|`, each once, as [`first_token`] reads them; `name` is the parameter, for messages.
///
/// # Errors
///
/// When there is no text, or one without a token that the model has.
pub fn first_tokens(lab: &Lab, name: &str, texts: &str) -> Result<Vec<u32>> {
    let mut out = Vec::new();
    for text in texts.split('|').filter(|t| !t.is_empty()) {
        let first = first_token(name, text, &lab.model)?;
        if !out.contains(&first) {
            out.push(first);
        }
    }
    if out.is_empty() {
        return Err(Error::argument(name, texts, "texts separated by |"));
    }
    Ok(out)
}
