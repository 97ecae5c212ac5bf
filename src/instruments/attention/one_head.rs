//! One head, position by position: the tokens that it attends to, and those that its output promotes and suppresses.
//!
//! Invariant: both sides of a page are of the same position of the same run. To show something else of a head, add a column.

use super::edges::{Edges, head_outputs, output_addresses, strongest};
use super::{AttentionParams, EdgeWeight};
use crate::error::{Error, Result};
use crate::figure::{Anchor, Entry, Table, TablePage, TableRow, Unit};
use crate::instruments::Draft;
use crate::instruments::params::ParameterValue;
use crate::lab::Lab;
use crate::lab::run::Run;

/// How many tokens of each kind a page lists.
const TOKENS: usize = 5;

impl AttentionParams {
    /// The head that the parameters name.
    ///
    /// # Errors
    ///
    /// When they name no layer or no head of the model, or a number that edges do not have.
    pub(super) fn named_head(&self, lab: &Lab) -> Result<(usize, usize)> {
        let (layers, heads) = (lab.model.card.layers, lab.model.card.heads);
        let layer = self.layer.within(layers)?.ok_or_else(|| {
            let expected = format!(
                "one layer from 0 to {}, because show={} is about one head",
                layers - 1,
                self.show.print()
            );
            Error::argument("layer", "all", expected)
        })?;
        let head = self.head.0;
        if head >= heads {
            let expected = format!("a head from 0 to {}", heads - 1);
            return Err(Error::argument("head", head, expected));
        }
        if self.value == EdgeWeight::Entropy {
            let expected = "probability, value or output: an edge has no entropy";
            return Err(Error::argument("value", "entropy", expected));
        }
        Ok((layer, head))
    }

    /// A page for every position that is shown.
    pub(super) fn one_head(&self, run: &Run, lab: &mut Lab) -> Result<Draft> {
        let (layer, head) = self.named_head(lab)?;
        let shown = self.shown_positions(run)?;
        let captured = self.captured_positions(run, &shown);
        let capture = lab.capture(run, captured, &self.needs_of(&[layer]))?;
        let edges = Edges::read(lab, &capture, layer, self.weight())?;
        let wanted = output_addresses(layer, lab.model.card.norms_writes);
        let recording = lab.record(run, &wanted)?;
        let places: Vec<_> = shown.clone().map(|p| ((layer, head), p)).collect();
        let outputs = head_outputs(lab, &recording, &places, TOKENS)?;
        let pages = shown.clone().zip(&outputs).map(|(position, output)| {
            let sources = strongest(edges.row(head, position), position, TOKENS, self.apart());
            let name = |j: usize| format!("{} {j}", lab.visible(run.tokens[j]));
            let sources: Vec<_> = sources.iter().map(|(j, v)| (name(*j), *v)).collect();
            let tokens = |side: &[(u32, f32)]| -> Vec<(String, f32)> {
                side.iter().map(|(id, z)| (lab.visible(*id), *z)).collect()
            };
            let sides = [
                sources,
                tokens(&output.promoted),
                tokens(&output.suppressed),
            ];
            let anchor = Anchor::cell(layer, position).with(Unit::Head(head as u32));
            let row = |i: usize| {
                let entries = sides.iter().flat_map(|side| match side.get(i) {
                    Some((name, number)) => [Entry::from(name.clone()), Entry::from(*number)],
                    None => [Entry::from(""), Entry::Missing],
                });
                TableRow::at(anchor, entries.collect())
            };
            let count = sides.iter().map(Vec::len).max().unwrap_or(0);
            let title = format!("{layer}.{head} at {}", name(position));
            TablePage::of(
                title,
                Anchor::position(position),
                (0..count).map(row).collect(),
            )
        });
        let value = self.value.print();
        let columns = [
            "attends to",
            value.as_str(),
            "promotes",
            "logit",
            "suppresses",
            "logit",
        ];
        Ok(Draft::of(Table::paged(&columns, pages.collect()))
            .titled(format!("head {layer}.{head}"))
            .note("a page a position: the positions that the head attends to from there; promotes, suppresses: direct logit attribution of its output there, through the final norm's gain and the unembedding, before the final norm's scale")
            .notes(self.first_position_note()))
    }
}
