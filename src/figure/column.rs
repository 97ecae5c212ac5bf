//! Columns: what the newest position adds to a figure that grows with a text.
//!
//! Invariant: the size of a column does not depend on the length of the text: it contains the cells, labels, notes and tokens
//! of its own positions only. To let another shape grow, add its arm in [`Figure::append`].

use std::collections::BTreeMap;

use super::{Anchor, Body, Check, Figure};

/// The part of a growing figure for the newest positions.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Its first position.
    pub position: usize,
    /// The tokens from that position on.
    pub tokens: Vec<u32>,
    /// The active edits, as in a figure's provenance.
    pub edits: Vec<String>,
    /// The title of the whole figure.
    pub title: String,
    /// The new part, in the shape of the whole.
    pub body: Body,
    /// The notes of the whole figure.
    pub notes: Vec<String>,
    /// The check of these positions.
    pub check: Option<Check>,
    /// The raw texts of the tokens that it names by their ids.
    pub texts: BTreeMap<u32, Option<String>>,
}

impl From<Figure> for Column {
    fn from(figure: Figure) -> Self {
        let tokens = &figure.provenance.tokens;
        let position = figure
            .body
            .first_position()
            .map_or(tokens.len().saturating_sub(1), |p| p as usize);
        let tokens = tokens.get(position..).unwrap_or_default().to_vec();
        let mut texts = figure.provenance.texts;
        let named = figure.body.token_ids();
        texts.retain(|id, _| tokens.contains(id) || named.contains(id));
        Self {
            position,
            tokens,
            edits: figure.provenance.edits,
            title: figure.title,
            body: figure.body,
            notes: figure.notes,
            check: figure.check,
            texts,
        }
    }
}

impl Body {
    /// The position of the first column, page or point; none if they are not positions.
    fn first_position(&self) -> Option<u32> {
        match self {
            Self::Grid(grid) => grid.columns.first().and_then(|h| h.anchor.position),
            Self::Table(table) => table.pages.first().and_then(|p| p.anchor.position),
            Self::Series(series) => series.points.first().and_then(|p| p.anchor.position),
            Self::Graph(_) | Self::Text(_) => None,
        }
    }
}

impl Figure {
    /// Appends a column, which must have the same shape. If its position exists already (after a rewind), that position is
    /// replaced and everything after it dropped.
    pub fn append(&mut self, next: Column) {
        self.check = match (self.check, next.check) {
            (Some(a), Some(b)) => Some(a.worst(b)),
            (a, b) => a.or(b),
        };
        let first = next.body.first_position();
        if let Some(first) = first {
            self.truncate(first);
        }
        let grown = match (&mut self.body, next.body) {
            (Body::Grid(grid), Body::Grid(mut more)) => {
                if let Some(number) = grid.shown_number() {
                    more.show_number(number);
                }
                grid.scale = grid.scale.around(more.scale);
                // They were those of an earlier position.
                grid.opening = None;
                grid.also.extend(more.also);
                grid.columns.extend(more.columns);
                grid.cells.extend(more.cells);
                true
            }
            (Body::Table(table), Body::Table(more)) => {
                table.pages.extend(more.pages);
                true
            }
            (Body::Series(series), Body::Series(more)) if first.is_some() => series.extend(more),
            (
                body @ (Body::Grid(_)
                | Body::Table(_)
                | Body::Series(_)
                | Body::Graph(_)
                | Body::Text(_)),
                other,
            ) => {
                *body = other;
                false
            }
        };
        // The title belongs to the whole body, so it changes only if the body was replaced; notes come with every column.
        if !grown {
            self.title = next.title;
        }
        if !grown || !next.notes.is_empty() {
            self.notes = next.notes;
        }
        let tokens = &mut self.provenance.tokens;
        if tokens.len() >= next.position {
            tokens.truncate(next.position);
            tokens.extend(next.tokens);
        }
        self.provenance.edits = next.edits;
        self.provenance.texts.extend(next.texts);
    }

    /// Takes the cells of columns that are there already from a column that was measured again, in which nothing is unread.
    /// Positions that the figure does not have are left out; only a grid has such cells.
    pub fn complete(&mut self, again: Column) {
        let (Body::Grid(grid), Body::Grid(mut more)) = (&mut self.body, again.body) else {
            return;
        };
        if let Some(number) = grid.shown_number() {
            more.show_number(number);
        }
        self.provenance.texts.extend(again.texts);
        let mut newest = false;
        for (from, title) in more.columns.iter().enumerate() {
            let found = grid
                .columns
                .iter()
                .rposition(|held| held.anchor == title.anchor);
            let Some(at) = found.filter(|at| grid.cells.get(*at).is_some()) else {
                continue;
            };
            grid.cells[at].clone_from(&more.cells[from]);
            grid.also.replace(at, &more.also, from);
            newest |= at + 1 == grid.columns.len();
        }
        grid.scale = grid.scale.around(more.scale);
        if newest {
            self.notes = again.notes;
        }
    }

    /// Drops every column or page at `position` or later.
    pub fn truncate(&mut self, position: u32) {
        let keep = |anchor: &Anchor| anchor.position.is_none_or(|p| p < position);
        match &mut self.body {
            Body::Grid(grid) => {
                let count = grid.columns.iter().take_while(|h| keep(&h.anchor)).count();
                grid.columns.truncate(count);
                grid.cells.truncate(count);
                grid.also.truncate(count);
            }
            Body::Table(table) => table.pages.retain(|p| keep(&p.anchor)),
            Body::Series(series) => {
                let count = series.points.iter().take_while(|p| keep(&p.anchor)).count();
                series.truncate(count);
            }
            Body::Graph(_) | Body::Text(_) => {}
        }
    }
}
