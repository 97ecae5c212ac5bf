//! What attention reads and writes: patterns, strongest sources, what heads write, and what kind of reader each head is.
//!
//! Rows of probabilities are shown as they are. The first position, a sink in many models, is set apart: it has no part in
//! the colour scale and in what is called the strongest source, unless asked. Scores are [`crate::instruments::attention::head_scores`].
//! Invariant: every figure of one run is about that run's edits; scores on random tokens are about the model alone and say so.
//! To show something else of attention, add a choice of `show` and its function.

pub mod edges;
pub mod head_scores;
pub mod heads;
mod scores;

use candle_core::{DType, Tensor};

use super::{Arguments, Instrument, Kind, Parameter};
use crate::error::{Error, Result};
use crate::figure::{
    Anchor, Body, Cell, Entry, Figure, Grid, Header, Page, Row, Scale, Table, Unit,
};
use crate::instruments::attention::edges::{
    Edges, Weight, Written, entropy, of_writes, strongest, written,
};
use crate::instruments::attention::head_scores::Score;
use crate::lab::bench::Bench;
use crate::lab::run::Run;
use crate::lab::trials::Cost;
use crate::lab::writer::{Needs, Step};
use crate::model::Card;
use crate::model::network::finite::order;
use crate::model::network::site::{Address, Site};

/// The instrument.
pub struct Attention;

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "show",
        kind: Kind::Choice(&["heads", "pattern", "writes", "scores"]),
        default: "heads",
        about: "heads: what each head reads most at each position; pattern: who reads whom in one head; writes: the tokens that heads' writes promote; scores: what kind of reader each head is",
    },
    Parameter {
        name: "layer",
        kind: Kind::Layer,
        default: "all",
        about: "the layer, or all",
    },
    Parameter {
        name: "head",
        kind: Kind::Count { lo: 0, hi: 1023 },
        default: "0",
        about: "the head of a pattern",
    },
    Parameter {
        name: "position",
        kind: Kind::Position,
        default: "-1",
        about: "the last position that reads; the one whose writes are shown",
    },
    Parameter {
        name: "window",
        kind: Kind::Count { lo: 1, hi: 1024 },
        default: "64",
        about: "how many positions up to that one to show",
    },
    Parameter {
        name: "value",
        kind: Kind::Choice(&["probability", "value", "write", "entropy"]),
        default: "probability",
        about: "what an edge is worth: its probability, that times the length of the value, or times what the value becomes in the output projection; entropy (for heads): how spread a head's reading is, in nats",
    },
    Parameter {
        name: "first",
        kind: Kind::Choice(&["apart", "counted"]),
        default: "apart",
        about: "apart: position 0, a sink in many models, has no part in colours and in the strongest source; counted: it has",
    },
    Parameter {
        name: "count",
        kind: Kind::Count { lo: 1, hi: 200 },
        default: "12",
        about: "how many heads' writes to list",
    },
    Parameter {
        name: "score",
        kind: Kind::Choice(Score::WORDS),
        default: "induction",
        about: "induction: reads what came after the same token; previous: the token before; duplicate: the same token; sink: the first",
    },
    Parameter {
        name: "on",
        kind: Kind::Choice(&["random", "prompt"]),
        default: "random",
        about: "scores on random tokens repeated once, or on the prompt",
    },
    Parameter {
        name: "period",
        kind: Kind::Count { lo: 2, hi: 512 },
        default: "20",
        about: "how many random tokens are repeated",
    },
    Parameter {
        name: "trials",
        kind: Kind::Count { lo: 1, hi: 100 },
        default: "4",
        about: "how many random sequences",
    },
    Parameter {
        name: "silence",
        kind: Kind::Count { lo: 0, hi: 64 },
        default: "0",
        about: "scores on random tokens: silences so many of the highest heads, and as many others, and tells how copying fares",
    },
];

