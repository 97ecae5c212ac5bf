//! All notices so far, newest last.
//!
//! Invariant: nothing is left out; long sentences are wrapped.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::{boxed, lines_from_top as print, text_with_count};
use crate::app::App;
use crate::app::notice::Level;
use crate::ui::panes::fold;
use crate::ui::theme::{Role, Theme};

pub fn draw(app: &App, scroll: usize, theme: &Theme, body: Rect, buf: &mut Buffer) {
    let inner = boxed("notices", (100, body.height), theme, body, buf);
    if inner.is_empty() {
        return;
    }
    let mut lines: Vec<(String, Role)> = Vec::new();
    for notice in &app.notices.all {
        let role = match notice.level {
            Level::Info => Role::Text,
            Level::Warning => Role::Warning,
            Level::Error => Role::Error,
        };
        let seconds = notice.at.as_secs();
        let (minutes, seconds) = (seconds / 60, seconds % 60);
        let (level, said) = (notice.level.name(), text_with_count(notice));
        let sentence = format!("{minutes:>3}:{seconds:02} {level:<7} {said}");
        let folded = fold(&sentence, usize::from(inner.width)).into_iter();
        lines.extend(folded.map(|l| (l, role)));
    }
    if lines.is_empty() {
        lines.push(("No notices yet.".into(), Role::Muted));
    }
    let high = usize::from(inner.height);
    let last = lines
        .len()
        .saturating_sub(scroll.min(lines.len().saturating_sub(high)));
    let first = last.saturating_sub(high);
    print(lines.drain(first..last), theme, inner, buf);
}
