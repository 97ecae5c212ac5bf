//! Attribute extraction, scored: the share of a list's subjects whose answer is said, by source and target layer
//! (Ghandeharioun et al. 2024, section 4.2), beside the target left alone and the states of unrelated subjects.
//!
//! Invariant: the null of a subject is what the others' states, in the same slot at the same layers, say of its answers; others that
//! share an answer do not count.

use super::grid::frame;
use super::plan::{Plan, Show, spelled};
use super::sweep::{self, Found};
use super::words::{anchor, shared_slot, spoken};
use crate::error::Result;
use crate::lab::bench::Bench;
use crate::lab::figure::{Anchor, Body, Cell, Entry, Grid, Page, Row, Scale, Table};
use crate::text;

/// Subjects whose words are shown in a cell of the grid.
const SHOWN: usize = 3;

/// What was said, scored.
struct Scores {
    found: Found,
    /// Continuations as text, `[subject][pair]`.
    texts: Vec<Vec<String>>,
    /// Whether the answer is there, `[subject][pair]`.
    hits: Vec<Vec<bool>>,
    /// Whether the unpatched target says it.
    control: Vec<bool>,
    /// Share of unrelated subjects whose states say it, `[subject][pair]`; none where every other shares an answer.
    null: Vec<Option<Vec<f32>>>,
}

impl Scores {
    fn new(plan: &Plan, bench: &mut Bench) -> Result<Self> {
        let found = sweep::all(plan, &plan.sources, bench)?;
        let texts: Vec<Vec<String>> = found
            .said
            .iter()
            .map(|row| {
                row.iter()
                    .map(|s| spoken(bench, &s.written.tokens))
                    .collect()
            })
            .collect();
        let hits = plan
            .subjects
            .iter()
            .zip(&texts)
            .map(|(subject, row)| row.iter().map(|t| subject.said_in(t)).collect())
            .collect();
        let control = plan
            .subjects
            .iter()
            .zip(&plan.sources)
            .map(|(subject, source)| {
                found
                    .target(source)
                    .is_some_and(|target| subject.said_in(&spoken(bench, &target.control.tokens)))
            })
            .collect();
        let null = plan.subjects.iter().map(|subject| {
            let others: Vec<usize> = (0..plan.subjects.len())
                .filter(|j| !subject.shares(&plan.subjects[*j]))
                .collect();
            (!others.is_empty()).then(|| {
                let share = |pair: usize| {
                    let said = others.iter().filter(|j| subject.said_in(&texts[**j][pair]));
                    said.count() as f32 / others.len() as f32
                };
                (0..plan.pairs.len()).map(share).collect()
            })
        });
        let null = null.collect();
        Ok(Self {
            found,
            texts,
            hits,
            control,
            null,
        })
    }

    /// Share of subjects that are read at a pair.
    fn share(&self, pair: usize) -> f32 {
        let read = self.hits.iter().filter(|row| row[pair]).count();
        read as f32 / self.hits.len().max(1) as f32
    }

    /// Share of subjects that the unpatched target reads.
    fn alone(&self) -> f32 {
        let read = self.control.iter().filter(|hit| **hit).count();
        read as f32 / self.control.len().max(1) as f32
    }

    /// Mean share that unrelated states read; none where there are none.
    fn unrelated(&self, pair: usize) -> Option<f32> {
        let known: Vec<f32> = self.null.iter().flatten().map(|n| n[pair]).collect();
        let sum: f64 = known.iter().map(|v| f64::from(*v)).sum();
        (!known.is_empty()).then(|| (sum / known.len() as f64) as f32)
    }

    /// The pair at which most subjects are read, the first of several.
    fn best(&self, plan: &Plan) -> usize {
        let mut best = 0;
        for pair in 1..plan.pairs.len() {
            if self.share(pair) > self.share(best) {
                best = pair;
            }
        }
        best
    }

    fn notes(&self, plan: &Plan, bench: &Bench) -> Vec<String> {
        let best = self.best(plan);
        let (from, to) = plan.pairs[best];
        let read = self.hits.iter().filter(|row| row[best]).count();
        let any = self.hits.iter().filter(|row| row.contains(&true)).count();
        let count = self.hits.len();
        let null = self
            .unrelated(best)
            .map_or_else(|| "none".into(), |n| format!("{n:.3}"));
        let mut out = vec![
            format!(
                "best: layer {} into {}: {read} of {count} read ({:.3}), unpatched {:.3}, unrelated {null}; at any of {} pairs (oracle): {any} of {count}",
                spelled(from),
                spelled(to),
                self.share(best),
                self.alone(),
                plan.pairs.len(),
            ),
            format!(
                "read: an answer stands in the {} tokens that follow, as whole words in any case; unrelated: mean over what the states of the list's other subjects say, where they share no answer",
                plan.count
            ),
        ];
        let lone = self.null.iter().filter(|n| n.is_none()).count();
        if lone > 0 {
            out.push(format!(
                "{lone} of {count} subjects share an answer with every other, and have no null: add subjects with other answers"
            ));
        }
        out.extend(shared_slot(plan, &self.found, bench));
        out
    }
}

