//! The reason why an edit has not changed a text so far.
//!
//! Invariant: the reason is the first one that applies, in the order: nothing read, not in force, position, phase, condition,
//! place.
//! To add a reason, insert it at its place in that order.

use std::ops::Range;

use super::conditions::ConditionWatch;
use crate::edit::Edit;
use crate::edit::op::UnitChoice;
use crate::model::network::tap::PassPhase;

/// Why an edit has not fired in the `seen` positions of a text read so far.
pub(crate) fn explain_inactive(
    edit: &Edit,
    span: &Range<usize>,
    watch: Option<&ConditionWatch>,
    prompt: usize,
    seen: usize,
) -> String {
    if seen == 0 {
        return "nothing has been read yet".into();
    }
    let inside = |p: &usize| span.contains(p);
    if !(0..seen).any(|p| inside(&p)) {
        return format!(
            "it applies from position {} on, and the text has {seen} tokens so far",
            span.start
        );
    }
    let here = (0..seen).filter(inside);
    let ruled = |p: &usize| edit.positions.covers(*p, prompt);
    if !here.clone().any(|p| ruled(&p)) {
        return format!(
            "its positions ({}) are not among the {seen} of this text, whose prompt has {prompt}",
            edit.positions
        );
    }
    if !here.clone().any(|p| edit.covers(p, prompt)) {
        let phase = match edit.phase {
            Some(PassPhase::Prefill) => "prefill, the prompt",
            Some(PassPhase::Decode) | None => "decode, what is written",
        };
        return format!("its phase is {phase}, and none of its positions is in that phase so far");
    }
    if let Some(watch) = watch {
        return watch.explain_inactive();
    }
    let mentions = edit.op.argument().mentions();
    if let Some(sources) = mentions.sources {
        return format!(
            "none of its positions has any of {sources} before it, within its attention window; a position can always attend to itself"
        );
    }
    match mentions.units {
        Some(UnitChoice::Set(name)) => format!("the set `{name}` has no units at its layers"),
        Some(UnitChoice::Features(_)) => {
            "the activations of its features were already what it makes them, at all of its positions (0 where they are not active)".into()
        }
        Some(UnitChoice::All | UnitChoice::List(_)) | None => {
            "the forward pass did not reach its address".into()
        }
    }
}
