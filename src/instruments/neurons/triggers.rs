//! What triggers a neuron: the places of a text file where it is most active, and how it is active everywhere.
//!
//! The key's side of key-value memories (Geva et al. 2021, 2012.14913, section 3: the 25 strongest prefixes), and whether the
//! value agrees with it (section 4): is the token that follows a trigger the one that the value vector promotes most?

use std::path::Path;

use crate::error::{Error, Result};
use crate::figure::{Anchor, Body, Entry, Figure, Page, Row, Table, Unit};
use crate::instruments::neurons::contexts::{Scan, Scanner, Trigger};
use crate::instruments::{Arguments, Instrument, Kind, Parameter};
use crate::lab::bench::Bench;
use crate::lab::neurons::neuron_of;
use crate::lab::run::Run;
use crate::lab::value_card::Reading;
use crate::text;

/// The instrument.
pub struct Triggers;

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "neuron",
        kind: Kind::Text,
        default: "",
        about: "LAYER/NEURON, such as 5/17; by default the one that wrote most at the last position",
    },
    Parameter {
        name: "file",
        kind: Kind::Text,
        default: "",
        about: "a text file, read from beginning to end whatever its size; by default the run's own text",
    },
    Parameter {
        name: "count",
        kind: Kind::Count { lo: 1, hi: 200 },
        default: "25",
        about: "how many places to list",
    },
    Parameter {
        name: "side",
        kind: Kind::Choice(&["positive", "negative"]),
        default: "positive",
        about: "which activations are strong: gated neurons have both signs",
    },
    Parameter {
        name: "window",
        kind: Kind::Count { lo: 2, hi: 4096 },
        default: "128",
        about: "tokens read at a time: how much a token sees before it at most",
    },
];

const COLUMNS: &[&str] = &["act", "token", "context", "next", "agrees"];

/// Columns that a context takes.
const WIDE: usize = 40;
/// Bars of the histogram.
const BINS: usize = 24;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

impl Instrument for Triggers {
    fn name(&self) -> &'static str {
        "triggers"
    }

    fn about(&self) -> &'static str {
        "What triggers a neuron: the places of a text file where it is most active, and whether its value agrees"
    }

    fn source(&self) -> &'static str {
        "trigger prefixes: Geva et al. 2021 (2012.14913)"
    }

    fn parameters(&self) -> &'static [Parameter] {
        PARAMETERS
    }

    fn needs_prompt(&self, arguments: &Arguments) -> bool {
        ["neuron", "file"]
            .iter()
            .any(|name| arguments.text(self, name).is_empty())
    }

    fn always_needs_prompt(&self) -> bool {
        false
    }

    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        arguments.check(self)?;
        let (layer, unit) = neuron_of(run, "neuron", arguments.text(self, "neuron"), bench)?;
        let file = arguments.text(self, "file");
        let scanner = Scanner {
            layer: usize::from(layer),
            neuron: unit,
            window: arguments.count(self, "window")?,
            count: arguments.count(self, "count")?,
            negative: arguments.text(self, "side") == "negative",
        };
        let scan = if file.is_empty() {
            Scan::tokens(bench, &run.tokens, None, &run.schedule, scanner)?
        } else {
            Scan::file(bench, Path::new(file), &run.schedule, scanner)?
        };
        if scan.acts.is_empty() {
            let expected = "a text of more than one token, or a file that holds one";
            return Err(Error::argument("file", file, expected));
        }
        let sides = bench
            .cards
            .sides(&bench.model, (layer, unit), Reading::Gained)?;
        // A negative activation promotes what the value vector suppresses.
        let promoted = if scanner.negative {
            &sides.suppressed
        } else {
            &sides.promoted
        };
        let favourite = promoted.first().map(|(id, _)| *id);
        let anchor = Anchor::layer(usize::from(layer)).with(Unit::Neuron(unit));
        let row = |found: &Trigger| Row {
            anchor,
            entries: vec![
                Entry::Number(found.act),
                Entry::Text(found.at.to_string()),
                Entry::Text(snippet(&found.context, bench)),
                Entry::Text(found.next.map_or_else(String::new, |id| bench.visible(id))),
                Entry::Text(
                    if agrees(found, favourite) {
                        "yes"
                    } else {
                        "no"
                    }
                    .into(),
                ),
            ],
        };
        let place = if file.is_empty() {
            String::new()
        } else {
            format!(" · {}", text::visible(file.as_bytes()))
        };
        let ends = scan.quantiles(&[0.0, 1.0]);
        let page = Page {
            title: format!(
                "{:.2} {} {:.2} · {} tokens",
                ends[0],
                bars(&scan.histogram(BINS)),
                ends[1],
                scan.acts.len()
            ),
            anchor,
            rows: scan.best.iter().map(row).collect(),
        };
        Ok(Figure {
            title: format!("triggers · {layer}/{unit}{place}"),
            body: Body::Table(Table {
                columns: COLUMNS.iter().map(ToString::to_string).collect(),
                pages: vec![page],
            }),
            notes: notes(&scan, favourite, bench),
            check: None,
            provenance: bench.provenance(run, arguments.provenance(self)),
        })
    }
}

