//! Curves over source layers, one for each target layer: the probability of the first token, or of watched tokens.
//!
//! Invariant: the unpatched target's value is shown as a level curve, so that no patched value is read without it.

use super::plan::{PatchscopePlan, spelled};
use super::sweep::{self, DecodedText};
use super::table::{anchor, controls};
use crate::edit::receipt::{mean, range};
use crate::error::Result;
use crate::figure::{Anchor, AxisLabel, Curve, Scale, Series, Style};
use crate::instruments::Draft;
use crate::lab::Lab;

/// One curve for each target layer, or a single one if every source layer has its own target layer; a pair that was not
/// measured is a gap.
pub(super) fn over(
    plan: &PatchscopePlan,
    name: &str,
    value: &dyn Fn(usize) -> Option<f32>,
) -> Vec<Curve> {
    let curve = |label: String, target: Option<i32>| {
        let at = |source: &i32| {
            let fits = |p: &(i32, i32)| p.0 == *source && target.is_none_or(|t| t == p.1);
            let pair = plan.pairs.iter().position(fits);
            pair.and_then(value).unwrap_or(f32::NAN)
        };
        let values = plan.layers.iter().map(at).collect();
        Curve::of(label, Anchor::default(), values)
    };
    if plan.pairs.len() <= plan.layers.len() {
        return vec![curve(name.into(), None)];
    }
    let targets = plan.targets().into_iter();
    targets
        .map(|t| curve(format!("{name}, into {}", spelled(t)), Some(t)))
        .collect()
}

/// A curve with the same value at every source layer.
pub(super) fn flat(plan: &PatchscopePlan, name: &str, value: f32) -> Curve {
    Curve::of(name, Anchor::default(), vec![value; plan.layers.len()])
}

/// A figure of curves over the plan's source layers; `place` says which source position they belong to.
pub(super) fn body(
    plan: &PatchscopePlan,
    place: Anchor,
    value: &str,
    curves: Vec<Curve>,
) -> Series {
    let point = |layer: &i32| {
        let layer_of = u16::try_from(*layer).ok();
        let anchor = Anchor {
            layer: layer_of,
            ..place
        };
        AxisLabel::of(spelled(*layer), anchor)
    };
    let points = plan.layers.iter().map(point).collect();
    Series {
        scale: Scale::Unit,
        ..Series::of("source layer", value, points, curves, Style::Lines)
    }
}

/// The curves and their notes.
pub(super) fn draw(plan: &PatchscopePlan, lab: &mut Lab) -> Result<Draft> {
    let mut sources = plan.sources.clone();
    let several = plan.sources.len() > 1;
    let names: Vec<String> = if several {
        sources.iter().map(|s| s.label.clone()).collect()
    } else {
        vec!["patched".into()]
    };
    let mut beside = Vec::new();
    for source in &plan.sources {
        for control in controls(plan, source, lab)? {
            let name = if several {
                format!("{}: {}", control.name, source.label)
            } else {
                control.name.into()
            };
            let first = sources.len();
            sources.extend(control.draws.iter().cloned());
            beside.push((name, first, control));
        }
    }
    let found = sweep::all(plan, &sources, lab)?;
    let mut curves = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let p = |pair: usize| {
            found.continuations[i]
                .get(pair)?
                .as_ref()
                .map(DecodedText::probability)
        };
        curves.extend(over(plan, name, &p));
    }
    for (name, first, control) in &beside {
        let drawn = |pair: usize| control.probabilities(&found, *first, pair);
        let of_all = |pair: usize| range(&drawn(pair)).map(|_| mean(&drawn(pair)));
        curves.extend(over(plan, name, &of_all));
        if control.draws.len() > 1 {
            let most = |pair: usize| range(&drawn(pair)).map(|(_, most)| most);
            curves.extend(over(plan, &format!("{name}, highest draw"), &most));
        }
    }
    let source = &plan.sources[0];
    if let Some(target) = found.target(source) {
        curves.push(flat(plan, "unpatched", target.control.probability()));
    }
    let what = match plan.watched.as_slice() {
        [] => {
            "the probability of whatever token comes first, which can differ between layers".into()
        }
        _ => plan.answers(lab),
    };
    let (place, title) = match plan.sources.len() {
        1 => (anchor(source, -1), format!(" · {}", source.label)),
        many => (Anchor::default(), format!(" · {many} sources")),
    };
    Ok(Draft::of(body(plan, place, plan.value(), curves))
        .titled(title)
        .note(format!("curves: {what}"))
        .notes(plan.control_in_words(lab))
        .notes(found.notes(plan, lab)))
}
