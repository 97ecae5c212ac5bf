//! Draws tables: one page at a time, that of the cursor's position.
//!
//! Invariant: columns never overlap; columns that do not fit are dropped from the right, with a `…`; the cursor's row is
//! visible.

use std::borrow::Cow;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::{FigureView, Hits, covers, significant};
use crate::figure::{Anchor, Entry, Table, TablePage, TableRow};
use crate::text::{fit, width};
use crate::ui::paint;
use crate::ui::theme::{Role, Theme};
use crate::ui::widgets::scroll;

/// The gap between two columns, in terminal columns.
const GAP: usize = 2;
/// A column narrower than this is dropped.
const LEAST: usize = 4;
/// Text columns wider than this are cut down to it before any column is dropped.
const MOST: usize = 40;

/// Draws the page of the cursor's position, or the last page.
pub(super) fn draw(
    table: &Table,
    view: &FigureView,
    theme: &Theme,
    area: Rect,
    buf: &mut Buffer,
) -> Hits {
    let mut hits = Hits::default();
    let Some(index) = page(table, view.cursor) else {
        return hits;
    };
    let page = &table.pages[index];
    let mut y = area.y;
    let text = if view.stale { Role::Stale } else { Role::Text };
    let muted = theme.style(Role::Muted);
    let bottom = area.bottom();
    let several = table.pages.len() > 1;
    if (several || !page.title.is_empty()) && area.height >= 3 {
        let count = if several {
            format!(" {}/{}", index + 1, table.pages.len())
        } else {
            String::new()
        };
        let room = usize::from(area.width).saturating_sub(count.len());
        let (title, wide) = (fit(&page.title, room), count.len().min(area.width.into()));
        paint::write(buf, area.x, y, title, room, theme.style(Role::Title));
        paint::write(buf, area.x + room as u16, y, &count, wide, muted);
        let line = Rect::new(area.x, y, area.width, 1);
        hits.cells.push((line, page.anchor));
        y += 1;
    }

    // Columns with the same entry in every row are shown once, above the rows.
    let constant = if area.height >= 6 {
        page.constant()
    } else {
        Vec::new()
    };
    if let Some(first) = page.rows.first().filter(|_| !constant.is_empty()) {
        let say = |i: &usize| {
            let name = table.columns.get(*i).map_or("", String::as_str);
            format!("{name}, in every row: {}", spell(&first.entries[*i]))
        };
        let said: Vec<String> = constant.iter().map(say).collect();
        let room = usize::from(area.width);
        let text = fit(&said.join(" · "), room);
        paint::write(buf, area.x, y, text, room, muted);
        y += 1;
    }
    // The left edge is for the cursor's mark, the right edge for the scroll mark.
    let room = usize::from(area.width).saturating_sub(2);
    let columns = columns(table, page, (&constant, view), room);
    if area.height >= 2 && !table.columns.is_empty() {
        let mut x = area.x + 1;
        for column in &columns {
            let name = heading(table, column.index, view.sorted);
            paint::write(buf, x, y, column.lay(&name), column.wide, muted);
            x += (column.wide + GAP) as u16;
        }
        let after = (columns.last().map_or(0, |last| last.index + 1)..table.columns_of(page))
            .any(|index| !constant.contains(&index));
        if view.aside > 0
            && let Some(first) = columns.first()
        {
            // In the gap after the column that stays.
            let x = area.x + 1 + first.wide as u16;
            paint::write(buf, x, y, "…", usize::from(area.right() > x), muted);
        }
        if after && area.width > 0 {
            paint::write(buf, area.right() - 1, y, "…", 1, muted);
        }
        y += 1;
    }

    let high = usize::from(bottom.saturating_sub(y));
    // The last layer is on top, as in grids.
    let turned = page.by_layer() && !view.flip;
    let place = |row: usize| {
        if turned {
            page.rows.len() - 1 - row
        } else {
            row
        }
    };
    let chosen = view
        .cursor
        .and_then(|cursor| cursor_row(page, cursor))
        .map(place);
    let last = page.rows.len().saturating_sub(high);
    let first = chosen
        .map_or(view.first_line, |row| row.saturating_sub(high / 2))
        .min(last);
    for i in (0..page.rows.len()).skip(first).take(high) {
        let row = &page.rows[place(i)];
        let line = Rect::new(area.x, y, area.width, 1);
        let here = chosen == Some(i);
        let style = theme.style(match (here, view.focused) {
            (true, true) => Role::Cursor,
            (true, false) => Role::Selection,
            (false, _) => text,
        });
        if here {
            let mark = theme.glyphs.brackets();
            paint::tint(buf, line, style);
            paint::write(buf, area.x, y, mark[0], 1, theme.style(Role::Focus));
        }
        let mut x = area.x + 1;
        for column in &columns {
            let entry = row
                .entries
                .get(column.index)
                .map_or(Cow::Borrowed(""), |entry| column.spell(entry));
            paint::write(buf, x, y, column.lay(&entry), column.wide, style);
            x += (column.wide + GAP) as u16;
        }
        if view.marked(row.anchor) {
            // In the gap after the first column, where there is no entry.
            let x = area.x + columns.first().map_or(0, |c| c.wide as u16 + 1);
            let room = usize::from(area.right().saturating_sub(x)).min(1);
            let accent = theme.style(Role::Accent);
            paint::write(buf, x, y, theme.glyphs.mark(), room, accent);
        }
        if row.anchor != Anchor::default() {
            hits.cells.push((line, row.anchor));
        }
        y += 1;
    }
    let body = Rect {
        y: bottom - high as u16,
        height: high as u16,
        ..area
    };
    scroll::draw(page.rows.len(), first, theme, body, buf);
    hits
}

