//! Draws series: curves over an axis, bars below each other, waterfalls.
//!
//! Invariant: the number under the cursor is always shown as text, and curves differ in their marks, so that no colour is
//! needed. To add a way of drawing, add its arm in [`draw`].
//!
//! ```text
//!    1 ┊                 ●──●          embed   ██████            +1.50
//!      ┊  ○─○╲        ╱●               attn 0        ██████████  +2.50
//!      ┊      ╲○   ●╱                  mlp 0      ▒▒▒▒▒▒▒▒▒▒▒▒▒  -3.00
//!    0 ┊  ●────●╳──○──○                total   ████████          +2.00
//!         0  1  2  3 ▐4▌ 5
//!      layer 4 · probability  ● ␣Paris 0.700  ○ ␣Rome 0.100
//! ```

use std::cmp::Ordering;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::widgets::canvas::{Canvas, Line};

use super::{FigureView, Hits, covers, significant};
use crate::figure::{Anchor, Series, Style as Shape};
use crate::text::{clip, fit, width};
use crate::ui::paint;
use crate::ui::theme::{Glyphs, Role, Theme};
use crate::ui::widgets::scroll;

/// The marks of the curves, in order.
const MARKS: [char; 8] = ['●', '○', '◆', '◇', '■', '□', '▲', '△'];
const LETTERS: [char; 8] = ['o', 'x', '+', '*', '#', '@', '%', '&'];
/// The theme roles whose colours the curves use.
const COLOURS: [Role; 6] = [
    Role::Bar,
    Role::Warning,
    Role::Ok,
    Role::Special,
    Role::Error,
    Role::Title,
];
/// The maximum width of a curve's label in the legend, and of a point's label, in columns.
const LABEL: usize = 16;
/// The maximum width of a bar's label, in columns: labels of edited parts differ only at the end.
const TITLE: usize = 20;
/// The width of the number next to a bar, in columns.
const NUMBER: usize = 8;

/// Draws a series.
pub(super) fn draw(
    series: &Series,
    view: &FigureView,
    theme: &Theme,
    area: Rect,
    buf: &mut Buffer,
) -> Hits {
    let mut paint = SeriesPainter {
        series,
        view,
        theme,
        at: locate(series, view),
        area,
        buf,
        hits: Hits::default(),
    };
    if !series.points.is_empty() && !series.curves.is_empty() {
        match series.style {
            Shape::Lines => paint.lines(),
            Shape::Bars | Shape::Waterfall => paint.bars(),
        }
    }
    paint.hits
}

/// The point and the curve under the cursor; without a cursor, the last point of the first curve.
fn locate(series: &Series, view: &FigureView) -> (usize, usize) {
    let last = series.points.len().saturating_sub(1);
    if let Some((point, curve)) = view.spot {
        let last_curve = series.curves.len().saturating_sub(1);
        return (point.min(last), curve.min(last_curve));
    }
    let cursor = view.cursor.unwrap_or_default();
    let point = series
        .points
        .iter()
        .rposition(|p| covers(p.anchor, cursor))
        .unwrap_or(last);
    let curve = series.curves.iter().position(|c| covers(c.anchor, cursor));
    (point, curve.unwrap_or(0))
}

/// A number as text: with a sign if numbers of both signs are expected; parts of a sum have equally many decimals, so that they
/// can be added up.
fn spell(value: Option<f32>, signed: bool, shape: Shape) -> String {
    match (value, shape) {
        (None, _) => "-".to_owned(),
        (Some(v), Shape::Waterfall) if v.abs() < 1000.0 => format!("{v:+.3}"),
        (Some(v), _) if signed && v > 0.0 => format!("+{}", significant(v)),
        (Some(v), _) => significant(v),
    }
}

