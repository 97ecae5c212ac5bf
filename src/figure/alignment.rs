//! Figures of two texts: which tokens of one stand for which of the other, and a figure laid out on another's axes.
//!
//! Invariant: a part is put only where the other figure has a part of the same name, at the position that is aligned with its own; what
//! has no counterpart is not a number. To align another shape, add its arm in [`Figure::minus_text`].

use std::collections::BTreeMap;

use super::cell_details::Number;
use super::series::{Curve, Series};
use super::{AxisLabel, Body, Cell, Figure, Grid};
use crate::error::{Error, Result};

/// The most pairs of tokens that are compared one by one between what two texts begin and end with in common.
const MOST: usize = 1_000_000;

/// The positions of two texts that stand for each other: what they begin and end with in common, and between them a longest common
/// subsequence; where as many differ on both sides between two such, these stand for each other too (`France` and `Japan`).
pub fn align(a: &[u32], b: &[u32]) -> Vec<(Option<usize>, Option<usize>)> {
    let begin = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let (rest_a, rest_b) = (&a[begin..], &b[begin..]);
    let back = rest_a.iter().rev().zip(rest_b.iter().rev());
    let end = back.take_while(|(x, y)| x == y).count();
    let (inner_a, inner_b) = (&rest_a[..rest_a.len() - end], &rest_b[..rest_b.len() - end]);
    let mut same: Vec<(usize, usize)> = (0..begin).map(|i| (i, i)).collect();
    same.extend(
        common(inner_a, inner_b)
            .into_iter()
            .map(|(x, y)| (begin + x, begin + y)),
    );
    same.extend((0..end).map(|i| (a.len() - end + i, b.len() - end + i)));
    let mut out = Vec::new();
    let (mut x, mut y) = (0, 0);
    for (to_x, to_y) in same.into_iter().chain([(a.len(), b.len())]) {
        let equal = to_x - x == to_y - y;
        while x < to_x || y < to_y {
            let left = (x < to_x).then_some(x);
            let right = (y < to_y && (equal || left.is_none())).then_some(y);
            out.push((left, right));
            x += usize::from(left.is_some());
            y += usize::from(right.is_some());
        }
        if to_x < a.len() && to_y < b.len() {
            out.push((Some(to_x), Some(to_y)));
        }
        (x, y) = (to_x + 1, to_y + 1);
    }
    out
}

/// A longest common subsequence, as pairs of indices; nothing where the texts are too long for it.
fn common(a: &[u32], b: &[u32]) -> Vec<(usize, usize)> {
    if a.is_empty() || b.is_empty() || a.len().saturating_mul(b.len()) > MOST {
        return Vec::new();
    }
    let wide = b.len() + 1;
    let mut longest = vec![0u32; (a.len() + 1) * wide];
    for x in (0..a.len()).rev() {
        for y in (0..b.len()).rev() {
            longest[x * wide + y] = if a[x] == b[y] {
                longest[(x + 1) * wide + y + 1] + 1
            } else {
                longest[(x + 1) * wide + y].max(longest[x * wide + y + 1])
            };
        }
    }
    let (mut x, mut y, mut out) = (0, 0, Vec::new());
    while x < a.len() && y < b.len() {
        if a[x] == b[y] {
            out.push((x, y));
            (x, y) = (x + 1, y + 1);
        } else if longest[(x + 1) * wide + y] >= longest[x * wide + y + 1] {
            x += 1;
        } else {
            y += 1;
        }
    }
    out
}

/// For each label of a figure the index of its counterpart in the figure of another text.
struct Counterparts<'a> {
    /// Positions of this text to those of the other.
    positions: &'a BTreeMap<u32, u32>,
}

