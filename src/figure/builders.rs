//! Figures in few words: what an instrument makes a figure of, without the fields that are empty in most.
//!
//! Invariant: a builder only fills fields in; it measures and decides nothing. To build another shape in one word, add a function here.

use super::{
    Anchor, Body, Cell, Curve, Entry, Grid, Header, Page, Row, Scale, Series, Table, Text,
};

impl From<f32> for Entry {
    fn from(number: f32) -> Self {
        Self::Number(number)
    }
}

impl From<String> for Entry {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Entry {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

/// Whole numbers are names here (a layer, a position, a rank), not measurements: they stand as text.
impl From<usize> for Entry {
    fn from(number: usize) -> Self {
        Self::Text(number.to_string())
    }
}

impl From<Grid> for Body {
    fn from(grid: Grid) -> Self {
        Self::Grid(grid)
    }
}

impl From<Table> for Body {
    fn from(table: Table) -> Self {
        Self::Table(table)
    }
}

impl From<Series> for Body {
    fn from(series: Series) -> Self {
        Self::Series(series)
    }
}

impl From<Text> for Body {
    fn from(text: Text) -> Self {
        Self::Text(text)
    }
}

impl Row {
    /// A row about a place.
    pub fn at(anchor: Anchor, entries: Vec<Entry>) -> Self {
        Self { anchor, entries }
    }
}

/// Entries of a row, each as what it is: a number, a text, or a whole number as text.
macro_rules! entries {
    ($($entry:expr),* $(,)?) => {
        vec![$($crate::figure::Entry::from($entry)),*]
    };
}

pub(crate) use entries;

impl Page {
    /// A page with a title.
    pub fn of(title: impl Into<String>, anchor: Anchor, rows: Vec<Row>) -> Self {
        Self {
            title: title.into(),
            anchor,
            rows,
        }
    }
}

impl Table {
    /// A table of one page without a title.
    pub fn of(columns: &[&str], rows: Vec<Row>) -> Self {
        Self::paged(columns, vec![Page::of("", Anchor::default(), rows)])
    }

    /// A table of several pages.
    pub fn paged(columns: &[&str], pages: Vec<Page>) -> Self {
        Self {
            columns: columns.iter().map(ToString::to_string).collect(),
            pages,
        }
    }
}

impl Header {
    /// A title about a place.
    pub fn of(label: impl Into<String>, anchor: Anchor) -> Self {
        Self {
            label: label.into(),
            anchor,
        }
    }

    /// The title of a layer.
    pub fn layer(layer: usize) -> Self {
        Self::of(layer.to_string(), Anchor::layer(layer))
    }

    /// The titles of the first layers.
    pub fn layers(count: usize) -> Vec<Self> {
        (0..count).map(Self::layer).collect()
    }

    /// The title of a token at a position.
    pub fn token(visible: String, position: usize) -> Self {
        Self::of(visible, Anchor::position(position))
    }
}

impl Cell {
    /// A cell with a number and a label.
    pub fn of(label: impl Into<String>, value: f32, anchor: Anchor) -> Self {
        Self {
            label: label.into(),
            value,
            anchor,
            more: Vec::new(),
        }
    }
}

impl Scale {
    /// The scale around zero that holds some numbers; those that are not finite take no part.
    pub fn around_zero(values: impl IntoIterator<Item = f32>) -> Self {
        let sizes = values.into_iter().map(f32::abs).filter(|v| v.is_finite());
        Self::Diverging {
            reach: sizes.fold(1e-6, f32::max),
        }
    }
}

impl Curve {
    /// A curve without a total.
    pub fn of(label: impl Into<String>, anchor: Anchor, values: Vec<f32>) -> Self {
        Self {
            label: label.into(),
            anchor,
            values,
            total: None,
        }
    }
}