/// The page of the cursor's position, else the last.
fn page(table: &Table, cursor: Option<Anchor>) -> Option<usize> {
    let position = cursor.and_then(|cursor| cursor.position);
    let own = position.and_then(|p| {
        table
            .pages
            .iter()
            .rposition(|page| page.anchor.position == Some(p))
    });
    own.or(table.pages.len().checked_sub(1))
}

/// The row under the cursor: one with the same anchor, else the first with the cursor's unit or layer.
fn cursor_row(page: &TablePage, cursor: Anchor) -> Option<usize> {
    let same = |row: &TableRow| row.anchor == cursor;
    let stands = |row: &TableRow| {
        let anchor = Anchor {
            position: None,
            ..row.anchor
        };
        (row.anchor.position.is_none() || row.anchor.position == cursor.position)
            && covers(anchor, cursor)
    };
    page.rows
        .iter()
        .position(same)
        .or_else(|| page.rows.iter().position(stands))
}

struct DrawnColumn {
    index: usize,
    wide: usize,
    number: bool,
    /// Whether all its numbers are integers: ranks, layers and counts have no decimals.
    whole: bool,
}

impl DrawnColumn {
    /// Aligns text in the column: numbers to the right, words to the left.
    fn lay(&self, text: &str) -> String {
        if self.number {
            right_aligned(text, self.wide)
        } else {
            fit(text, self.wide)
        }
    }

    /// An entry as text in this column.
    fn spell<'a>(&self, entry: &'a Entry) -> Cow<'a, str> {
        match entry {
            Entry::Number(value) if self.whole => format!("{value:.0}").into(),
            Entry::Whole(_) | Entry::Number(_) | Entry::Missing | Entry::Text(_) => spell(entry),
        }
    }
}

/// The name of a column; that of the one by which the rows are sorted says which way.
fn heading<'a>(table: &'a Table, column: usize, sorted: Option<(&str, bool)>) -> Cow<'a, str> {
    let name = table.columns.get(column).map_or("", String::as_str);
    match sorted.filter(|(by, _)| *by == name && !name.is_empty()) {
        Some((_, true)) => format!("{name} v").into(),
        Some((_, false)) => format!("{name} ^").into(),
        None => name.into(),
    }
}

