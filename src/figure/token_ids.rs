//! The tokens that a figure names by their ids, whose raw texts its provenance holds.
//!
//! Invariant: every id that a cell, a row or an anchor holds is found. To name tokens in another place of a figure, look there too.

use std::collections::BTreeSet;

use super::{Anchor, Body, Unit};

impl Body {
    /// The ids of all tokens that it names by them: as candidates, or as the unit of an anchor.
    pub fn token_ids(&self) -> BTreeSet<u32> {
        let mut ids = BTreeSet::new();
        let mut anchor = |anchor: &Anchor| {
            if let Some(Unit::Token(id)) = anchor.unit {
                ids.insert(id);
            }
        };
        let mut candidates: BTreeSet<u32> = BTreeSet::new();
        match self {
            Self::Grid(grid) => {
                let labels = grid.rows.iter().chain(&grid.columns);
                labels.for_each(|label| anchor(&label.anchor));
                for cell in grid.cells.iter().flatten() {
                    anchor(&cell.anchor);
                    candidates.extend(&cell.ids);
                }
            }
            Self::Table(table) => {
                for page in &table.pages {
                    anchor(&page.anchor);
                    for row in &page.rows {
                        anchor(&row.anchor);
                        candidates.extend(row.ids.values().flatten());
                    }
                }
            }
            Self::Series(series) => {
                series.points.iter().for_each(|point| anchor(&point.anchor));
                series.curves.iter().for_each(|curve| anchor(&curve.anchor));
            }
            Self::Graph(graph) => graph.nodes.iter().for_each(|node| anchor(&node.anchor)),
            Self::Text(_) => {}
        }
        ids.extend(candidates);
        ids
    }
}