/// The inputs of drawing curves or bars.
struct SeriesPainter<'a> {
    series: &'a Series,
    view: &'a FigureView<'a>,
    theme: &'a Theme,
    /// The point and the curve under the cursor.
    at: (usize, usize),
    area: Rect,
    buf: &'a mut Buffer,
    hits: Hits,
}

impl SeriesPainter<'_> {
    fn put(&mut self, x: u16, y: u16, text: &str, style: Style) {
        let room = usize::from(self.area.right().saturating_sub(x));
        if room > 0 && (self.area.y..self.area.bottom()).contains(&y) {
            paint::write(self.buf, x, y, text, room, style);
        }
    }

    fn hit(&mut self, rect: Rect, anchor: Anchor) {
        let rect = rect.intersection(self.area);
        if anchor != Anchor::default() && !rect.is_empty() {
            self.hits.cells.push((rect, anchor));
        }
    }

    fn style(&self, role: Role) -> Style {
        self.theme
            .style(if self.view.stale { Role::Stale } else { role })
    }

    fn curve_style(&self, curve: usize) -> Style {
        self.style(COLOURS[curve % COLOURS.len()])
    }

    fn mark(&self, curve: usize) -> String {
        let marks = match self.theme.glyphs {
            Glyphs::Unicode => MARKS,
            Glyphs::Ascii => LETTERS,
        };
        marks[curve % marks.len()].to_string()
    }

    fn here(&self) -> Style {
        self.theme.style(if self.view.focused {
            Role::Cursor
        } else {
            Role::Selection
        })
    }

    fn spell(&self, value: Option<f32>) -> String {
        let signed = self.series.value_range(self.at.1).0 < 0.0;
        spell(value, signed, self.series.style)
    }

    /// The lines of the legend: the cursor's point, then every curve with its number there.
    fn legend(&self, room: usize, most: usize) -> Vec<Vec<(String, Option<usize>)>> {
        let (point, _) = self.at;
        let label = &self.series.points[point].label;
        let head = format!(
            "{} {} · {}",
            self.series.axis,
            clip(label, LABEL),
            self.series.value
        );
        let mut used = width(&head);
        let mut lines = vec![vec![(head, None)]];
        for (curve, one) in self.series.curves.iter().enumerate() {
            let text = format!(
                "{} {} {}",
                self.mark(curve),
                clip(&one.label, LABEL),
                self.spell(self.series.value(curve, point))
            );
            if used + 2 + width(&text) > room {
                lines.push(Vec::new());
                used = 0;
            }
            used += 2 + width(&text);
            if let Some(line) = lines.last_mut() {
                line.push((text, Some(curve)));
            }
        }
        // If the legend is too long, the part with the cursor's curve.
        let chosen = lines
            .iter()
            .position(|line| line.iter().any(|(_, curve)| *curve == Some(self.at.1)))
            .unwrap_or(0);
        let start = (chosen + 1).saturating_sub(most);
        lines.into_iter().skip(start).take(most).collect()
    }

    fn lines(&mut self) {
        let (high, wide) = (usize::from(self.area.height), usize::from(self.area.width));
        let legend = if high >= 4 {
            self.legend(wide, (high / 3).max(1))
        } else {
            Vec::new()
        };
        let axis = usize::from(high >= 3);
        let (lo, hi) = self.series.value_range(self.at.1);
        let ends = [significant(lo), significant(hi)];
        let label = ends.iter().map(String::len).max().unwrap_or(0) + 1;
        let label = if wide >= 3 * label { label } else { 0 };
        let plot = Rect {
            x: self.area.x + label as u16,
            width: self.area.width - label as u16,
            height: (high - axis - legend.len()) as u16,
            ..self.area
        };
        let muted = self.style(Role::Muted);
        if label > 0 {
            let wide = label - 1;
            let right = |text: &str| format!("{text:>wide$}");
            self.put(self.area.x, plot.bottom() - 1, &right(&ends[0]), muted);
            if plot.height > 1 {
                self.put(self.area.x, plot.y, &right(&ends[1]), muted);
            }
        }
        self.curves(plot, (lo, hi));
        if axis > 0 {
            self.axis(plot);
        }
        for (i, line) in legend.iter().enumerate() {
            let y = plot.bottom() + axis as u16 + i as u16;
            let mut x = self.area.x;
            for (text, curve) in line {
                let style = match curve {
                    Some(curve) if *curve == self.at.1 => {
                        self.curve_style(*curve).add_modifier(Modifier::BOLD)
                    }
                    Some(curve) => self.curve_style(*curve),
                    None => muted,
                };
                self.put(x, y, text, style);
                if let Some(curve) = curve {
                    let rect = Rect::new(x, y, width(text) as u16, 1);
                    self.hit(rect, self.series.anchor(*curve, self.at.0));
                }
                x += width(text) as u16 + 2;
            }
        }
    }

    fn column(&self, plot: Rect, point: usize) -> u16 {
        let last = self.series.points.len() - 1;
        let room = usize::from(plot.width - 1);
        let at = (point * room + last / 2)
            .checked_div(last)
            .unwrap_or(room / 2);
        plot.x + at as u16
    }

    fn curves(&mut self, plot: Rect, (lo, hi): (f32, f32)) {
        // In braille dots: each character has two by four.
        let dots = |value: f32| {
            let place = ((value - lo) / (hi - lo)).clamp(0.0, 1.0);
            (place * (4.0 * f32::from(plot.height) - 1.0)).round()
        };
        let row = |value: f32| plot.bottom() - 1 - (dots(value) / 4.0) as u16;
        if lo < 0.0 && hi > 0.0 {
            let rule = self.theme.glyphs.pick("┈", "-");
            let style = self.style(Role::Faint);
            let text = rule.repeat(plot.width.into());
            self.put(plot.x, row(0.0), &text, style);
        }
        let marker = match self.theme.glyphs {
            Glyphs::Unicode => Marker::Braille,
            Glyphs::Ascii => Marker::Custom('.'),
        };
        // The selected curve is drawn last, over the others.
        let chosen = self.at.1;
        let order = (0..self.series.curves.len())
            .filter(|c| *c != chosen)
            .chain([chosen]);
        let ground = self.theme.ground();
        for curve in order {
            let colour = self.curve_style(curve).fg.or(ground.fg);
            let colour = colour.unwrap_or(Color::Reset);
            let segments: Vec<Line> = (1..self.series.points.len())
                .filter_map(|point| {
                    let from = self.series.value(curve, point - 1)?;
                    let to = self.series.value(curve, point)?;
                    let x = |p| f64::from(self.column(plot, p) - plot.x) * 2.0;
                    let (y1, y2) = (f64::from(dots(from)), f64::from(dots(to)));
                    Some(Line::new(x(point - 1), y1, x(point), y2, colour))
                })
                .collect();
            let canvas = Canvas::default()
                .marker(marker)
                .background_color(ground.bg.unwrap_or(Color::Reset))
                .x_bounds([0.0, 2.0 * f64::from(plot.width) - 1.0])
                .y_bounds([0.0, 4.0 * f64::from(plot.height) - 1.0])
                .paint(|context| segments.iter().for_each(|line| context.draw(line)));
            paint::render(self.buf, plot, canvas);
        }
        // Marks need room between them; if there is none, only the cursor's point has a mark.
        let spread = self.series.points.len() * 2 <= usize::from(plot.width) + 1;
        let mut hits = Vec::new();
        let order = (0..self.series.curves.len())
            .filter(|c| *c != chosen)
            .chain([chosen]);
        for curve in order {
            for point in 0..self.series.points.len() {
                let Some(value) = self.series.value(curve, point) else {
                    continue;
                };
                let at = self.at == (point, curve);
                let (x, y) = (self.column(plot, point), row(value));
                let anchor = self.series.anchor(curve, point);
                if spread || point == self.at.0 {
                    let style = if at {
                        self.here()
                    } else {
                        self.curve_style(curve)
                    };
                    let mark = if self.view.marked(anchor) {
                        self.theme.glyphs.mark().to_owned()
                    } else {
                        self.mark(curve)
                    };
                    self.put(x, y, &mark, style);
                    hits.push((Rect::new(x, y, 1, 1), anchor));
                }
            }
        }
        // The curve drawn last is on top; below and above a mark, the selected curve counts.
        for (rect, anchor) in hits.into_iter().rev() {
            self.hit(rect, anchor);
        }
        for point in 0..self.series.points.len() {
            let rect = Rect::new(self.column(plot, point), plot.y, 1, plot.height);
            self.hit(rect, self.series.anchor(chosen, point));
        }
    }

    /// The labels of the points: that of the cursor always, the others where there is room.
    fn axis(&mut self, plot: Rect) {
        let y = plot.bottom();
        let place = |paint: &Self, point: usize| {
            let text = clip(&paint.series.points[point].label, LABEL);
            let wide = width(&text) as u16;
            let middle = paint.column(plot, point);
            let last = plot.right().saturating_sub(wide + 1).max(plot.x);
            let x = middle.saturating_sub(wide / 2).clamp(plot.x, last);
            (x, wide, text)
        };
        let (x, wide, text) = place(self, self.at.0);
        let taken = x.saturating_sub(2)..x + wide + 2;
        let mut free = plot.x;
        for point in 0..self.series.points.len() {
            let (x, wide, text) = place(self, point);
            let clear = x + wide <= taken.start || x >= taken.end;
            if point != self.at.0 && x >= free && clear && x + wide <= plot.right() {
                let style = self.style(Role::Muted);
                self.put(x, y, &text, style);
                let anchor = self.series.anchor(self.at.1, point);
                self.hit(Rect::new(x, y, wide, 1), anchor);
                free = x + wide + 1;
            }
        }
        let [open, close] = self.theme.glyphs.brackets();
        let (title, edge) = (self.here(), self.style(Role::Focus));
        self.put(x, y, &text, title);
        if x > self.area.x {
            self.put(x - 1, y, open, edge);
        }
        self.put(x + wide, y, close, edge);
    }

    /// Bars below each other: one line for each point and curve; a waterfall shows the cursor's curve, with its total.
    fn bars(&mut self) {
        let waterfall = self.series.style == Shape::Waterfall;
        let curves: Vec<usize> = if waterfall {
            vec![self.at.1]
        } else {
            (0..self.series.curves.len()).collect()
        };
        let chosen = &self.series.curves[self.at.1];
        let total = chosen.total.filter(|_| waterfall);
        let mut high = usize::from(self.area.height);
        let mut y = self.area.y;
        let count = self.series.points.len() * curves.len();
        let several = self.series.curves.len() > 1;
        if high >= 4 || (high >= 3 && count < high) {
            let name = if waterfall {
                let place = if several {
                    format!(" {}/{}", self.at.1 + 1, self.series.curves.len())
                } else {
                    String::new()
                };
                format!("{}{place} · {}", chosen.label, self.series.value)
            } else if several {
                let names = self.series.curves.iter().enumerate();
                let names: Vec<String> = names
                    .map(|(i, c)| format!("{} {}", self.mark(i), clip(&c.label, LABEL)))
                    .collect();
                format!("{} · {}", self.series.value, names.join("  "))
            } else {
                format!("{} · {}", chosen.label, self.series.value)
            };
            let style = self.style(Role::Muted);
            self.put(self.area.x, y, &name, style);
            (y, high) = (y + 1, high - 1);
        }
        let below = usize::from(total.is_some() && high >= 2);
        let lines = high - below;
        let cursor_line = self.at.0 * curves.len() + if waterfall { 0 } else { self.at.1 };
        let first = cursor_line
            .saturating_sub(lines / 2)
            .min(count.saturating_sub(lines));
        let labels = self.series.points.iter().map(|p| width(&p.label));
        let label = labels.max().unwrap_or(0).clamp(5, TITLE);
        let wide = usize::from(self.area.width);
        // The left edge is for the cursor's mark, the right edge for the scroll mark.
        let bar = wide.saturating_sub(label + NUMBER + 5);
        let steps = chosen.steps();
        let top = y;
        for line in first..(first + lines).min(count) {
            let (point, curve) = (line / curves.len(), curves[line % curves.len()]);
            let value = self.series.value(curve, point);
            let (from, to) = if waterfall {
                steps.get(point).copied().unwrap_or_default()
            } else {
                (0.0, value.unwrap_or(0.0))
            };
            let title = if line % curves.len() == 0 || line == first {
                self.series.points[point].label.clone()
            } else {
                String::new()
            };
            let here = self.at == (point, curve);
            self.bar((y, label, bar), &title, value, (from, to), curve, here);
            let anchor = self.series.anchor(curve, point);
            let rect = Rect::new(self.area.x, y, self.area.width, 1);
            if self.view.marked(anchor) {
                let style = self.theme.style(Role::Accent);
                let x = rect.x + 1 + label as u16;
                self.put(x, y, self.theme.glyphs.mark(), style);
            }
            self.hit(rect, anchor);
            y += 1;
        }
        if let (Some(total), 1) = (total, below) {
            let y = self.area.bottom() - 1;
            let y = y.min(top + count as u16);
            let (ends, curve) = ((0.0, total), self.at.1);
            self.bar((y, label, bar), "total", Some(total), ends, curve, false);
        }
        let body = Rect {
            y: top,
            height: lines as u16,
            ..self.area
        };
        scroll::draw(count, first, self.theme, body, self.buf);
    }

    /// One line: label, bar, number.
    fn bar(
        &mut self,
        (y, label, room): (u16, usize, usize),
        title: &str,
        value: Option<f32>,
        (from, to): (f32, f32),
        curve: usize,
        here: bool,
    ) {
        let several = self.series.style == Shape::Bars && self.series.curves.len() > 1;
        let (lo, hi) = self.series.value_range(self.at.1);
        let style = if here {
            self.here()
        } else {
            self.style(Role::Text)
        };
        let x = self.area.x + 1;
        if here {
            let [open, _] = self.theme.glyphs.brackets();
            let edge = self.style(Role::Focus);
            self.put(self.area.x, y, open, edge);
        }
        self.put(x, y, &fit(title, label), style);
        let mut left = x + label as u16 + 1;
        let mut columns = room;
        if several {
            let (mark, ink) = (self.mark(curve), self.curve_style(curve));
            self.put(left, y, &mark, ink);
            (left, columns) = (left + 2, room.saturating_sub(2));
        }
        if value.is_some() {
            let (text, role) = floating((from, to), (lo, hi), columns, self.theme.glyphs);
            let ink = match (several, role) {
                (true, _) => self.curve_style(curve),
                (false, BarSide::Up) => self.style(Role::Bar),
                (false, BarSide::Down) => self.style(Role::Warning),
            };
            self.put(left, y, &text, ink);
        }
        let number = self.spell(value);
        let pad = NUMBER.saturating_sub(number.len());
        let right = left + columns as u16 + 1;
        self.put(right, y, &format!("{}{number}", " ".repeat(pad)), style);
    }
}