/// Title, body and notes.
pub(super) fn draw(
    plan: &Plan,
    show: Show,
    bench: &mut Bench,
) -> Result<(String, Body, Vec<String>)> {
    let scores = Scores::new(plan, bench)?;
    let body = match show {
        Show::Table => table(plan, &scores),
        Show::Grid => grid(plan, &scores),
        Show::Items => items(plan, &scores),
    };
    let title = format!(" · {} subjects", plan.subjects.len());
    Ok((title, body, scores.notes(plan, bench)))
}

fn number(value: Option<f32>) -> Entry {
    value.map_or_else(|| Entry::Text("–".into()), Entry::Number)
}

fn table(plan: &Plan, scores: &Scores) -> Body {
    let rows = plan.pairs.iter().enumerate().map(|(pair, (from, to))| Row {
        anchor: anchor(&plan.sources[0], *from),
        entries: vec![
            Entry::Text(spelled(*from)),
            Entry::Text(spelled(*to)),
            Entry::Number(scores.share(pair)),
            Entry::Number(scores.alone()),
            number(scores.unrelated(pair)),
        ],
    });
    let columns = ["layer", "into", "read", "unpatched", "unrelated"];
    Body::Table(Table {
        columns: columns.iter().map(ToString::to_string).collect(),
        pages: vec![Page {
            title: format!(
                "share of {} subjects whose answer is said",
                plan.subjects.len()
            ),
            anchor: Anchor::default(),
            rows: rows.collect(),
        }],
    })
}

fn grid(plan: &Plan, scores: &Scores) -> Body {
    let (rows, columns, places) = frame(plan);
    let cell = |row: usize, pair: Option<usize>| {
        let anchor = anchor(&plan.sources[0], plan.layers[row]);
        let Some(pair) = pair else {
            return Cell {
                anchor,
                ..Cell::default()
            };
        };
        let share = scores.share(pair);
        let mut more = vec![("read".to_string(), share)];
        more.push(("unpatched".into(), scores.alone()));
        more.extend(scores.unrelated(pair).map(|n| ("unrelated".into(), n)));
        let said = plan.subjects.iter().zip(&scores.texts).take(SHOWN);
        more.extend(said.enumerate().map(|(i, (subject, texts))| {
            let hit = if scores.hits[i][pair] { 1.0 } else { 0.0 };
            (
                format!("{}: {}", text::plain(subject.subject.as_bytes()), texts[pair]),
                hit,
            )
        }));
        Cell {
            label: format!("{share:.2}"),
            value: share,
            anchor,
            more,
        }
    };
    let cells = places.iter().map(|column| {
        let cells = column.iter().enumerate();
        cells.map(|(row, pair)| cell(row, *pair)).collect()
    });
    Body::Grid(Grid {
        row_axis: "source layer".into(),
        column_axis: "target layer".into(),
        value: "share of subjects read".into(),
        rows,
        columns,
        cells: cells.collect(),
        scale: Scale::Unit,
    })
}

/// Every subject: the earliest layer that reads it, how many do, and what is said at the best pair.
fn items(plan: &Plan, scores: &Scores) -> Body {
    let best = scores.best(plan);
    let rows = plan.subjects.iter().enumerate().map(|(i, subject)| {
        let hits = &scores.hits[i];
        let first = hits.iter().position(|h| *h).map(|p| plan.pairs[p].0);
        let read = hits.iter().filter(|h| **h).count();
        let layer = first.unwrap_or(plan.pairs[best].0);
        Row {
            anchor: anchor(&plan.sources[i], layer),
            entries: vec![
                Entry::Text(text::plain(subject.subject.as_bytes())),
                Entry::Text(text::plain(subject.answers.join("|").as_bytes())),
                Entry::Text(first.map_or_else(|| "never".into(), spelled)),
                Entry::Number(read as f32 / hits.len().max(1) as f32),
                Entry::Text(scores.texts[i][best].clone()),
                number(scores.null[i].as_ref().map(|n| n[best])),
            ],
        }
    });
    let columns = [
        "subject",
        "answers",
        "first layer",
        "pairs",
        "says",
        "unrelated",
    ];
    let (from, to) = plan.pairs[best];
    Body::Table(Table {
        columns: columns.iter().map(ToString::to_string).collect(),
        pages: vec![Page {
            title: format!("says: at layer {} into {}", spelled(from), spelled(to)),
            anchor: Anchor::default(),
            rows: rows.collect(),
        }],
    })
}
