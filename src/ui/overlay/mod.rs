//! Overlays: drawn in front of the panes; they get the keys.
//!
//! Invariant: an overlay is drawn on a cleared box inside the body, at any size. To add one, add a variant of
//! [`crate::app::Overlay`], a file here and its arm in [`draw`].

mod argument;
mod following_keys;
mod form;
mod notes;
mod notices;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::symbols::border;
use ratatui::text::{Line, Span};

pub use following_keys::draw as keys_that_follow;

use super::paint;
use super::panes::put;
use super::theme::{Role, Theme};
use crate::app::notice::Notice;
use crate::app::palette::{Listing, PaletteList, span};
use crate::app::{App, Overlay};

/// Draws an overlay.
pub fn draw(overlay: &Overlay, app: &App, theme: &Theme, body: Rect, buf: &mut Buffer) {
    let body = body.intersection(buf.area);
    if body.is_empty() {
        return;
    }
    match overlay {
        Overlay::Listing(list) => listing(list, theme, body, buf),
        Overlay::Form(form) => form::draw(form, app.form_preview(form), theme, body, buf),
        Overlay::Line(line) => argument::draw(line, theme, body, buf),
        Overlay::Notes { scroll } => notes::draw(app, *scroll, theme, body, buf),
        Overlay::Notices { scroll } => notices::draw(app, *scroll, theme, body, buf),
    }
}

/// Clears a box in the middle and draws its border; returns its inside.
fn boxed(
    title: &str,
    (width, height): (u16, u16),
    theme: &Theme,
    body: Rect,
    buf: &mut Buffer,
) -> Rect {
    let (width, height) = (width.min(body.width), height.min(body.height));
    let area = Rect {
        x: body.x + (body.width - width) / 2,
        y: body.y + (body.height - height) / 3,
        width,
        height,
    };
    paint::clear(buf, area, theme.ground());
    let style = theme.style(Role::Focus);
    let set = theme.glyphs.pick(border::ROUNDED, paint::ascii("+", "-"));
    let inner = paint::border(buf, area, set, style);
    if area.width >= 2 && area.height >= 2 {
        let room = area.width.saturating_sub(4);
        let title = Span::styled(format!(" {title} "), style);
        put(buf, area.x + 2, area.y, room, &Line::from(title));
    }
    inner
}

/// Draws lines from the top of an area, each in its role.
fn lines_from_top(
    lines: impl IntoIterator<Item = (String, Role)>,
    theme: &Theme,
    area: Rect,
    buf: &mut Buffer,
) {
    for (y, (text, role)) in (area.y..area.bottom()).zip(lines) {
        let line = Line::styled(text, theme.style(role));
        put(buf, area.x, y, area.width, &line);
    }
}

/// Draws a list below its filter: commands (palette), commands available here (help), or values.
fn listing(list: &Listing, theme: &Theme, body: Rect, buf: &mut Buffer) {
    let (sign, size, name_width) = match list.purpose {
        PaletteList::Palette => (":", (90, 18), 24),
        PaletteList::Help => ("filter: ", (100, body.height), 22),
        PaletteList::Picker | PaletteList::Theme => {
            let high = list.items.len() as u16 + 3;
            let about = list
                .items
                .iter()
                .map(|item| crate::text::width(&item.about));
            let wide = about.max().unwrap_or(0) as u16 + 28;
            ("> ", (wide.clamp(56, 100), high.min(16)), 22)
        }
    };
    let inner = boxed(&list.title, size, theme, body, buf);
    typed(list.filter.halves(), sign, theme, inner, buf);
    items(list, name_width, theme, skip_lines(inner, 1), buf);
}

/// The text of a notice, with how often it was repeated.
pub(super) fn text_with_count(notice: &Notice) -> String {
    let text = crate::text::plain(notice.text.as_bytes());
    match notice.times {
        0 | 1 => text,
        times => format!("{text} (x{times})"),
    }
}

/// The area without its first `lines` lines.
fn skip_lines(area: Rect, lines: u16) -> Rect {
    let lines = lines.min(area.height);
    Rect {
        y: area.y + lines,
        height: area.height - lines,
        ..area
    }
}

/// Draws text that is being written, with its cursor.
fn typed(before_after: (&str, &str), sign: &str, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let line = Line::styled(sign, theme.style(Role::Key));
    let used = put(buf, area.x, area.y, area.width, &line);
    let rest = Rect {
        x: area.x + used,
        width: area.width.saturating_sub(used),
        height: 1.min(area.height),
        ..area
    };
    let (before, after) = before_after;
    // If the text does not fit, its end is shown.
    let room = usize::from(rest.width).saturating_sub(1);
    let mut head = before;
    while crate::text::width(&crate::text::visible(head.as_bytes())) > room {
        let Some(c) = head.chars().next() else { break };
        head = &head[c.len_utf8()..];
    }
    super::panes::editor(buf, theme, rest, (head, after));
}

/// Draws the items of a list: name, sentence, keys at the right.
fn items(listing: &Listing, name_width: usize, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let high = usize::from(area.height);
    if high == 0 {
        return;
    }
    if listing.shown.is_empty() {
        let line = Line::from(Span::styled("Nothing matches.", theme.style(Role::Muted)));
        put(buf, area.x + 1, area.y, area.width.saturating_sub(1), &line);
        return;
    }
    let first = (listing.selected + 1).saturating_sub(high);
    let whole = area;
    let area = super::widgets::scroll::beside(listing.shown.len(), area);
    for (row, index) in listing.shown.iter().enumerate().skip(first).take(high) {
        let Some(item) = listing.items.get(*index) else {
            continue;
        };
        let here = row == listing.selected;
        let y = area.y + (row - first) as u16;
        let base = theme.style(if here { Role::Selection } else { Role::Text });
        let muted = if here { base } else { theme.style(Role::Muted) };
        let spelled = span(&item.keys);
        let keys = crate::text::width(&spelled).min(16);
        let room = usize::from(area.width).saturating_sub(name_width + 4 + keys);
        let line = Line::from(vec![
            Span::styled(if here { ">" } else { " " }, base),
            Span::styled(crate::text::fit(&item.name, name_width), base),
            Span::styled(" ", base),
            Span::styled(crate::text::fit(&item.about, room), muted),
            Span::styled(" ", base),
            Span::styled(
                crate::text::fit(&spelled, keys),
                if here { base } else { theme.style(Role::Key) },
            ),
        ]);
        put(buf, area.x, y, area.width, &line);
    }
    super::widgets::scroll::draw(listing.shown.len(), first, theme, whole, buf);
}
