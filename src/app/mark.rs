//! Marks: neurons and heads that the user has marked, across cells and layers, to act on them as a group.
//!
//! Invariant: a mark is a unit of the model rather than a cell of a figure; it is shown in every figure that has a cell for the
//! unit. To make something else markable, add its arm in [`Mark::of`].

use std::collections::BTreeMap;

use crate::edit::op::{Op, UnitChoice};
use crate::edit::{Edit, EditPlace};
use crate::figure::{Anchor, Unit};
use crate::model::network::site::{Address, Site};

/// A marked neuron or head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The address of its value: `mlp_act` of a layer, or `z` for a head.
    pub at: Address,
    pub unit: u32,
}

impl Mark {
    /// The unit of an anchor, if it can be marked.
    pub fn of(anchor: Anchor) -> Option<Self> {
        let layer = usize::from(anchor.layer?);
        match anchor.unit? {
            Unit::Neuron(unit) => Some(Self {
                at: Site::MlpAct.at(layer),
                unit,
            }),
            Unit::Head(unit) => Some(Self {
                at: Site::Z.at(layer),
                unit,
            }),
            Unit::Token(_) | Unit::Feature(_) => None,
        }
    }
}

/// Edits that apply one operation to all marked units: one edit for each address, in the order of addresses.
pub fn edits(op: fn(UnitChoice) -> Op, marks: &[Mark]) -> Vec<Edit> {
    let mut places: BTreeMap<Address, Vec<u32>> = BTreeMap::new();
    for mark in marks {
        places.entry(mark.at).or_default().push(mark.unit);
    }
    let edit = |(at, units)| Edit::new(op(UnitChoice::List(units)), EditPlace::At(at));
    places.into_iter().map(edit).collect()
}

/// An edit that ablates a named set of units, switched off.
pub fn group(name: &str, site: Site) -> Edit {
    let op = Op::Zero(UnitChoice::Set(name.into()));
    Edit {
        on: false,
        ..Edit::new(op, EditPlace::Every(site))
    }
}

/// The number of marked units in words: `3 neurons, 1 head`.
pub fn count(marks: &[Mark]) -> String {
    let heads = marks.iter().filter(|m| m.at.site == Site::Z).count();
    let part = |count: usize, word: &str| match count {
        0 => None,
        1 => Some(format!("1 {word}")),
        n => Some(format!("{n} {word}s")),
    };
    let parts: Vec<String> = [part(marks.len() - heads, "neuron"), part(heads, "head")]
        .into_iter()
        .flatten()
        .collect();
    if parts.is_empty() {
        "nothing".into()
    } else {
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neuron(layer: usize, unit: u32) -> Option<Mark> {
        Mark::of(Anchor::layer(layer).with(Unit::Neuron(unit)))
    }

    #[test]
    fn a_group_is_one_edit_an_address() {
        let head = Mark::of(Anchor::cell(2, 9).with(Unit::Head(4)));
        let marks: Vec<Mark> = [neuron(3, 17), neuron(1, 5), neuron(3, 2), head]
            .into_iter()
            .flatten()
            .collect();
        let mut lines: Vec<String> = edits(Op::Zero, &marks)
            .iter()
            .map(ToString::to_string)
            .collect();
        lines.sort();
        assert_eq!(
            lines,
            ["zero:17,2@mlp_act.3", "zero:4@z.2", "zero:5@mlp_act.1"]
        );
        assert_eq!(count(&marks), "3 neurons, 1 head");
        assert_eq!(count(&marks[1..2]), "1 neuron");
    }

    #[test]
    fn tokens_and_bare_cells_cannot_be_marked() {
        assert_eq!(Mark::of(Anchor::layer(1).with(Unit::Token(3))), None);
        assert_eq!(Mark::of(Anchor::cell(1, 2)), None);
        assert_eq!(Mark::of(Anchor::default().with(Unit::Neuron(3))), None);
    }
}
