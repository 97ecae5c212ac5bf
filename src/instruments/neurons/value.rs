//! Value cards: the tokens that one neuron's value vector promotes and suppresses.
//!
//! `W_U (γ ⊙ v)` through the final norm's gain (centred first for `LayerNorm`), and `W_U v` without it (Geva et al. 2022,
//! 2203.14680; LM-Debugger projects without the norm). Both depend on weights alone: no text is needed.

use crate::error::Result;
use crate::figure::builders::entries;
use crate::figure::{Anchor, Entry, Table, TablePage, TableRow, Unit};
use crate::instruments::neurons::at_position::neuron_of;
use crate::instruments::neurons::value_card::ValueCards;
use crate::instruments::params::{Count, params};
use crate::instruments::{Draft, Measurement, Reads};
use crate::lab::Lab;
use crate::lab::logit_effects::{SIDE, ValueNorm};
use crate::lab::run::Run;

params! {
    /// What `value` is asked.
    pub struct ValueParams {
        /// the neuron as LAYER/NEURON, such as 5/17; by default the one with the largest output at the last position
        neuron: String,
        /// how many tokens to list on each side
        count: Count<1, SIDE> = "15",
    }
}

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

pub struct ValueVector;

impl Measurement for ValueVector {
    type Params = ValueParams;
    const NAME: &'static str = "value";
    const ABOUT: &'static str = "The tokens that one neuron's value vector (output weights) promotes and suppresses, with the final norm's gain and without";
    const SOURCE: &'static str = "value vectors: Geva et al. 2022 (2203.14680)";
    const READS: Reads<ValueParams> = Reads::TextWhere(|params| params.neuron.is_empty());

    fn measure(params: &ValueParams, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let (layer, unit) = neuron_of(run, "neuron", &params.neuron, lab)?;
        let cards = ValueCards::on(lab);
        let mut cards = cards.borrow_mut();
        let gained = cards.sides(&lab.model, (layer, unit), ValueNorm::Gained)?;
        let raw = cards.sides(&lab.model, (layer, unit), ValueNorm::Raw)?;
        let length = cards.norms(&lab.model)?[usize::from(layer)][unit as usize];
        let anchor = Anchor::layer(usize::from(layer)).with(Unit::Neuron(unit));
        let lists = [
            &gained.promoted,
            &gained.suppressed,
            &raw.promoted,
            &raw.suppressed,
        ];
        let row = |i: usize| {
            let sides = lists.iter().flat_map(|list| match list.get(i) {
                Some((id, logit)) => entries![lab.visible(*id), *logit],
                // The vocabulary has fewer tokens than the table has rows.
                None => entries!["", Entry::Missing],
            });
            let names = COLUMNS.iter().step_by(2).zip(&lists);
            let row = TableRow::at(anchor, sides.collect());
            names.fold(row, |row, (name, list)| {
                row.naming(name, list.get(i).map(|(id, _)| *id))
            })
        };
        let rows = (0..params.count.0.min(gained.promoted.len())).map(row);
        let title = format!("value vector of neuron {layer}/{unit}, norm {length:.3}");
        let page = TablePage::of(title, anchor, rows.collect());
        Ok(Draft::of(Table::paged(COLUMNS, vec![page]))
            .titled(format!("{layer}/{unit}"))
            .note("logits per unit of activation, before the final norm's scale: W_U (γ⊙v), with the norm's gain γ, and raw W_U v, without it")
            .note("at a negative activation the signs flip: the suppressed tokens are then promoted"))
    }
}
