//! How a method is asked about one prompt of a list, and which numbers of its figure count.
//!
//! Invariant: rows of two prompts with the same label are about the same thing, so that they may be averaged. To take numbers out of
//! another shape of figure, add a function here.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::parameters::PromptsAsked;
use crate::error::{Error, Result};
use crate::figure::{Anchor, AxisLabel, Body, Cell, Entry, Grid, Series, Table, TableRow};

/// How a method takes lists of prompts.
pub struct OverPrompts<P: 'static> {
    /// What its parameters say of a list.
    pub asked: fn(&P) -> PromptsAsked,
    /// The parameters with which one prompt is measured alone.
    pub alone: fn(&P, &PromptPlace) -> Result<P>,
    /// The numbers of that figure that are averaged; the parameters are those of the list.
    pub numbers: fn(&P, &Body, &PromptPlace) -> Result<PromptNumbers>,
    /// What the numbers are, in a sentence.
    pub note: &'static str,
    /// In which order rows are shown.
    pub order: fn(&P) -> RowOrder,
    /// What of a prompt is read.
    pub reads: PromptPart,
    /// Whether it asks about the answer that the list names.
    pub answers: ListAnswers,
}

/// Whether a method asks about the answers of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListAnswers {
    Asked,
    /// It would, and a parameter names the token for all prompts.
    Overruled,
    /// What it measures is about no answer, or about the model's own.
    Unasked,
}

/// What of a prompt a method reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptPart {
    /// The positions that are asked about.
    Positions,
    /// All of it, whatever the position.
    Whole,
}

/// In which order the rows of means are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// All of them, as they come in the figure of one prompt.
    AsMeasured,
    /// Those of the largest magnitude first.
    LargestFirst,
    /// Those that the most prompts have first, and of these the largest.
    MostPromptsFirst,
}

/// A position of one prompt, and what is known of the prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptPlace {
    pub position: usize,
    /// How many positions there are from the first that is read to the end of the text.
    pub window: usize,
    /// The first token of the answer that the list names.
    pub answer: Option<u32>,
    /// Those of the alternatives.
    pub alternatives: Vec<u32>,
    pub entity: Option<String>,
}

impl PromptPlace {
    /// The answer as the value of a parameter, where the list names one and the parameter was not given.
    pub fn token(&self, given: Option<&String>) -> Option<String> {
        let own = || self.answer.map(|id| format!("#{id}"));
        given.cloned().or_else(own)
    }

    /// The same as a difference from the first alternative, where there is one.
    pub fn difference(&self, given: Option<&String>) -> Option<String> {
        let own = self.token(given)?;
        let other = self.alternatives.first().filter(|_| given.is_none());
        Some(match other {
            Some(other) => format!("{own} - #{other}"),
            None => own,
        })
    }
}

/// The numbers of one prompt: rows by named columns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PromptNumbers {
    /// What a row is, such as `layer`; empty where there is one row.
    pub axis: String,
    /// The numbers of every row.
    pub numbers: Vec<ListedNumber>,
    pub rows: Vec<NumberRow>,
}

/// One of the numbers of every row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedNumber {
    pub name: String,
    /// Whether it counts something: a layer, a rank.
    pub whole: bool,
    /// Of a change: the name of the number that says how much further from 0 it is than its control.
    pub judged_by: Option<String>,
}

