//! The grid: source layers by target layers, coloured by the probability of the first token, or of watched tokens.

use super::plan::{PatchscopePlan, spelled};
use super::sweep;
use super::table::{anchor, controls, title};
use crate::edit::receipt::{mean, range};
use crate::error::{Error, Result};
use crate::figure::{Anchor, AxisLabel, Cell, Grid};
use crate::instruments::Draft;
use crate::lab::Lab;

/// A grid over the plan's pairs of layers; `cell` makes the cell of a pair, or none if the pair was not measured.
pub(super) fn over(
    plan: &PatchscopePlan,
    value: &str,
    cell: impl Fn(Anchor, usize) -> Option<Cell>,
) -> Grid {
    let targets = plan.targets();
    let place =
        |layer: &i32| usize::try_from(*layer).map_or_else(|_| Anchor::default(), Anchor::layer);
    let sources = plan
        .layers
        .iter()
        .map(|l| AxisLabel::of(spelled(*l), place(l)));
    let into = targets
        .iter()
        .map(|l| AxisLabel::of(spelled(*l), Anchor::default()));
    Grid::of(
        ("source layer", sources.collect()),
        ("target layer", into.collect()),
        value,
        |row, column| {
            let (source, target) = (plan.layers[row], targets[column]);
            let anchor = anchor(&plan.sources[0], source);
            let pair = plan.pairs.iter().position(|p| *p == (source, target));
            pair.and_then(|pair| cell(anchor, pair))
                .unwrap_or_else(|| Cell::of("", f32::NAN, anchor))
        },
    )
}

/// The grid and its notes.
pub(super) fn draw(plan: &PatchscopePlan, lab: &mut Lab) -> Result<Draft> {
    let mut sources = vec![plan.sources[0].clone()];
    let mut beside = Vec::new();
    for control in controls(plan, &plan.sources[0], lab)? {
        let first = sources.len();
        sources.extend(control.draws.iter().cloned());
        beside.push((first, control));
    }
    let found = sweep::all(plan, &sources, lab)?;
    let source = &plan.sources[0];
    let target = found
        .target(source)
        .ok_or_else(|| Error::Engine("the target was lost".into()))?;
    let grid = over(plan, plan.value(), |anchor, pair| {
        let continuation = found.continuations[0].get(pair)?.as_ref()?;
        let top = continuation.top.iter();
        let mut more: Vec<(String, f32)> = top.map(|(t, p)| (lab.visible(*t), *p)).collect();
        let label = more.first().map(|m| m.0.clone()).unwrap_or_default();
        let ids = continuation.top.iter().map(|(t, _)| *t).collect();
        let watched = plan.watched.iter().zip(&continuation.watched);
        more.extend(watched.map(|(t, p)| (format!("p {}", lab.visible(*t)), *p)));
        more.push(("‖h‖ ratio".into(), continuation.ratio));
        for (first, control) in &beside {
            let Some(text) = found.continuations[*first].get(pair)?.as_ref() else {
                continue;
            };
            let word = text.top.first();
            let word = word.map_or_else(String::new, |t| lab.visible(t.0));
            let drawn = control.probabilities(&found, *first, pair);
            more.push((format!("{} {word}", control.name), mean(&drawn)));
            if let (true, Some((_, most))) = (drawn.len() > 1, range(&drawn)) {
                more.push((format!("most {}", control.name), most));
            }
        }
        Some(
            Cell::of(label, continuation.probability(), anchor)
                .more(more)
                .ids(ids),
        )
    });
    let control = &target.control;
    let alone = control
        .top
        .first()
        .map_or_else(String::new, |t| format!("{} {:.3}", lab.visible(t.0), t.1));
    let (of, chosen) = if plan.watched.is_empty() {
        ("that token".into(), String::new())
    } else {
        let chosen = format!(", the answers {:.3}", control.probability());
        (plan.answers(lab), chosen)
    };
    let what = format!(
        "{}; each cell: the first generated token, coloured by the probability of {of}; unpatched: {alone}{chosen}",
        title(plan, source, target, lab),
    );
    Ok(Draft::of(grid)
        .titled(format!(" · {}", source.label))
        .note(what)
        .notes(plan.control_in_words(lab))
        .notes(found.notes(plan, lab)))
}
