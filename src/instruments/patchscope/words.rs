//! The table: what is written at every pair of layers, beside what the target says by itself.

use super::plan::{Layer, Plan, Source, spelled};
use super::sweep::{self, Found, Prepared};
use crate::error::Result;
use crate::figure::{Anchor, Body, Entry, Page, Row, Table};
use crate::instruments::patchscope::map::Map;
use crate::lab::bench::Bench;
use crate::lab::run::Run;
use crate::text;

/// Fewest tokens of the unrelated text.
const UNRELATED: usize = 12;

/// Tokens as one line of safe visible text.
pub(super) fn spoken(bench: &Bench, ids: &[u32]) -> String {
    let said: Vec<u8> = ids
        .iter()
        .filter(|t| !bench.model.is_end(**t))
        .flat_map(|t| bench.model.bytes(*t))
        .collect();
    if said.is_empty() {
        "⟨ends at once⟩".to_string()
    } else {
        text::plain(&said).replace('\n', "⏎")
    }
}

/// Where a source's state stands: at its place in the user's run, or at its layer alone.
pub(super) fn anchor(source: &Source, layer: Layer) -> Anchor {
    let position = source.positions.last().copied().unwrap_or(0);
    match (usize::try_from(layer), source.own) {
        (Ok(layer), true) => Anchor::cell(layer, position),
        (Ok(layer), false) => Anchor::layer(layer),
        (Err(_), true) => Anchor::position(position),
        (Err(_), false) => Anchor::default(),
    }
}

/// The state of an unrelated text, as another source; nothing where none was asked for.
pub(super) fn unrelated(plan: &Plan, run: &Run, bench: &mut Bench) -> Result<Option<Source>> {
    if !plan.null {
        return Ok(None);
    }
    let count = plan.sources.iter().map(|s| s.positions.len()).max();
    let count = count.unwrap_or(1);
    let run = bench.unrelated(run.seed, UNRELATED.max(count + 1))?;
    let last = run.tokens.len();
    Ok(Some(Source {
        positions: (last - count.min(last)..last).collect(),
        label: "unrelated".into(),
        own: false,
        run,
    }))
}

/// The same for a source of so many tokens: its last ones.
fn ending(null: &Source, count: usize) -> Source {
    let from = null.positions.len().saturating_sub(count);
    Source {
        positions: null.positions[from..].to_vec(),
        ..null.clone()
    }
}

/// The title of a source's page: what is put where.
pub(super) fn title(plan: &Plan, source: &Source, target: &Prepared, bench: &Bench) -> String {
    let slots: Vec<String> = target
        .slots
        .iter()
        .map(|s| bench.visible(target.tokens()[*s]))
        .collect();
    let several = if slots.len() > 1 { "slots" } else { "slot" };
    format!(
        "{} → {several} {} of: {}",
        source.label,
        slots.join(" "),
        text::plain(plan.template.prompt.as_bytes()).replace('\n', "⏎")
    )
}

/// What is said of a slot that is a part of a longer token.
pub(super) fn shared_slot(plan: &Plan, found: &Found, bench: &Bench) -> Option<String> {
    let target = found.prepared.values().find(|t| !t.whole)?;
    let token = target.slots.last().map(|s| target.tokens()[*s])?;
    Some(format!(
        "the slot `{}` is no token of its own: {} was overwritten. Put a space before it, or choose another slot",
        text::plain(plan.template.slot.as_bytes()),
        bench.visible(token)
    ))
}

/// Title, body and notes.
pub(super) fn draw(
    plan: &Plan,
    run: &Run,
    bench: &mut Bench,
) -> Result<(String, Body, Vec<String>)> {
    let null = unrelated(plan, run, bench)?;
    let mut sources = plan.sources.clone();
    let mut counts: Vec<usize> = sources.iter().map(|s| s.positions.len()).collect();
    counts.sort_unstable();
    counts.dedup();
    sources.extend(
        null.iter()
            .flat_map(|n| counts.iter().map(|c| ending(n, *c))),
    );
    let found = sweep::all(plan, &sources, bench)?;
    let affine = match &plan.map {
        Map::Affine(maps) => Some(maps),
        Map::Identity | Map::Norm => None,
    };
    let mut columns = vec!["layer", "into", "patched", "unpatched"];
    columns.extend(null.as_ref().map(|_| "unrelated"));
    columns.push("p first");
    columns.extend((!plan.watched.is_empty()).then_some("p answers"));
    columns.push("‖h‖ ratio");
    columns.extend(affine.map(|_| "left over"));
    let mut pages = Vec::new();
    for (i, source) in plan.sources.iter().enumerate() {
        let Some(target) = found.target(source) else {
            continue;
        };
        let unpatched = spoken(bench, &target.control.tokens);
        let beside = counts.iter().position(|c| *c == source.positions.len());
        let beside = beside.and_then(|c| found.said.get(plan.sources.len() + c));
        let rows = plan.pairs.iter().zip(&found.said[i]).enumerate();
        let rows = rows.filter_map(|(p, ((from, to), said))| {
            let said = said.as_ref()?;
            let mut entries = vec![
                Entry::Text(spelled(*from)),
                Entry::Text(spelled(*to)),
                Entry::Text(spoken(bench, &said.tokens)),
                Entry::Text(unpatched.clone()),
            ];
            if let Some(null) = beside.filter(|_| null.is_some()) {
                let words = null[p].as_ref().map(|n| spoken(bench, &n.tokens));
                entries.push(Entry::Text(words.unwrap_or_else(|| "–".into())));
            }
            let first = said.top.first().map_or(0.0, |t| t.1);
            entries.push(Entry::Number(first));
            if !plan.watched.is_empty() {
                entries.push(Entry::Number(said.p()));
            }
            entries.push(Entry::Number(said.ratio));
            if let Some(maps) = affine {
                let fit = maps.fit(plan.addresses((*from, *to)));
                entries.push(fit.map_or_else(
                    || Entry::Text("–".into()),
                    |f| Entry::Number(f.held_out as f32),
                ));
            }
            Some(Row {
                anchor: anchor(source, *from),
                entries,
            })
        });
        let position = source.positions.last().copied().unwrap_or(0);
        pages.push(Page {
            title: title(plan, source, target, bench),
            anchor: if source.own {
                Anchor::position(position)
            } else {
                Anchor::default()
            },
            rows: rows.collect(),
        });
    }
    let mut notes =
        vec!["‖h‖ ratio: length of the state over the length of what it replaced".into()];
    if null.is_some() {
        notes.push(format!(
            "unrelated: the same with the last token of a text that the model wrote by itself, seed {}",
            run.seed
        ));
    }
    if let (Some(maps), Some(target)) = (affine, plan.pairs.first()) {
        notes.extend(maps.fit(plan.addresses(*target)).map(|f| {
            format!(
                "left over by the first map: {:.3} where it was fitted, {:.3} held out, and {:.3} by the identity",
                f.residual, f.held_out, f.identity
            )
        }));
    }
    notes.extend(shared_slot(plan, &found, bench));
    notes.extend(found.note.clone());
    let columns = columns.into_iter().map(ToString::to_string).collect();
    Ok((String::new(), Body::Table(Table { columns, pages }), notes))
}
