//! Draws grids such as that of the lens: layers upwards, positions across, numbers as colours.
//!
//! Invariant: all cells of a grid have the same width, and only the visible part is laid out (see `layout.rs`). To add a
//! density, add its arm there, and here a way to paint its lines.
//!
//! ```text
//!        ␣capital ␣of     ␣France ␣is          column titles
//!    15  ␣same.11 ␣of .31 ␣the.20▐␣Paris.94▌   top layer first; brackets are the cursor
//!    14  ␣same.09 ␣of .30 ␣the.18 ␣Paris.81    equal to the cell above: faint
//!  0.0 ░▒▓█ 1.0 probability · layer 14-15/16   legend
//! ```

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

use super::layout::{FigureLayout, GridLine, flip, locate};
use super::{Density, FigureView, Hits, compact, significant};
use crate::export::number::{rank, spelled};
use crate::figure::{Anchor, AxisLabel, Cell, Grid, Scale};
use crate::text::{fit, width};
use crate::ui::paint;
use crate::ui::theme::{Role, Theme};

/// Draws a grid.
pub(super) fn draw(
    grid: &Grid,
    view: &FigureView,
    theme: &Theme,
    area: Rect,
    buf: &mut Buffer,
) -> Hits {
    let cursor = locate(grid, view);
    let plan = FigureLayout::new(grid, view, theme, area, cursor);
    let mut paint = GridPainter {
        grid,
        view,
        theme,
        plan: &plan,
        area,
        buf,
        cursor,
        hits: Hits::default(),
    };
    paint.hits.first_column = Some(plan.columns.start);
    paint.hits.rows = Some(plan.rows(grid.rows.len(), view.flip));
    if plan.header {
        paint.header();
    }
    let top = area.y + u16::from(plan.header);
    for (line, y) in plan.lines.iter().zip(top..) {
        let place = match line {
            GridLine::Row(place) => *place,
            GridLine::Folded(places) => {
                paint.folded(places.clone(), y);
                continue;
            }
        };
        paint.row_title(place, y);
        match view.density {
            Density::Full | Density::Token => paint.tokens(place, y),
            Density::Colour => paint.colours(place, y),
        }
        paint.rank_of_answer(place, y);
    }
    if plan.legend {
        paint.legend();
    }
    paint.hits
}

/// The distance of a place on a signed scale from its middle, 0 to 1.
fn distance_from_middle(place: f32) -> f32 {
    (2.0 * place - 1.0).abs()
}

/// An end of the scale as text, without trailing zeros.
fn brief(scale: Scale, value: f32) -> String {
    if let Scale::Rank { .. } = scale {
        return spelled(scale, value);
    }
    let text = significant(value);
    if text.contains('.') && !text.contains('e') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// The inputs of drawing a grid.
struct GridPainter<'a> {
    grid: &'a Grid,
    view: &'a FigureView<'a>,
    theme: &'a Theme,
    plan: &'a FigureLayout,
    area: Rect,
    buf: &'a mut Buffer,
    cursor: (Option<usize>, Option<usize>),
    hits: Hits,
}

