//! Two texts: the run's, and that of the baseline run with the same seed, with KL between them, token by token.
//!
//! Invariant: the tokens on one line have the same positions; the first token that differs is marked in both texts. To show
//! something else of a pair, add it to [`strip_of`].

use std::ops::Range;

use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;

use super::tokens::{TokenColours, changed, in_sight, pen, split, style_of, tokens};
use super::{Canvas, put};
use crate::app::App;
use crate::app::baseline::{Baseline, comparable};
use crate::app::cursor::number;
use crate::app::layout::Pane;
use crate::app::transcript::{Activity, Transcript, line_of, wrap};
use crate::lab::writer::BaselineMode;
use crate::text;
use crate::ui::paint;
use crate::ui::theme::Role;
use crate::ui::widgets::{scroll, sparkline};

/// Draws both texts: side by side if there is room, else one above the other.
pub(super) fn draw(canvas: &mut Canvas, area: Rect) {
    let app = canvas.app;
    match app.side_by_side(area.width.into()) {
        Some((column, strip)) if area.height > 1 => beside(canvas, area, column, strip),
        _ => stacked(canvas, area),
    }
}

/// Where the texts diverge and their KL, for the border.
pub(super) fn summary(canvas: &Canvas) -> Line<'static> {
    let app = canvas.app;
    let Some(baseline) = &app.baseline else {
        return Line::default();
    };
    let part = match baseline.diverges {
        Some(at) => format!(" differs from {at}"),
        None if app.transcript.tokens.len() <= app.transcript.prompt => return Line::default(),
        None => " the same tokens so far".into(),
    };
    let kls: Vec<f32> = comparable(&app.transcript).into_iter().flatten().collect();
    let kl = if kls.is_empty() {
        " ".to_string()
    } else {
        let there = if app.baseline_mode == BaselineMode::OwnText && baseline.diverges.is_some() {
            " to there"
        } else {
            ""
        };
        let mean = number(kls.iter().sum::<f32>() / kls.len() as f32);
        let most = if canvas.area.width < 60 {
            String::new()
        } else {
            let most = kls.iter().copied().fold(0.0, f32::max);
            format!(", at most {} nats", number(most))
        };
        format!(" · mean KL{there} {mean}{most} ")
    };
    let role = if baseline.diverges.is_some() {
        Role::Warning
    } else {
        Role::Muted
    };
    Line::from(vec![canvas.span(part, role), canvas.span(kl, Role::Edited)])
}

/// The names of the two columns.
fn names(app: &App) -> [&'static str; 2] {
    match (
        app.baseline_mode,
        app.baseline.as_ref().is_some_and(|b| b.live),
    ) {
        (BaselineMode::Forced, true) => ["forced text", "edited run's choice"],
        (_, true) if app.history.active() == 0 => ["no edit is on", "unedited: the same run"],
        _ => ["edited", "unedited"],
    }
}

