//! Constructors for figures: they fill in the fields that are empty in most figures.
//!
//! Invariant: a constructor only fills in fields; it measures and decides nothing. To build another shape, add a function here.

use std::collections::BTreeMap;

use super::{
    Anchor, AxisLabel, Body, Cell, Curve, Entry, FeatureHandle, Graph, Grid, Scale, Series, Style,
    Table, TablePage, TableRow, Text, Unit,
};

impl From<f32> for Entry {
    fn from(number: f32) -> Self {
        Self::Number(number)
    }
}

impl<T: Into<Self>> From<Option<T>> for Entry {
    fn from(entry: Option<T>) -> Self {
        entry.map_or(Self::Missing, Into::into)
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

impl From<usize> for Entry {
    fn from(number: usize) -> Self {
        Self::Whole(number as u64)
    }
}

impl From<u32> for Entry {
    fn from(number: u32) -> Self {
        Self::Whole(u64::from(number))
    }
}

impl TableRow {
    /// A row with an anchor.
    pub fn at(anchor: Anchor, entries: Vec<Entry>) -> Self {
        Self {
            anchor,
            entries,
            handle: None,
            ids: BTreeMap::new(),
        }
    }

    /// The row with the ids of the tokens that its entry of a column names.
    #[must_use]
    pub fn naming(mut self, column: &str, ids: impl IntoIterator<Item = u32>) -> Self {
        self.ids.insert(column.into(), ids.into_iter().collect());
        self
    }

    /// A row about a feature that edits can name.
    pub fn feature(anchor: Anchor, handle: FeatureHandle, entries: Vec<Entry>) -> Self {
        Self {
            anchor: anchor.with(Unit::Feature(handle.feature)),
            handle: Some(handle),
            ..Self::at(Anchor::default(), entries)
        }
    }
}

/// The entries of a row, each converted by its type: a measured number, a whole one, or a text.
macro_rules! entries {
    ($($entry:expr),* $(,)?) => {
        vec![$($crate::figure::Entry::from($entry)),*]
    };
}

pub(crate) use entries;

impl TablePage {
    pub fn of(title: impl Into<String>, anchor: Anchor, rows: Vec<TableRow>) -> Self {
        Self {
            title: title.into(),
            anchor,
            rows,
        }
    }
}

impl Table {
    /// A table of one page without a title.
    pub fn of(columns: &[&str], rows: Vec<TableRow>) -> Self {
        Self::paged(columns, vec![TablePage::of("", Anchor::default(), rows)])
    }

    /// A table of several pages.
    pub fn paged(columns: &[&str], pages: Vec<TablePage>) -> Self {
        Self {
            columns: columns.iter().map(ToString::to_string).collect(),
            pages,
        }
    }
}

impl AxisLabel {
    /// An axis label with an anchor.
    pub fn of(label: impl Into<String>, anchor: Anchor) -> Self {
        Self {
            label: label.into(),
            anchor,
        }
    }

    /// The label of a layer.
    pub fn layer(layer: usize) -> Self {
        Self::of(layer.to_string(), Anchor::layer(layer))
    }

    /// The labels of the first `count` layers.
    pub fn layers(count: usize) -> Vec<Self> {
        (0..count).map(Self::layer).collect()
    }

    /// The label as an entry of a table: the number of a layer, where that is what it is.
    pub fn entry(&self) -> Entry {
        let layer = self.anchor.layer.map(usize::from);
        match layer.filter(|layer| self.label == layer.to_string()) {
            Some(layer) => layer.into(),
            None => self.label.clone().into(),
        }
    }

    /// The label of a token at a position.
    pub fn token(visible: String, position: usize) -> Self {
        Self::of(visible, Anchor::position(position))
    }

    /// The labels of the heads of any layer.
    pub fn heads(count: usize) -> Vec<Self> {
        let head = |h: usize| Self::of(h.to_string(), Anchor::default().with(Unit::Head(h as u32)));
        (0..count).map(head).collect()
    }

    /// The label of a head of a layer: `3.1`.
    pub fn head(layer: usize, head: usize) -> Self {
        Self::of(format!("{layer}.{head}"), Anchor::head(layer, head))
    }
}

impl Scale {
    /// A scale from zero to `hi`.
    pub fn up_to(hi: f32) -> Self {
        Self::Range {
            lo: 0.0,
            hi: hi.max(1e-6),
        }
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
            ids: Vec::new(),
        }
    }

    /// The cell with further named numbers.
    #[must_use]
    pub fn more(self, more: impl IntoIterator<Item = (impl Into<String>, f32)>) -> Self {
        let more = more.into_iter().map(|(name, value)| (name.into(), value));
        Self {
            more: more.collect(),
            ..self
        }
    }

    /// The number that stands under a name among its candidates.
    pub fn named(&self, name: &str) -> Option<f32> {
        let found = self.more.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| *value)
    }

