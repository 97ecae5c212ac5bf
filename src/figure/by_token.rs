//! The numbers of a figure by token of its text, where it has one for each: with them a text can be coloured.
//!
//! Invariant: a position has one number, and there are at least two. To let another shape have some, add its arm.

use super::{Anchor, Body, Entry, Figure, Scale, Table};

/// Numbers below this are never drawn at full strength: where all are small, a text has little colour.
const LEAST: f32 = 0.01;

/// One number for each of some tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenNumbers {
    /// What they are.
    pub name: String,
    /// Positions in ascending order with their numbers; NaN where nothing was measured.
    pub numbers: Vec<(usize, f32)>,
    pub scale: Scale,
}

impl TokenNumbers {
    /// The place of a position's number on the scale, 0 to 1; none where there is no number.
    pub fn place(&self, position: usize) -> Option<f32> {
        let found = self.numbers.binary_search_by_key(&position, |(p, _)| *p);
        let (_, number) = self.numbers[found.ok()?];
        number.is_finite().then(|| self.scale.place(number))
    }

    /// Whether zero lies in the middle of the scale.
    pub fn signed(&self) -> bool {
        matches!(self.scale, Scale::Diverging { .. })
    }
}

impl Figure {
    /// The number of each token of the text: those of this row of a grid, of this curve, or of a table's first column of numbers;
    /// none if columns, points or rows are not positions.
    pub fn by_token(&self, row: usize) -> Option<TokenNumbers> {
        let found = match &self.body {
            Body::Grid(grid) => {
                let cells = grid.cells.iter().map(|column| column.get(row));
                let values = cells.map(|cell| cell.map_or(f32::NAN, |cell| cell.value));
                TokenNumbers {
                    name: grid.rows.get(row)?.label.clone(),
                    numbers: pair(grid.columns.iter().map(|c| c.anchor), values)?,
                    scale: grid.scale,
                }
            }
            Body::Series(series) => {
                let curve = series.curves.get(row)?;
                let values = curve.values.iter().copied();
                TokenNumbers {
                    name: curve.label.clone(),
                    numbers: pair(series.points.iter().map(|p| p.anchor), values)?,
                    scale: series.scale,
                }
            }
            Body::Table(table) => of_table(table)?,
            Body::Graph(_) | Body::Text(_) => return None,
        };
        (found.numbers.len() > 1).then_some(found)
    }
}

/// Positions with their numbers; none unless every anchor is a position of its own.
fn pair(
    anchors: impl Iterator<Item = Anchor>,
    values: impl Iterator<Item = f32>,
) -> Option<Vec<(usize, f32)>> {
    let positions: Option<Vec<usize>> = anchors
        .map(|anchor| anchor.position.map(|p| p as usize))
        .collect();
    let positions = positions?;
    let ascend = positions.windows(2).all(|pair| pair[0] < pair[1]);
    ascend.then(|| positions.into_iter().zip(values).collect())
}

fn of_table(table: &Table) -> Option<TokenNumbers> {
    let [page] = table.pages.as_slice() else {
        return None;
    };
    let first = page.rows.first()?;
    let number = |entry: &Entry| match entry {
        Entry::Number(number) => Some(*number),
        Entry::Whole(_) | Entry::Missing | Entry::Text(_) => None,
    };
    let column = first.entries.iter().position(|e| number(e).is_some())?;
    let values = page.rows.iter().map(|row| {
        let own = row.entries.get(column).and_then(number);
        own.unwrap_or(f32::NAN)
    });
    let numbers = pair(page.rows.iter().map(|row| row.anchor), values)?;
    // The first position of a text, a sink in many models, has no part in the colours.
    let judged = numbers.iter().skip(usize::from(numbers.len() > 1));
    let judged = judged.map(|(_, x)| *x).filter(|x| x.is_finite());
    let (lo, hi) = judged.fold((0f32, LEAST), |(lo, hi), x| (lo.min(x), hi.max(x)));
    let scale = if lo < 0.0 {
        Scale::Diverging { reach: hi.max(-lo) }
    } else {
        Scale::Range { lo: 0.0, hi }
    };
    Some(TokenNumbers {
        name: table.columns.get(column)?.clone(),
        numbers,
        scale,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::figure::{AxisLabel, Curve, Provenance, Series, Style, TableRow};

    fn figure(body: impl Into<Body>) -> Figure {
        Figure {
            title: String::new(),
            body: body.into(),
            notes: Vec::new(),
            check: None,
            provenance: Provenance::default(),
        }
    }

    fn table(numbers: &[f32]) -> Figure {
        let rows = numbers.iter().enumerate().map(|(position, number)| {
            let entries = vec![
                Entry::Text("a".into()),
                Entry::Number(*number),
                Entry::Number(7.0),
            ];
            TableRow::at(Anchor::position(position), entries)
        });
        figure(Table::of(&["token", "effect", "other"], rows.collect()))
    }

    #[test]
    fn a_table_has_its_first_column_of_numbers_without_the_sink() {
        let found = table(&[90.0, -2.0, 1.0, f32::NAN]).by_token(0).unwrap();
        assert_eq!((found.name.as_str(), found.signed()), ("effect", true));
        assert_eq!(found.scale, Scale::Diverging { reach: 2.0 });
        assert_eq!(found.place(0), Some(1.0), "beyond the end is the end");
        assert_eq!(found.place(1), Some(0.0));
        assert_eq!(found.place(2), Some(0.75));
        assert_eq!((found.place(3), found.place(4)), (None, None));
        let found = table(&[0.0, 4.0, 1.0]).by_token(0).unwrap();
        assert_eq!((found.place(2), found.signed()), (Some(0.25), false));
        assert_eq!(table(&[1.0]).by_token(0), None);
    }

    #[test]
    fn what_is_not_by_token_has_no_numbers() {
        let mut twice = table(&[1.0, 2.0]);
        let Body::Table(inner) = &mut twice.body else {
            return;
        };
        inner.pages[0].rows[1].anchor = Anchor::position(0);
        assert_eq!(twice.by_token(0), None);
        let curve = |label: &str| Curve::of(label, Anchor::default(), vec![0.5, f32::NAN]);
        let points = |anchor: fn(usize) -> Anchor| {
            let point = |i: usize| AxisLabel::of(i.to_string(), anchor(i));
            (0..2).map(point).collect::<Vec<_>>()
        };
        let series = |anchor| {
            let curves = vec![curve("a"), curve("b")];
            figure(Series::of("x", "y", points(anchor), curves, Style::Lines))
        };
        assert_eq!(series(Anchor::layer).by_token(0), None);
        let found = series(Anchor::position).by_token(1).unwrap();
        assert_eq!(found.name, "b");
        assert_eq!(found.place(1), None);
        assert_eq!(series(Anchor::position).by_token(2), None);
    }
}
