//! All notes of the shown figure, and the ranks of a token at the cursor's position.
//!
//! Invariant: nothing is left out; long sentences are wrapped, and the rest can be scrolled to.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::{boxed, lines_from_top};
use crate::app::App;
use crate::ui::panes::fold;
use crate::ui::theme::{Role, Theme};
use crate::ui::widgets::scroll as mark;

pub fn draw(app: &App, scroll: usize, theme: &Theme, body: Rect, buf: &mut Buffer) {
    let Some(figure) = app.figure(app.layout.figure) else {
        return;
    };
    let title = format!("{}: notes", app.layout.figure);
    let wide = 100.min(body.width);
    let lines = lines(app, usize::from(wide.saturating_sub(3)));
    let high = (lines.len() as u16 + 2).min(body.height);
    let inner = boxed(&title, (wide, high), theme, body, buf);
    if inner.is_empty() || figure.notes.is_empty() && lines.is_empty() {
        return;
    }
    let high = usize::from(inner.height);
    let first = scroll.min(lines.len().saturating_sub(high));
    let count = lines.len();
    let text = Rect {
        width: inner.width.saturating_sub(1),
        ..inner
    };
    lines_from_top(lines.into_iter().skip(first), theme, text, buf);
    mark::draw(count, first, theme, inner, buf);
}

/// The title of the figure, the rank story at the cursor, and all notes.
fn lines(app: &App, width: usize) -> Vec<(String, Role)> {
    let Some(figure) = app.figure(app.layout.figure) else {
        return Vec::new();
    };
    let mut all: Vec<(String, Role)> = vec![(figure.title.clone(), Role::Title)];
    let shown = app.shown.get(app.layout.figure);
    all.extend(
        shown
            .and_then(crate::app::ShownFigure::outdated)
            .map(|words| (words, Role::Warning)),
    );
    all.extend(
        app.outside_notice(app.layout.figure)
            .map(|words| (words, Role::Warning)),
    );
    if let Some(reading) = app.cell_under_cursor()
        && let Some((story, _)) = reading.story
    {
        let at = story.anchor.position.unwrap_or_default();
        all.push((
            format!("at the cursor ({at} {}): {story}", reading.column),
            Role::Accent,
        ));
    }
    all.extend(figure.notes.iter().map(|note| (note.clone(), Role::Text)));
    let fold = |(text, role): (String, Role)| {
        let safe = crate::text::plain(text.as_bytes());
        fold(&safe, width).into_iter().map(move |l| (l, role))
    };
    all.into_iter().flat_map(fold).collect()
}