    /// The cell with the token ids of its first candidates.
    #[must_use]
    pub fn ids(self, ids: Vec<u32>) -> Self {
        Self { ids, ..self }
    }
}

macro_rules! bodies {
    ($($of:ident)*) => {
        $(impl From<$of> for Body {
            fn from(body: $of) -> Self {
                Self::$of(body)
            }
        })*
    };
}

bodies! { Grid Table Series Graph Text }

impl Grid {
    /// A grid of shares: the names of the two axes with their labels, the name of its numbers, and a function that makes the
    /// cell of a row and column.
    pub fn of(
        (row_axis, rows): (&str, Vec<AxisLabel>),
        (column_axis, columns): (&str, Vec<AxisLabel>),
        value: impl Into<String>,
        cell: impl Fn(usize, usize) -> Cell,
    ) -> Self {
        let column = |column| (0..rows.len()).map(|row| cell(row, column)).collect();
        let cells = (0..columns.len()).map(column).collect();
        Self::filled((row_axis, rows), (column_axis, columns), value, cells)
    }

    /// A grid of given cells, column by column.
    pub fn filled(
        (row_axis, rows): (&str, Vec<AxisLabel>),
        (column_axis, columns): (&str, Vec<AxisLabel>),
        value: impl Into<String>,
        cells: Vec<Vec<Cell>>,
    ) -> Self {
        Self {
            row_axis: row_axis.into(),
            column_axis: column_axis.into(),
            value: value.into(),
            cells,
            rows,
            columns,
            ..Self::default()
        }
    }

    /// The grid with another scale.
    #[must_use]
    pub fn scaled(self, scale: Scale) -> Self {
        Self { scale, ..self }
    }

    /// The grid with a diverging scale up to the largest finite magnitude.
    #[must_use]
    pub fn around_zero(self) -> Self {
        let reach = self.reach();
        Self {
            scale: Scale::Diverging { reach },
            ..self
        }
    }

    /// The largest finite magnitude in the grid; at least a small positive number.
    pub fn reach(&self) -> f32 {
        let sizes = self.cells.iter().flatten().map(|cell| cell.value.abs());
        sizes.filter(|v| v.is_finite()).fold(1e-6, f32::max)
    }
}

impl Body {
    /// The series, if the body is one.
    pub fn series(&self) -> Option<&Series> {
        match self {
            Self::Series(series) => Some(series),
            Self::Grid(_) | Self::Table(_) | Self::Graph(_) | Self::Text(_) => None,
        }
    }
}

impl Series {
    /// A series of curves without negative numbers, on a scale from zero to the largest number.
    pub fn of(
        axis: &str,
        value: &str,
        points: Vec<AxisLabel>,
        curves: Vec<Curve>,
        style: Style,
    ) -> Self {
        let all = curves.iter().flat_map(|c| &c.values).copied();
        let hi = all.filter(|v| v.is_finite()).fold(1e-6, f32::max);
        Self {
            axis: axis.into(),
            value: value.into(),
            points,
            curves,
            scale: Scale::Range { lo: 0.0, hi },
            style,
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
