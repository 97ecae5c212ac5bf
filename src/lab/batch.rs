//! Prompts side by side under one schedule: their next-token logits, and what they go on with.
//!
//! Invariant: a prompt's answer does not depend on its neighbours, but for the rounding of wider products. To add a question
//! about many prompts, say what it wants of them in a [`Pass`].

use std::path::Path;

use super::capture::{After, Capture, Output};
use super::lab::Lab;
use super::pass::Pass;
use super::readout::Said;
use super::run::Run;
use super::target::first_token;
use crate::edit::schedule::Schedule;
use crate::error::{Error, Result};

/// The model's own output after the last token of every prompt.
///
/// # Errors
///
/// When a prompt does not fit, an edit cannot be applied, or the work was stopped.
pub fn last_of(
    lab: &mut Lab,
    prompts: &[Vec<u32>],
    schedule: &Schedule,
    output: &Output,
) -> Result<Vec<Said>> {
    let read = lab.run(&Pass::prompts(prompts, schedule, output.clone()))?;
    let last = |mut row: Capture| row.output.pop().unwrap_or_default();
    Ok(read.into_iter().map(last).collect())
}

/// How surprising each prompt's continuation is to the unedited model: mean negative log-likelihood a token, nats.
///
/// # Errors
///
/// As [`last_of`].
pub fn surprise(lab: &mut Lab, prompts: &[Vec<u32>], written: &[&[u32]]) -> Result<Vec<f64>> {
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
            "it holds no prompt",
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