impl Instrument for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn about(&self) -> &'static str {
        "What attention heads read and write, and which of them copy: patterns, strongest sources, induction scores"
    }

    fn source(&self) -> &'static str {
        "induction heads: Olsson et al. 2022 (2209.11895); duplicate and previous token heads: Wang et al. 2023 (2211.00593)"
    }

    fn parameters(&self) -> &'static [Parameter] {
        PARAMETERS
    }

    fn always_needs_prompt(&self) -> bool {
        false
    }

    fn needs_prompt(&self, arguments: &Arguments) -> bool {
        arguments.text(self, "show") != "scores" || arguments.text(self, "on") == "prompt"
    }

    fn cost(&self, tokens: usize, arguments: &Arguments, _card: &Card) -> Option<Cost> {
        if arguments.text(self, "show") != "scores" {
            return None;
        }
        let number = |name| arguments.count(self, name).ok();
        if arguments.text(self, "on") == "prompt" {
            return Some(Cost { passes: 1, tokens });
        }
        let copying = if number("silence")? == 0 {
            0
        } else {
            scores::RUNS
        };
        Some(Cost {
            passes: number("trials")? * (1 + copying),
            tokens: 2 * number("period")? + 1,
        })
    }

    fn live(&self, card: &Card, arguments: &Arguments) -> Option<Needs> {
        let live = arguments.text(self, "show") == "heads"
            && arguments.text(self, "position") == "-1"
            && matches!(arguments.text(self, "value"), "probability" | "entropy");
        let layers = self.layers(arguments, card.layers).ok()?;
        live.then(|| Needs {
            record: layers.into_iter().map(|l| Site::AttnProbs.at(l)).collect(),
            unembed: Vec::new(),
        })
    }

    fn column(&self, step: &Step, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        let layers = self.layers(arguments, bench.model.card.layers)?;
        let position = step.choice.position;
        let mut cells = Vec::new();
        // The newest query of every head, one after the other, and one read-back for all layers.
        let rows = layers.iter().map(|layer| {
            let row = step.rows.get(&Site::AttnProbs.at(*layer));
            row.ok_or_else(|| Error::Engine(format!("attn_probs.{layer} was not recorded")))
        });
        let rows = Tensor::stack(&rows.collect::<Result<Vec<_>>>()?, 0)?.to_vec2::<f32>()?;
        for (layer, row) in layers.iter().zip(&rows) {
            for (head, row) in row.chunks(position + 1).enumerate() {
                cells.push(self.reading(
                    row,
                    (*layer, head),
                    position,
                    &step.run,
                    arguments,
                    bench,
                ));
            }
        }
        Ok(self.by_heads(
            vec![position],
            vec![cells],
            &layers,
            &step.run,
            arguments,
            bench,
        ))
    }

    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        arguments.check(self)?;
        match arguments.text(self, "show") {
            "pattern" => self.pattern(run, arguments, bench),
            "writes" => self.writes(run, arguments, bench),
            "scores" => self.scores(run, arguments, bench),
            _ => self.heads(run, arguments, bench),
        }
    }
}

impl Attention {
    fn layers(&self, arguments: &Arguments, layers: usize) -> Result<Vec<usize>> {
        let one = arguments.layer(self, "layer", layers)?;
        Ok(one.map_or_else(|| (0..layers).collect(), |layer| vec![layer]))
    }

    fn weight(&self, arguments: &Arguments) -> Weight {
        match arguments.text(self, "value") {
            "value" => Weight::Value,
            "write" => Weight::Write,
            _ => Weight::Probability,
        }
    }

    fn apart(&self, arguments: &Arguments) -> bool {
        arguments.text(self, "first") == "apart"
    }

    /// The positions that a figure shows.
    fn window(&self, run: &Run, arguments: &Arguments) -> Result<std::ops::Range<usize>> {
        let last = arguments.position(self, "position", run.tokens.len())?;
        let count = arguments.count(self, "window")?.min(last + 1);
        Ok(last + 1 - count..last + 1)
    }

    /// What one query of a head reads: its strongest source, and the runners-up.
    fn reading(
        &self,
        row: &[f32],
        (layer, head): (usize, usize),
        query: usize,
        run: &Run,
        arguments: &Arguments,
        bench: &Bench,
    ) -> Cell {
        let found = strongest(row, query, 5, self.apart(arguments));
        let name = |j: usize| format!("{} {j}", bench.visible(run.tokens[j]));
        let spread = entropy(&row[..=query]);
        let mut more: Vec<(String, f32)> = found.iter().map(|(j, v)| (name(*j), *v)).collect();
        let by_entropy = arguments.text(self, "value") == "entropy";
        if by_entropy {
            more.insert(0, ("entropy".into(), spread));
        }
        let (label, value) = match found.first() {
            Some((j, v)) => (bench.visible(run.tokens[*j]), *v),
            None => (String::new(), 0.0),
        };
        Cell {
            label,
            value: if by_entropy { spread } else { value },
            anchor: Anchor::cell(layer, query).with(Unit::Head(head as u32)),
            more,
        }
    }

    /// What every head reads most, heads by positions.
    fn heads(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        let layers = self.layers(arguments, bench.model.card.layers)?;
        let shown = self.window(run, arguments)?;
        let weight = self.weight(arguments);
        let mut cells: Vec<Vec<Cell>> = vec![Vec::new(); shown.len()];
        for (done, layer) in layers.iter().enumerate() {
            bench.report(done as f32 / layers.len() as f32)?;
            let recording = bench.record(run, &weight.addresses(*layer))?;
            let edges = Edges::read(bench, &recording, *layer, weight)?;
            for (i, query) in shown.clone().enumerate() {
                for head in 0..bench.model.card.heads {
                    let row = edges.row(head, query);
                    let at = (*layer, head);
                    cells[i].push(self.reading(row, at, query, run, arguments, bench));
                }
            }
        }
        Ok(self.by_heads(shown.collect(), cells, &layers, run, arguments, bench))
    }

