//! The keys that can follow the ones pressed so far, in a box above the footer.
//!
//! Invariant: it lists what [`crate::app::keymap::Keymap::after`] gives, and what is impossible now is faint, with its reason.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::symbols::border;
use ratatui::text::{Line, Span};

use crate::app::App;
use crate::app::commands::Unavailable;
use crate::text;
use crate::ui::paint;
use crate::ui::panes::put;
use crate::ui::theme::{Role, Theme};

pub fn draw(app: &App, theme: &Theme, footer: Rect, buf: &mut Buffer) {
    if app.pending.is_empty() || footer.is_empty() {
        return;
    }
    let rows = app.keymap.after(app.context(), &app.pending);
    let keys = rows.iter().map(|(keys, _)| text::width(keys)).max();
    let keys = keys.unwrap_or(0);
    let mut lines = Vec::new();
    for (key, command) in rows {
        let key = text::fit(&key, keys);
        let (about, role) = match (command.enabled)(app) {
            Ok(()) => (command.about.to_string(), Role::Text),
            Err(Unavailable(why)) => (format!("{}: {why}", command.name), Role::Faint),
        };
        lines.push(Line::from(vec![
            Span::styled(format!(" {key}  "), theme.style(Role::Key)),
            Span::styled(about, theme.style(role)),
        ]));
    }
    let wide = lines.iter().map(Line::width).max().unwrap_or(0) as u16 + 3;
    let width = wide.min(footer.width);
    let height = (lines.len() as u16 + 2).min(footer.y.saturating_sub(buf.area.y));
    let area = Rect {
        x: footer.right() - width,
        y: footer.y - height,
        width,
        height,
    };
    paint::clear(buf, area, theme.ground());
    let style = theme.style(Role::Focus);
    let set = theme.glyphs.pick(border::ROUNDED, paint::ascii("+", "-"));
    let inner = paint::border(buf, area, set, style);
    if inner.is_empty() {
        return;
    }
    let title = format!(" {} … ", crate::app::key::spell(&app.pending));
    let title = Line::styled(title, style);
    put(
        buf,
        area.x + 2,
        area.y,
        area.width.saturating_sub(4),
        &title,
    );
    for (line, y) in lines.iter().zip(inner.y..inner.bottom()) {
        put(buf, inner.x, y, inner.width, line);
    }
}
