//! Tables: named columns over pages of rows.
//!
//! Invariant: a row has an entry for each column, and stands at the place in the model that it is about. To add another kind of entry, add
//! a variant of [`Entry`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Anchor, Entry, FeatureHandle};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableRow {
    /// The layer, position and unit that it is about.
    pub anchor: Anchor,
    /// One entry for each column.
    pub entries: Vec<Entry>,
    /// The feature that it is about, for edits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<FeatureHandle>,
    /// The ids of the tokens that its entries name, by column, in their order.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ids: BTreeMap<String, Vec<u32>>,
}

/// A page of a table; the neurons, for example, have one for each position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TablePage {
    /// What the page is about.
    pub title: String,
    /// The layer, position and unit that it is about.
    pub anchor: Anchor,
    pub rows: Vec<TableRow>,
}

/// Named columns over pages of rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Column names.
    pub columns: Vec<String>,
    /// Pages; a plain table has one.
    pub pages: Vec<TablePage>,
}

impl TablePage {
    /// Whether its rows are the layers of a model, in order; the last layer is then shown on top, as in a grid.
    pub fn by_layer(&self) -> bool {
        let layer = |row: &TableRow| row.anchor.layer.filter(|_| row.anchor.unit.is_none());
        let layers: Vec<Option<u16>> = self.rows.iter().map(layer).collect();
        layers.len() > 1 && layers.windows(2).all(|w| w[0].is_some() && w[0] < w[1])
    }

    /// Whether a column counts: all of its entries are whole numbers below a million, which are shown without a point.
    pub fn is_whole(&self, column: usize) -> bool {
        let entries = || self.rows.iter().filter_map(|row| row.entries.get(column));
        let whole = |entry: &Entry| match entry {
            Entry::Whole(_) | Entry::Missing => true,
            Entry::Number(value) => value.fract() == 0.0 && value.abs() < 1e6,
            Entry::Text(_) => false,
        };
        entries().any(|entry| *entry != Entry::Missing) && entries().all(whole)
    }

    /// The columns of texts or whole numbers that have the same entry in every row of a page that is by layer; they need to be shown only once.
    pub fn constant(&self) -> Vec<usize> {
        let Some(first) = self.rows.first().filter(|_| self.by_layer()) else {
            return Vec::new();
        };
        let same = |i: &usize| {
            let says = match &first.entries[*i] {
                Entry::Text(text) => !text.is_empty(),
                Entry::Whole(_) => true,
                Entry::Number(_) | Entry::Missing => false,
            };
            says && self
                .rows
                .iter()
                .all(|r| r.entries.get(*i) == first.entries.get(*i))
        };
        (1..first.entries.len()).filter(same).collect()
    }
}

impl Table {
    /// Sorts the rows of every page by a column: numbers before texts, what is equal as it was; backwards where asked.
    pub fn sort_by(&mut self, column: usize, backwards: bool) {
        let key = |row: &TableRow| match row.entries.get(column) {
            Some(Entry::Whole(value)) => (0, *value as f32, String::new()),
            Some(Entry::Number(value)) => (0, *value, String::new()),
            Some(Entry::Text(text)) if text.is_empty() => (2, 0.0, String::new()),
            Some(Entry::Text(text)) => (1, 0.0, text.clone()),
            Some(Entry::Missing) | None => (2, 0.0, String::new()),
        };
        for page in &mut self.pages {
            page.rows.sort_by(|a, b| {
                let (a, b) = (key(a), key(b));
                let order = a.1.total_cmp(&b.1).then_with(|| a.2.cmp(&b.2));
                let order = if backwards { order.reverse() } else { order };
                a.0.cmp(&b.0).then(order)
            });
        }
    }

    /// The number of columns of a page: those of the table, or more if a row has more entries.
    pub fn columns_of(&self, page: &TablePage) -> usize {
        let longest = page.rows.iter().map(|row| row.entries.len()).max();
        longest.unwrap_or(0).max(self.columns.len())
    }
}
