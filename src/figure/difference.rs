//! The effect of edits: a figure minus the same figure of the unedited run.
//!
//! Invariant: a number is subtracted only from a number of the same thing. Figures of two runs about different tokens have no
//! difference, and the error names both; a part that exists only under edits counts as zero in the unedited run. To subtract
//! another shape, add its arm in [`Figure::minus`].

use super::cell_details::Number;
use super::series::{Curve, Series};
use super::{AxisLabel, Body, Cell, Figure, Grid, Scale, Unit};
use crate::error::{Error, Result};

impl Figure {
    /// This figure minus a baseline of the same shape.
    pub fn minus(&self, baseline: &Self) -> Result<Self> {
        self.less(
            baseline,
            "edited run minus the unedited run of the same tokens",
        )
    }

    /// The same, with a note that says of what it is the difference.
    pub(super) fn less(&self, baseline: &Self, said: &str) -> Result<Self> {
        let body = match (&self.body, &baseline.body) {
            (Body::Grid(a), Body::Grid(b)) => Body::Grid(of_grids(a, b)?),
            (Body::Series(a), Body::Series(b)) if a.style == b.style => {
                Body::Series(of_series(a, b)?)
            }
            (Body::Table(_), Body::Table(_)) => {
                return Err(refused(
                    "a table has no difference, because its rows need not match between the two runs",
                    "Turn the difference off, and compare the tables with the edits on and off",
                ));
            }
            (Body::Graph(_), Body::Graph(_)) => {
                return Err(refused(
                    "a graph has no difference, because each run has edges of its own",
                    "Turn the difference off",
                ));
            }
            (Body::Text(_), Body::Text(_)) => {
                return Err(refused(
                    "a text has no difference",
                    "Turn the difference off",
                ));
            }
            (
                Body::Grid(_) | Body::Table(_) | Body::Series(_) | Body::Graph(_) | Body::Text(_),
                _,
            ) => {
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
        notes.push(said.into());
        let mut provenance = self.provenance.clone();
        provenance.texts.extend(baseline.provenance.texts.clone());
        Ok(Self {
            title: format!("{} Δ", self.title),
            body,
            notes,
            check: self.check,
            provenance,
        })
    }

    /// Whether both figures follow the same tokens along the layers, if both follow any: "the answer" may be another token.
    pub fn same_tokens_followed(&self, other: &Self) -> bool {
        let (Body::Grid(a), Body::Grid(b)) = (&self.body, &other.body) else {
            return true;
        };
        let mut pairs = a.also.stories.iter().zip(&b.also.stories);
        pairs.all(|(a, b)| a.anchor != b.anchor || a.token == b.token)
    }
}

fn refused(why: impl Into<String>, next: &str) -> Error {
    Error::NoDifference {
        why: why.into(),
        next: next.into(),
    }
}

/// An error unless both texts are equal.
fn ensure_equal(edited: &str, unedited: &str) -> Result<()> {
    if edited == unedited {
        return Ok(());
    }
    Err(refused(
        format!("it is `{edited}` in the edited run and `{unedited}` in the unedited run"),
        "Name the token that both runs are read for",
    ))
}

/// A label with the token that it is about.
fn spelled(title: &AxisLabel) -> String {
    match title.anchor.unit {
        Some(Unit::Token(id)) => format!("{} (token #{id})", title.label),
        _ => title.label.clone(),
    }
}

/// Whether a part exists only under edits, so that the unedited run has no such part.
fn only_with_edits(label: &str) -> bool {
    label == "edits" || label.starts_with("edit ")
}

/// For every label the index of the equal one in the baseline; none for parts that exist only under edits. A baseline may have
/// further labels at later positions.
fn match_to_baseline(titles: &[AxisLabel], baseline: &[AxisLabel]) -> Result<Vec<Option<usize>>> {
    let mut next = 0;
    let mut places = Vec::with_capacity(titles.len());
    for title in titles {
        match baseline.get(next) {
            Some(base) if base == title => {
                places.push(Some(next));
                next += 1;
            }
            _ if only_with_edits(&title.label) => places.push(None),
            Some(base) => {
                ensure_equal(&spelled(title), &spelled(base))?;
                return Err(refused(
                    format!("`{}` is a different place in the two runs", title.label),
                    "Ask for the figure again",
                ));
            }
            None => return Err(missing_in("the unedited run", title)),
        }
    }
    match baseline[next..]
        .iter()
        .find(|t| t.anchor.position.is_none())
    {
        Some(rest) => Err(missing_in("the edited run", rest)),
        None => Ok(places),
    }
}

fn missing_in(run: &str, title: &AxisLabel) -> Error {
    refused(
        format!("{run} has no `{}`", spelled(title)),
        "Ask for the figure again",
    )
}

fn of_grids(a: &Grid, b: &Grid) -> Result<Grid> {
    ensure_equal(&a.value, &b.value)?;
    let rows = match_to_baseline(&a.rows, &b.rows)?;
    let columns = match_to_baseline(&a.columns, &b.columns)?;
    let rule = DifferenceRule::of(a.scale, a.shows_candidates());
    let mut out = a.clone();
    let mut reach = 0.0f32;
    for (cells, column) in out.cells.iter_mut().zip(&columns) {
        for (cell, row) in cells.iter_mut().zip(&rows) {
            let place = column.zip(*row);
            if let Some(base) = place.and_then(|(c, r)| b.cells.get(c)?.get(r)) {
                let value = rule.candidate_difference(cell, base, cell.value, base.value);
                baseline_candidate(cell, base, rule);
                cell.value = value;
            }
            reach = reach.max(cell.value.abs());
        }
    }
    // Ranks are subtracted as logarithms: from 2 to 1 is as far as from 2000 to 1000.
    let named = |value: &str, scale: Scale| match scale {
        Scale::Rank { .. } => format!("log10 {value}"),
        Scale::Unit | Scale::Range { .. } | Scale::Diverging { .. } => value.to_owned(),
    };
    out.value = named(&a.value, a.scale);
    out.also.stories.clear();
    out.also.numbers.clear();
    for (mine, theirs) in a.also.numbers.iter().zip(&b.also.numbers) {
        ensure_equal(&mine.value, &theirs.value)?;
        let own = a.also.candidates.as_ref() == Some(&mine.value);
        let rule = DifferenceRule::of(mine.scale, own);
        let mut number = Number {
            value: named(&mine.value, mine.scale),
            ..mine.clone()
        };
        let mut reach = 0.0f32;
        for (c, (values, column)) in number.values.iter_mut().zip(&columns).enumerate() {
            for (r, (value, row)) in values.iter_mut().zip(&rows).enumerate() {
                let before = column.zip(*row).and_then(|(bc, br)| {
                    let base = b.cells.get(bc)?.get(br)?;
                    Some((base, *theirs.values.get(bc)?.get(br)?))
                });
                let cell = a.cells.get(c).and_then(|cells| cells.get(r));
                if let (Some(cell), Some((base, before))) = (cell, before) {
                    *value = rule.candidate_difference(cell, base, *value, before);
                }
                reach = reach.max(value.abs());
            }
        }
        number.scale = around_zero(reach);
        out.also.numbers.push(number);
    }
    out.scale = around_zero(reach);
    Ok(out)
}

fn around_zero(reach: f32) -> Scale {
    Scale::Diverging {
        reach: reach.max(1e-6),
    }
}

/// How numbers of one kind are subtracted.
#[derive(Clone, Copy)]
struct DifferenceRule {
    /// Whether the numbers can be negative.
    signed: bool,
    /// Whether the numbers are ranks.
    ranks: bool,
    /// Whether the candidates of a cell have another number than the cell.
    others: bool,
}

impl DifferenceRule {
    fn of(scale: Scale, candidates: bool) -> Self {
        Self {
            signed: matches!(scale, Scale::Diverging { .. }),
            ranks: matches!(scale, Scale::Rank { .. }),
            others: !candidates,
        }
    }

    /// The first candidate of a cell, if the cell's number is that candidate's.
    fn candidate(self, cell: &Cell, value: f32) -> Option<&str> {
        let (name, share) = cell.more.first()?;
        let own = !self.others && share.to_bits() == value.to_bits();
        own.then_some(name.as_str())
    }

    /// The difference of a cell's number. A candidate's number is compared with that of the same candidate; any other number
    /// (an entropy, a rank, a norm) with the baseline cell's. A candidate that the baseline does not list counts as 0, because
    /// its share was small; signed numbers are not shares.
    fn candidate_difference(self, cell: &Cell, base: &Cell, value: f32, other: f32) -> f32 {
        if self.ranks {
            return value.log10() - other.log10();
        }
        let before = match self.candidate(cell, value) {
            Some(name) if !base.more.is_empty() => {
                let unlisted = if self.signed { other } else { 0.0 };
                base.named(name).unwrap_or(unlisted)
            }
            _ => other,
        };
        value - before
    }
}

/// Adds the baseline's first candidate to a cell's candidates, if it is another one.
fn baseline_candidate(cell: &mut Cell, base: &Cell, rule: DifferenceRule) {
    let theirs = rule.candidate(base, base.value);
    let name = if rule.candidate(cell, cell.value) == theirs {
        (cell.label != base.label).then_some(base.label.as_str())
    } else {
        Some(theirs.unwrap_or(&base.label))
    };
    let share = if rule.others {
        base.more.first().map_or(base.value, |m| m.1)
    } else {
        base.value
    };
    let name = name.filter(|name| !name.is_empty());
    if let Some(was) = name.map(|name| (format!("was {name}"), share)) {
        cell.more.insert(0, was);
        match base.ids.first() {
            Some(id) if !cell.ids.is_empty() => cell.ids.insert(0, *id),
            Some(_) | None => cell.ids.clear(),
        }
    }
}

fn of_series(a: &Series, b: &Series) -> Result<Series> {
    ensure_equal(&a.value, &b.value)?;
    let titles = |series: &Series| -> Vec<AxisLabel> {
        let title = |curve: &Curve| AxisLabel::of(&curve.label, curve.anchor);
        series.curves.iter().map(title).collect()
    };
    let curves = match_to_baseline(&titles(a), &titles(b))?;
    if a.curves.len() < b.curves.len() {
        return Err(missing_in("the edited run", &titles(b)[a.curves.len()]));
    }
    let points = match_to_baseline(&a.points, &b.points)?;
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
    out.scale = around_zero(reach);
    Ok(out)
}
