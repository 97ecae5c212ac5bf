//! What edits changed: a figure less the same figure of the unedited run.
//!
//! Invariant: a number is taken only from a number of the same thing. Two runs that are about different tokens have no
//! difference, and the error names both; a part that only edits have counts as nothing in the unedited run. To compare
//! another shape, add its arm in [`Figure::minus`].

use super::figure::{Body, Cell, Figure, Grid, Header, Scale, Unit};
use super::series::{Curve, Series};
use crate::error::{Error, Result};

impl Figure {
    /// This figure less a baseline of the same shape: what the edits changed.
    pub fn minus(&self, baseline: &Self) -> Result<Self> {
        let body = match (&self.body, &baseline.body) {
            (Body::Grid(a), Body::Grid(b)) => Body::Grid(of_grids(a, b)?),
            (Body::Series(a), Body::Series(b)) if a.style == b.style => {
                Body::Series(of_series(a, b)?)
            }
            (Body::Table(_), Body::Table(_)) => {
                return Err(refused(
                    "a table has none, for its rows need not be about the same in both runs",
                    "Switch the difference off, and read the table with the edits on and off",
                ));
            }
            (Body::Text(_), Body::Text(_)) => {
                return Err(refused("a text has none", "Switch the difference off"));
            }
            (Body::Grid(_) | Body::Table(_) | Body::Series(_) | Body::Text(_), _) => {
                return Err(refused(
                    format!(
                        "`{}` and the unedited `{}` have different shapes",
                        self.title, baseline.title
                    ),
                    "Ask for the figure again",
                ));
            }
        };
        let mut notes = self.notes.clone();
        notes.push("with edits, less the unedited run of the same tokens".into());
        Ok(Self {
            title: format!("{} Δ", self.title),
            body,
            notes,
            check: self.check,
            provenance: self.provenance.clone(),
        })
    }
}

fn refused(why: impl Into<String>, next: &str) -> Error {
    Error::NoDifference {
        why: why.into(),
        next: next.into(),
    }
}

/// Both are about the same.
fn agree(edited: &str, unedited: &str) -> Result<()> {
    if edited == unedited {
        return Ok(());
    }
    Err(refused(
        format!("with the edits it is `{edited}`, without them `{unedited}`"),
        "Name the token that both are to be about",
    ))
}

/// A title in words, with the token that it is about.
fn spelled(title: &Header) -> String {
    match title.anchor.unit {
        Some(Unit::Token(id)) => format!("{} (token #{id})", title.label),
        _ => title.label.clone(),
    }
}

/// Whether only edits have such a part: a sum of an unedited run has no place for it.
fn of_edits(label: &str) -> bool {
    label == "edits" || label.starts_with("edit ")
}

/// For every title the place of the same in the baseline; none for parts that only edits have. A baseline may go on over
/// later positions.
fn pair(titles: &[Header], baseline: &[Header]) -> Result<Vec<Option<usize>>> {
    let mut next = 0;
    let mut places = Vec::with_capacity(titles.len());
    for title in titles {
        match baseline.get(next) {
            Some(base) if base == title => {
                places.push(Some(next));
                next += 1;
            }
            _ if of_edits(&title.label) => places.push(None),
            Some(base) => {
                agree(&spelled(title), &spelled(base))?;
                return Err(refused(
                    format!("the two runs mean different places by `{}`", title.label),
                    "Ask for the figure again",
                ));
            }
            None => return Err(missing("the unedited run", title)),
        }
    }
    match baseline[next..]
        .iter()
        .find(|t| t.anchor.position.is_none())
    {
        Some(rest) => Err(missing("the edited run", rest)),
        None => Ok(places),
    }
}

fn missing(run: &str, title: &Header) -> Error {
    refused(
        format!("{run} has no `{}`", spelled(title)),
        "Ask for the figure again",
    )
}

fn of_grids(a: &Grid, b: &Grid) -> Result<Grid> {
    agree(&a.value, &b.value)?;
    let rows = pair(&a.rows, &b.rows)?;
    let columns = pair(&a.columns, &b.columns)?;
    let signed = matches!(a.scale, Scale::Diverging { .. });
    let mut out = a.clone();
    let mut reach = 0.0f32;
    for (cells, column) in out.cells.iter_mut().zip(columns) {
        for (cell, row) in cells.iter_mut().zip(&rows) {
            let place = column.zip(*row);
            if let Some(base) = place.and_then(|(c, r)| b.cells.get(c)?.get(r)) {
                subtract(cell, base, signed);
            }
            reach = reach.max(cell.value.abs());
        }
    }
    out.scale = Scale::Diverging {
        reach: reach.max(1e-6),
    };
    Ok(out)
}

/// The first candidate of a cell, where the cell's number is its own.
fn candidate(cell: &Cell) -> Option<&str> {
    let (name, value) = cell.more.first()?;
    (value.to_bits() == cell.value.to_bits()).then_some(name.as_str())
}

/// The number of a candidate is compared with the same candidate's; any other (an entropy, a rank, a length) with the
/// cell's own. A candidate that the baseline does not list had next to no share; signed numbers are no shares.
fn subtract(cell: &mut Cell, base: &Cell, signed: bool) {
    let (mine, theirs) = (candidate(cell), candidate(base));
    let before = match mine {
        Some(name) if !base.more.is_empty() => {
            let same = base.more.iter().find(|(other, _)| other == name);
            let unlisted = if signed { base.value } else { 0.0 };
            same.map_or(unlisted, |(_, value)| *value)
        }
        _ => base.value,
    };
    let was = if mine == theirs {
        (cell.label != base.label).then_some(base.label.as_str())
    } else {
        Some(theirs.unwrap_or(&base.label))
    };
    let was = was.filter(|name| !name.is_empty());
    let was = was.map(|name| (format!("was {name}"), base.value));
    if let Some(was) = was {
        cell.more.insert(0, was);
    }
    cell.value -= before;
}

fn of_series(a: &Series, b: &Series) -> Result<Series> {
    agree(&a.value, &b.value)?;
    let titles = |series: &Series| -> Vec<Header> {
        let title = |curve: &Curve| Header {
            label: curve.label.clone(),
            anchor: curve.anchor,
        };
        series.curves.iter().map(title).collect()
    };
    let curves = pair(&titles(a), &titles(b))?;
    if a.curves.len() < b.curves.len() {
        return Err(missing("the edited run", &titles(b)[a.curves.len()]));
    }
    let points = pair(&a.points, &b.points)?;
    let mut out = a.clone();
    let mut reach = 0.0f32;
    for (curve, place) in out.curves.iter_mut().zip(curves) {
        let base = place.and_then(|place| b.curves.get(place));
        for (value, point) in curve.values.iter_mut().zip(&points) {
            let before = point.and_then(|point| base?.values.get(point));
            *value -= before.copied().unwrap_or(0.0);
            reach = reach.max(value.abs());
        }
        let before = base.and_then(|base| base.total);
        curve.total = curve.total.zip(before).map(|(now, before)| now - before);
    }
    out.scale = Scale::Diverging {
        reach: reach.max(1e-6),
    };
    Ok(out)
}
