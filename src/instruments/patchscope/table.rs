//! The table: the continuation at every pair of layers, with that of the unpatched target.

use std::sync::Arc;

use super::parameters::{ControlSources, LayerOrEmbedding};
use super::plan::{NoisedStates, PatchscopePlan, StateSource, layer_entry};
use super::sweep::{self, DecodedText, PatchscopeResult, PreparedTarget};
use crate::edit::receipt::{mean, range};
use crate::error::{Error, Result};
use crate::figure::builders::entries;
use crate::figure::{Anchor, Entry, Table, TablePage, TableRow};
use crate::instruments::Draft;
use crate::instruments::patchscope::map::Map;
use crate::lab::Lab;
use crate::lab::pairs::span_of;
use crate::lab::pass::{Pass, PassRow};
use crate::lab::run::Run;
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

/// A control of a source: its column's name, and its states in one or several draws.
pub(super) struct ControlSource {
    pub(super) name: &'static str,
    pub(super) draws: Vec<StateSource>,
}

/// The controls of a source as further sources, each with the name of its column.
pub(super) fn controls(
    plan: &PatchscopePlan,
    source: &StateSource,
    lab: &mut Lab,
) -> Result<Vec<ControlSource>> {
    let (matched, other) = match plan.params.control {
        ControlSources::No => (false, false),
        ControlSources::Matched => (true, false),
        ControlSources::Unrelated => (false, true),
        ControlSources::Both => (true, true),
    };
    let mut out = Vec::new();
    if matched {
        out.push(ControlSource {
            name: "matched",
            draws: noised(plan, source, lab)?,
        });
    }
    if other {
        out.push(ControlSource {
            name: "unrelated",
            draws: vec![unrelated(plan, source, lab)?],
        });
    }
    Ok(out)
}

impl ControlSource {
    /// The probabilities at a pair of layers, of its sources that begin at `first` among all; without those that were not reached.
    pub(super) fn probabilities(
        &self,
        found: &PatchscopeResult,
        first: usize,
        pair: usize,
    ) -> Vec<f32> {
        let own = &found.continuations[first..first + self.draws.len()];
        let texts = own.iter().filter_map(|draw| draw[pair].as_ref());
        texts.map(DecodedText::probability).collect()
    }
}

/// The same states with noise on the entity, in several draws.
fn noised(plan: &PatchscopePlan, source: &StateSource, lab: &mut Lab) -> Result<Vec<StateSource>> {
    let run = Run {
        seed: plan.seed,
        ..source.run.clone()
    };
    let last = source.positions.last().copied().unwrap_or(0);
    let span = match (&plan.params.entity, &plan.key_word) {
        (Some(entity), _) => span_of(lab, &run.tokens, "entity", entity)?,
        (None, Some(word)) => word.clone(),
        (None, None) => lab.word_at(&run, last).start.min(source.positions[0])..last + 1,
    };
    if span.start > source.positions[0] {
        let expected = "a text that stands before the source position, or at it";
        let given = plan.params.entity.clone().unwrap_or_default();
        return Err(Error::argument("entity", given, expected));
    }
    let rows = lab.noised_draws(&run, &span, plan.control_draws())?;
    let captures = lab.run(&Pass {
        rows: rows.into_iter().map(PassRow::patched).collect(),
        from: Some(span.start),
        record: plan.wanted(|(from, _)| from),
        ..Pass::of(run.clone())
    })?;
    let draws = captures.into_iter().enumerate();
    let draws = draws.map(|(draw, states)| StateSource {
        label: "matched".into(),
        noised: Some(NoisedStates {
            first: span.start,
            draw,
            states: Arc::new(states),
        }),
        run: run.clone(),
        ..source.clone()
    });
    Ok(draws.collect())
}

/// The states at the end of an unrelated text, as many as the source has.
fn unrelated(plan: &PatchscopePlan, source: &StateSource, lab: &mut Lab) -> Result<StateSource> {
    let count = source.positions.len();
    let most = plan.sources.iter().map(|s| s.positions.len()).max();
    let run = lab.unrelated(plan.seed, UNRELATED.max(most.unwrap_or(1) + 1))?;
    let last = run.tokens.len();
    Ok(StateSource {
        positions: (last - count.min(last)..last).collect(),
        label: "unrelated".into(),
        noised: None,
        own: false,
        run,
    })
}

/// The value, or a dash if there is none.
pub(super) fn or_dash(value: Option<impl Into<Entry>>) -> Entry {
    value.map_or_else(|| "–".into(), Into::into)
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
    let mut sources = plan.sources.clone();
    // The controls of every source, each with the place of its first draw among all sources.
    let mut beside: Vec<Vec<(usize, ControlSource)>> = Vec::new();
    for source in &plan.sources {
        let mut own = Vec::new();
        for control in controls(plan, source, lab)? {
            let first = sources.len();
            sources.extend(control.draws.iter().cloned());
            own.push((first, control));
        }
        beside.push(own);
    }
    let names: Vec<(&str, bool)> = beside
        .first()
        .into_iter()
        .flatten()
        .map(|(_, control)| (control.name, control.draws.len() > 1))
        .collect();
    let found = sweep::all(plan, &sources, lab)?;
    let affine = match &plan.map {
        Map::Affine(maps) => Some(maps),
        Map::Identity | Map::Norm => None,
    };
    let mut columns = vec!["layer", "into", "patched", "unpatched"];
    columns.extend(names.iter().map(|(name, _)| name));
    columns.push("p first");
    let controlled: Vec<String> = names
        .iter()
        .flat_map(|(name, several)| {
            let highest = several.then(|| format!("most p {name}"));
            std::iter::once(format!("p {name}")).chain(highest)
        })
        .collect();
    if !plan.watched.is_empty() {
        columns.push("p answers");
        columns.extend(controlled.iter().map(String::as_str));
    }
    columns.push("‖h‖ ratio");
    columns.extend(affine.map(|_| "left over"));
    let mut pages = Vec::new();
    for (i, source) in plan.sources.iter().enumerate() {
        let Some(target) = found.target(source) else {
            continue;
        };
        let unpatched = words_in(lab, &target.control.tokens);
        let rows = plan.pairs.iter().zip(&found.continuations[i]).enumerate();
        let rows = rows.filter_map(|(p, ((from, to), continuation))| {
            let continuation = continuation.as_ref()?;
            let mut entries = entries![
                layer_entry(*from),
                layer_entry(*to),
                words_in(lab, &continuation.tokens),
                unpatched.clone(),
            ];
            entries.extend(beside[i].iter().map(|(first, _)| {
                let text = found.continuations[*first][p].as_ref();
                or_dash(text.map(|n| words_in(lab, &n.tokens)))
            }));
            entries.push(continuation.top.first().map_or(0.0, |t| t.1).into());
            if !plan.watched.is_empty() {
                entries.push(continuation.probability().into());
                for (first, control) in &beside[i] {
                    let drawn = control.probabilities(&found, *first, p);
                    let most = range(&drawn).map(|(_, most)| most);
                    entries.push(or_dash(most.map(|_| mean(&drawn))));
                    entries.extend((control.draws.len() > 1).then(|| or_dash(most)));
                }
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
        .notes(plan.control_in_words(lab))
        .notes(fitted)
        .notes(found.notes(plan, lab)))
}