impl GridPainter<'_> {
    /// Writes text, clipped to the area.
    fn put(&mut self, x: usize, y: u16, text: &str, style: Style) {
        let room = usize::from(self.area.right()).saturating_sub(x);
        if room > 0 && y < self.area.bottom() {
            paint::write(self.buf, x as u16, y, text, room, style);
        }
    }

    fn hit(&mut self, x: usize, y: u16, wide: usize, anchor: Anchor) {
        let rect = Rect::new(x as u16, y, wide as u16, 1).intersection(self.area);
        if anchor != Anchor::default() && !rect.is_empty() {
            self.hits.cells.push((rect, anchor));
        }
    }

    fn row(&self, place: usize) -> usize {
        flip(place, self.grid.rows.len(), self.view.flip)
    }

    fn cell(&self, column: usize, place: usize) -> Option<&Cell> {
        (place < self.grid.rows.len()).then(|| self.grid.cells.get(column)?.get(self.row(place)))?
    }

    /// The style of a label; that of the cursor's column or row is emphasised.
    fn title_style(&self, chosen: bool) -> Style {
        if self.view.stale {
            self.theme.style(Role::Stale)
        } else if chosen {
            self.theme.style(if self.view.focused {
                Role::Focus
            } else {
                Role::Title
            })
        } else {
            self.theme.style(Role::Muted)
        }
    }

    fn header(&mut self) {
        let (y, left) = (self.area.y, self.plan.left(self.area));
        let titled = self.view.density != Density::Colour;
        let mut free = left;
        for (i, column) in self.plan.columns.clone().enumerate() {
            let Some(title) = self.grid.columns.get(column) else {
                break;
            };
            let x = left + i * self.plan.cell;
            let chosen = self.cursor.0 == Some(column);
            let style = self.title_style(chosen);
            if titled {
                let text = fit(&title.label, self.plan.cell - 1);
                self.put(x + 1, y, &text, style);
            } else if chosen {
                let mark = self.theme.glyphs.pick("▼", "v");
                self.put(x, y, mark, style);
                free = x + 2;
            } else if x >= free
                && self.plan.columns.contains(&(column + 3))
                && self.cursor.0.is_none_or(|c| c < column || c >= column + 3)
            {
                // Two columns are too narrow for a token, so the label is the position's number, if it fits.
                let text = title
                    .anchor
                    .position
                    .map_or_else(|| title.label.clone(), |p| p.to_string());
                if text.len() <= 5 && column % 5 == 0 {
                    self.put(x, y, &text, style);
                    free = x + text.len() + 1;
                }
            }
            self.hit(x, y, self.plan.cell, title.anchor);
        }
        let story = self
            .cursor
            .0
            .and_then(|column| self.grid.rank_story(column));
        if let Some(story) = story.filter(|_| self.plan.strip > 0) {
            let x = usize::from(self.area.right()) - self.plan.strip + 2;
            let said = crate::text::clip(&format!("rank of {}", story.token), self.plan.strip - 2);
            self.put(x, y, &said, self.title_style(true));
        }
    }

    /// A line in the place of rows that are folded away.
    fn folded(&mut self, places: std::ops::Range<usize>, y: u16) {
        let ends = [places.start, places.end - 1].map(|place| {
            let title = self.grid.rows.get(self.row(place));
            title.map_or("", |title| title.label.as_str())
        });
        let mark = self.theme.glyphs.pick("⋮", ":");
        let said = format!(
            "{mark} {} {} to {}: {} that change least",
            self.grid.row_axis,
            ends[0],
            ends[1],
            places.len()
        );
        let wide = usize::from(self.area.width).saturating_sub(self.plan.label + self.plan.strip);
        let said = crate::text::clip(&said, wide);
        let style = self.theme.style(Role::Faint);
        self.put(self.plan.left(self.area) + 1, y, &said, style);
    }

    /// The rank of the answer of the cursor's column in this row, as a number and as a bar on a scale of logarithms.
    fn rank_of_answer(&mut self, place: usize, y: u16) {
        let story = self
            .cursor
            .0
            .and_then(|column| self.grid.rank_story(column));
        let Some(story) = story.filter(|_| self.plan.strip > 0) else {
            return;
        };
        let layer = self
            .grid
            .rows
            .get(self.row(place))
            .and_then(|row| row.anchor.layer);
        let Some(held) = layer.and_then(|layer| story.ranks.get(usize::from(layer)).copied())
        else {
            return;
        };
        // As long as the cells are bright, where these show ranks; else on the scale of this column's.
        let worst = story.ranks.iter().copied().max().unwrap_or(1).max(100) as f32;
        let scale = match self.grid.scale {
            Scale::Rank { .. } => self.grid.scale,
            Scale::Unit | Scale::Range { .. } | Scale::Diverging { .. } => Scale::Rank { worst },
        };
        let share = scale.place(held as f32);
        let x = usize::from(self.area.right()) - self.plan.strip + 1;
        let number = rank(held as f32, 6);
        let number = format!("{number:>6} ");
        let columns = self.plan.strip - 9;
        let [words, bars] = if self.view.stale {
            [Role::Stale, Role::Stale]
        } else if self.cursor.1 == Some(place) {
            [Role::Title, Role::Bar]
        } else {
            [Role::Muted, Role::Bar]
        };
        self.put(x, y, &number, self.theme.style(words));
        let bar = crate::ui::widgets::bar::bar(share, columns, self.theme.glyphs);
        self.put(x + 7, y, &bar, self.theme.style(bars));
    }

    fn row_title(&mut self, place: usize, y: u16) {
        let row = self.row(place);
        let Some(title) = self.grid.rows.get(row).filter(|_| self.plan.label > 0) else {
            return;
        };
        let wide = self.plan.label - 1;
        let text = crate::text::clip(&title.label, wide);
        let pad = wide - width(&text);
        let chosen = self
            .cursor
            .1
            .is_some_and(|c| (place..place + self.plan.stack).contains(&c));
        let style = self.title_style(chosen);
        let anchor = title.anchor;
        self.put(usize::from(self.area.x) + pad, y, &text, style);
        self.hit(self.area.x.into(), y, wide, anchor);
    }

    /// Draws one line of tokens and numbers.
    fn tokens(&mut self, place: usize, y: u16) {
        let left = self.plan.left(self.area);
        for (i, column) in self.plan.columns.clone().enumerate() {
            let Some(cell) = self.cell(column, place) else {
                continue;
            };
            let x = left + i * self.plan.cell;
            let repeats = self.repeats(column, place);
            let place01 = self.grid.scale.place(cell.value);
            let text = self.words(cell, place01);
            let anchor = cell.anchor;
            let at_cursor = self.cursor == (Some(column), Some(place));
            let style = if self.view.stale {
                self.theme.style(Role::Stale)
            } else {
                self.number_style(place01, repeats)
            };
            self.put(x, y, " ", style);
            if self.view.marked(anchor) {
                let (glyph, accent) = (self.theme.glyphs.mark(), self.theme.style(Role::Accent));
                self.put(x, y, glyph, style.patch(accent));
            }
            let style = match (at_cursor, self.theme.paints() && style.bg.is_some()) {
                (false, _) => style,
                // The colour shows the number, so the cursor is an underline.
                (true, true) if self.view.focused => self
                    .number_style(place01, false)
                    .add_modifier(Modifier::UNDERLINED | Modifier::BOLD),
                (true, true) => style.add_modifier(Modifier::UNDERLINED),
                (true, false) if self.view.focused => self.theme.style(Role::Cursor),
                (true, false) => style.add_modifier(Modifier::REVERSED),
            };
            self.put(x + 1, y, &text, style);
            self.hit(x, y, self.plan.cell, anchor);
        }
        self.brackets(place, y);
    }

    /// Brackets around the cursor's cell, which need no colour. They are in the gaps, so no cell moves.
    fn brackets(&mut self, place: usize, y: u16) {
        let (Some(column), Some(row)) = self.cursor else {
            return;
        };
        if row != place
            || !self.plan.columns.contains(&column)
            || self.cell(column, place).is_none()
        {
            return;
        }
        let x = self.plan.left(self.area) + (column - self.plan.columns.start) * self.plan.cell;
        let [open, close] = self.theme.glyphs.brackets();
        let style = self.theme.style(if self.view.focused {
            Role::Focus
        } else {
            Role::Muted
        });
        let marked = self
            .cell(column, place)
            .is_some_and(|cell| self.view.marked(cell.anchor));
        let open = if marked {
            self.theme.glyphs.mark()
        } else {
            open
        };
        self.put(x, y, open, style);
        self.put(x + self.plan.cell, y, close, style);
    }

    /// Whether a cell has the same text as the one drawn above it.
    fn repeats(&self, column: usize, place: usize) -> bool {
        let Some(above) = place.checked_sub(1) else {
            return false;
        };
        match (self.cell(column, place), self.cell(column, above)) {
            (Some(a), Some(b)) => a.label == b.label && !a.label.is_empty(),
            _ => false,
        }
    }

    /// The text of a cell, exactly as wide as the cell without its gap.
    fn words(&self, cell: &Cell, place: f32) -> String {
        let signed = matches!(self.grid.scale, Scale::Diverging { .. });
        let mut out = String::new();
        match self.plan.shade {
            0 => {}
            1 if signed => out.push(self.theme.glyph(distance_from_middle(place))),
            1 => out.push(self.theme.glyph(place)),
            _ => out.extend([
                self.theme.sign_mark(place),
                self.theme.glyph(distance_from_middle(place)),
            ]),
        }
        if self.plan.number == 0 {
            out.push_str(&fit(&cell.label, self.plan.token));
            return out;
        }
        if cell.value.is_nan() && cell.label.is_empty() {
            // Nothing was measured here, as opposed to something that is not a number.
            out.push_str(&" ".repeat(self.plan.token + self.plan.number));
            return out;
        }
        let number = match self.grid.scale {
            Scale::Rank { .. } => rank(cell.value, self.plan.number),
            Scale::Unit | Scale::Range { .. } | Scale::Diverging { .. } => {
                compact(cell.value, self.plan.number, signed)
            }
        };
        // The token gets the width that the number leaves, minus a space between them.
        let room = (self.plan.token + self.plan.number).saturating_sub(number.len());
        let gap = usize::from(self.plan.token > 0).min(room);
        out.push_str(&fit(&cell.label, room - gap));
        out.extend(std::iter::repeat_n(' ', gap));
        out.push_str(&number);
        out
    }

    fn number_style(&self, place: f32, quiet: bool) -> Style {
        let theme = self.theme;
        match (self.grid.scale, quiet) {
            (Scale::Unit | Scale::Range { .. } | Scale::Rank { .. }, false) => theme.heat(place),
            (Scale::Unit | Scale::Range { .. } | Scale::Rank { .. }, true) => {
                theme.heat_faint(place)
            }
            (Scale::Diverging { .. }, false) => theme.sign(place),
            (Scale::Diverging { .. }, true) => theme.sign_faint(place),
        }
    }

    /// Draws one line of colours: with colour it contains two rows of the grid, without colour one row of shades.
    fn colours(&mut self, place: usize, y: u16) {
        let left = self.plan.left(self.area);
        for (i, column) in self.plan.columns.clone().enumerate() {
            let x = left + i * self.plan.cell;
            let Some(upper) = self.cell(column, place) else {
                continue;
            };
            let anchor = upper.anchor;
            let here = |p: usize| self.cursor == (Some(column), Some(p));
            if self.plan.stack == 1 {
                let place01 = self.grid.scale.place(upper.value);
                let text = if here(place) {
                    "><".to_owned()
                } else if let Scale::Diverging { .. } = self.grid.scale {
                    String::from_iter([
                        self.theme.sign_mark(place01),
                        self.theme.glyph(distance_from_middle(place01)),
                    ])
                } else {
                    self.theme.glyph(place01).to_string().repeat(2)
                };
                let style = if here(place) {
                    self.theme.style(Role::Cursor)
                } else {
                    self.number_style(place01, false)
                };
                self.put(x, y, &text, style);
            } else {
                let back = |p: usize| {
                    self.cell(column, p).and_then(|cell| {
                        self.number_style(self.grid.scale.place(cell.value), false)
                            .bg
                    })
                };
                let (mut above, mut below) = (back(place), back(place + 1));
                let mark = self.theme.style(Role::Cursor);
                let mark = mark.bg.or(self.theme.style(Role::Focus).fg);
                if here(place) {
                    above = mark;
                } else if here(place + 1) {
                    below = mark;
                }
                // The style is applied only to painted halves; an unpainted half keeps the terminal's own background.
                let plain = Style::new();
                let ground = self.theme.ground().bg;
                let painted = |colour: Option<Color>| colour.filter(|_| colour != ground);
                let (glyph, style) = match (painted(above), painted(below)) {
                    (None, None) => (" ", plain),
                    (Some(above), None) => ("▀", plain.fg(above)),
                    (None, Some(below)) => ("▄", plain.fg(below)),
                    (Some(above), Some(below)) if above == below => (" ", plain.bg(above)),
                    (Some(above), Some(below)) => ("▀", plain.fg(above).bg(below)),
                };
                let anchor_below = self.cell(column, place + 1).map(|cell| cell.anchor);
                let chosen = if here(place + 1) {
                    anchor_below.unwrap_or(anchor)
                } else {
                    anchor
                };
                self.put(x, y, &glyph.repeat(2), style);
                self.hit(x, y, self.plan.cell, chosen);
                continue;
            }
            self.hit(x, y, self.plan.cell, anchor);
        }
    }

    /// Draws the scale with its numbers, and which part of the grid is visible.
    fn legend(&mut self) {
        let y = self.area.bottom() - 1;
        let scale = self.grid.scale;
        let (lo, hi) = scale.ends();
        let faint = self.theme.style(Role::Muted);
        let mut x = usize::from(self.area.x);
        let steps = if self.theme.paints() {
            8
        } else {
            self.theme.glyphs.ramp().len()
        };
        let log = matches!(scale, Scale::Rank { .. });
        let (left, right) = (
            format!("{} ", brief(scale, lo)),
            format!(
                " {} {}{}",
                brief(scale, hi),
                self.grid.value,
                if log { ", log scale" } else { "" }
            ),
        );
        self.put(x, y, &left, faint);
        x += left.len();
        for step in 0..steps {
            let place = scale.place(scale.along(step as f32 / (steps - 1).max(1) as f32));
            let signed = matches!(scale, Scale::Diverging { .. });
            let shown = if signed {
                distance_from_middle(place)
            } else {
                place
            };
            let text = if self.theme.paints() {
                ' '
            } else {
                self.theme.glyph(shown)
            };
            let style = self.number_style(place, false);
            self.put(x, y, &text.to_string(), style);
            x += 1;
        }
        self.put(x, y, &right, faint);
        x += width(&right);
        let room = usize::from(self.area.right()).saturating_sub(x + 2);
        if let Some(part) = self.parts().into_iter().find(|part| width(part) <= room) {
            let at = usize::from(self.area.right()) - width(&part);
            self.put(at, y, &part, faint);
        }
    }

    /// Descriptions of the visible rows and columns, from the longest to the shortest; empty if everything is visible.
    fn parts(&self) -> Vec<String> {
        let grid = self.grid;
        let rows = Self::part(&grid.rows, self.rows_drawn(), |a| a.layer.map(usize::from));
        let columns = Self::part(&grid.columns, self.plan.columns.clone(), |a| {
            a.position.map(|p| p as usize)
        });
        let say = |axis: &str, of: &Option<(String, String)>, whole: bool| {
            of.as_ref().map(|(shown, all)| match (axis, whole) {
                ("", _) => shown.clone(),
                (axis, true) => format!("{axis} {shown} of {all}"),
                (axis, false) => format!("{axis} {shown}"),
            })
        };
        let mut out = Vec::new();
        for (row_axis, column_axis, whole) in [
            (grid.row_axis.as_str(), grid.column_axis.as_str(), true),
            (&grid.row_axis, &grid.column_axis, false),
            (&grid.row_axis, "", false),
            ("", &grid.column_axis, false),
            ("", "", false),
        ] {
            let parts = [
                say(row_axis, &rows, whole),
                say(column_axis, &columns, whole),
            ];
            let parts: Vec<String> = parts.into_iter().flatten().collect();
            out.push(parts.join(" · "));
        }
        out.extend(say(&grid.column_axis, &columns, false));
        out.retain(|part| !part.is_empty());
        out
    }

    fn rows_drawn(&self) -> std::ops::Range<usize> {
        let (a, b) = (self.plan.places.start, self.plan.places.end);
        if self.view.flip {
            a..b
        } else {
            self.grid.rows.len() - b..self.grid.rows.len() - a
        }
    }

    /// The visible and the total range of labels, such as `3-9` and `0-63`: of layers or positions, or else of indices. None if
    /// all of them are visible.
    fn part(
        titles: &[AxisLabel],
        shown: std::ops::Range<usize>,
        place: impl Fn(Anchor) -> Option<usize>,
    ) -> Option<(String, String)> {
        if shown.is_empty() || shown.len() >= titles.len() {
            return None;
        }
        // Labels of something else may all have the place where they were measured; their indices are used then.
        let places: Vec<Option<usize>> = titles.iter().map(|t| place(t.anchor)).collect();
        let counted = places.windows(2).any(|w| w[0].is_none() || w[0] >= w[1]);
        let ends = |from: usize, to: usize| match (places.get(from), places.get(to)) {
            (Some(Some(a)), Some(Some(b))) if !counted => (*a, *b),
            _ => (from, to),
        };
        let spell = |(a, b): (usize, usize)| format!("{a}-{b}");
        let all = ends(0, titles.len() - 1);
        Some((spell(ends(shown.start, shown.end - 1)), spell(all)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::export::samples;
    use crate::figure::{Body, Figure};
    use crate::ui::theme::{Depth, Glyphs};

    #[test]
    fn parts_are_positions_only_where_the_columns_are() {
        let titles = |place: fn(usize) -> usize| -> Vec<AxisLabel> {
            let title = |i| AxisLabel::of(String::new(), Anchor::position(place(i)));
            (0..8).map(title).collect()
        };
        let part = |titles: &[AxisLabel]| {
            GridPainter::part(titles, 2..5, |a| a.position.map(|p| p as usize)).unwrap()
        };
        let words = |a: &str, b: &str| (a.to_string(), b.to_string());
        assert_eq!(part(&titles(|i| 40 + i)), words("42-44", "40-47"));
        // Source layers, all measured at one position.
        assert_eq!(part(&titles(|_| 9)), words("2-4", "0-7"));
    }

    /// The drawn characters, without styles.
    fn lines(
        figure: &Figure,
        view: FigureView,
        theme: &Theme,
        wide: u16,
        high: u16,
    ) -> (Vec<String>, Hits, Buffer) {
        let mut buf = Buffer::empty(Rect::new(0, 0, wide, high));
        let hits = super::super::draw(figure, &view, theme, buf.area, &mut buf);
        let line = |y| {
            let mut out = String::new();
            let mut x = 0;
            while x < wide {
                let symbol = buf[(x, y)].symbol();
                out.push_str(symbol);
                x += width(symbol).max(1) as u16;
            }
            out.trim_end().to_owned()
        };
        ((0..high).map(line).collect(), hits, buf)
    }

    fn at(layer: usize, position: usize) -> FigureView<'static> {
        FigureView {
            cursor: Some(Anchor::cell(layer, position)),
            focused: true,
            ..FigureView::default()
        }
    }

    fn sixteen() -> Theme {
        Theme::default().adapt(Depth::Ansi16)
    }

    #[test]
    fn the_top_layer_is_on_top_and_flip_turns_it() {
        let figure = samples::lens(4, 2);
        let theme = Theme::default();
        let (drawn, ..) = lines(&figure, FigureView::default(), &theme, 40, 6);
        assert_eq!(
            drawn,
            [
                "   The         ␣capital",
                "3  ␣capit… .97 ␣of     .97",
                "2  ␣capit… .41 ␣of     .41",
                "1  漢字    .12 ␣France .12",
                "0  ␣France .02 ␣locat… .02",
                "0          1 probability",
            ]
        );
        let (flipped, ..) = lines(
            &figure,
            FigureView {
                flip: true,
                ..FigureView::default()
            },
            &theme,
            40,
            6,
        );
        assert_eq!(flipped[1], drawn[4]);
        assert_eq!(flipped[4], drawn[1]);
    }

    #[test]
    fn the_cursor_is_bracketed_and_reversed_at_every_depth() {
        let figure = samples::lens(6, 20);
        for depth in [Depth::None, Depth::Ansi16, Depth::Ansi256, Depth::True] {
            for theme in Theme::all() {
                let theme = theme.adapt(depth);
                for density in [Density::Full, Density::Token] {
                    let (drawn, hits, buf) = lines(
                        &figure,
                        FigureView {
                            density,
                            ..at(3, 7)
                        },
                        &theme,
                        60,
                        9,
                    );
                    let line = drawn.iter().position(|line| line.contains('▐')).unwrap();
                    assert!(
                        drawn[line].trim_start().starts_with("3 ") && drawn[line].contains('▌')
                    );
                    let (rect, _) = hits
                        .cells
                        .iter()
                        .find(|(_, a)| *a == Anchor::cell(3, 7))
                        .unwrap();
                    let cell = &buf[(rect.x + 1, rect.y)];
                    let other = theme.ground();
                    assert!(
                        cell.modifier.contains(Modifier::REVERSED) || Some(cell.bg) != other.bg,
                        "{} {depth:?}",
                        theme.name
                    );
                }
            }
        }
        let mut plain = sixteen();
        plain.glyphs = Glyphs::Ascii;
        let (drawn, ..) = lines(&figure, at(3, 7), &plain, 60, 9);
        assert!(
            drawn
                .iter()
                .any(|line| line.contains('>') && line.contains('<'))
        );
    }

    #[test]
    fn newest_at_the_right_and_the_cursor_always_inside() {
        let figure = samples::lens(30, 50);
        let theme = Theme::default();
        let (_, hits, _) = lines(&figure, FigureView::default(), &theme, 80, 20);
        assert!(
            hits.cells.iter().any(|(_, a)| *a == Anchor::cell(29, 49)),
            "newest position, top layer"
        );
        assert!(hits.first_column.unwrap() > 40);
        for layer in 0..30 {
            for position in [0, 1, 13, 48, 49] {
                for hint in [None, Some(0), Some(20), Some(900)] {
                    for density in [Density::Full, Density::Token, Density::Colour] {
                        let view = FigureView {
                            first_column: hint,
                            density,
                            ..at(layer, position)
                        };
                        let (_, hits, _) = lines(&figure, view, &theme, 60, 12);
                        let wanted = Anchor::cell(layer, position);
                        assert!(
                            hits.cells.iter().any(|(_, a)| *a == wanted),
                            "{wanted:?} {hint:?} {density:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn cells_that_repeat_the_one_above_stand_back() {
        let figure = samples::lens(6, 4);
        let theme = Theme::default();
        let (_, hits, buf) = lines(&figure, FigureView::default(), &theme, 80, 9);
        let ink = |layer| {
            let (rect, _) = hits
                .cells
                .iter()
                .find(|(_, a)| *a == Anchor::cell(layer, 0))
                .unwrap();
            buf[(rect.x + 1, rect.y)].style()
        };
        let Body::Grid(grid) = &figure.body else {
            panic!("a grid")
        };
        assert_eq!(grid.cells[0][4].label, grid.cells[0][5].label);
        assert_eq!(ink(5).fg, theme.heat(grid.cells[0][5].value).fg);
        assert_eq!(ink(4).fg, theme.heat_faint(grid.cells[0][4].value).fg);
        assert_eq!(
            ink(4).bg,
            theme.heat(grid.cells[0][4].value).bg,
            "the number keeps its colour"
        );
    }

    #[test]
    fn without_colour_a_shade_stands_beside_the_token() {
        let (drawn, ..) = lines(
            &samples::lens(4, 1),
            FigureView::default(),
            &sixteen(),
            44,
            6,
        );
        assert!(drawn[1].starts_with("3  █␣capit… "), "{}", drawn[1]);
        assert!(drawn[2].starts_with("2  ▒␣capit… "), "{}", drawn[2]);
        assert_eq!(drawn[5], "0  ░▒▓█ 1 probability");
        let (signed, ..) = lines(
            &samples::difference(4, 1),
            FigureView::default(),
            &sixteen(),
            40,
            6,
        );
        assert!(
            signed[1].starts_with("3  █") && signed[1].contains("+.75"),
            "{}",
            signed[1]
        );
        assert!(
            signed[4].starts_with("0  █") && signed[4].contains("-.78"),
            "{}",
            signed[4]
        );
        let token = FigureView {
            density: Density::Token,
            ..FigureView::default()
        };
        let (signed, ..) = lines(&samples::difference(4, 1), token, &sixteen(), 40, 6);
        assert!(
            signed[1].starts_with("3  +█") && signed[4].starts_with("0  -█"),
            "{signed:?}"
        );
    }

    #[test]
    fn colour_alone_puts_two_layers_on_a_line() {
        let figure = samples::lens(8, 10);
        let theme = Theme::default();
        let view = FigureView {
            density: Density::Colour,
            ..FigureView::default()
        };
        let (drawn, hits, buf) = lines(&figure, view, &theme, 40, 6);
        let Body::Grid(grid) = &figure.body else {
            panic!("a grid")
        };
        let (rect, _) = hits
            .cells
            .iter()
            .find(|(_, a)| *a == Anchor::cell(7, 0))
            .unwrap();
        let cell = &buf[(rect.x, rect.y)];
        assert_eq!(cell.symbol(), "▀");
        assert_eq!(
            Some(cell.fg),
            theme.heat(grid.cells[0][7].value).bg,
            "the upper half is the upper layer"
        );
        assert_eq!(Some(cell.bg), theme.heat(grid.cells[0][6].value).bg);
        assert_eq!(
            drawn.iter().filter(|line| line.contains('▀')).count(),
            3,
            "the lowest two are alike"
        );
        let (shades, ..) = lines(&figure, view, &sixteen(), 40, 10);
        assert!(shades[1].starts_with("7 ██"), "{}", shades[1]);
        let cursor = FigureView {
            cursor: Some(Anchor::cell(7, 3)),
            ..view
        };
        let (marked, ..) = lines(&figure, cursor, &sixteen(), 40, 10);
        assert!(
            marked[0].contains('▼') && marked[1].contains("><"),
            "{marked:?}"
        );
    }

    #[test]
    fn numbers_alone_need_no_token_columns() {
        let mut figure = samples::lens(2, 3);
        if let Body::Grid(grid) = &mut figure.body {
            grid.cells
                .iter_mut()
                .flatten()
                .for_each(|cell| cell.label.clear());
            grid.scale = Scale::Range { lo: 0.0, hi: 20.0 };
            grid.cells[1][1].value = 12.34;
        }
        let (drawn, ..) = lines(&figure, FigureView::default(), &Theme::default(), 30, 5);
        assert_eq!(drawn[1], "1   .970  12.3  .970");
    }

    #[test]
    fn a_click_finds_the_cell_and_the_titles() {
        let (_, hits, _) = lines(
            &samples::lens(4, 3),
            FigureView::default(),
            &Theme::default(),
            60,
            7,
        );
        let (rect, anchor) = hits
            .cells
            .iter()
            .find(|(_, a)| *a == Anchor::cell(2, 1))
            .unwrap();
        assert_eq!(hits.at(rect.right() - 1, rect.y), Some(*anchor));
        assert_ne!(hits.at(rect.right(), rect.y), Some(*anchor));
        assert_eq!(hits.at(rect.x + 2, 0), Some(Anchor::position(1)));
        assert_eq!(hits.at(0, 1), Some(Anchor::layer(3)));
        assert_eq!(hits.at(59, 6), None);
    }
}
