//! A list of prompts, measured prompt by prompt.
//!
//! Invariant: a prompt's numbers are those of the same command on that prompt alone; a prompt that was not measured to its end has
//! none. To keep something else of a prompt, add a field to [`MeasuredPrompt`] and fill it in `one`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::figure::{MeasuredPrompt, ShownList};
use super::list::{PlacedList, PlacedText};
use super::numbers::{ListAnswers, OverPrompts, PromptNumbers, PromptPart, PromptPlace};
use super::parameters::PromptPositions;
use crate::error::{Error, Result};
use crate::figure::Check;
use crate::instruments::params::ParameterValue;
use crate::instruments::{Draft, Measurement, lines};
use crate::lab::Lab;
use crate::lab::draws::draw_seed;
use crate::lab::list_cost::ListCost;
use crate::lab::prompt_list::PositionRole;
use crate::lab::run::Run;
use crate::lab::spaced_answer::without_space;

/// Measures a list, as far as the user does not stop it.
///
/// # Errors
///
/// When the list does not fit the model or the method, or nothing was measured before the user stopped it.
pub(in crate::instruments) fn over_prompts<M: Measurement>(
    over: &OverPrompts<M::Params>,
    list: &PlacedList,
    params: &M::Params,
    run: &Run,
    lab: &mut Lab,
) -> Result<Draft> {
    if !run.tokens.is_empty() {
        let expected = "either a prompt or a list of prompts, not both";
        return Err(Error::argument("prompts", list.file.display(), expected));
    }
    let asked = (over.asked)(params);
    let answers = answers_of::<M>(over, list, params)?;
    if over.reads == PromptPart::Whole && asked.at != PromptPositions::Role(PositionRole::Last) {
        let expected = "nothing here: whole prompts are read";
        return Err(Error::argument("at", asked.at.print(), expected));
    }
    if let Some(say) = lab.announce {
        let cost = cost::<M>((over, answers), list, params, run, lab)?;
        say(&format!("{}: {cost}", M::NAME));
    }
    let mut parameters = lines::<M>(params);
    parameters.push((
        "digest of prompts".into(),
        format!("{:016x}", list.digest()),
    ));
    let count = list.texts.len();
    let found = lab.trials(run, parameters, count, 1, |lab, range| {
        let each = range.map(|i| {
            lab.share_prefix(list.shared_prefix(i));
            one::<M>((over, answers), (i, &list.texts[i]), params, run, lab)
        });
        each.collect()
    });
    lab.share_prefix(&[]);
    let found = found?;
    let shown = ShownList {
        list,
        found,
        note: over.note,
        order: (over.order)(params),
        reads: over.reads,
        answers,
        asked,
    };
    Ok(shown.draft(run, lab))
}

/// What a list will take: its first prompt is measured to warm up, its second against the clock.
///
/// # Errors
///
/// When these do not fit the method, or the user stops it.
fn cost<M: Measurement>(
    (over, answers): (&OverPrompts<M::Params>, ListAnswers),
    list: &PlacedList,
    params: &M::Params,
    run: &Run,
    lab: &mut Lab,
) -> Result<ListCost> {
    let (mut took, mut tokens) = (Duration::ZERO, 0);
    for (i, text) in list.texts.iter().enumerate().take(2) {
        let began = Instant::now();
        one::<M>((over, answers), (i, text), params, run, lab)?;
        (took, tokens) = (began.elapsed(), text.tokens.len());
    }
    Ok(list.cost(tokens, took, lab.most_memory()))
}

/// Whether the answers of the list are asked about: not where the same is asked of a prompt whatever its answer.
fn answers_of<M: Measurement>(
    over: &OverPrompts<M::Params>,
    list: &PlacedList,
    params: &M::Params,
) -> Result<ListAnswers> {
    let first = list
        .texts
        .first()
        .filter(|_| over.answers == ListAnswers::Asked);
    let Some(place) = first.and_then(|text| Some(text.place(*text.positions.last()?))) else {
        return Ok(over.answers);
    };
    let with = |answer: u32| {
        (over.alone)(
            params,
            &PromptPlace {
                answer: Some(answer),
                ..place.clone()
            },
        )
    };
    Ok(if with(0)? == with(1)? {
        ListAnswers::Overruled
    } else {
        ListAnswers::Asked
    })
}

