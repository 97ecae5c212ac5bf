//! The transcript: ready prompts, the text token by token, and the unedited text beside it.
//!
//! Invariant: every token can be seen under the cursor, also one that shows no text of its own.
//! To show tokens by another number, add an arm in [`tint`].

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::{Canvas, compared, fold, prompt, put};
use crate::app::App;
use crate::app::layout::Pane;
use crate::app::transcript::{Activity, Span as Piece, Transcript};
use crate::engine::{Ending, Token};
use crate::text;
use crate::ui::ink;
use crate::ui::theme::{Glyphs, Role, Theme};
use crate::ui::widgets::scroll;

/// Surprise, in nats, at the end of the colour ramp.
const SURPRISE: f32 = 6.0;
/// KL, in nats, at the end of the colour ramp.
const KL: f32 = 1.5;

/// Draws the pane.
pub fn draw(canvas: &mut Canvas, pane: Pane) {
    let app = canvas.app;
    let (left, right) = titles(canvas);
    let below = if app.compare && !app.choosing() {
        compared::summary(canvas)
    } else {
        Line::default()
    };
    let inner = canvas.frame(pane, &left, &right, &below);
    if inner.is_empty() {
        return;
    }
    let rows = if app.writing {
        prompt::rows(app, inner)
    } else {
        0
    };
    let (above, below) = split(inner, rows);
    if app.choosing() {
        presets(canvas, above);
    } else if app.compare {
        compared::draw(canvas, above);
    } else {
        let first = tokens(canvas, above, &app.transcript, 0, app.cursor.position, true);
        canvas.memory.first_line = first;
    }
    if rows > 0 {
        prompt::draw(canvas, below);
    }
}

pub(super) fn split(area: Rect, below: u16) -> (Rect, Rect) {
    let below = below.min(area.height);
    let above = Rect {
        height: area.height - below,
        ..area
    };
    (
        above,
        Rect {
            y: area.y + above.height,
            height: below,
            ..area
        },
    )
}

fn titles(canvas: &Canvas) -> (Line<'static>, Line<'static>) {
    let app = canvas.app;
    let focused = app.focus == Pane::Transcript && app.overlay.is_none();
    let title = canvas.span(
        if app.choosing() {
            " ready prompts "
        } else {
            " text "
        },
        if focused { Role::Focus } else { Role::Title },
    );
    let mut left = vec![title];
    if app.writing {
        let mode = if app.chat {
            "writing · chat "
        } else {
            "writing · raw "
        };
        left.push(canvas.span(mode, Role::Accent));
    }
    let t = &app.transcript;
    let right = match (t.activity, t.ending) {
        (Activity::Reading, _) => {
            let seconds = t
                .since
                .map_or(0, |(at, _)| app.now.saturating_sub(at).as_secs());
            let text = if seconds > 0 {
                format!(" reading the prompt, {seconds} s · ctrl-c cancels ")
            } else {
                " reading the prompt ".into()
            };
            canvas.span(text, Role::Accent)
        }
        (Activity::Writing, _) => {
            canvas.span(format!(" writing {} ", t.tokens.len()), Role::Accent)
        }
        (Activity::Idle, Some(ending)) if !app.choosing() => {
            let why = match ending {
                Ending::Count => "count reached, c goes on",
                Ending::EndToken => "the model ended",
                Ending::Context => "context full",
                Ending::Stopped => "stopped, c goes on",
            };
            canvas.span(format!(" {why} "), Role::Muted)
        }
        (Activity::Idle, _) => Span::raw(""),
    };
    (Line::from(left), Line::from(right))
}

fn presets(canvas: &mut Canvas, area: Rect) {
    let app = canvas.app;
    if app.presets.is_empty() {
        let line = Line::from(canvas.span("No ready prompts. i writes one.", Role::Muted));
        return canvas.lines(area, &[line]);
    }
    let (list, foot) = split(
        area,
        if area.height >= 16 {
            8
        } else {
            u16::from(area.height >= 6) * 2
        },
    );
    let high = usize::from(list.height).max(1);
    let first = app.preset.saturating_sub(high - 1);
    for (row, (i, preset)) in app
        .presets
        .iter()
        .enumerate()
        .skip(first)
        .take(high)
        .enumerate()
    {
        let here = i == app.preset;
        let style = canvas
            .theme
            .style(if here { Role::Selection } else { Role::Text });
        let mark = if here { ">" } else { " " };
        let y = list.y + row as u16;
        let line = Line::from(vec![
            Span::styled(format!("{mark} {}", text::fit(&preset.title, 26)), style),
            Span::styled(
                text::fit(
                    &preset.text.replace('\n', "⏎"),
                    usize::from(list.width).saturating_sub(28),
                ),
                if here {
                    style
                } else {
                    canvas.theme.style(Role::Muted)
                },
            ),
        ]);
        put(canvas.buf, list.x, y, list.width, &line);
    }
    scroll::draw(app.presets.len(), first, canvas.theme, list, canvas.buf);
    if let Some(preset) = app.presets.get(app.preset).filter(|_| foot.height > 0) {
        let mut lines = Vec::new();
        if foot.height >= 4 {
            lines.push(Line::default());
            let whole = fold(&preset.text, usize::from(foot.width).saturating_sub(2));
            lines.extend(
                whole
                    .into_iter()
                    .take(4)
                    .map(|l| Line::from(canvas.span(format!("  {l}"), Role::User))),
            );
        }
        let look = format!("Look at: {}", preset.look);
        lines.extend(
            fold(&look, usize::from(foot.width))
                .into_iter()
                .map(|l| Line::from(canvas.span(l, Role::Accent))),
        );
        if app.model.is_none() && app.loading.is_some() {
            lines.push(Line::from(canvas.span(
                "The model is still loading; Enter waits for it.",
                Role::Muted,
            )));
        }
        canvas.lines(foot, &lines);
    }
}

