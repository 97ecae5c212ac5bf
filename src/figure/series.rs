//! Series: named curves over a shared axis, one of the shapes of a figure.
//!
//! Invariant: a curve has one number for each point; a point that was not measured is NaN, drawn as a gap and exported as an
//! empty value. The parts of a waterfall and its total are measured independently, so a reader can check one against the other.
//! To add a way of drawing, add a variant of [`Style`]; the compiler lists the places to visit.

use serde::{Deserialize, Deserializer, Serialize};

use super::{Anchor, AxisLabel, Entry, Scale, Table, TablePage, TableRow};

/// How a series is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// Points joined by lines: a number that varies along the axis.
    #[default]
    Lines,
    /// One bar from zero for each point.
    Bars,
    /// One bar for each point, beginning where the previous one ended: parts of a sum, with the total below.
    Waterfall,
}

/// One named curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Safe visible text.
    pub label: String,
    /// The place in the model that the whole curve is about.
    pub anchor: Anchor,
    /// One number for each point; NaN if it was not measured.
    #[serde(deserialize_with = "numbers")]
    pub values: Vec<f32>,
    /// For waterfalls: the total, measured independently of the parts.
    #[serde(default)]
    pub total: Option<f32>,
}

/// Named curves over a shared axis.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// The name of the axis, for example `layer`.
    pub axis: String,
    /// The name of the numbers with their unit, for example `probability` or `nats`.
    pub value: String,
    /// The labels of the points, in order.
    pub points: Vec<AxisLabel>,
    /// The curves; the most important one comes first.
    pub curves: Vec<Curve>,
    /// The range of the numbers.
    pub scale: Scale,
    /// How it is drawn.
    pub style: Style,
}

/// Reads null as NaN: JSON has no NaN, so it is written as null.
pub(super) fn numbers<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<f32>, D::Error> {
    let read: Vec<Option<f32>> = Vec::deserialize(from)?;
    Ok(read.into_iter().map(|v| v.unwrap_or(f32::NAN)).collect())
}

/// Reads null as NaN, of one number.
pub(super) fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f32, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f32::NAN))
}

impl Curve {
    /// The begin and end of every bar in a waterfall; a point that was not measured adds nothing.
    pub fn steps(&self) -> Vec<(f32, f32)> {
        let mut sum = 0.0f64;
        self.values
            .iter()
            .map(|value| {
                let from = sum;
                if !value.is_nan() {
                    sum += f64::from(*value);
                }
                (from as f32, sum as f32)
            })
            .collect()
    }

    /// The sum of the parts.
    pub fn sum(&self) -> f32 {
        self.steps().last().map_or(0.0, |step| step.1)
    }
}

impl Series {
    /// The anchor of a number: that of the point, completed by that of the curve.
    pub fn anchor(&self, curve: usize, point: usize) -> Anchor {
        let of = |anchor: Option<Anchor>| anchor.unwrap_or_default();
        let point = of(self.points.get(point).map(|p| p.anchor));
        let curve = of(self.curves.get(curve).map(|c| c.anchor));
        Anchor {
            layer: point.layer.or(curve.layer),
            position: point.position.or(curve.position),
            unit: point.unit.or(curve.unit),
        }
    }

    /// The number of a curve at a point; none if it was not measured.
    pub fn value(&self, curve: usize, point: usize) -> Option<f32> {
        let value = *self.curves.get(curve)?.values.get(point)?;
        (!value.is_nan()).then_some(value)
    }

    /// The measured points of a curve, with their numbers.
    pub fn measured(&self, curve: usize) -> Vec<(usize, f32)> {
        let points = 0..self.points.len();
        let number = |point| Some((point, self.value(curve, point)?));
        points.filter_map(number).collect()
    }

    /// The range to draw: for lines the scale, for bars also zero, and for waterfalls also all partial sums and the total.
    pub fn value_range(&self, curve: usize) -> (f32, f32) {
        let around = |ends: (f32, f32), value: f32| {
            // `min` and `max` ignore NaN.
            (ends.0.min(value), ends.1.max(value))
        };
        let found = match (self.style, self.curves.get(curve)) {
            (Style::Lines, _) | (Style::Waterfall, None) => self.scale.ends(),
            (Style::Bars, _) => self
                .curves
                .iter()
                .flat_map(|c| c.values.iter().copied())
                .filter(|v| v.is_finite())
                .fold((0.0, 0.0), around),
            (Style::Waterfall, Some(curve)) => curve
                .steps()
                .into_iter()
                .map(|(_, to)| to)
                .chain(curve.total)
                .filter(|v| v.is_finite())
                .fold((0.0, 0.0), around),
        };
        if found.1 > found.0 {
            found
        } else {
            (found.0, found.0 + 1.0)
        }
    }