/// Measures the columns and keeps those that fit, from the left; the last may be cut.
fn columns(
    table: &Table,
    page: &TablePage,
    (constant, view): (&[usize], &FigureView),
    room: usize,
) -> Vec<DrawnColumn> {
    let count = table.columns_of(page);
    let mut changing: Vec<usize> = (0..count).filter(|i| !constant.contains(i)).collect();
    // The first one says what a row is about, and the last is never scrolled away.
    let away = view.aside.min(changing.len().saturating_sub(2));
    changing.drain(1.min(changing.len())..(1 + away).min(changing.len()));
    let mut out: Vec<DrawnColumn> = changing
        .into_iter()
        .map(|index| {
            let entries = || page.rows.iter().filter_map(|row| row.entries.get(index));
            let name = width(&heading(table, index, view.sorted));
            let number = entries().next().is_some() && entries().all(Entry::is_number);
            let whole = page.is_whole(index);
            let mut column = DrawnColumn {
                index,
                wide: 1,
                number,
                whole,
            };
            let content = entries().map(|entry| width(&column.spell(entry))).max();
            column.wide = name.max(content.unwrap_or(0)).max(1);
            column
        })
        .collect();
    let total = |columns: &[DrawnColumn]| {
        columns
            .iter()
            .map(|c| c.wide + GAP)
            .sum::<usize>()
            .saturating_sub(GAP)
    };
    // Long texts are cut first, because numbers cannot be cut.
    let mut over = total(&out).saturating_sub(room);
    for column in out
        .iter_mut()
        .rev()
        .filter(|column| !column.number && column.wide > MOST)
    {
        let cut = over.min(column.wide - MOST);
        column.wide -= cut;
        over -= cut;
    }
    while total(&out) > room {
        let Some(mut last) = out.pop() else { break };
        let free = room.saturating_sub(total(&out) + if out.is_empty() { 0 } else { GAP });
        if !last.number && free >= LEAST.min(last.wide) && free > 0 {
            last.wide = free;
            out.push(last);
            break;
        }
    }
    out
}

fn spell(entry: &Entry) -> Cow<'_, str> {
    match entry {
        Entry::Whole(value) => value.to_string().into(),
        Entry::Number(value) => significant(*value).into(),
        Entry::Missing => "".into(),
        Entry::Text(text) => text.into(),
    }
}