/// One row of the two columns.
enum ComparedRow {
    Prompt(usize),
    Changed(&'static str),
    Pair(Range<usize>),
}

fn beside(canvas: &mut Canvas, area: Rect, column: usize, wide: usize) {
    let app = canvas.app;
    let colours = TokenColours::of(app);
    let Some(baseline) = &app.baseline else {
        return;
    };
    let t = &app.transcript;
    let (head, body) = split(area, area.height - 1);
    let [left, right] = names(app);
    let title = Line::from(vec![
        canvas.span(text::fit(left, column + 1), Role::Title),
        canvas.span(text::fit("KL", wide + 1), Role::Edited),
        canvas.span(text::fit(right, column), Role::Title),
    ]);
    put(canvas.buf, head.x, head.y, head.width, &title);

    let prompt = wrap(&t.pieces[..t.prompt], &[], area.width.into());
    let mut rows: Vec<ComparedRow> = Vec::new();
    if t.prompt > 0 {
        rows.extend((0..prompt.len()).map(ComparedRow::Prompt));
    }
    for pair in app.pairs(column, wide) {
        rows.extend(t.change_at(pair.start).map(ComparedRow::Changed));
        rows.push(ComparedRow::Pair(pair));
    }
    let end = t.tokens.len();
    if end >= t.prompt + baseline.text.tokens.len() {
        rows.extend(t.change_at(end).map(ComparedRow::Changed));
    }
    let cursor = app.cursor.position;
    let holds = |row: &ComparedRow| match row {
        ComparedRow::Prompt(line) => prompt[*line].iter().any(|s| s.token == cursor),
        ComparedRow::Changed(_) => false,
        ComparedRow::Pair(range) => range.contains(&cursor),
    };
    let high = usize::from(body.height);
    let most = rows.len().saturating_sub(high);
    let at = rows.iter().position(holds).unwrap_or(0);
    let first = if app.cursor.follow {
        most
    } else {
        in_sight(at, canvas.memory.first_line.min(most), high)
    };
    canvas.memory.first_line = first;
    let whole = body;
    let body = scroll::beside(rows.len(), body);
    let known = comparable(t);
    let scale = (0..t.tokens.len())
        .filter_map(|p| t.tokens[p].kl)
        .fold(0.0, f32::max);
    for (i, row) in rows.iter().skip(first).take(high).enumerate() {
        let y = body.y + i as u16;
        match row {
            ComparedRow::Changed(words) => changed(canvas, Rect { y, ..body }, words),
            ComparedRow::Prompt(line) => {
                let mut x = body.x;
                for span in &prompt[*line] {
                    x = piece(
                        canvas,
                        &colours,
                        (x, y, body.right()),
                        &span.text,
                        t,
                        span.token,
                        0,
                    );
                }
            }
            ComparedRow::Pair(range) => {
                let mut x = body.x;
                let edge = body.x + column as u16;
                for position in range.clone().filter(|p| *p < t.pieces.len()) {
                    let shown = t.pieces[position].clone();
                    x = piece(canvas, &colours, (x, y, edge), &shown, t, position, 0);
                }
                let last = first + i + 1 == rows.len();
                if last && t.activity == Activity::Writing && x < edge {
                    pen(canvas, x, y);
                }
                strip_of(canvas, (edge + 1, y), range, &known, scale);
                let mut x = edge + 2 + wide as u16;
                for position in range.clone() {
                    let index = position - t.prompt;
                    let Some(shown) = baseline.text.pieces.get(index).cloned() else {
                        break;
                    };
                    let end = (x, y, x.max(body.right()));
                    x = piece(
                        canvas,
                        &colours,
                        end,
                        &shown,
                        &baseline.text,
                        index,
                        t.prompt,
                    );
                }
            }
        }
    }
    scroll::draw(rows.len(), first, canvas.theme, whole, canvas.buf);
}

/// Draws one token of a text whose first position is `offset`; returns the column of the next one.
fn piece(
    canvas: &mut Canvas,
    colours: &TokenColours,
    (x, y, right): (u16, u16, u16),
    shown: &str,
    of: &Transcript,
    index: usize,
    offset: usize,
) -> u16 {
    let app = canvas.app;
    let Some(token) = of.tokens.get(index) else {
        return x;
    };
    let position = index + offset;
    let own = offset == 0;
    let given = position < app.transcript.prompt;
    let style = style_of(canvas.theme, colours, token, given, own);
    let mut shown = shown.replace('\n', "⏎");
    let style = mark(canvas, style, position, own);
    if position == app.cursor.position && shown.is_empty() {
        shown = text::visible(&token.bytes);
    }
    let room = usize::from(right.saturating_sub(x));
    let shown = text::clip(&shown, room);
    let left = canvas.area.x + 1;
    paint::joined(canvas.buf, (left, x, y), &shown, room, style)
}

/// Emphasises the first token that differs, in both texts, and the cursor.
fn mark(canvas: &Canvas, style: Style, position: usize, own: bool) -> Style {
    let app = canvas.app;
    let mut style = style;
    if app.baseline.as_ref().and_then(|b| b.diverges) == Some(position) {
        style = canvas
            .theme
            .style(Role::Warning)
            .add_modifier(Modifier::UNDERLINED | Modifier::BOLD);
    }
    if position == app.cursor.position {
        let role = if own && app.layout.focus == Pane::Transcript {
            Role::Cursor
        } else {
            Role::Selection
        };
        style = style.patch(canvas.theme.style(role));
    }
    style
}

/// Draws the KL of a line's tokens, one column for each; faint where the two contexts differ.
fn strip_of(
    canvas: &mut Canvas,
    (x, y): (u16, u16),
    range: &Range<usize>,
    known: &[Option<f32>],
    scale: f32,
) {
    let app = canvas.app;
    for (i, position) in range.clone().enumerate() {
        let Some(kl) = app.transcript.tokens.get(position).and_then(|t| t.kl) else {
            continue;
        };
        let drawn = sparkline::sparkline(&[kl], (0.0, scale), 1, canvas.theme.glyphs);
        let role = if known.get(position).is_some_and(Option::is_some) {
            Role::Edited
        } else {
            Role::Faint
        };
        let style = canvas.theme.style(role);
        paint::write(canvas.buf, x + i as u16, y, &drawn, 1, style);
    }
}

/// Draws the run's text above the other one.
fn stacked(canvas: &mut Canvas, area: Rect) {
    let app = canvas.app;
    let (above, below) = split(area, area.height / 2);
    let first = tokens(canvas, above, &app.transcript, 0, app.cursor.position, true);
    canvas.memory.first_line = first;
    let (rule, rest) = split(below, below.height.saturating_sub(1));
    let Some(baseline) = &app.baseline else {
        let words = if app.baseline_asked {
            "── unedited, same seed: being generated ──"
        } else {
            "── unedited: out of date, b twice runs it again ──"
        };
        let line = Line::from(canvas.span(words, Role::Muted));
        return canvas.lines(rule, &[line]);
    };
    let [_, name] = names(app);
    let kls: Vec<f32> = app.transcript.tokens.iter().filter_map(|t| t.kl).collect();
    let title = format!("── {name} ");
    let mut line = vec![canvas.span(title.clone(), Role::Title)];
    if !kls.is_empty() {
        let room = usize::from(rule.width).saturating_sub(text::width(&title) + 4);
        let most = kls.iter().copied().fold(0.0, f32::max);
        let count = kls.len().min(room);
        let drawn = sparkline::sparkline(&kls, (0.0, most), count, canvas.theme.glyphs);
        line.push(canvas.span("KL ", Role::Muted));
        line.push(canvas.span(drawn, Role::Edited));
    }
    canvas.lines(rule, &[Line::from(line)]);
    other(canvas, rest, baseline);
}

/// Draws only the other text, with the first token that differs in view.
fn other(canvas: &mut Canvas, area: Rect, baseline: &Baseline) {
    let app = canvas.app;
    let colours = TokenColours::of(app);
    let offset = app.transcript.prompt;
    if baseline.text.tokens.is_empty() {
        let lines = canvas.folded("nothing yet", area.width.into(), Role::Muted);
        return canvas.lines(area, &lines);
    }
    let lines = baseline.text.wrap(area.width.into());
    let focus = match baseline.diverges {
        _ if baseline.live => app.cursor.position,
        Some(at) => at,
        None => app.cursor.position,
    };
    let at = line_of(&lines, focus.saturating_sub(offset));
    let high = usize::from(area.height);
    let first = at
        .saturating_sub(high / 2)
        .min(lines.len().saturating_sub(high));
    for (i, line) in lines.iter().skip(first).take(high).enumerate() {
        let (mut x, y) = (area.x, area.y + i as u16);
        for span in line {
            let end = (x, y, area.right());
            x = piece(
                canvas,
                &colours,
                end,
                &span.text,
                &baseline.text,
                span.token,
                offset,
            );
        }
    }
}
