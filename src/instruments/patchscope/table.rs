//! The table: the continuation at every pair of layers, with that of the unpatched target.

use super::parameters::{LayerOrEmbedding, Unrelated};
use super::plan::{PatchscopePlan, StateSource, spelled};
use super::sweep::{self, PreparedTarget};
use crate::error::Result;
use crate::figure::builders::entries;
use crate::figure::{Anchor, Entry, Table, TablePage, TableRow};
use crate::instruments::Draft;
use crate::instruments::patchscope::map::Map;
use crate::lab::Lab;
use crate::text;

/// The shortest unrelated text, in tokens.
const UNRELATED: usize = 12;

/// Tokens as one line of safe visible text.
pub(super) fn words_in(lab: &Lab, ids: &[u32]) -> String {
    let continuation: Vec<u8> = ids
        .iter()
        .filter(|t| !lab.model.is_end(**t))
        .flat_map(|t| lab.model.bytes(*t))
        .collect();
    if continuation.is_empty() {
        "⟨ends at once⟩".to_string()
    } else {
        text::plain(&continuation).replace('\n', "⏎")
    }
}

/// The anchor of a source's state: its position in the user's run, or only its layer for another text.
pub(super) fn anchor(source: &StateSource, layer: LayerOrEmbedding) -> Anchor {
    let position = source.positions.last().copied().unwrap_or(0);
    match (usize::try_from(layer), source.own) {
        (Ok(layer), true) => Anchor::cell(layer, position),
        (Ok(layer), false) => Anchor::layer(layer),
        (Err(_), true) => Anchor::position(position),
        (Err(_), false) => Anchor::default(),
    }
}

/// The state of an unrelated text, as another source; none if the control is off.
pub(super) fn unrelated(plan: &PatchscopePlan, lab: &mut Lab) -> Result<Option<StateSource>> {
    if plan.params.control == Unrelated::No {
        return Ok(None);
    }
    let count = plan.sources.iter().map(|s| s.positions.len()).max();
    let count = count.unwrap_or(1);
    let run = lab.unrelated(plan.seed, UNRELATED.max(count + 1))?;
    let last = run.tokens.len();
    Ok(Some(StateSource {
        positions: (last - count.min(last)..last).collect(),
        label: "unrelated".into(),
        own: false,
        run,
    }))
}

/// The value, or a dash if there is none.
pub(super) fn or_dash(value: Option<impl Into<Entry>>) -> Entry {
    value.map_or_else(|| "–".into(), Into::into)
}

/// The control restricted to its last `count` positions, for sources of that many tokens.
fn ending(control: &StateSource, count: usize) -> StateSource {
    let from = control.positions.len().saturating_sub(count);
    StateSource {
        positions: control.positions[from..].to_vec(),
        ..control.clone()
    }
}

/// The title of a source's page.
pub(super) fn title(
    plan: &PatchscopePlan,
    source: &StateSource,
    target: &PreparedTarget,
    lab: &Lab,
) -> String {
    let several = if target.placeholders.len() > 1 {
        "placeholders"
    } else {
        "placeholder"
    };
    let placeholders = lab.visibles(target.placeholders.iter().map(|s| target.tokens()[*s]));
    let prompt = text::line(&plan.template.prompt);
    format!("{} → {several} {placeholders} of: {prompt}", source.label)
}

/// The table and its notes.
pub(super) fn draw(plan: &PatchscopePlan, lab: &mut Lab) -> Result<Draft> {
    let control = unrelated(plan, lab)?;
    let mut sources = plan.sources.clone();
    let mut counts: Vec<usize> = sources.iter().map(|s| s.positions.len()).collect();
    counts.sort_unstable();
    counts.dedup();
    sources.extend(
        control
            .iter()
            .flat_map(|n| counts.iter().map(|c| ending(n, *c))),
    );
    let found = sweep::all(plan, &sources, lab)?;
    let affine = match &plan.map {
        Map::Affine(maps) => Some(maps),
        Map::Identity | Map::Norm => None,
    };
    let mut columns = vec!["layer", "into", "patched", "unpatched"];
    columns.extend(control.as_ref().map(|_| "unrelated"));
    columns.push("p first");
    columns.extend((!plan.watched.is_empty()).then_some("p answers"));
    columns.push("‖h‖ ratio");
    columns.extend(affine.map(|_| "left over"));
    let mut pages = Vec::new();
    for (i, source) in plan.sources.iter().enumerate() {
        let Some(target) = found.target(source) else {
            continue;
        };
        let unpatched = words_in(lab, &target.control.tokens);
        let beside = counts.iter().position(|c| *c == source.positions.len());
        let beside = beside.and_then(|c| found.continuations.get(plan.sources.len() + c));
        let rows = plan.pairs.iter().zip(&found.continuations[i]).enumerate();
        let rows = rows.filter_map(|(p, ((from, to), continuation))| {
            let continuation = continuation.as_ref()?;
            let mut entries = entries![
                spelled(*from),
                spelled(*to),
                words_in(lab, &continuation.tokens),
                unpatched.clone(),
            ];
            if let Some(control) = beside.filter(|_| control.is_some()) {
                entries.push(or_dash(
                    control[p].as_ref().map(|n| words_in(lab, &n.tokens)),
                ));
            }
            entries.push(continuation.top.first().map_or(0.0, |t| t.1).into());
            if !plan.watched.is_empty() {
                entries.push(continuation.probability().into());
            }
            entries.push(continuation.ratio.into());
            if let Some(maps) = affine {
                let fit = maps.fit(plan.addresses((*from, *to)));
                entries.push(or_dash(fit.map(|f| f.held_out as f32)));
            }
            Some(TableRow::at(anchor(source, *from), entries))
        });
        let title = title(plan, source, target, lab);
        pages.push(TablePage::of(title, anchor(source, -1), rows.collect()));
    }
    let first = affine
        .zip(plan.pairs.first())
        .and_then(|(maps, pair)| maps.fit(plan.addresses(*pair)));
    let fitted = first.map(|f| {
        format!(
            "left over by the first map: {:.3} on the positions it was fitted on, {:.3} on held-out positions; by the identity {:.3}",
            f.residual, f.held_out, f.identity
        )
    });
    Ok(Draft::of(Table::paged(&columns, pages))
        .note("‖h‖ ratio: norm of the source state over the norm of what it replaced")
        .notes(plan.control_in_words())
        .notes(fitted)
        .notes(found.notes(plan, lab)))
}
