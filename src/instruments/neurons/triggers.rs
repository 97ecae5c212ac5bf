//! The triggers of a neuron: the places of a text file where it is most active, and the distribution of its activations.
//!
//! The key side of key-value memories (Geva et al. 2021, 2012.14913, section 3: the 25 strongest prefixes), and whether the
//! value agrees with it (section 4): is the token that follows a trigger the one that the value vector promotes most?

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::figure::builders::entries;
use crate::figure::{Anchor, Table, TablePage, TableRow, Unit};
use crate::instruments::neurons::at_position::neuron_of;
use crate::instruments::neurons::contexts::{ContextScan, Scanner, Trigger};
use crate::instruments::neurons::value_card::ValueCards;
use crate::instruments::params::{Count, choices, params};
use crate::instruments::{Draft, Measurement, Reads};
use crate::lab::Lab;
use crate::lab::logit_effects::ValueNorm;
use crate::lab::run::Run;
use crate::lab::snippet::{bars, snippet};
use crate::text;

choices! {
    /// The sign of the activations that count as strong.
    pub enum ActivationSign { Positive = "positive", Negative = "negative" }
}

params! {
    /// What `triggers` is asked.
    pub struct TriggersParams {
        /// the neuron as LAYER/NEURON, such as 5/17; by default the one with the largest output at the last position
        neuron: String,
        /// a text file of any size; by default the run's own text
        file: Option<PathBuf>,
        /// how many places to list
        count: Count<1, 200> = "25",
        /// which activations count as strong; neurons of gated MLPs have both signs
        side: ActivationSign = "positive",
        /// the file is read in pieces of this many tokens, and a token sees only its own piece
        window: Count<2, 4096> = "128",
    }
}

const COLUMNS: &[&str] = &["act", "token", "context", "next", "agrees"];

/// The width of a context on the screen, in columns.
const WIDE: usize = 40;
/// The number of bars of the histogram.
const BINS: usize = 24;

pub struct Triggers;

impl Measurement for Triggers {
    type Params = TriggersParams;
    const NAME: &'static str = "triggers";
    const ABOUT: &'static str = "Trigger examples of a neuron: where in a text it is most active, and whether its value vector predicts the token that follows";
    const SOURCE: &'static str = "trigger prefixes: Geva et al. 2021 (2012.14913)";
    const READS: Reads<TriggersParams> =
        Reads::TextWhere(|params| params.neuron.is_empty() || params.file.is_none());

    fn measure(params: &TriggersParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let (layer, unit) = neuron_of(run, "neuron", &params.neuron, lab)?;
        let scanner = Scanner {
            layer: usize::from(layer),
            neuron: unit,
            window: params.window.0,
            count: params.count.0,
            negative: params.side == ActivationSign::Negative,
        };
        let scan = match &params.file {
            None => ContextScan::tokens(lab, &run.tokens, None, &run.schedule, scanner)?,
            Some(file) => ContextScan::file(lab, file, &run.schedule, scanner)?,
        };
        let file = params.file.as_ref().map(|file| file.display().to_string());
        if scan.acts.is_empty() {
            let expected = "a text of more than one token, or a file that holds one";
            return Err(Error::argument("file", file.unwrap_or_default(), expected));
        }
        let cards = ValueCards::on(lab);
        let sides = cards
            .borrow_mut()
            .sides(&lab.model, (layer, unit), ValueNorm::Gained)?;
        // A negative activation promotes the tokens that the value vector suppresses.
        let promoted = if scanner.negative {
            &sides.suppressed
        } else {
            &sides.promoted
        };
        let favourite = promoted.first().map(|(id, _)| *id);
        let anchor = Anchor::layer(usize::from(layer)).with(Unit::Neuron(unit));
        let row = |found: &Trigger| {
            let agrees = predicts_next(found, favourite);
            TableRow::at(
                anchor,
                entries![
                    found.act,
                    found.at.to_string(),
                    snippet(&found.context, WIDE, lab),
                    found.next.map_or_else(String::new, |id| lab.visible(id)),
                    if agrees { "yes" } else { "no" },
                ],
            )
        };
        let place = file.map(|file| format!(" · {}", text::visible(file.as_bytes())));
        let ends = scan.quantiles(&[0.0, 1.0]);
        let page = TablePage::of(
            format!(
                "{:.2} {} {:.2} · {} tokens",
                ends[0],
                bars(&scan.histogram(BINS)),
                ends[1],
                scan.acts.len()
            ),
            anchor,
            scan.best.iter().map(row).collect(),
        );
        Ok(Draft::of(Table::paged(COLUMNS, vec![page]))
            .titled(format!("{layer}/{unit}{}", place.unwrap_or_default()))
            .notes(notes(&scan, favourite, lab)))
    }
}

fn predicts_next(found: &Trigger, favourite: Option<u32>) -> bool {
    found.next.is_some() && found.next == favourite
}

fn notes(scan: &ContextScan, favourite: Option<u32>, lab: &Lab) -> Vec<String> {
    let agreeing = scan
        .best
        .iter()
        .filter(|t| predicts_next(t, favourite))
        .count();
    let top = if scan
        .best
        .first()
        .is_some_and(|t| predicts_next(t, favourite))
    {
        "is"
    } else {
        "is not"
    };
    let favourite = favourite.map_or_else(String::new, |id| lab.visible(id));
    let quantiles = scan.quantiles(&[0.01, 0.25, 0.5, 0.75, 0.99]);
    let spelled: Vec<String> = quantiles.iter().map(|q| format!("{q:.3}")).collect();
    let above = scan.acts.iter().filter(|a| **a > 0.0).count() as f32 / scan.acts.len() as f32;
    vec![
        format!(
            "the token after the strongest trigger {top} the top token of the value vector, {favourite}; this holds for {agreeing} of the {} listed",
            scan.best.len()
        ),
        format!(
            "quantiles of the activation, 1, 25, 50, 75, 99 %: {}; above 0: {:.1} %",
            spelled.join(" "),
            above * 100.0
        ),
        "⟦ ⟧ marks the token with the activation; the first position of every piece is left out"
            .into(),
    ]
}