/// Measures one prompt; where there are edits, beside what it is without them and under their control, of which each prompt has another draw.
fn one<M: Measurement>(
    (over, answers): (&OverPrompts<M::Params>, ListAnswers),
    (index, text): (usize, &PlacedText),
    params: &M::Params,
    run: &Run,
    lab: &mut Lab,
) -> Result<MeasuredPrompt> {
    let whole = Run {
        seed: run.seed,
        ..Run::plain(text.tokens.clone()).under(&run.schedule)
    };
    let edited = !run.schedule.is_idle();
    // With and without edits, the same answer is asked about.
    let pinned = (edited && answers == ListAnswers::Asked).then_some(&whole);
    let (mut numbers, mut check) = alone::<M>(over, text, params, (&whole, pinned), lab)?;
    let (mut receipts, mut controlled) = (Vec::new(), false);
    if edited {
        let plain = Run {
            answers: Some(Arc::new(whole.clone())),
            ..whole.unedited()
        };
        let (without, other) = alone::<M>(over, text, params, (&plain, pinned), lab)?;
        check = check.into_iter().chain(other).reduce(Check::worst);
        let drawn = if lab.control_draws(&whole.schedule, 1)?.count == 0 {
            None
        } else {
            let seed = draw_seed(run.seed, index);
            let control = whole.clone().under(&whole.schedule.control(seed));
            Some(alone::<M>(over, text, params, (&control, pinned), lab)?.0)
        };
        controlled = drawn.is_some();
        numbers = numbers.beside(&without, drawn.as_ref());
        let did = lab.without_progress(|lab| lab.record(&whole, &[]))?;
        receipts.clone_from(&did.receipts);
    }
    let end = text.positions.last().map_or(0, |last| last + 1);
    let answer = text.prompt.answer.as_deref();
    let asked = match answer.filter(|_| answers == ListAnswers::Asked) {
        None => Vec::new(),
        Some(answer) => without_space("answer", answer, &whole.until(end), lab)?,
    };
    Ok(MeasuredPrompt {
        numbers,
        check,
        receipts,
        controlled,
        asked: asked.into_iter().next(),
    })
}

/// The numbers of one prompt under the edits of a run, over its positions; where the list names no answer, about the top prediction of
/// `pinned`, if there is such a run.
fn alone<M: Measurement>(
    over: &OverPrompts<M::Params>,
    text: &PlacedText,
    params: &M::Params,
    (whole, pinned): (&Run, Option<&Run>),
    lab: &mut Lab,
) -> Result<(PromptNumbers, Option<Check>)> {
    let (mut numbers, mut check) = (Vec::new(), None::<Check>);
    let mut before: Option<(M::Params, Run, Draft)> = None;
    for position in &text.positions {
        let mut place = text.place(*position);
        if let (None, Some(pinned)) = (place.answer, pinned) {
            place.answer = Some(lab.top_prediction(&pinned.clone().until(position + 1))?);
        }
        let own = (over.alone)(params, &place)?;
        let until = if M::READS_END {
            whole.clone().until(position + 1)
        } else {
            whole.clone()
        };
        // A figure that shows several positions is measured once.
        let again = before.take().filter(|(p, r, _)| *p == own && *r == until);
        let (own, until, draft) = if let Some(same) = again {
            same
        } else {
            let mut draft = M::measure(&own, &until, lab)?;
            if draft.body.mark_not_finite().0 > 0 {
                draft.check = Some(Check::not_finite());
            }
            (own, until, draft)
        };
        // A method that is a sweep itself shows what it has when it is stopped; of a list that is no prompt.
        if std::mem::take(&mut lab.unfinished.stopped) {
            return Err(Error::Cancelled);
        }
        numbers.push((over.numbers)(params, &draft.body, &place)?);
        check = check.into_iter().chain(draft.check).reduce(Check::worst);
        before = Some((own, until, draft));
    }
    Ok((PromptNumbers::averaged(numbers), check))
}
