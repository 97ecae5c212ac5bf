//! Prompts of equal length side by side under one schedule: their next-token logits, and what they go on with.
//!
//! Invariant: a prompt's answer does not depend on its neighbours, but for the rounding of wider products; prompts whose
//! edits would mean something else for each of them are read one by one. To add a question about many prompts, add a
//! function that walks [`groups`].

use std::path::Path;

use candle_core::Tensor;

use super::apply::{Null, Program};
use super::bench::{Bench, reading};
use super::extend::extend;
use super::run::{Keep, Run, RunTap};
use super::sample::log_softmax;
use super::target::first_token;
use crate::edit::schedule::Schedule;
use crate::error::{Error, Result};
use crate::model::network::cache::Cache;
use crate::model::network::tap::{Phase, Span, Tap};

/// Most prompts of one pass.
const ROWS: usize = 16;

/// What a prompt goes on with, greedily.
#[derive(Clone, Debug, PartialEq)]
pub struct Continuation {
    /// Logits after the prompt, `[vocab]`.
    pub first: Vec<f32>,
    /// The tokens that follow, an end token included.
    pub tokens: Vec<u32>,
}

/// Indices of prompts that may be read together: of equal length, a few at a time; one by one where the edits depend on
/// the tokens of a prompt ([`crate::edit::Edit::reads_prompt`]).
pub fn groups(prompts: &[Vec<u32>], schedule: &Schedule) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|i| prompts[*i].len());
    let most = if schedule.reads_prompt() { 1 } else { ROWS };
    let mut out: Vec<Vec<usize>> = Vec::new();
    for i in order {
        match out.last_mut() {
            Some(group) if group.len() < most && prompts[group[0]].len() == prompts[i].len() => {
                group.push(i);
            }
            _ => out.push(vec![i]),
        }
    }
    out
}

/// The model's own logits after the last token of every prompt, `[prompts][vocab]`.
///
/// # Errors
///
/// When a prompt does not fit, an edit cannot be applied, or the work was stopped.
pub fn last_logits(
    bench: &mut Bench,
    prompts: &[Vec<u32>],
    schedule: &Schedule,
) -> Result<Vec<Vec<f32>>> {
    Ok(continuations(bench, prompts, schedule, 1)?
        .into_iter()
        .map(|c| c.first)
        .collect())
}

/// Continues every prompt greedily by at most `count` tokens (one at least), in the order of the prompts.
///
/// # Errors
///
/// As [`last_logits`].
pub fn continuations(
    bench: &mut Bench,
    prompts: &[Vec<u32>],
    schedule: &Schedule,
    count: usize,
) -> Result<Vec<Continuation>> {
    let mut out: Vec<Option<Continuation>> = vec![None; prompts.len()];
    for group in groups(prompts, schedule) {
        let rows: Vec<&[u32]> = group.iter().map(|i| prompts[*i].as_slice()).collect();
        for (i, found) in group.iter().zip(go_on(bench, &rows, schedule, count)?) {
            out[*i] = Some(found);
        }
    }
    // Every prompt is in exactly one group.
    Ok(out.into_iter().flatten().collect())
}

/// Tokens as `[rows, n]`, from position `start` on.
fn tensor(bench: &Bench, rows: &[Vec<u32>], start: usize) -> Result<Tensor> {
    let parts = rows
        .iter()
        .map(|row| bench.model.tokens(&row[start..]))
        .collect::<Result<Vec<_>>>()?;
    Ok(Tensor::cat(&parts, 0)?)
}

