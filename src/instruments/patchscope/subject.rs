//! What the state at the end of a prompt is about: its own word, or an earlier one.
//!
//! Invariant: it is decided by what the Patchscope decodes, not by how words look. To decide it otherwise, change [`of_the_end`].

use std::ops::Range;

use super::parameters::ControlSources;
use super::plan::{PatchscopePlan, StateSource};
use super::sweep::{self, DecodedText};
use crate::error::Result;
use crate::lab::Lab;
use crate::lab::run::Run;

/// The most pairs of layers at which it is decided.
const PAIRS: usize = 8;
/// The probability below which answers are not what a state decodes to.
const SAID: f32 = 0.05;

/// The word before the last one that the state at the end of a prompt is about: the one on which the model's prediction there depends
/// ([`Lab::key_word`]), unless the state of the last word alone, after the first token of the prompt, decodes to the same (`Japan` in *people in
/// Japan*; `is` in *the capital of Japan is* does not). The same is half of the answers' probability at its best pair; without
/// answers, or where they hardly come, the same first token at half of the pairs.
///
/// None where the source stands elsewhere or is another text, an entity is named, or there is no matched control.
pub(super) fn of_the_end(plan: &PatchscopePlan, lab: &mut Lab) -> Result<Option<Range<usize>>> {
    let matched = matches!(
        plan.params.control,
        ControlSources::Matched | ControlSources::Both
    );
    let own = plan.sources.first().filter(|source| source.own);
    let Some(source) = own.filter(|_| matched && plan.params.entity.is_none()) else {
        return Ok(None);
    };
    let run = &source.run;
    let last = run.tokens.len().saturating_sub(1);
    let own = lab.word_at(run, last);
    if source.positions != [last] || own.start == 0 {
        return Ok(None);
    }
    let best = lab.top_prediction(run)?;
    let Some(key) = lab.key_word(run, &[best])? else {
        return Ok(None);
    };
    let mut tokens = vec![run.tokens[0]];
    tokens.extend(&run.tokens[own]);
    let alone = StateSource {
        positions: vec![tokens.len() - 1],
        own: false,
        run: Run {
            prompt: tokens.len(),
            tokens,
            ..run.clone()
        },
        ..source.clone()
    };
    let step = plan.pairs.len().div_ceil(PAIRS).max(1);
    let pairs: Vec<usize> = (0..plan.pairs.len()).step_by(step).collect();
    let found = sweep::first_tokens(plan, &[source, &alone], &pairs, lab)?;
    let [whole, alone] = found.as_slice() else {
        return Ok(None);
    };
    let most = |all: &[DecodedText]| {
        let each = all.iter().map(DecodedText::probability);
        each.fold(0.0, f32::max)
    };
    let same = if !plan.watched.is_empty() && most(whole) >= SAID {
        most(alone) >= most(whole) / 2.0
    } else {
        let first = |decoded: &DecodedText| decoded.tokens.first().copied();
        let same = whole
            .iter()
            .zip(alone)
            .filter(|(a, b)| first(a) == first(b));
        2 * same.count() >= pairs.len()
    };
    Ok((!same).then_some(key))
}
