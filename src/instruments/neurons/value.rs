//! Value cards: the tokens that one neuron's value vector promotes and suppresses.
//!
//! `W_U (γ ⊙ v)` through the final norm's gain (centred first for `LayerNorm`), and `W_U v` as it is (Geva et al. 2022,
//! 2203.14680; LM-Debugger projects without the norm). Both are weights alone: no text is needed.

use crate::error::Result;
use crate::figure::{Anchor, Body, Entry, Figure, Page, Row, Table, Unit};
use crate::instruments::{Arguments, Instrument, Kind, Parameter};
use crate::lab::bench::Bench;
use crate::lab::neurons::neuron_of;
use crate::lab::run::Run;
use crate::lab::value_card::{Reading, SIDE};

/// The instrument.
pub struct Value;

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "neuron",
        kind: Kind::Text,
        default: "",
        about: "LAYER/NEURON, such as 5/17; by default the one that wrote most at the last position",
    },
    Parameter {
        name: "count",
        kind: Kind::Count { lo: 1, hi: SIDE },
        default: "15",
        about: "how many tokens on each side",
    },
];

const COLUMNS: &[&str] = &[
    "promotes",
    "logit",
    "suppresses",
    "logit",
    "promotes raw",
    "logit",
    "suppresses raw",
    "logit",
];

impl Instrument for Value {
    fn name(&self) -> &'static str {
        "value"
    }

    fn about(&self) -> &'static str {
        "The tokens that one neuron's value vector promotes and suppresses, through the final norm's gain and raw"
    }

    fn source(&self) -> &'static str {
        "value vectors: Geva et al. 2022 (2203.14680)"
    }

    fn parameters(&self) -> &'static [Parameter] {
        PARAMETERS
    }

    fn needs_prompt(&self, arguments: &Arguments) -> bool {
        arguments.text(self, "neuron").is_empty()
    }

    fn always_needs_prompt(&self) -> bool {
        false
    }

    fn observe(&self, run: &Run, arguments: &Arguments, bench: &mut Bench) -> Result<Figure> {
        arguments.check(self)?;
        let count = arguments.count(self, "count")?;
        let (layer, unit) = neuron_of(run, "neuron", arguments.text(self, "neuron"), bench)?;
        let gained = bench
            .cards
            .sides(&bench.model, (layer, unit), Reading::Gained)?;
        let raw = bench
            .cards
            .sides(&bench.model, (layer, unit), Reading::Raw)?;
        let length = bench.cards.norms(&bench.model)?[usize::from(layer)][unit as usize];
        let anchor = Anchor::layer(usize::from(layer)).with(Unit::Neuron(unit));
        let lists = [
            &gained.promoted,
            &gained.suppressed,
            &raw.promoted,
            &raw.suppressed,
        ];
        let row = |i: usize| Row {
            anchor,
            entries: lists
                .iter()
                .flat_map(|list| match list.get(i) {
                    Some((id, logit)) => [Entry::Text(bench.visible(*id)), Entry::Number(*logit)],
                    // A vocabulary smaller than the list.
                    None => [Entry::Text(String::new()), Entry::Text(String::new())],
                })
                .collect(),
        };
        let page = Page {
            title: format!("value vector of neuron {layer}/{unit}, length {length:.3}"),
            anchor,
            rows: (0..count.min(gained.promoted.len())).map(row).collect(),
        };
        Ok(Figure {
            title: format!("value · {layer}/{unit}"),
            body: Body::Table(Table {
                columns: COLUMNS.iter().map(ToString::to_string).collect(),
                pages: vec![page],
            }),
            notes: vec![
                "logits per unit of activation, before the final norm's scale: W_U (γ⊙v), and raw W_U v".into(),
                "a negative activation writes the opposite: then the suppressed tokens are promoted".into(),
            ],
            check: None,
            provenance: bench.provenance(run, arguments.provenance(self)),
        })
    }
}