/// The direction of a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BarSide {
    /// From the smaller end to the larger.
    Up,
    /// From the larger end to the smaller.
    Down,
}

/// A bar that begins and ends anywhere between `lo` and `hi`, with a resolution of half a column; even the smallest bar is
/// visible.
fn floating(
    (from, to): (f32, f32),
    (lo, hi): (f32, f32),
    columns: usize,
    glyphs: Glyphs,
) -> (String, BarSide) {
    let halves = columns * 2;
    let place = |value: f32| {
        let at = ((value - lo) / (hi - lo)).clamp(0.0, 1.0);
        ((at * halves as f32).round() as usize).min(halves)
    };
    let sign = if to < from {
        BarSide::Down
    } else {
        BarSide::Up
    };
    let (mut start, mut end) = (place(from.min(to)), place(from.max(to)));
    if start == end && from.partial_cmp(&to).is_some_and(Ordering::is_ne) {
        if end < halves {
            end += 1;
        } else {
            start = start.saturating_sub(1);
        }
    }
    let glyph = |column: usize| {
        let left = (start..end).contains(&(2 * column));
        let right = (start..end).contains(&(2 * column + 1));
        match (left, right, sign, glyphs) {
            (false, false, ..) => ' ',
            (_, _, BarSide::Down, Glyphs::Unicode) => '▒',
            (_, _, BarSide::Down, Glyphs::Ascii) => '-',
            (_, _, BarSide::Up, Glyphs::Ascii) => '#',
            (true, true, BarSide::Up, Glyphs::Unicode) => '█',
            (true, false, BarSide::Up, Glyphs::Unicode) => '▌',
            (false, true, BarSide::Up, Glyphs::Unicode) => '▐',
        }
    };
    ((0..columns).map(glyph).collect(), sign)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::export::samples;
    use crate::figure::{Figure, Unit};
    use crate::ui::theme::Depth;

    fn lines(
        figure: &Figure,
        view: FigureView,
        theme: &Theme,
        wide: u16,
        high: u16,
    ) -> (String, Hits) {
        let mut buf = Buffer::empty(Rect::new(0, 0, wide, high));
        let hits = super::super::draw(figure, &view, theme, buf.area, &mut buf);
        let line = |y| {
            let text: String = (0..wide).map(|x| buf[(x, y)].symbol()).collect();
            text.trim_end().to_owned() + "\n"
        };
        ((0..high).map(line).collect(), hits)
    }

    fn at(point: usize, curve: usize) -> FigureView<'static> {
        FigureView {
            spot: Some((point, curve)),
            cursor: Some(Anchor::default()),
            focused: true,
            ..FigureView::default()
        }
    }

    #[test]
    fn curves_cross_and_the_cursor_spells_its_numbers() {
        let theme = Theme::default().adapt(Depth::Ansi16);
        let (drawn, hits) = lines(&samples::curves(), at(2, 1), &theme, 40, 10);
        let all: Vec<&str> = drawn.lines().collect();
        assert!(all[7].contains("▐2▌"), "{drawn}");
        assert!(
            drawn.contains("layer 2 · probability"),
            "where the cursor is: {drawn}"
        );
        assert!(
            drawn.contains("● ␣Paris 0.0500") && drawn.contains("○ ␣Rome 0.300"),
            "{drawn}"
        );
        assert_eq!(drawn.matches('○').count(), 6 + 1, "{drawn}");
        // The selected curve is on top, and a click finds it.
        let own = Anchor::cell(2, 3).with(Unit::Token(8));
        assert!(hits.cells.iter().any(|(_, anchor)| *anchor == own));
        let mut ascii = theme;
        ascii.glyphs = Glyphs::Ascii;
        let (drawn, _) = lines(&samples::curves(), at(2, 1), &ascii, 40, 10);
        let odd = |c: &char| !c.is_ascii() && !"·␣".contains(*c);
        assert_eq!(drawn.chars().find(odd), None, "{drawn}");
    }

    #[test]
    fn a_higher_number_stands_higher() {
        let theme = Theme::default();
        let (_, hits) = lines(&samples::curves(), at(0, 0), &theme, 60, 20);
        let row = |layer: usize| {
            let anchor = Anchor::cell(layer, 3).with(Unit::Token(7));
            let of = hits.cells.iter();
            of.filter(|(rect, a)| *a == anchor && rect.height == 1)
                .map(|(rect, _)| rect.y)
                .min()
                .unwrap()
        };
        assert!(row(5) < row(4) && row(4) < row(3) && row(3) < row(0));
    }

    #[test]
    fn parts_that_edits_moved_are_told_apart() {
        let mut figure = samples::waterfall();
        if let crate::figure::Body::Series(series) = &mut figure.body {
            series.points[1].label = "edit resid_post.10".into();
            series.points[2].label = "edit resid_post.11".into();
        }
        let (drawn, _) = lines(&figure, at(0, 0), &Theme::default(), 60, 8);
        assert!(
            drawn.contains("edit resid_post.10 ") && drawn.contains("edit resid_post.11 "),
            "{drawn}"
        );
    }

    #[test]
    fn a_waterfall_floats_and_ends_at_its_total() {
        let (drawn, hits) = lines(&samples::waterfall(), at(2, 0), &Theme::default(), 50, 8);
        let all: Vec<&str> = drawn.lines().collect();
        assert_eq!(all[0], "␣Paris · logit");
        let extent = |line: usize| {
            let cells: Vec<char> = all[line].chars().collect();
            let bar = |c: &char| "█▌▐▒".contains(*c);
            // The bracket at the edge of the cursor's line is not a bar.
            let start = 1 + cells[1..].iter().position(bar).unwrap();
            let end = cells.iter().rposition(bar).unwrap();
            (start, end)
        };
        // Two bars may share a column, each with half of it.
        assert!(extent(2).0.abs_diff(extent(1).1) <= 1, "{drawn}");
        assert!(extent(3).1.abs_diff(extent(2).1) <= 1, "{drawn}");
        assert!(
            all[3].contains('▒') && all[3].trim_end().ends_with("-3.000"),
            "{drawn}"
        );
        assert_eq!(extent(5).0, extent(1).0, "the total begins at zero");
        assert!(
            all[5].contains("total") && all[5].ends_with("+2.000"),
            "{drawn}"
        );
        assert!(all[3].starts_with('▐'), "the cursor: {drawn}");
        let mlp = Anchor::cell(0, 3).with(Unit::Token(7));
        assert_eq!(hits.at(4, 3), Some(mlp));
    }

    #[test]
    fn bars_of_several_curves_stand_together_and_scroll_to_the_cursor() {
        let (drawn, _) = lines(&samples::bars(), at(3, 1), &Theme::default(), 50, 5);
        let all: Vec<&str> = drawn.lines().collect();
        assert!(all[0].contains("● ␣Paris  ○ ␣Rome"), "{drawn}");
        let last = all.iter().rposition(|l| l.contains('○')).unwrap();
        assert!(
            all[last].starts_with('▐') && all[last].contains("0.250"),
            "{drawn}"
        );
    }

    #[test]
    fn the_smallest_bar_shows_and_none_is_wider_than_its_room() {
        for glyphs in [Glyphs::Unicode, Glyphs::Ascii] {
            let (text, _) = floating((0.0, 1e-9), (0.0, 1.0), 10, glyphs);
            assert_eq!(text.trim().chars().count(), 1);
            let (text, sign) = floating((1.0, 1.0 - 1e-9), (0.0, 1.0), 10, glyphs);
            assert_eq!((text.chars().count(), sign), (10, BarSide::Up));
            let (text, sign) = floating((1.0, 0.5), (0.0, 1.0), 10, glyphs);
            assert_eq!((text.trim().len() > 4, sign), (true, BarSide::Down));
        }
        let (text, _) = floating((0.25, 0.75), (0.0, 1.0), 4, Glyphs::Unicode);
        assert_eq!(text, " ██ ");
        let (text, _) = floating((0.125, 0.625), (0.0, 1.0), 4, Glyphs::Unicode);
        assert_eq!(text, "▐█▌ ");
    }
}