    /// The numbers as a table: one row for each point and one column for each curve. A waterfall also has a column of partial
    /// sums, and its total in the last row.
    pub fn table(&self) -> Table {
        let sums = self.style == Style::Waterfall;
        let mut columns = vec![self.axis.clone()];
        for curve in &self.curves {
            columns.push(curve.label.clone());
            if sums {
                columns.push("sum".into());
            }
        }
        let steps: Vec<_> = self.curves.iter().map(Curve::steps).collect();
        let mut rows: Vec<TableRow> = (0..self.points.len())
            .map(|point| {
                let mut entries = vec![Entry::Text(self.points[point].label.clone())];
                for (curve, steps) in steps.iter().enumerate() {
                    entries.push(self.value(curve, point).into());
                    if sums {
                        entries.push(steps.get(point).map(|s| s.1).into());
                    }
                }
                let anchor = match self.curves.len() {
                    1 => self.anchor(0, point),
                    _ => self.points[point].anchor,
                };
                TableRow::at(anchor, entries)
            })
            .collect();
        if sums && self.curves.iter().any(|c| c.total.is_some()) {
            let mut entries = vec![Entry::Text("total".into())];
            for curve in &self.curves {
                entries.extend([curve.total.into(), Entry::Missing]);
            }
            rows.push(TableRow::at(Anchor::default(), entries));
        }
        let pages = vec![TablePage::of("", Anchor::default(), rows)];
        Table { columns, pages }
    }

    /// Appends points to curves with the same names; a series with other curves replaces this one. True if points were
    /// appended.
    pub(crate) fn extend(&mut self, more: Self) -> bool {
        let same = self.curves.len() == more.curves.len()
            && self
                .curves
                .iter()
                .zip(&more.curves)
                .all(|(a, b)| a.label == b.label);
        if !same {
            *self = more;
            return false;
        }
        self.scale = self.scale.around(more.scale);
        self.points.extend(more.points);
        for (curve, more) in self.curves.iter_mut().zip(more.curves) {
            curve.values.extend(more.values);
            curve.total = more.total;
        }
        true
    }

    /// Keeps the first `count` points.
    pub(crate) fn truncate(&mut self, count: usize) {
        self.points.truncate(count);
        for curve in &mut self.curves {
            curve.values.truncate(count);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use super::*;
    use crate::figure::Unit;

    fn series(style: Style) -> Series {
        let curve = |label: &str, values: &[f32]| Curve {
            label: label.into(),
            anchor: Anchor::position(4).with(Unit::Token(9)),
            values: values.to_vec(),
            total: Some(values.iter().sum()),
        };
        Series {
            axis: "layer".into(),
            value: "logit".into(),
            points: (0..3)
                .map(|l| AxisLabel {
                    label: l.to_string(),
                    anchor: Anchor::layer(l),
                })
                .collect(),
            curves: vec![curve("a", &[2.0, -3.0, 0.5]), curve("b", &[1.0, 1.0, 1.0])],
            scale: Scale::Diverging { reach: 3.0 },
            style,
        }
    }

    #[test]
    fn a_place_is_the_points_and_then_the_curves() {
        let anchor = series(Style::Lines).anchor(1, 2);
        assert_eq!(anchor, Anchor::cell(2, 4).with(Unit::Token(9)));
        let mut other = series(Style::Lines);
        other.curves[1].anchor.layer = Some(7);
        assert_eq!(other.anchor(1, 2).layer, Some(2), "the point's own");
        assert_eq!(other.anchor(9, 9), Anchor::default());
    }

    #[test]
    fn a_waterfall_reaches_over_all_its_sums() {
        let mut series = series(Style::Waterfall);
        assert_eq!(
            series.curves[0].steps(),
            [(0.0, 2.0), (2.0, -1.0), (-1.0, -0.5)]
        );
        assert_eq!(series.curves[0].sum(), -0.5);
        assert_eq!(series.value_range(0), (-1.0, 2.0));
        assert_eq!(series.value_range(1), (0.0, 3.0));
        series.curves[1].values[1] = f32::NAN;
        assert_eq!(series.curves[1].sum(), 2.0, "nothing measured adds nothing");
        assert_eq!(series.value(1, 1), None);
        series.style = Style::Bars;
        assert_eq!(series.value_range(0), (-3.0, 2.0), "bars begin at zero");
        series.style = Style::Lines;
        assert_eq!(
            series.value_range(0),
            (-3.0, 3.0),
            "lines keep to the scale"
        );
    }

    #[test]
    fn a_table_says_the_same() {
        let table = series(Style::Waterfall).table();
        assert_eq!(table.columns, ["layer", "a", "sum", "b", "sum"]);
        let rows = &table.pages[0].rows;
        assert_eq!(rows.len(), 4, "a total below");
        assert_eq!(rows[1].entries[2], Entry::Number(-1.0));
        assert_eq!(rows[3].entries[1], Entry::Number(-0.5));
        let table = series(Style::Lines).table();
        assert_eq!(table.columns, ["layer", "a", "b"]);
        assert_eq!(table.pages[0].rows.len(), 3);
    }

    #[test]
    fn what_is_not_a_number_survives_a_file() {
        let mut series = series(Style::Lines);
        series.curves[0].values[1] = f32::NAN;
        let text = serde_json::to_string(&series).unwrap();
        let back: Series = serde_json::from_str(&text).unwrap();
        assert!(back.curves[0].values[1].is_nan());
        assert_eq!(back.curves[1], series.curves[1]);
    }
}