impl<T: Into<String>> From<T> for ListedNumber {
    fn from(name: T) -> Self {
        Self {
            name: name.into(),
            whole: false,
            judged_by: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NumberRow {
    /// What the row is about; the same of every prompt.
    pub label: Entry,
    /// The layer and unit that it is about; positions differ between prompts.
    pub anchor: Anchor,
    /// One for each number; none where there is no such.
    pub values: Vec<Option<f32>>,
}

impl NumberRow {
    /// A row; what is not finite is no number.
    pub fn of(label: impl Into<Entry>, anchor: Anchor, values: Vec<f32>) -> Self {
        let finite = |value: f32| value.is_finite().then_some(value);
        Self {
            label: label.into(),
            anchor: Anchor {
                position: None,
                ..anchor
            },
            values: values.into_iter().map(finite).collect(),
        }
    }
}

/// An error of the program: a figure is not of the shape that its method makes.
fn unexpected(what: &str) -> Error {
    Error::Engine(format!("numbers of a list are taken of {what}"))
}

/// The grid that a method makes.
///
/// # Errors
///
/// When the figure is no grid.
pub fn grid_of(body: &Body) -> Result<&Grid> {
    match body {
        Body::Grid(grid) => Ok(grid),
        Body::Series(_) | Body::Table(_) | Body::Graph(_) | Body::Text(_) => {
            Err(unexpected("a figure that is no grid"))
        }
    }
}

/// The series that a method makes.
///
/// # Errors
///
/// When the figure is no series.
pub fn series_of(body: &Body) -> Result<&Series> {
    match body {
        Body::Series(series) => Ok(series),
        Body::Grid(_) | Body::Table(_) | Body::Graph(_) | Body::Text(_) => {
            Err(unexpected("a figure that is no series"))
        }
    }
}

/// The table that a method makes.
///
/// # Errors
///
/// When the figure is no table.
pub fn table_of(body: &Body) -> Result<&Table> {
    match body {
        Body::Table(table) => Ok(table),
        Body::Grid(_) | Body::Series(_) | Body::Graph(_) | Body::Text(_) => {
            Err(unexpected("a figure that is no table"))
        }
    }
}

impl PromptNumbers {
    /// Measured numbers under these names.
    pub fn of<T: Into<String>>(
        axis: &str,
        names: impl IntoIterator<Item = T>,
        rows: Vec<NumberRow>,
    ) -> Self {
        Self {
            axis: axis.into(),
            numbers: names.into_iter().map(ListedNumber::from).collect(),
            rows,
        }
    }

    /// The curves of a series: a row a point, a number a curve under a name of its own; and the totals as the last row, where there
    /// are some.
    ///
    /// # Errors
    ///
    /// When the figure is no series.
    pub fn of_series(body: &Body, names: &[String]) -> Result<Self> {
        let series = series_of(body)?;
        let row = |(i, point): (usize, &AxisLabel)| {
            let values = series.curves.iter().map(|curve| curve.values[i]);
            NumberRow::of(point.entry(), point.anchor, values.collect())
        };
        let mut rows: Vec<NumberRow> = series.points.iter().enumerate().map(row).collect();
        let totals = series.curves.iter().map(|curve| curve.total);
        if let Some(totals) = totals.collect::<Option<Vec<f32>>>() {
            rows.push(NumberRow::of("total", Anchor::default(), totals));
        }
        Ok(Self::of(&series.axis, names, rows))
    }

    /// Columns of a table, under their own names: a row for each of its rows that `keep` takes, labelled by the column `label`, or
    /// without a label. A text is no number.
    ///
    /// # Errors
    ///
    /// When the figure is no table, or lacks a column.
    pub fn of_table(
        body: &Body,
        label: &str,
        names: &[&str],
        keep: impl Fn(&TableRow) -> bool,
    ) -> Result<Self> {
        let table = table_of(body)?;
        let index = |name: &str| {
            let found = table.columns.iter().position(|own| own == name);
            found.ok_or_else(|| unexpected(&format!("a table without the column {name}")))
        };
        let columns = names.iter().map(|name| index(name));
        let columns = columns.collect::<Result<Vec<usize>>>()?;
        let labels = Some(label).filter(|label| !label.is_empty());
        let labels = labels.map(index).transpose()?;
        let number = |entry: Option<&Entry>| match entry {
            Some(Entry::Whole(value)) => *value as f32,
            Some(Entry::Number(value)) => *value,
            Some(Entry::Text(_) | Entry::Missing) | None => f32::NAN,
        };
        let row = |row: &TableRow| {
            let label = labels.and_then(|at| row.entries.get(at)).cloned();
            let label = label.unwrap_or_else(|| Entry::from(""));
            let values = columns.iter().map(|at| number(row.entries.get(*at)));
            NumberRow::of(label, row.anchor, values.collect())
        };
        let rows = || table.pages.iter().flat_map(|page| &page.rows);
        let found = rows().filter(|row| keep(row)).map(row).collect();
        let mut out = Self::of(label, names.iter().copied(), found);
        for (number, at) in out.numbers.iter_mut().zip(&columns) {
            let measured = |row: &TableRow| matches!(row.entries.get(*at), Some(Entry::Number(_)));
            number.whole = !rows().any(measured);
        }
        Ok(out)
    }

    /// The column of a grid at a position: a row for each of its rows, with the numbers that `of` takes from the indices of column and
    /// row.
    ///
    /// # Errors
    ///
    /// When the figure is no grid, or lacks the position.
    pub fn of_column(
        body: &Body,
        position: usize,
        names: Vec<String>,
        of: impl Fn(usize, usize) -> Vec<f32>,
    ) -> Result<Self> {
        let grid = grid_of(body)?;
        let here = |column: &AxisLabel| column.anchor.position == Some(position as u32);
        let column = grid.columns.iter().position(here);
        let column = column.ok_or_else(|| unexpected("a grid without that position"))?;
        let rows = grid.rows.iter().enumerate();
        let rows = rows.map(|(row, own)| NumberRow::of(own.entry(), own.anchor, of(column, row)));
        Ok(Self::of(&grid.row_axis, names, rows.collect()))
    }

    /// All cells of a grid: a row for each, called by the labels of its row and column, with the numbers that `of` takes of it.
    ///
    /// # Errors
    ///
    /// When the figure is no grid.
    pub fn of_cells(
        body: &Body,
        axis: &str,
        names: &[&str],
        of: impl Fn(&Cell) -> Vec<f32>,
    ) -> Result<Self> {
        let grid = grid_of(body)?;
        let mut rows = Vec::new();
        for (r, row) in grid.rows.iter().enumerate() {
            for (column, cells) in grid.columns.iter().zip(&grid.cells) {
                let label = format!("{}.{}", row.label, column.label);
                rows.push(NumberRow::of(label, cells[r].anchor, of(&cells[r])));
            }
        }
        Ok(Self::of(axis, names.iter().copied(), rows))
    }

    /// These numbers, which are under edits, each followed by the same without them and by the change; where there is a control, by the
    /// change under that and by how much further the edits' own is from 0.
    pub(super) fn beside(&self, plain: &Self, control: Option<&Self>) -> Self {
        let each = |own: &ListedNumber| {
            let named = |what: &str| ListedNumber::from(format!("{}, {what}", own.name));
            let beyond = control.map(|_| named("beyond control"));
            let plain = ListedNumber {
                whole: own.whole,
                ..named("plain")
            };
            // It may lie below 0, and is no count.
            let change = ListedNumber {
                judged_by: beyond.as_ref().map(|beyond| beyond.name.clone()),
                ..named("change")
            };
            let drawn = control.map(|_| named("control"));
            let all = [own.clone(), plain, change].into_iter();
            all.chain(drawn).chain(beyond).collect::<Vec<_>>()
        };
        let row = |row: &NumberRow| {
            let same = |of: &Self| {
                let found = of.rows.iter().find(|own| own.label == row.label);
                found.map_or_else(Vec::new, |own| own.values.clone())
            };
            let (plain, drawn) = (same(plain), control.map(same));
            let of = |(i, value): (usize, &Option<f32>)| {
                let at = |values: &[Option<f32>]| values.get(i).copied().flatten();
                let apart =
                    |value: Option<f32>, other| value.zip(other).map(|(own, other)| own - other);
                let (other, change) = (at(&plain), apart(*value, at(&plain)));
                let mut out = vec![*value, other, change];
                if let Some(drawn) = &drawn {
                    let chance = apart(at(drawn), other);
                    out.extend([chance, apart(change.map(f32::abs), chance.map(f32::abs))]);
                }
                out
            };
            NumberRow {
                values: row.values.iter().enumerate().flat_map(of).collect(),
                ..row.clone()
            }
        };
        Self {
            axis: self.axis.clone(),
            numbers: self.numbers.iter().flat_map(each).collect(),
            rows: self.rows.iter().map(row).collect(),
        }
    }

    /// The mean of the numbers of several positions of one prompt, each over the positions that have it.
    pub(super) fn averaged(mut several: Vec<Self>) -> Self {
        if several.len() == 1 {
            return several.remove(0);
        }
        let mut table = NumbersByRow::of(several.iter().map(Some));
        // A mean of whole numbers is none.
        table.numbers.iter_mut().for_each(|own| own.whole = false);
        let mean = |values: &[Option<f32>]| {
            let known: Vec<f64> = values.iter().flatten().map(|v| f64::from(*v)).collect();
            (!known.is_empty()).then(|| (known.iter().sum::<f64>() / known.len() as f64) as f32)
        };
        let rows = table.rows.iter().map(|row| NumberRow {
            label: row.label.clone(),
            anchor: row.anchor,
            values: row.values.iter().map(|values| mean(values)).collect(),
        });
        Self {
            rows: rows.collect(),
            axis: table.axis,
            numbers: table.numbers,
        }
    }
}

/// The numbers of many prompts by row and name.
pub(super) struct NumbersByRow {
    pub axis: String,
    pub numbers: Vec<ListedNumber>,
    pub rows: Vec<RowOfPrompts>,
}

/// One row of all prompts.
pub(super) struct RowOfPrompts {
    pub label: Entry,
    pub anchor: Anchor,
    /// By name, then by prompt.
    pub values: Vec<Vec<Option<f32>>>,
}

impl NumbersByRow {
    /// The numbers of all prompts; of a prompt that was not measured, none.
    pub fn of<'a>(all: impl Iterator<Item = Option<&'a PromptNumbers>>) -> Self {
        let mut out = Self {
            axis: String::new(),
            numbers: Vec::new(),
            rows: Vec::new(),
        };
        let mut known: HashMap<String, usize> = HashMap::new();
        let all: Vec<Option<&PromptNumbers>> = all.collect();
        for (i, own) in all.iter().enumerate() {
            let Some(own) = own else { continue };
            if out.numbers.is_empty() {
                (out.axis, out.numbers) = (own.axis.clone(), own.numbers.clone());
            }
            for row in &own.rows {
                let at = *known.entry(row.label.exact()).or_insert_with(|| {
                    out.rows.push(RowOfPrompts {
                        label: row.label.clone(),
                        anchor: row.anchor,
                        values: vec![vec![None; all.len()]; out.numbers.len()],
                    });
                    out.rows.len() - 1
                });
                for (number, value) in own.numbers.iter().zip(&row.values) {
                    if let Some(column) = out.column(&number.name) {
                        out.rows[at].values[column][i] = *value;
                    }
                }
            }
        }
        out
    }

    /// The column of a number.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.numbers.iter().position(|own| own.name == name)
    }
}
