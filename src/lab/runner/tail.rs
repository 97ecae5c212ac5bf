//! Texts that grow: read on through a cache that is brought to their end, and continued greedily.
//!
//! Invariant: afterwards the cache holds exactly the tokens of the texts that were read. To choose tokens in another way, see
//! [`crate::lab::writer`].

use candle_core::Tensor;

use super::output::read_output;
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::lab::apply::Program;
use crate::lab::readout::{RowRequest, RowStats, Tokens};
use crate::lab::row_programs::RowPrograms;
use crate::lab::tap::{RecordedPositions, RunTap};
use crate::model::Model;
use crate::model::network::cache::Cache;
use crate::model::network::readout::{ReadoutRequest, ReadoutRows};
use crate::model::network::site::Address;
use crate::model::network::tap::{PassPhase, PassSpan, Tap};

/// Tells edits what they wait for before texts are read on.
type ConditionInput<'a> = dyn FnMut(&mut RowPrograms, &[Vec<u32>]) -> Result<()> + 'a;

/// Continues texts greedily from the best token of each by at most `count` tokens, an end token included: what each wrote, and
/// whether it broke off. `listen` is called before every pass.
#[allow(clippy::too_many_arguments)] // each is another part of a text that grows
pub(super) fn go_on(
    model: &Model,
    texts: &mut [Vec<u32>],
    prompt: usize,
    cache: &mut Cache,
    tap: &mut RunTap,
    mut firsts: Vec<Option<u32>>,
    count: usize,
    listen: &mut ConditionInput,
) -> Result<Vec<(Vec<u32>, bool)>> {
    let mut out: Vec<(Vec<u32>, bool)> = vec![(Vec::new(), false); texts.len()];
    let ended = |(written, silent): &(Vec<u32>, bool)| {
        *silent || written.last().is_some_and(|t| model.is_end(*t))
    };
    for step in 1..=count {
        for ((text, out), best) in texts.iter_mut().zip(&mut out).zip(&firsts) {
            // A row without numbers says nothing any more; it is read on with any token beside the others.
            text.push(best.unwrap_or(0));
            if !ended(out) {
                out.1 |= best.is_none();
                out.0.extend(*best);
            }
        }
        if step == count || out.iter().all(ended) {
            break;
        }
        listen(&mut tap.programs, texts)?;
        let x = end_of(model, texts, prompt, cache, tap)?;
        let stats = read_output(model, &x, tap, |_| RowRequest {
            top: 1,
            ..RowRequest::default()
        })?;
        firsts = stats.iter().map(best).collect();
        tap.programs.settle()?;
    }
    Ok(out)
}

/// Brings a cache to the whole text of every row: the stream after their last tokens, `[rows, 1, d_model]`.
///
/// It reads what the cache does not hold: one token as a rule, and all of them when an interrupted pass left it behind, or
/// when the text has just grown into other rotary frequencies ([`crate::model::network::rope::Rope::rope_scaling_regime`]). Texts are of one length.
fn end_of(
    model: &Model,
    texts: &[Vec<u32>],
    prompt: usize,
    cache: &mut Cache,
    tap: &mut RunTap,
) -> Result<Tensor> {
    let transformer = &model.transformer;
    let total = texts[0].len();
    if transformer.rope_scaling_regime(cache.len().max(1)) != transformer.rope_scaling_regime(total)
    {
        cache.truncate(0);
    }
    let start = cache.len();
    let len = total - start;
    let phase = if start == 0 {
        PassPhase::Prefill
    } else {
        PassPhase::Decode
    };
    let span = PassSpan {
        start,
        len,
        prompt,
        phase,
    };
    let x = transformer.trunk(&tensor(model, texts, start)?, span, Some(cache), tap)?;
    if len == 1 {
        return Ok(x);
    }
    // What follows reads the last position alone.
    tap.begin(PassSpan {
        start: total - 1,
        len: 1,
        ..span
    });
    Ok(x.narrow(1, len - 1, 1)?.contiguous()?)
}

/// States of the first row that are read in the same product with the unembedding as the model's own rows.
pub(crate) struct RowsBeside<'a> {
    /// What the tap has recorded of the last position.
    pub at: &'a [Address],
    /// The model's own rows come first where questions number them.
    pub request: ReadoutRequest<'a>,
    /// Space for logits that are laid out.
    pub space: Vec<f32>,
}

/// Brings a cache to the whole text of every row: logits after them, `[rows, vocab]`.
pub(crate) fn read_on(
    model: &Model,
    texts: &[Vec<u32>],
    prompt: usize,
    cache: &mut Cache,
    tap: &mut RunTap,
) -> Result<Tensor> {
    let x = end_of(model, texts, prompt, cache, tap)?;
    Ok(model.transformer.read_out(&x, tap)?.squeeze(1)?)
}

/// The same, and what states of the first row say in the same product.
pub(crate) fn read_on_beside(
    model: &Model,
    texts: &[Vec<u32>],
    prompt: usize,
    cache: &mut Cache,
    tap: &mut RunTap,
    beside: RowsBeside,
) -> Result<(Tensor, ReadoutRows)> {
    let x = end_of(model, texts, prompt, cache, tap)?;
    let states = beside.at.iter().map(|at| {
        let row = tap.recorded.get(at).ok_or_else(|| Error::Refused {
            address: at.to_string(),
            why: "it was not visited by this pass. Unembed a residual site.".into(),
        })?;
        Ok(row.flatten_all()?)
    });
    let states = Tensor::stack(&states.collect::<Result<Vec<_>>>()?, 0)?;
    let (request, space) = (&beside.request, beside.space);
    let read = model
        .transformer
        .read_out_beside(&x, &states, request, space, tap);
    let (logits, output) = read?;
    Ok((logits.squeeze(1)?, output))
}

/// What the unedited model says of some tokens after the text of the first row, brought there through a cache of its own.
pub(crate) fn unedited(
    lab: &Lab,
    texts: &[Vec<u32>],
    prompt: usize,
    tokens: &[u32],
    cache: &mut Cache,
) -> Result<RowStats> {
    let mut idle = Program::default();
    let mut tap = RunTap::new(
        RowPrograms::all(&mut idle),
        &[],
        &[],
        RecordedPositions::Last,
        lab.guard(),
    );
    let x = end_of(&lab.model, texts, prompt, cache, &mut tap)?;
    let stats = read_output(&lab.model, &x, &mut tap, |_| RowRequest {
        tokens: Tokens::Same(tokens),
        ..RowRequest::default()
    })?;
    Ok(stats.into_iter().next().unwrap_or_default())
}

/// The most probable token; none where the row is no distribution.
pub(super) fn best(row: &RowStats) -> Option<u32> {
    row.top.first().map(|t| t.0)
}

/// Tokens as `[rows, n]`, from position `start` on.
pub(super) fn tensor(model: &Model, texts: &[Vec<u32>], start: usize) -> Result<Tensor> {
    let rows = texts.iter().map(|text| model.tokens(&text[start..]));
    let mut rows = rows.collect::<Result<Vec<_>>>()?;
    if rows.len() == 1 {
        return Ok(rows.remove(0));
    }
    Ok(Tensor::cat(&rows, 0)?)
}