    fn by_heads(
        &self,
        positions: Vec<usize>,
        cells: Vec<Vec<Cell>>,
        layers: &[usize],
        run: &Run,
        arguments: &Arguments,
        bench: &Bench,
    ) -> Figure {
        let value = arguments.text(self, "value");
        let heads = bench.model.card.heads;
        let all = layers.iter().flat_map(|l| (0..heads).map(move |h| (*l, h)));
        let judged = cells.iter().flatten();
        let judged = judged.filter(|c| !self.apart(arguments) || c.anchor.position != Some(0));
        let hi = judged.map(|c| c.value).fold(0f32, f32::max);
        let grid = Grid {
            also: crate::figure::also::Also::default(),
            row_axis: "head".into(),
            column_axis: "position".into(),
            value: match value {
                "entropy" => "entropy of what is read, nats".into(),
                "probability" => "probability of the strongest source".into(),
                other => {
                    format!("probability times the length of the {other}, at the strongest source")
                }
            },
            rows: all
                .map(|(l, h)| Header {
                    label: format!("{l}.{h}"),
                    anchor: Anchor::layer(l).with(Unit::Head(h as u32)),
                })
                .collect(),
            columns: header(&positions, run, bench),
            cells,
            scale: match value {
                "probability" => Scale::Unit,
                _ => Scale::Range {
                    lo: 0.0,
                    hi: hi.max(1e-6),
                },
            },
        };
        let mut notes = vec![
            "each cell: the token that the head reads most when the position is read".to_string(),
        ];
        notes.extend(self.about_first(arguments));
        Figure {
            title: format!("attention · what heads read · {value}"),
            body: Body::Grid(grid),
            notes,
            check: None,
            provenance: bench.provenance(run, arguments.provenance(self)),
        }
    }

    fn about_first(&self, arguments: &Arguments) -> Option<String> {
        self.apart(arguments).then(|| {
            "position 0, which many heads read for want of anything else, is set apart: it is no strongest source and no part of the colour scale (first=counted changes that); probabilities are as they are".into()
        })
    }

    /// Who reads whom in one head: queries by sources.
    fn pattern(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        let card = &bench.model.card;
        let (layers, heads) = (card.layers, card.heads);
        let layer = arguments.layer(self, "layer", layers)?.ok_or_else(|| {
            let expected = format!(
                "one layer from 0 to {} for the pattern of a head",
                layers - 1
            );
            Error::argument("layer", "all", expected)
        })?;
        let head = arguments.count(self, "head")?;
        if head >= heads {
            let expected = format!("a head from 0 to {}", heads - 1);
            return Err(Error::argument("head", head.to_string(), expected));
        }
        if arguments.text(self, "value") == "entropy" {
            let expected = "probability, value or write: an edge has no entropy";
            return Err(Error::argument("value", "entropy", expected));
        }
        let shown = self.window(run, arguments)?;
        let weight = self.weight(arguments);
        let recording = bench.record(run, &weight.addresses(layer))?;
        let edges = Edges::read(bench, &recording, layer, weight)?;
        let unit = Unit::Head(head as u32);
        // The first query on top: rows are drawn from below.
        let queries: Vec<usize> = shown.clone().rev().collect();
        let cell = |query: usize, source: usize| Cell {
            label: String::new(),
            value: edges.row(head, query)[source],
            anchor: Anchor::cell(layer, query).with(unit),
            more: vec![(
                format!(
                    "{} {query} reads {} {source}",
                    bench.visible(run.tokens[query]),
                    bench.visible(run.tokens[source])
                ),
                edges.row(head, query)[source],
            )],
        };
        let cells: Vec<Vec<Cell>> = shown
            .clone()
            .map(|source| queries.iter().map(|query| cell(*query, source)).collect())
            .collect();
        let apart = self.apart(arguments);
        let judged = shown
            .clone()
            .flat_map(|q| shown.clone().map(move |s| (q, s)));
        let judged = judged.filter(|(_, source)| !apart || *source > 0);
        let hi = judged
            .map(|(q, s)| edges.row(head, q)[s])
            .fold(0f32, f32::max);
        let mut notes = vec![
            "each row: a position that reads; each column: a position that is read; masked edges are 0".to_string(),
        ];
        if shown.start > 0 {
            notes.push(format!(
                "positions before {} are left out, so rows do not sum to 1 here",
                shown.start
            ));
        }
        notes.extend(self.about_first(arguments));
        Ok(Figure {
            title: format!(
                "attention · head {layer}.{head} · {}",
                arguments.text(self, "value")
            ),
            body: Body::Grid(Grid {
                also: crate::figure::also::Also::default(),
                row_axis: "reads".into(),
                column_axis: "is read".into(),
                value: arguments.text(self, "value").into(),
                rows: header(&queries, run, bench),
                columns: header(&shown.collect::<Vec<_>>(), run, bench),
                cells,
                scale: Scale::Range {
                    lo: 0.0,
                    hi: hi.max(1e-6),
                },
            }),
            notes,
            check: None,
            provenance: bench.provenance(run, arguments.provenance(self)),
        })
    }

