//! Columns: what one more position adds to a figure that grows with a text.
//!
//! Invariant: a column costs the same after a thousand tokens as after ten: it has the cells, titles, notes and tokens of its own
//! positions and nothing of earlier ones. To let another shape grow, add its arm in [`Figure::append`].

use super::{Anchor, Body, Check, Figure};

/// The newest positions' part of a growing figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The first position that it is about.
    pub position: usize,
    /// The tokens from there on.
    pub tokens: Vec<u32>,
    /// Edits that are on, as a figure's provenance has them.
    pub edits: Vec<String>,
    /// What the whole figure would be called.
    pub title: String,
    /// What is new, in the shape of the whole.
    pub body: Body,
    /// What a reader must know now.
    pub notes: Vec<String>,
    /// The check of these positions.
    pub check: Option<Check>,
}

impl From<Figure> for Column {
    fn from(figure: Figure) -> Self {
        let tokens = &figure.provenance.tokens;
        let position = figure
            .body
            .first_position()
            .map_or(tokens.len().saturating_sub(1), |p| p as usize);
        Self {
            position,
            tokens: tokens.get(position..).unwrap_or_default().to_vec(),
            edits: figure.provenance.edits,
            title: figure.title,
            body: figure.body,
            notes: figure.notes,
            check: figure.check,
        }
    }
}

impl Body {
    /// The position of the first column, page or point; none where they are of something else.
    fn first_position(&self) -> Option<u32> {
        match self {
            Self::Grid(grid) => grid.columns.first().and_then(|h| h.anchor.position),
            Self::Table(table) => table.pages.first().and_then(|p| p.anchor.position),
            Self::Series(series) => series.points.first().and_then(|p| p.anchor.position),
            Self::Text(_) => None,
        }
    }
}

impl Figure {
    /// Appends a column: it has the same shape and covers later positions.
    /// A position that is there already is replaced, and everything after it dropped (a rewind).
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
            (body @ (Body::Grid(_) | Body::Table(_) | Body::Series(_) | Body::Text(_)), other) => {
                *body = other;
                false
            }
        };
        // What is said of the newest position is said of none before it: a title belongs to the whole body, and notes
        // come with every column.
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
            Body::Text(_) => {}
        }
    }
}
