//! The transcript: ready prompts, the text token by token, and the baseline run's text next to it.
//!
//! Invariant: the text is the app's, unchanged; `tokens.rs` draws the tokens. To show something else about the text, add it to
//! [`titles`].

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::tokens::{split, tokens};
use super::{Canvas, compared, edits, fold, prompt, put, two_prompts};
use crate::app::layout::Pane;
use crate::app::transcript::Activity;
use crate::engine::Ending;
use crate::text;
use crate::ui::theme::Role;
use crate::ui::widgets::scroll;

pub fn draw(canvas: &mut Canvas, pane: Pane) {
    let app = canvas.app;
    let (left, right) = titles(canvas);
    let below = if app.compare && app.reference.is_some() && !app.choosing() {
        two_prompts::summary(canvas)
    } else if app.compare && !app.choosing() {
        compared::summary(canvas)
    } else {
        selected_edit(canvas)
    };
    let inner = canvas.frame(pane, &left, &right, &below);
    if inner.is_empty() {
        return;
    }
    let writing = app.writing.then(|| prompt::rows(app, inner));
    let rows = writing.unwrap_or(0);
    let (above, below) = split(inner, rows);
    if app.choosing() {
        presets(canvas, above);
    } else if app.compare && app.reference.is_some() {
        two_prompts::draw(canvas, above);
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

/// The selected edit and what it did in a line, where the edits have no pane of their own; nothing without edits.
fn selected_edit(canvas: &Canvas) -> Line<'static> {
    let app = canvas.app;
    let shown = app
        .arrangement()
        .is_some_and(|a| a.area(Pane::Edits).is_some());
    match app.history.current().filter(|_| !shown && !app.choosing()) {
        Some(edit) => edits::in_a_line(canvas, edit),
        None => Line::default(),
    }
}

fn titles(canvas: &Canvas) -> (Line<'static>, Line<'static>) {
    let app = canvas.app;
    let focused = app.layout.focus == Pane::Transcript && app.overlay.is_none();
    let choosing = app.choosing();
    let title = if choosing {
        " ready prompts "
    } else {
        " text "
    };
    let role = if focused { Role::Focus } else { Role::Title };
    let mut left = vec![canvas.span(title, role)];
    if app.writing {
        let mode = if app.settings.chat { "chat" } else { "raw" };
        left.push(canvas.span(format!("writing · {mode} "), Role::Accent));
    }
    if let Some(words) = app.tint_in_words().filter(|_| !choosing) {
        left.push(canvas.span(format!("coloured {words} "), Role::Muted));
    }
    let t = &app.transcript;
    let right = match (t.activity, t.ending) {
        (Activity::Reading, _) => {
            let spent = |(at, _)| app.now.saturating_sub(at).as_secs();
            let text = match t.since.map_or(0, spent) {
                0 => " reading the prompt ".into(),
                seconds => format!(" reading the prompt, {seconds} s · ctrl-c cancels "),
            };
            canvas.span(text, Role::Accent)
        }
        (Activity::Writing, _) => {
            canvas.span(format!(" generating {} ", t.tokens.len()), Role::Accent)
        }
        (Activity::Idle, Some(ending)) if !app.choosing() => {
            let why = match ending {
                Ending::Count => "limit reached, c continues",
                Ending::EndToken => "the model ended",
                Ending::Context => "context full",
                Ending::Stopped => "stopped, c continues",
                Ending::NotFinite => "the numbers are not finite",
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
    let below = match area.height {
        14.. => 7,
        6.. => 2,
        _ => 0,
    };
    let (list, foot) = split(area, below);
    let high = usize::from(list.height).max(1);
    let first = app.preset.saturating_sub(high - 1);
    let whole = list;
    let list = scroll::beside(app.presets.len(), list);
    let shown = app.presets.iter().enumerate().skip(first).take(high);
    for (y, (i, preset)) in (list.y..).zip(shown) {
        let (mark, title, words) = if i == app.preset {
            (">", Role::Selection, Role::Selection)
        } else {
            (" ", Role::Text, Role::Muted)
        };
        let start = preset.text.replace('\n', "⏎");
        let start = text::fit(&start, usize::from(list.width).saturating_sub(28));
        let line = Line::from(vec![
            canvas.span(format!("{mark} {}", text::fit(&preset.title, 26)), title),
            canvas.span(start, words),
        ]);
        put(canvas.buf, list.x, y, list.width, &line);
    }
    scroll::draw(app.presets.len(), first, canvas.theme, whole, canvas.buf);
    if let Some(preset) = app.presets.get(app.preset).filter(|_| foot.height > 0) {
        let mut lines = Vec::new();
        if foot.height >= 4 {
            lines.push(Line::default());
            let whole = fold(&preset.text, usize::from(foot.width).saturating_sub(2));
            let line = |l| Line::from(canvas.span(format!("  {l}"), Role::User));
            lines.extend(whole.into_iter().take(4).map(line));
        }
        let look = format!("Look at: {}", preset.look);
        lines.extend(canvas.folded(&look, usize::from(foot.width), Role::Accent));
        if app.model.is_none() && app.loading.is_some() {
            let wait = "The model is still loading; Enter waits for it.";
            lines.push(Line::from(canvas.span(wait, Role::Muted)));
        }
        canvas.lines(foot, &lines);
    }
}
