//! The grid: source layers by target layers, coloured by the probability of the first token, or of chosen ones.

use super::plan::{Plan, spelled};
use super::sweep;
use super::words::{anchor, shared_slot, title, unrelated};
use crate::error::{Error, Result};
use crate::figure::{Anchor, Body, Cell, Grid, Header, Scale};
use crate::lab::bench::Bench;
use crate::lab::run::Run;

/// Rows and columns of a grid over the plan's pairs, and for every cell the number of its pair.
pub(super) fn frame(plan: &Plan) -> (Vec<Header>, Vec<Header>, Vec<Vec<Option<usize>>>) {
    let mut targets: Vec<i32> = plan.pairs.iter().map(|p| p.1).collect();
    targets.sort_unstable();
    targets.dedup();
    let rows = plan.layers.iter().map(|l| Header {
        label: spelled(*l),
        anchor: usize::try_from(*l).map_or_else(|_| Anchor::default(), Anchor::layer),
    });
    let columns = targets.iter().map(|t| Header {
        label: spelled(*t),
        anchor: Anchor::default(),
    });
    let cells = targets.iter().map(|t| {
        let pair = |s: &i32| plan.pairs.iter().position(|p| p == &(*s, *t));
        plan.layers.iter().map(pair).collect()
    });
    (rows.collect(), columns.collect(), cells.collect())
}

/// Title, body and notes.
pub(super) fn draw(
    plan: &Plan,
    run: &Run,
    bench: &mut Bench,
) -> Result<(String, Body, Vec<String>)> {
    let null = unrelated(plan, run, bench)?;
    let sources: Vec<_> = plan.sources.iter().chain(&null).cloned().collect();
    let found = sweep::all(plan, &sources, bench)?;
    let source = &plan.sources[0];
    let target = found
        .target(source)
        .ok_or_else(|| Error::Engine("the target was lost".into()))?;
    let chosen = !plan.watched.is_empty();
    let (rows, columns, places) = frame(plan);
    let cells = places.iter().map(|column| {
        let cells = column.iter().enumerate().map(|(row, pair)| {
            let anchor = anchor(source, plan.layers[row]);
            let Some((pair, said)) = pair.and_then(|p| Some((p, found.said[0].get(p)?.as_ref()?)))
            else {
                return Cell {
                    anchor,
                    value: f32::NAN,
                    ..Cell::default()
                };
            };
            let top = said.top.iter();
            let mut more: Vec<(String, f32)> = top.map(|(t, p)| (bench.visible(*t), *p)).collect();
            let label = more.first().map(|m| m.0.clone()).unwrap_or_default();
            let watched = plan.watched.iter().zip(&said.watched);
            more.extend(watched.map(|(t, p)| (format!("p {}", bench.visible(*t)), *p)));
            more.push(("‖h‖ ratio".into(), said.ratio));
            if let Some(beside) = found.said.get(1).and_then(|n| n.get(pair)?.as_ref()) {
                let first = beside.top.first();
                let word = first.map_or_else(String::new, |t| bench.visible(t.0));
                more.push((format!("unrelated {word}"), beside.p()));
            }
            Cell {
                label,
                value: said.p(),
                anchor,
                more,
            }
        });
        cells.collect()
    });
    let cells: Vec<Vec<Cell>> = cells.collect();
    let control = &target.control;
    let first = control.top.first();
    let alone = first.map_or_else(String::new, |t| {
        format!("{} {:.3}", bench.visible(t.0), t.1)
    });
    let names: Vec<String> = plan.watched.iter().map(|t| bench.visible(*t)).collect();
    let mut notes = vec![format!(
        "{}; each cell: the first token after the target, its colour the probability of {}; unpatched: {alone}{}",
        title(plan, source, target, bench),
        if chosen {
            names.join(" or ")
        } else {
            "that token".into()
        },
        if chosen {
            format!(", the chosen {:.3}", control.p())
        } else {
            String::new()
        }
    )];
    if null.is_some() {
        notes.push(format!(
            "unrelated: the same with the last token of a text that the model wrote by itself, seed {}",
            run.seed
        ));
    }
    notes.extend(shared_slot(plan, &found, bench));
    notes.extend(found.note.clone());
    let value = if chosen {
        "probability of the answers"
    } else {
        "probability of the first token"
    };
    let body = Body::Grid(Grid {
        also: crate::figure::also::Also::default(),
        row_axis: "source layer".into(),
        column_axis: "target layer".into(),
        value: value.into(),
        rows,
        columns,
        cells,
        scale: Scale::Unit,
    });
    Ok((format!(" · {}", source.label), body, notes))
}