/// Continues prompts of one length together.
fn go_on(
    bench: &mut Bench,
    rows: &[&[u32]],
    schedule: &Schedule,
    count: usize,
) -> Result<Vec<Continuation>> {
    let prompt = rows.first().map_or(0, |row| row.len());
    for row in rows {
        bench.model.check_prompt(row)?;
    }
    let run = Run {
        schedule: schedule.clone(),
        ..Run::plain(rows.first().map(|row| row.to_vec()).unwrap_or_default())
    };
    let mut program = bench.compile(&run, Null::No)?;
    let model = &bench.model;
    // The last token that is chosen need not be read.
    let count = count.clamp(1, model.card.context - prompt + 1);
    let mut cache = model.cache(rows.len())?;
    // The unedited model reads along where a condition asks what it says.
    let mut beside = (program.asks_probability() && count > 1)
        .then(|| model.cache(rows.len()))
        .transpose()?;
    let mut texts: Vec<Vec<u32>> = rows.iter().map(|row| row.to_vec()).collect();
    let mut out: Vec<Continuation> = Vec::new();
    for step in 0..count {
        let total = prompt + step;
        // Other rotary frequencies: the texts are read again.
        if model.transformer.regime(total) != model.transformer.regime(cache.len().max(1)) {
            cache.truncate(0);
        }
        let start = cache.len();
        let span = Span {
            start,
            len: total - start,
            prompt,
            phase: if start == 0 {
                Phase::Prefill
            } else {
                Phase::Decode
            },
        };
        if let Some(beside) = beside.as_mut().filter(|_| step > 0) {
            program.hear(total - 1, &unedited(bench, &texts, prompt, beside)?);
        }
        let mut tap = RunTap::new(&mut program, &[], &[], Keep::All, bench.guard());
        let pass = tensor(bench, &texts, start)?;
        // One token needs no cache.
        let held = (count > 1).then_some(&mut cache);
        let x = model.transformer.trunk(&pass, span, held, &mut tap)?;
        let last = x.narrow(1, span.len - 1, 1)?.contiguous()?;
        tap.begin(Span {
            start: total - 1,
            len: 1,
            ..span
        });
        let (logits, _) = model.transformer.read_out(&last, None, &mut tap)?;
        program.settle()?;
        let logits = logits.squeeze(1)?.to_vec2::<f32>()?;
        for (i, row) in logits.into_iter().enumerate() {
            let best = reading(&row, model.known_tokens(), 1).first().0;
            texts[i].push(best);
            match out.get_mut(i) {
                None => out.push(Continuation {
                    first: row,
                    tokens: vec![best],
                }),
                Some(held) if !ended(bench, &held.tokens) => held.tokens.push(best),
                Some(_) => {}
            }
        }
        if out.iter().all(|c| ended(bench, &c.tokens)) {
            break;
        }
    }
    Ok(out)
}

/// What the unedited model says after texts that one prompt became: log-probabilities of the first, `[vocab]`.
fn unedited(
    bench: &Bench,
    texts: &[Vec<u32>],
    prompt: usize,
    cache: &mut Cache,
) -> Result<Vec<f32>> {
    let mut idle = Program::default();
    let mut tap = RunTap::new(&mut idle, &[], &[], Keep::All, bench.guard());
    let last = extend(&bench.model, texts, prompt, cache, &mut tap)?;
    let (logits, _) = bench.model.transformer.read_out(&last, None, &mut tap)?;
    let mut row = logits.get(0)?.flatten_all()?.to_vec1::<f32>()?;
    log_softmax(&mut row);
    Ok(row)
}

fn ended(bench: &Bench, tokens: &[u32]) -> bool {
    tokens.last().is_some_and(|t| bench.model.is_end(*t))
}

/// How surprising each prompt's continuation is to the unedited model: mean negative log-likelihood a token, nats.
///
/// # Errors
///
/// As [`last_logits`].
pub fn surprise(
    bench: &mut Bench,
    prompts: &[Vec<u32>],
    written: &[Continuation],
) -> Result<Vec<f64>> {
    // The last token of a text is predicted and not read.
    let texts: Vec<Vec<u32>> = prompts
        .iter()
        .zip(written)
        .map(|(prompt, c)| [prompt.as_slice(), &c.tokens[..c.tokens.len() - 1]].concat())
        .collect();
    let mut out = vec![0.0; prompts.len()];
    for group in groups(&texts, &Schedule::none()) {
        let rows: Vec<Vec<u32>> = group.iter().map(|i| texts[*i].clone()).collect();
        let length = rows[0].len();
        let mut idle = Program::default();
        let mut tap = RunTap::new(&mut idle, &[], &[], Keep::All, bench.guard());
        let transformer = &bench.model.transformer;
        let tokens = tensor(bench, &rows, 0)?;
        let x = transformer.trunk(&tokens, Span::prompt(length), None, &mut tap)?;
        for (row, i) in group.iter().enumerate() {
            let tokens = &written[*i].tokens;
            let first = prompts[*i].len() - 1;
            let own = x.narrow(0, row, 1)?.narrow(1, first, tokens.len())?;
            let (logits, _) = transformer.read_out(&own.contiguous()?, None, &mut tap)?;
            let mut logits = logits.squeeze(0)?.to_vec2::<f32>()?;
            let total: f64 = logits
                .iter_mut()
                .zip(tokens)
                .map(|(row, token)| {
                    log_softmax(row);
                    -f64::from(row[*token as usize])
                })
                .sum();
            out[*i] = total / tokens.len() as f64;
        }
    }
    Ok(out)
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
pub fn first_tokens(bench: &Bench, name: &str, texts: &str) -> Result<Vec<u32>> {
    let mut out = Vec::new();
    for text in texts.split('|').filter(|t| !t.is_empty()) {
        let first = first_token(name, text, &bench.model)?;
        if !out.contains(&first) {
            out.push(first);
        }
    }
    if out.is_empty() {
        return Err(Error::argument(name, texts, "texts separated by |"));
    }
    Ok(out)
}