fn agrees(found: &Trigger, favourite: Option<u32>) -> bool {
    found.next.is_some() && found.next == favourite
}

fn notes(scan: &Scan, favourite: Option<u32>, bench: &Bench) -> Vec<String> {
    let agreeing = scan.best.iter().filter(|t| agrees(t, favourite)).count();
    let top = if scan.best.first().is_some_and(|t| agrees(t, favourite)) {
        "is"
    } else {
        "is not"
    };
    let favourite = favourite.map_or_else(String::new, |id| bench.visible(id));
    let quantiles = scan.quantiles(&[0.01, 0.25, 0.5, 0.75, 0.99]);
    let spelled: Vec<String> = quantiles.iter().map(|q| format!("{q:.3}")).collect();
    let above = scan.acts.iter().filter(|a| **a > 0.0).count() as f32 / scan.acts.len() as f32;
    vec![
        format!("the token after the strongest trigger {top} the value vector's strongest, {favourite}; so are {agreeing} of the {} listed", scan.best.len()),
        format!("quantiles 1, 25, 50, 75, 99 %: {}; above 0: {:.1} %", spelled.join(" "), above * 100.0),
        "the token in ⟦ ⟧ is where the activation was; the first position of every window is left out".into(),
    ]
}

/// The end of a context, its last token marked, in at most [`WIDE`] columns.
fn snippet(context: &[u32], bench: &Bench) -> String {
    let Some((trigger, before)) = context.split_last() else {
        return String::new();
    };
    let mark = format!("⟦{}⟧", bench.visible(*trigger));
    let bytes: Vec<u8> = before
        .iter()
        .flat_map(|id| bench.model.bytes(*id))
        .collect();
    let words = text::plain(&bytes).replace(['\n', '\r', '\t'], " ");
    let room = WIDE.saturating_sub(text::width(&mark));
    let mut from = 0;
    if text::width(&words) > room {
        // From the left, whole characters at a time, with room for the mark of the cut.
        let places = words.char_indices().map(|(i, _)| i);
        from = places
            .chain([words.len()])
            .find(|i| text::width(&words[*i..]) < room)
            .unwrap_or(words.len());
    }
    let cut = if from > 0 { "…" } else { "" };
    format!("{cut}{}{mark}", &words[from..])
}

/// A histogram in one line; a bin that is not empty shows.
fn bars(bins: &[usize]) -> String {
    let most = bins.iter().copied().max().unwrap_or(0).max(1);
    // By the logarithm: a neuron is silent nearly everywhere, and the tail is what matters.
    let height = |n: usize| ((n + 1) as f32).ln() / ((most + 1) as f32).ln();
    bins.iter()
        .map(|n| match n {
            0 => ' ',
            n => BARS[((height(*n) * 7.0).round() as usize).min(7)],
        })
        .collect()
}