/// One row of the text: tokens, or the line where edits changed.
enum Row<'a> {
    Text(&'a [Piece]),
    Changed(&'static str),
}

/// Draws tokens, the cursor in sight; returns the first row drawn.
pub(super) fn tokens(
    canvas: &mut Canvas,
    area: Rect,
    text: &Transcript,
    offset: usize,
    cursor: usize,
    own: bool,
) -> usize {
    if area.is_empty() {
        return 0;
    }
    let app = canvas.app;
    let lines = text.wrap(usize::from(area.width));
    let mut rows: Vec<Row> = Vec::new();
    let mut at = 0;
    for line in &lines {
        let change = line.first().and_then(|s| text.change_at(s.token));
        if let Some(words) = change.filter(|_| own && !rows.is_empty()) {
            rows.push(Row::Changed(words));
        }
        if line.iter().any(|s| s.token + offset == cursor) {
            at = rows.len();
        }
        rows.push(Row::Text(line));
    }
    if let Some(words) = text.change_at(text.tokens.len()).filter(|_| own) {
        rows.push(Row::Changed(words));
    }
    let high = usize::from(area.height);
    let most = rows.len().saturating_sub(high);
    let first = if app.cursor.follow && own {
        most
    } else {
        let held = canvas.memory.first_line.min(most);
        if at < held {
            at
        } else if at >= held + high {
            at + 1 - high
        } else {
            held
        }
    };
    for (i, row) in rows.iter().skip(first).take(high).enumerate() {
        let y = area.y + i as u16;
        match row {
            Row::Changed(words) => changed(canvas, Rect { y, ..area }, words),
            Row::Text(line) => {
                let last = first + i + 1 == rows.len();
                let end = draw_line(
                    canvas.buf,
                    canvas.theme,
                    app,
                    (area.x, y, area.right()),
                    line,
                    text,
                    offset,
                    cursor,
                    own,
                );
                if last && own && app.transcript.activity == Activity::Writing && end < area.right()
                {
                    let block = if canvas.theme.glyphs == Glyphs::Unicode {
                        "▌"
                    } else {
                        "_"
                    };
                    let style = canvas.theme.style(Role::Accent);
                    ink::write(canvas.buf, end, y, block, 1, style);
                }
            }
        }
    }
    scroll::draw(rows.len(), first, canvas.theme, area, canvas.buf);
    first
}

/// The line where edits changed.
pub(super) fn changed(canvas: &mut Canvas, area: Rect, what: &str) {
    let dash = if canvas.theme.glyphs == Glyphs::Unicode {
        "╌"
    } else {
        "-"
    };
    let words = format!("{dash}{dash} {what} ");
    let fill = dash.repeat(usize::from(area.width).saturating_sub(text::width(&words)));
    let line = Line::from(canvas.span(words + &fill, Role::Edited));
    put(canvas.buf, area.x, area.y, area.width, &line);
}

#[allow(clippy::too_many_arguments)] // one place, and all of them are needed
fn draw_line(
    buf: &mut Buffer,
    theme: &Theme,
    app: &App,
    (mut x, y, right): (u16, u16, u16),
    line: &[Piece],
    text: &Transcript,
    offset: usize,
    cursor: usize,
    own: bool,
) -> u16 {
    for piece in line {
        let Some(token) = text.tokens.get(piece.token) else {
            continue;
        };
        let here = piece.token + offset == cursor;
        let mut style = style_of(
            theme,
            app,
            token,
            piece.token + offset < app.transcript.prompt,
            own,
        );
        let mut shown = piece.text.clone();
        if here {
            let role = if app.focus == Pane::Transcript {
                Role::Cursor
            } else {
                Role::Selection
            };
            style = style.patch(theme.style(role));
            if shown.is_empty() {
                shown = crate::text::visible(&token.bytes);
            }
        } else if piece.text == "⏎" {
            style = theme.style(Role::Faint);
        }
        let room = usize::from(right.saturating_sub(x));
        x = ink::write(buf, x, y, &shown, room, style);
    }
    x
}

pub(super) fn style_of(theme: &Theme, app: &App, token: &Token, prompt: bool, own: bool) -> Style {
    let role = if token.special {
        Role::Special
    } else if prompt && own {
        Role::User
    } else if token.kl.is_some() {
        Role::Edited
    } else {
        Role::Model
    };
    let style = theme.style(role);
    match tint(app, token) {
        Some(place) if own && place > 0.02 => style.patch(theme.heat(place)),
        Some(_) | None => style,
    }
}

/// How far along the ramp a token lies, when tokens are tinted.
fn tint(app: &App, token: &Token) -> Option<f32> {
    if app.tint {
        return token.logprob.map(|l| (-l / SURPRISE).clamp(0.0, 1.0));
    }
    if app.compare {
        return token.kl.map(|kl| (kl / KL).clamp(0.0, 1.0));
    }
    None
}