impl Counterparts<'_> {
    fn of(&self, titles: &[AxisLabel], others: &[AxisLabel]) -> Vec<Option<usize>> {
        let find = |title: &AxisLabel| {
            let Some(position) = title.anchor.position else {
                return others.iter().position(|other| other == title);
            };
            let mut wanted = title.anchor;
            wanted.position = Some(*self.positions.get(&position)?);
            let at = |other: &AxisLabel| other.anchor == wanted;
            // Several parts may share a position: of those the one of the same name.
            let named = others.iter().position(|o| at(o) && o.label == title.label);
            named.or_else(|| others.iter().position(at))
        };
        titles.iter().map(find).collect()
    }

    /// The other figure's grid on this one's axes.
    fn grid(&self, own: &Grid, other: &Grid) -> Grid {
        let rows = self.of(&own.rows, &other.rows);
        let columns = self.of(&own.columns, &other.columns);
        let place = |column: &Option<usize>, row: &Option<usize>| column.zip(*row);
        let cell = |place: Option<(usize, usize)>| {
            let found = place.and_then(|(c, r)| other.cells.get(c)?.get(r));
            found.cloned().unwrap_or_else(|| Cell {
                value: f32::NAN,
                ..Cell::default()
            })
        };
        let cells = columns
            .iter()
            .map(|c| rows.iter().map(|r| cell(place(c, r))).collect());
        let number = |number: &Number| {
            let at = |place: Option<(usize, usize)>| {
                let found = place.and_then(|(c, r)| number.values.get(c)?.get(r).copied());
                found.unwrap_or(f32::NAN)
            };
            let values = columns
                .iter()
                .map(|c| rows.iter().map(|r| at(place(c, r))).collect());
            Number {
                values: values.collect(),
                ..number.clone()
            }
        };
        let mut out = Grid {
            rows: own.rows.clone(),
            columns: own.columns.clone(),
            cells: cells.collect(),
            ..other.clone()
        };
        out.also.numbers = other.also.numbers.iter().map(number).collect();
        out.also.stories.clear();
        out
    }

    /// The other figure's series on this one's points and curves.
    fn series(&self, own: &Series, other: &Series) -> Series {
        let titles = |series: &Series| -> Vec<AxisLabel> {
            let curves = series.curves.iter();
            curves
                .map(|curve| AxisLabel::of(&curve.label, curve.anchor))
                .collect()
        };
        let points = self.of(&own.points, &other.points);
        let curves = self.of(&titles(own), &titles(other));
        let curve = |(own, place): (&Curve, &Option<usize>)| {
            let found = place.and_then(|place| other.curves.get(place));
            let value = |point: &Option<usize>| {
                let value = point.and_then(|point| found?.values.get(point).copied());
                value.unwrap_or(f32::NAN)
            };
            Curve {
                values: points.iter().map(value).collect(),
                total: found.and_then(|found| found.total),
                ..own.clone()
            }
        };
        Series {
            points: own.points.clone(),
            curves: own.curves.iter().zip(&curves).map(curve).collect(),
            ..other.clone()
        }
    }
}

impl Figure {
    /// This figure minus that of another text, in which `positions` gives for positions of this text those that stand for them. Columns
    /// of which the tokens differ are named by both.
    ///
    /// # Errors
    ///
    /// Where the figures have no difference: tables, graphs, texts, and numbers of two different tokens.
    pub fn minus_text(&self, other: &Self, positions: &BTreeMap<u32, u32>) -> Result<Self> {
        let map = Counterparts { positions };
        let (body, value) = match (&self.body, &other.body) {
            (Body::Grid(own), Body::Grid(other)) => {
                (Body::Grid(map.grid(own, other)), [&own.value, &other.value])
            }
            (Body::Series(own), Body::Series(other)) if own.style == other.style => (
                Body::Series(map.series(own, other)),
                [&own.value, &other.value],
            ),
            (
                Body::Grid(_) | Body::Series(_) | Body::Table(_) | Body::Graph(_) | Body::Text(_),
                _,
            ) => {
                return Err(Error::NoDifference {
                    why: "a table, a graph or a text of two prompts has no difference, because each has rows of its own".into(),
                    next: "The figure of the other prompt is shown instead".into(),
                });
            }
        };
        if value[0] != value[1] {
            return Err(Error::NoDifference {
                why: format!(
                    "it is `{}` in this prompt and `{}` in the other one",
                    value[0], value[1]
                ),
                next: "The figure of the other prompt is shown instead; o names a token that both are read for".into(),
            });
        }
        let aligned = Self {
            body,
            ..other.clone()
        };
        let said = "this prompt minus the other one, at the tokens that stand for each other; blank where there is none";
        let mut out = self.less(&aligned, said)?;
        out.name_both(other, positions);
        out.leave_out_what_is_alone();
        Ok(out)
    }

    /// Cells without a counterpart have no number, and so say nothing.
    fn leave_out_what_is_alone(&mut self) {
        if let Body::Grid(grid) = &mut self.body {
            let cells = grid.cells.iter_mut().flatten();
            for cell in cells.filter(|cell| cell.value.is_nan()) {
                (cell.label, cell.more, cell.ids) = (String::new(), Vec::new(), Vec::new());
            }
        }
    }