    /// What each of some heads reads most at a position, and how much of its attention that is.
    fn read_most(
        &self,
        heads: &[Written],
        run: &Run,
        position: usize,
        arguments: &Arguments,
        bench: &mut Bench,
    ) -> Result<Vec<(usize, f32)>> {
        let mut layers: Vec<usize> = heads.iter().map(|own| own.head.0).collect();
        layers.sort_unstable();
        layers.dedup();
        let mut read = vec![(0, 0.0); heads.len()];
        for some in layers.chunks(bench.attention_layers(run.tokens.len())) {
            let wanted: Vec<Address> = some.iter().map(|l| Site::AttnProbs.at(*l)).collect();
            let recording = bench.record(run, &wanted)?;
            for (own, read) in heads.iter().zip(&mut read) {
                let (layer, head) = own.head;
                if !some.contains(&layer) {
                    continue;
                }
                let probs = recording.get(Site::AttnProbs.at(layer))?.get(head)?;
                let probs = probs
                    .get(position)?
                    .to_dtype(DType::F32)?
                    .to_vec1::<f32>()?;
                let most = strongest(&probs, position, 1, self.apart(arguments));
                *read = most.first().copied().unwrap_or_default();
            }
        }
        Ok(read)
    }

    /// The heads that write most at a position, what they read, and the tokens that they promote.
    fn writes(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        let layers = self.layers(arguments, bench.model.card.layers)?;
        let position = arguments.position(self, "position", run.tokens.len())?;
        let normed = bench.model.card.norms_writes;
        let wanted: Vec<Address> = layers.iter().flat_map(|l| of_writes(*l, normed)).collect();
        let recording = bench.record(run, &wanted)?;
        let heads: Vec<(usize, usize)> = layers
            .iter()
            .flat_map(|l| (0..bench.model.card.heads).map(move |h| (*l, h)))
            .collect();
        let mut found = written(bench, &recording, &heads, position, 5)?;
        found.sort_by(|a, b| order(b.size, a.size));
        found.truncate(arguments.count(self, "count")?);
        let read = self.read_most(&found, run, position, arguments, bench)?;
        let mut rows = Vec::with_capacity(found.len());
        for (own, (source, prob)) in found.iter().zip(read) {
            let (layer, head) = own.head;
            let words = |side: &[(u32, f32)]| {
                let words = side.iter().map(|(id, _)| bench.visible(*id));
                Entry::Text(words.collect::<Vec<_>>().join(" "))
            };
            rows.push(Row {
                anchor: Anchor::cell(layer, position).with(Unit::Head(head as u32)),
                entries: vec![
                    Entry::Text(format!("{layer}.{head}")),
                    Entry::Number(own.size),
                    Entry::Text(format!("{} {source}", bench.visible(run.tokens[source]))),
                    Entry::Number(prob),
                    words(&own.promoted),
                    words(&own.suppressed),
                ],
            });
        }
        let columns = [
            "head",
            "size",
            "reads",
            "probability",
            "promotes",
            "suppresses",
        ];
        let mut notes = vec![
            "size: the length of what the head adds to the stream; promotes, suppresses: that write through the final norm's gain and the unembedding, as if nothing came between".to_string(),
        ];
        notes.extend(self.about_first(arguments));
        Ok(Figure {
            title: "attention · what heads write".into(),
            body: Body::Table(Table {
                columns: columns.iter().map(ToString::to_string).collect(),
                pages: vec![Page {
                    title: format!("after {}", bench.visible(run.tokens[position])),
                    anchor: Anchor::position(position),
                    rows,
                }],
            }),
            notes,
            check: None,
            provenance: bench.provenance(run, arguments.provenance(self)),
        })
    }
}

/// Headers of positions.
fn header(positions: &[usize], run: &Run, bench: &Bench) -> Vec<Header> {
    let header = |p: &usize| Header {
        label: bench.visible(run.tokens[*p]),
        anchor: Anchor::position(*p),
    };
    positions.iter().map(header).collect()
}
