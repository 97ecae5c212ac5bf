//! Series as a picture, for SVG and HTML: lines with their points, bars, waterfalls.
//!
//! Invariant: every measured number is a shape with a title that gives the number; a point that was not measured is a gap. To
//! add a way of drawing, add its arm in [`Plot::new`].

use std::fmt::Write as _;

use super::markup::escape;
use super::number::significant;
use crate::figure::{Series, Style};
use crate::text::{clip, width};

const CHAR: f32 = 7.2;
const LINE: f32 = 18.0;
/// The size of the plot without its labels.
const WIDE: f32 = 560.0;
const HIGH: f32 = 240.0;
/// The longest label, in characters.
const LABEL: usize = 16;
/// Colours that most people can tell apart (Okabe and Ito), one for each curve.
const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000",
];

/// A drawing with its size, from (0, 0).
pub(super) struct Plot {
    /// Elements.
    pub(super) body: String,
    /// Width.
    pub(super) wide: f32,
    /// Height.
    pub(super) high: f32,
}

/// A picture for use inside a page; HTML needs no namespace.
pub(super) fn picture(series: &Series) -> String {
    Plot::new(series).alone()
}

impl Plot {
    /// As a picture of its own.
    pub(super) fn alone(&self) -> String {
        format!(
            "<svg viewBox=\"0 0 {0:.0} {1:.0}\" width=\"{0:.0}\" height=\"{1:.0}\" \
         font-family=\"monospace\" font-size=\"12\" fill=\"#111111\">\n{2}</svg>\n",
            self.wide, self.high, self.body
        )
    }

    /// Nothing yet.
    pub(super) fn empty() -> Self {
        Self {
            body: String::new(),
            wide: 0.0,
            high: 0.0,
        }
    }

    /// Draws a series.
    pub(super) fn new(series: &Series) -> Self {
        let mut plot = Self::empty();
        plot.legend(series);
        match series.style {
            Style::Lines => plot.lines(series),
            Style::Bars | Style::Waterfall => {
                for curve in 0..series.curves.len() {
                    plot.bars(series, curve);
                }
            }
        }
        plot
    }

    pub(super) fn text(&mut self, x: f32, y: f32, text: &str, style: &str) {
        if !text.trim().is_empty() {
            let _ = writeln!(
                self.body,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{}</text>",
                escape(text)
            );
        }
        self.wide = self.wide.max(x + width(text) as f32 * CHAR);
    }

    /// Draws the names of the curves in their colours, and the name of the numbers.
    fn legend(&mut self, series: &Series) {
        let mut x = 0.0;
        for (i, curve) in series.curves.iter().enumerate() {
            let label = clip(&curve.label, LABEL);
            let style = format!("fill=\"{}\"", COLOURS[i % COLOURS.len()]);
            self.text(x, LINE - 5.0, &label, &style);
            x += (width(&label) + 2) as f32 * CHAR;
        }
        self.text(x, LINE - 5.0, &series.value, "fill=\"#666666\"");
        self.high = LINE * 1.5;
    }