    /// Names the columns by the tokens of both texts, where these differ.
    fn name_both(&mut self, other: &Self, positions: &BTreeMap<u32, u32>) {
        let (Body::Grid(own), Body::Grid(theirs)) = (&mut self.body, &other.body) else {
            return;
        };
        for title in &mut own.columns {
            let there = title
                .anchor
                .position
                .and_then(|p| positions.get(&p).copied());
            let same = |o: &&AxisLabel| o.anchor.position == there;
            let name = there.and_then(|_| theirs.columns.iter().find(same));
            if let Some(name) = name.filter(|name| name.label != title.label) {
                title.label = format!("{}/{}", title.label, name.label);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::figure::{Anchor, Provenance, Scale};
    use proptest::prelude::*;

    #[test]
    fn what_texts_have_in_common_is_aligned_and_what_was_replaced_stands_for_it() {
        let both = |pairs: &[(usize, usize)]| -> Vec<_> {
            pairs.iter().map(|(a, b)| (Some(*a), Some(*b))).collect()
        };
        assert_eq!(
            align(&[1, 2, 3, 4], &[1, 9, 3, 4]),
            both(&[(0, 0), (1, 1), (2, 2), (3, 3)])
        );
        // Two tokens for one: the rest is moved by one.
        assert_eq!(
            align(&[1, 2, 4, 5], &[1, 7, 8, 4, 5]),
            [
                (Some(0), Some(0)),
                (Some(1), None),
                (None, Some(1)),
                (None, Some(2)),
                (Some(2), Some(3)),
                (Some(3), Some(4))
            ]
        );
        assert_eq!(align(&[], &[3]), [(None, Some(0))]);
        assert_eq!(align(&[5, 5], &[5]), [(Some(0), Some(0)), (Some(1), None)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_token_is_there_once_and_in_order(a in proptest::collection::vec(0u32..4, 0..12), b in proptest::collection::vec(0u32..4, 0..12)) {
            let pairs = align(&a, &b);
            let left: Vec<usize> = pairs.iter().filter_map(|p| p.0).collect();
            let right: Vec<usize> = pairs.iter().filter_map(|p| p.1).collect();
            prop_assert_eq!(left, (0..a.len()).collect::<Vec<_>>());
            prop_assert_eq!(right, (0..b.len()).collect::<Vec<_>>());
            let same = pairs.iter().filter(|(x, y)| x.zip(*y).is_some_and(|(x, y)| a[x] == b[y])).count();
            prop_assert!(same >= common(&a, &b).len());
        }
    }

    fn cells(figure: &Figure) -> &Grid {
        let Body::Grid(grid) = &figure.body else {
            unreachable!("a grid less a grid is one")
        };
        grid
    }

    fn grid(tokens: &[&str], values: &[f32]) -> Figure {
        let columns = tokens.iter().enumerate();
        let columns = columns.map(|(i, t)| AxisLabel::of(*t, Anchor::position(i)));
        let column = |(i, value): (usize, &f32)| {
            vec![
                Cell::of("", *value, Anchor::cell(0, i)),
                Cell::of("", value * 2.0, Anchor::cell(1, i)),
            ]
        };
        Figure {
            title: "t".into(),
            body: Body::Grid(Grid {
                rows: AxisLabel::layers(2),
                columns: columns.collect(),
                cells: values.iter().enumerate().map(column).collect(),
                value: "p".into(),
                scale: Scale::Unit,
                ..Grid::default()
            }),
            notes: vec![],
            check: None,
            provenance: Provenance::default(),
        }
    }

    #[test]
    fn a_figure_of_another_text_is_subtracted_where_its_tokens_stand() {
        let own = grid(&["The", "Japan", "is"], &[0.5, 0.4, 0.9]);
        let other = grid(&["The", "United", "States", "is"], &[0.5, 0.1, 0.2, 0.3]);
        let positions = BTreeMap::from([(0, 0), (1, 2), (2, 3)]);
        let found = own.minus_text(&other, &positions).unwrap();
        let found = cells(&found);
        let value = |column: usize, row: usize| found.cells[column][row].value;
        assert!((value(0, 1)).abs() < 1e-6);
        assert!((value(1, 0) - 0.2).abs() < 1e-6 && (value(2, 1) - 1.2).abs() < 1e-6);
        assert_eq!(found.columns[1].label, "Japan/States");
        assert_eq!(found.columns[2].label, "is");
        // A token that only this text has has no difference.
        let found = own.minus_text(&other, &BTreeMap::from([(0, 0)])).unwrap();
        let found = cells(&found);
        assert!(found.cells[2][0].value.is_nan() && !found.cells[0][0].value.is_nan());
    }
}