/// Text aligned to the right of its column.
fn right_aligned(text: &str, columns: usize) -> String {
    let text = crate::text::clip(text, columns);
    " ".repeat(columns - width(&text)) + &text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::samples;
    use crate::figure::Unit;

    fn lines(view: FigureView, wide: u16, high: u16) -> (Vec<String>, Hits) {
        let mut buf = Buffer::empty(Rect::new(0, 0, wide, high));
        let hits = super::super::draw(
            &samples::table(),
            &view,
            &Theme::default(),
            buf.area,
            &mut buf,
        );
        let line = |y| {
            (0..wide)
                .map(|x| buf[(x, y)].symbol())
                .collect::<String>()
                .trim_end()
                .to_owned()
        };
        ((0..high).map(line).collect(), hits)
    }

    fn at(position: usize, layer: usize, unit: u32) -> FigureView<'static> {
        let cursor = Anchor::cell(layer, position).with(Unit::Neuron(unit));
        FigureView {
            cursor: Some(cursor),
            focused: true,
            ..FigureView::default()
        }
    }

    #[test]
    fn the_page_of_the_cursor_or_the_last() {
        let title = |view| lines(view, 40, 6).0.swap_remove(0);
        assert!(
            title(FigureView::default()).starts_with("position 2")
                && title(FigureView::default()).ends_with("3/3")
        );
        assert!(
            title(at(0, 0, 0)).starts_with("position 0") && title(at(0, 0, 0)).ends_with("1/3")
        );
        assert!(
            title(at(77, 0, 0)).starts_with("position 2"),
            "a position without a page"
        );
    }

    #[test]
    fn numbers_stand_right_and_the_cursor_row_is_marked_and_shows() {
        let (drawn, _) = lines(at(1, 0, 13), 60, 8);
        assert_eq!(drawn[1], " neuron  activation  writes");
        let marked: Vec<&String> = drawn.iter().filter(|line| line.starts_with('▐')).collect();
        assert_eq!(marked.len(), 1);
        assert!(
            marked[0].starts_with("▐0.13         0.750  capital, of"),
            "{}",
            marked[0]
        );
        let (drawn, _) = lines(at(1, 1, 29), 60, 8);
        assert!(
            drawn.iter().any(|line| line.starts_with("▐1.29")),
            "the last row is scrolled to: {drawn:?}"
        );
    }

    #[test]
    fn words_are_cut_and_columns_dropped_from_the_right() {
        let (drawn, _) = lines(FigureView::default(), 30, 5);
        assert!(
            drawn[2].starts_with(" 0.10          3.00  capital…"),
            "{}",
            drawn[2]
        );
        let (drawn, _) = lines(FigureView::default(), 22, 5);
        assert_eq!(drawn[1], " neuron  activation  …");
        assert_eq!(
            drawn[2].trim_end_matches('▐').trim_end(),
            " 0.10          3.00"
        );
    }

    /// Rows that are layers are in the order of grids; constant columns are shown once above; ranks are integers.
    #[test]
    fn layers_have_the_last_on_top_and_what_never_changes_once() {
        use crate::figure::{Body, Provenance};
        let row = |layer: usize| TableRow {
            anchor: Anchor::layer(layer),
            entries: vec![
                Entry::Text(layer.to_string()),
                Entry::Number(4.0 - layer as f32),
                Entry::Text(format!("said {layer}")),
                Entry::Text("the same".into()),
            ],
            handle: None,
            ids: std::collections::BTreeMap::new(),
        };
        let page = TablePage {
            title: String::new(),
            anchor: Anchor::default(),
            rows: (0..4).map(row).collect(),
        };
        let figure = crate::figure::Figure {
            title: "t".into(),
            body: Body::Table(Table {
                columns: ["layer", "rank", "patched", "unpatched"]
                    .map(String::from)
                    .to_vec(),
                pages: vec![page],
            }),
            notes: vec![],
            check: None,
            provenance: Provenance::default(),
        };
        let drawn = |flip| {
            let mut buf = Buffer::empty(Rect::new(0, 0, 40, 8));
            let view = FigureView {
                flip,
                ..FigureView::default()
            };
            super::super::draw(&figure, &view, &Theme::default(), buf.area, &mut buf);
            let line = |y| (0..40).map(|x| buf[(x, y)].symbol()).collect::<String>();
            (0..8)
                .map(|y| line(y).trim_end().to_owned())
                .collect::<Vec<_>>()
        };
        let lines = drawn(false);
        assert_eq!(lines[0], "unpatched, in every row: the same");
        assert_eq!(lines[1], " layer  rank  patched");
        assert_eq!(lines[2], " 3         1  said 3");
        assert_eq!(lines[5], " 0         4  said 0");
        assert_eq!(drawn(true)[2], " 0         4  said 0");
    }

    /// What does not fit is reached sideways; the first column stays, and the last one too.
    #[test]
    fn columns_are_scrolled_past_the_first() {
        let scrolled = |aside| {
            let view = FigureView {
                aside,
                ..FigureView::default()
            };
            lines(view, 22, 5).0
        };
        assert_eq!(scrolled(0)[1], " neuron  activation  …");
        for aside in [1, 7] {
            let drawn = scrolled(aside);
            assert_eq!(drawn[1].trim_end(), " neuron… writes", "{aside}");
            assert!(drawn[2].starts_with(" 0.10    capital"), "{}", drawn[2]);
        }
    }

    #[test]
    fn the_column_that_the_rows_are_sorted_by_says_so() {
        for (back, heading) in [(false, "activation ^"), (true, "activation v")] {
            let view = FigureView {
                sorted: Some(("activation", back)),
                ..FigureView::default()
            };
            let drawn = lines(view, 60, 6).0;
            assert!(drawn[1].contains(heading), "{}", drawn[1]);
        }
    }

    #[test]
    fn rows_can_be_clicked() {
        let (_, hits) = lines(FigureView::default(), 40, 6);
        assert_eq!(
            hits.at(5, 2),
            Some(Anchor::cell(0, 2).with(Unit::Neuron(10)))
        );
        assert_eq!(
            hits.at(5, 3),
            Some(Anchor::cell(1, 2).with(Unit::Neuron(11)))
        );
        assert_eq!(
            hits.at(5, 0),
            Some(Anchor::position(2)),
            "the title stands for its page"
        );
    }
}