    fn lines(&mut self, series: &Series) {
        let (lo, hi) = series.value_range(0);
        let ends = [significant(lo), significant(hi)];
        let left = (ends[0].len().max(ends[1].len()) + 1) as f32 * CHAR;
        let top = self.high;
        let last = series.points.len().saturating_sub(1).max(1) as f32;
        let x = |point: usize| left + point as f32 / last * WIDE;
        let y = |value: f32| top + HIGH * (1.0 - ((value - lo) / (hi - lo)).clamp(0.0, 1.0));
        for (value, label) in [lo, hi].into_iter().zip(&ends) {
            self.text(0.0, y(value) + 4.0, label, "fill=\"#666666\"");
        }
        for value in [lo, hi, 0.0f32.clamp(lo, hi)] {
            let _ = writeln!(
                self.body,
                "<path d=\"M{left:.1} {0:.1}H{1:.1}\" stroke=\"#dddddd\" fill=\"none\"/>",
                y(value),
                left + WIDE
            );
        }
        for (i, curve) in series.curves.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let mut path = String::new();
            let mut joined = false;
            for point in 0..series.points.len() {
                let Some(value) = series.value(i, point) else {
                    joined = false;
                    continue;
                };
                let step = if joined { 'L' } else { 'M' };
                let _ = write!(path, "{step}{:.1} {:.1}", x(point), y(value));
                joined = true;
                let _ = writeln!(
                    self.body,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"><title>{} · {} {} · {}</title></circle>",
                    x(point),
                    y(value),
                    escape(&curve.label),
                    escape(&series.axis),
                    escape(&series.points[point].label),
                    significant(value)
                );
            }
            if !path.is_empty() {
                let _ = writeln!(
                    self.body,
                    "<path d=\"{path}\" stroke=\"{colour}\" stroke-width=\"1.5\" fill=\"none\"/>"
                );
            }
        }
        let base = top + HIGH + LINE;
        let mut free = 0.0;
        for (i, point) in series.points.iter().enumerate() {
            let label = clip(&point.label, LABEL);
            let wide = width(&label) as f32 * CHAR;
            let at = (x(i) - wide / 2.0).max(0.0);
            if at >= free {
                self.text(at, base, &label, "fill=\"#666666\"");
                free = at + wide + CHAR;
            }
        }
        self.text(left, base + LINE, &series.axis, "fill=\"#666666\"");
        self.wide = self.wide.max(left + WIDE + CHAR);
        self.high = base + 1.5 * LINE;
    }

    fn bars(&mut self, series: &Series, curve: usize) {
        let (lo, hi) = series.value_range(curve);
        let one = &series.curves[curve];
        let colour = COLOURS[curve % COLOURS.len()];
        let labels = series.points.iter().map(|p| clip(&p.label, LABEL));
        let labels: Vec<String> = labels.chain(["total".into()]).collect();
        let left = labels.iter().map(|l| width(l)).max().unwrap_or(0) as f32 * CHAR + CHAR;
        let x = |value: f32| left + ((value - lo) / (hi - lo)).clamp(0.0, 1.0) * WIDE;
        let steps = one.steps();
        let parts = (0..series.points.len()).map(|point| {
            let value = series.value(curve, point);
            let (from, to) = match series.style {
                Style::Waterfall => steps[point],
                Style::Lines | Style::Bars => (0.0, value.unwrap_or(0.0)),
            };
            (value, from, to)
        });
        let total = one.total.filter(|_| series.style == Style::Waterfall);
        let all: Vec<_> = parts.chain(total.map(|t| (Some(t), 0.0, t))).collect();
        for (label, (value, from, to)) in labels.iter().zip(all) {
            let base = self.high + LINE - 5.0;
            self.text(0.0, base, label, "fill=\"#666666\"");
            if let Some(value) = value {
                let (start, end) = (x(from.min(to)), x(from.max(to)));
                let ink = if to < from { "#999999" } else { colour };
                let _ = writeln!(
                    self.body,
                    "<rect x=\"{start:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{ink}\"><title>{} · {} · {}</title></rect>",
                    self.high + 2.0,
                    (end - start).max(0.5),
                    LINE - 4.0,
                    escape(&one.label),
                    escape(label),
                    significant(value)
                );
                self.text(left + WIDE + CHAR, base, &significant(value), "");
            }
            self.high += LINE;
        }
        self.high += LINE / 2.0;
    }
}

#[cfg(test)]
#[allow(clippy::panic)]
mod tests {
    use super::*;
    use crate::export::samples;
    use crate::figure::{Body, Figure};

    fn series(figure: Figure) -> Option<Series> {
        match figure.body {
            Body::Series(series) => Some(series),
            Body::Grid(_) | Body::Table(_) | Body::Graph(_) | Body::Text(_) => None,
        }
    }

    #[test]
    fn a_shape_a_number_and_a_gap_breaks_the_line() {
        let Some(mut curves) = series(samples::curves()) else {
            panic!("a series");
        };
        let out = picture(&curves);
        assert_eq!(out.matches("<circle").count(), 12);
        assert!(out.contains("<title>␣Rome · layer 2 · 0.300</title>"));
        let moves = |out: &str| out.matches("d=\"M").count() + out.matches('L').count();
        let before = moves(&out);
        curves.curves[1].values[2] = f32::NAN;
        let out = picture(&curves);
        assert_eq!(out.matches("<circle").count(), 11);
        assert_eq!(before - moves(&out), 2, "the gap is not bridged: {out}");
    }

    #[test]
    fn a_waterfall_has_a_bar_a_part_and_its_total() {
        let Some(parts) = series(samples::waterfall()) else {
            panic!("a series");
        };
        let out = Plot::new(&parts).body;
        assert_eq!(out.matches("<rect").count(), 5);
        assert!(
            out.contains(">total</text>") && out.contains("<title>␣Paris · mlp 0 · -3.00</title>")
        );
        let at = |label: &str| -> Option<(f32, f32)> {
            let line = out.lines().find(|l| l.contains(&format!("· {label} ·")))?;
            let number = |key: &str| {
                line.split(&format!(" {key}=\""))
                    .nth(1)?
                    .split('"')
                    .next()?
                    .parse()
                    .ok()
            };
            Some((number("x")?, number("width")?))
        };
        let (embed, attn) = (
            at("embed").unwrap_or_default(),
            at("attn 0").unwrap_or_default(),
        );
        assert!(
            (embed.0 + embed.1 - attn.0).abs() < 0.2,
            "{embed:?} {attn:?}"
        );
    }
}
