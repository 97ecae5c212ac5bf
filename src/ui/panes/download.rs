//! The progress of a download, in lines: model, amount, speed and time, file.
//!
//! Invariant: every line fits the width. To show more, add a line.

use ratatui::text::{Line, Span};

use super::Canvas;
use crate::model::hub::Progress;
use crate::text;
use crate::ui::theme::Role;
use crate::ui::widgets::bar::bar;

/// The maximum width of the bar, in columns.
const WIDEST: usize = 60;

pub(super) fn lines(canvas: &Canvas, progress: &Progress, width: usize) -> Vec<Line<'static>> {
    let line = |words: String, role: Role| Line::from(canvas.span(text::clip(&words, width), role));
    let model = text::plain(progress.model.as_bytes());
    let doing = format!("{model}: {}", progress.doing());
    let mut out = vec![line(doing, Role::Title)];
    if progress.number > 0 {
        if let Some(share) = progress.share() {
            let columns = width.saturating_sub(6).min(WIDEST);
            let percent = format!(" {:3.0} %", (share * 100.0).floor());
            out.push(Line::from(vec![
                Span::styled(
                    bar(share as f32, columns, canvas.theme.glyphs),
                    canvas.theme.style(Role::Accent),
                ),
                canvas.span(percent, Role::Text),
            ]));
        }
        let amount = [progress.amount(), progress.speed()];
        let amount: Vec<String> = amount.into_iter().filter(|a| !a.is_empty()).collect();
        out.push(line(amount.join(", "), Role::Text));
        let file = text::plain(progress.file.as_bytes());
        out.push(line(format!("{}: {file}", progress.count()), Role::Muted));
    }
    let dash = canvas.theme.glyphs.pick("·", "-");
    let stop = format!("ctrl-c stops {dash} what is there is kept");
    out.push(line(stop, Role::Muted));
    out
}
