//! When answers settle: from which layer on does the lens say what the model says?
//!
//! For every position the last stretch of layers whose strongest token is the model's own. To say more of a position, add
//! a column. Sources: the lens's own; "first layer after which the top never changes" as in the literature on early exits
//! (Schuster et al. 2022, 2207.07061, use the same agreement).

use super::lens::{FILE, NORM, SITE, cautions, view};
use crate::error::Result;
use crate::figure::{Anchor, Body, Entry, Figure, Page, Row, Table};
use crate::instruments::logit_lens::reading::{Wish, see};
use crate::instruments::{Arguments, Instrument, Kind, Parameter};
use crate::lab::bench::Bench;
use crate::lab::run::Run;

/// The instrument.
pub struct Settle;

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "window",
        kind: Kind::Count { lo: 1, hi: 4096 },
        default: "64",
        about: "how many of the last positions to read",
    },
    SITE,
    NORM,
    FILE,
];

const COLUMNS: &[&str] = &[
    "position", "after", "answer", "p", "settles", "first", "p there", "KL there",
];

impl Instrument for Settle {
    fn name(&self) -> &'static str {
        "settle"
    }

    fn about(&self) -> &'static str {
        "At which layer each answer settles: from there on every layer's strongest token is the model's own"
    }

    fn source(&self) -> &'static str {
        "agreement of layers: Schuster et al. 2022 (2207.07061); logit lens: nostalgebraist 2020"
    }

    fn parameters(&self) -> &'static [Parameter] {
        PARAMETERS
    }

    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        arguments.check(self)?;
        let view = view(self, arguments, bench)?;
        let total = run.tokens.len();
        let start = total - arguments.count(self, "window")?.min(total);
        let wish = Wish {
            top: 1,
            answer: true,
            kl: true,
            ..Wish::default()
        };
        let seen = see(bench, run, &view, start..total, &wish, false)?;
        let layers = seen.layers.len();
        let mut rows = Vec::new();
        let mut settled = Vec::new();
        for i in 0..total - start {
            let (answer, p) = seen.finals[i].first();
            let from = seen.settles(i);
            // The first position often is a sink, and says nothing of the others.
            if start + i > 0 || total == 1 {
                settled.extend(from);
            }
            let first = (0..layers).find(|l| seen.layers[*l][i].first().0 == answer);
            let at = |l: Option<usize>| {
                l.map_or(Entry::Text("never".into()), |l| Entry::Text(l.to_string()))
            };
            let there = |f: &dyn Fn(usize) -> f32| {
                from.map_or(Entry::Text(String::new()), |l| Entry::Number(f(l)))
            };
            let position = start + i;
            rows.push(Row {
                anchor: from.map_or(Anchor::position(position), |l| Anchor::cell(l, position)),
                entries: vec![
                    Entry::Text(position.to_string()),
                    Entry::Text(bench.visible(run.tokens[position])),
                    Entry::Text(bench.visible(answer)),
                    Entry::Number(p),
                    at(from),
                    at(first),
                    there(&|l| seen.layers[l][i].first().1),
                    there(&|l| seen.layers[l][i].kl),
                ],
            });
        }
        settled.sort_unstable();
        let median = settled.get(settled.len() / 2);
        let mean = settled.iter().sum::<usize>() as f64 / settled.len().max(1) as f64;
        let mut notes = vec![match median {
            Some(median) => format!(
                "{} of {} positions after the first settle: median layer {median}, mean {mean:.2}, of 0-{}",
                settled.len(),
                rows.len() - usize::from(start == 0 && total > 1),
                layers - 1
            ),
            None => "no position settles: this lens does not end in the model's output".into(),
        }];
        notes.push(
            "settles: from this layer on the strongest token never changes; first: where it was strongest at all; p and KL (nats) from the output at the layer where it settles".into(),
        );
        notes.extend(cautions(&view, bench.model.card.layers));
        Ok(Figure {
            title: format!("settle · {}", view.site.spec().name),
            body: Body::Table(Table {
                columns: COLUMNS.iter().map(ToString::to_string).collect(),
                pages: vec![Page {
                    title: String::new(),
                    anchor: Anchor::default(),
                    rows,
                }],
            }),
            notes,
            check: seen.check,
            provenance: bench.provenance(run, arguments.provenance(self)),
        })
    }
}
