//! Draws one frame: header, panes, footer, notices, and overlays.
//!
//! Invariant: drawing changes only its own memory, stays inside the buffer at any size, and gives the same result for the same
//! app. To add a part of the screen, add it to `app::layout` and draw it here.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::overlay;
use super::paint;
use super::panes::{self, Canvas, Memory, fold, put};
use super::theme::{Glyphs, Role, Theme};
use crate::app::cursor::number;
use crate::app::layout::{Area, LEAST, Pane};
use crate::app::notice::Level;
use crate::app::tour::STEPS;
use crate::app::{App, Overlay, baseline};
use crate::figure::Anchor;
use crate::model::hub::Progress;
use crate::model::network::finite::NOT_FINITE;
use crate::text;

/// An area of the layout as a rectangle of the terminal library.
pub fn rect(area: Area) -> Rect {
    Rect::new(area.x, area.y, area.width, area.height)
}

/// Draws the whole screen.
pub fn draw(app: &App, theme: &Theme, memory: &mut Memory, buf: &mut Buffer) {
    let screen = buf.area;
    paint::tint(buf, screen, theme.ground());
    let Some(arrangement) = app.arrangement() else {
        return too_small(app, theme, screen, buf);
    };
    let within = |area: Area| rect(area).intersection(screen);
    memory.rows.clear();
    memory.spots.clear();
    header(app, theme, within(arrangement.header), buf);
    tour(app, theme, within(arrangement.tour), buf);
    for (pane, area) in &arrangement.panes {
        let tabs = arrangement.tabs && *pane != Pane::Transcript;
        let mut canvas = Canvas {
            app,
            theme,
            memory: &mut *memory,
            area: within(*area),
            tabs,
            buf: &mut *buf,
        };
        panes::draw(*pane, &mut canvas);
    }
    footer(app, theme, within(arrangement.footer), buf);
    overlay::keys_that_follow(app, theme, within(arrangement.footer), buf);
    if let Some(overlay) = &app.overlay {
        let body = Rect {
            y: screen.y + 1,
            height: screen.height.saturating_sub(3),
            ..screen
        };
        overlay::draw(overlay, app, theme, body, buf);
    }
    if app.leaving.is_none() && !matches!(app.overlay, Some(Overlay::Notices { .. })) {
        notice(app, theme, rect(arrangement.footer), buf);
    }
}

fn too_small(app: &App, theme: &Theme, screen: Rect, buf: &mut Buffer) {
    let words = format!(
        "{}x{} needed, {}x{} now",
        LEAST.0, LEAST.1, screen.width, screen.height
    );
    let mut lines = fold(&words, usize::from(screen.width));
    if app.transcript.busy() {
        lines.push(format!(
            "generating, {} tokens",
            app.transcript.tokens.len()
        ));
    }
    lines.push("q quits".into());
    for (line, y) in lines.iter().zip(screen.y..screen.bottom()) {
        let line = Line::styled(line.as_str(), theme.style(Role::Text));
        put(buf, screen.x, y, screen.width, &line);
    }
}

/// The header: model, precision, device, context, seed, temperature, speed; warnings at the right.
fn header(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    if area.is_empty() {
        return;
    }
    let unicode = theme.glyphs == Glyphs::Unicode;
    let span = |text: String, role: Role| Span::styled(text, theme.style(role));
    let mut parts: Vec<(String, Role)> = Vec::new();
    if let Some(model) = &app.model {
        let card = &model.card;
        let used = app.transcript.tokens.len();
        let context = format!("{used:>3}/{}", card.context);
        let said = [card.dtype.to_string(), card.device.clone(), context];
        parts.extend(said.map(|part| (part, Role::Muted)));
    } else if let Some(loading) = &app.loading {
        let seconds = app.now.saturating_sub(app.loading_since).as_secs();
        let share = loading.download.as_ref().and_then(Progress::share);
        let how_far = match share {
            Some(share) => format!(" {:.0} %", (share * 100.0).floor()),
            None if seconds >= 1 => format!(", {seconds} s"),
            None => String::new(),
        };
        parts.push((format!("{}{how_far}", loading.phase), Role::Accent));
    } else {
        parts.push(("not loaded".into(), Role::Error));
    }
    let sampling = app.history.sampling();
    parts.push((format!("seed {}", sampling.seed), Role::Muted));
    parts.push((format!("temp {}", sampling.temperature), Role::Muted));
    let rate = match app.transcript.since {
        Some((at, count)) if count > 1 && app.now > at => {
            Some(count as f32 / app.now.saturating_sub(at).as_secs_f32().max(0.001))
        }
        Some(_) | None => app.transcript.rate,
    };
    parts.extend(rate.map(|rate| (format!("{rate:.0} tok/s"), Role::Muted)));
    let dot = if unicode { " · " } else { " | " };
    let name = format!(" {}", text::plain(app.settings.model.as_bytes()));
    let mut left = vec![span(name, Role::Title)];
    for (part, role) in parts {
        left.extend([span(dot.into(), Role::Faint), span(part, role)]);
    }
    let mut right = Vec::new();
    let on = app.history.active();
    if on > 0 {
        let mode = app.history.mode().name();
        let loud = theme
            .style(Role::Warning)
            .add_modifier(ratatui::style::Modifier::REVERSED);
        right.push(Span::styled(
            format!(" {on} EDIT{} ON ", if on == 1 { "" } else { "S" }),
            loud,
        ));
        right.push(span(format!(" {mode} "), Role::Edited));
    }
    if let Some(name) = baseline::name(app.baseline_mode) {
        right.push(span(format!(" {name} "), Role::Accent));
    }
    if !app.history.marks().is_empty() {
        let glyph = theme.glyphs.mark();
        let count = app.history.marks().len();
        right.push(span(format!(" {glyph} {count} marked "), Role::Accent));
    }
    if app.difference {
        right.push(span(" Δ ".into(), Role::Warning));
    }
    if let Some(kept) = app.reference_excerpt() {
        right.push(span(format!(" kept “{kept}” "), Role::Accent));
    }
    if let Some((done, count)) = app.replay_progress() {
        right.push(span(format!(" opening {done}/{count} "), Role::Accent));
    }
    if app.tour.is_some() && app.arrangement().is_some_and(|own| own.tour.height == 0) {
        right.push(span(" the tour needs more rows ".into(), Role::Warning));
    }
    let cross = if unicode { "✗" } else { "WRONG" };
    match (app.check, app.transcript.not_finite) {
        (_, Some(way_out)) => right.push(span(
            format!(" lens {cross} {NOT_FINITE}: {way_out} "),
            Role::Error,
        )),
        (Some(check), None) if check.passed() => right.push(span(
            if unicode { " lens ✓ " } else { " lens ok " }.into(),
            Role::Ok,
        )),
        (Some(check), None) => right.push(span(
            if check.error.is_finite() {
                format!(" lens {cross} {:.0e} ", check.error)
            } else {
                format!(" lens {cross} {NOT_FINITE}: see the notes ")
            },
            Role::Error,
        )),
        (None, None) => right.push(span(" lens - ".into(), Role::Faint)),
    }
    let right = Line::from(right);
    let wide = (right.width() as u16).min(area.width);
    let room = area.width - wide;
    let used = put(buf, area.x, area.y, room, &Line::from(left));
    let rule = if unicode { "─" } else { "-" };
    if room > used + 2 {
        let wide = usize::from(room - used - 2);
        let (x, style) = (area.x + used + 1, theme.style(Role::Border));
        paint::write(buf, x, area.y, rule.repeat(wide), wide, style);
    }
    put(buf, area.x + room, area.y, wide, &right);
}

/// The step of the tour: its idea, what to do, and how to go on.
fn tour(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let Some(tour) = app.tour.filter(|_| !area.is_empty()) else {
        return;
    };
    let count = STEPS.len();
    let (idea, words) = match tour.now() {
        Some(step) => (
            format!(" tour {}/{count} · {}", tour.step + 1, step.idea),
            step.words(app),
        ),
        None => (
            " tour · That was all of it".to_string(),
            "Other ready prompts show more, ? lists the keys and : every command; the guide has a chapter for each of these steps.".into(),
        ),
    };
    let mut lines = vec![(idea, Role::Title)];
    let wide = usize::from(area.width).saturating_sub(2);
    lines.extend(
        fold(&words, wide)
            .into_iter()
            .map(|line| (format!(" {line}"), Role::Text)),
    );
    lines.truncate(usize::from(area.height) - 1);
    for ((line, role), y) in lines.into_iter().zip(area.y..) {
        put(
            buf,
            area.x,
            y,
            area.width,
            &Line::styled(line, theme.style(role)),
        );
    }
    let how = match tour.now() {
        Some(_) => {
            " it goes on when you have done it · :tour next skips a step · :tour off ends it"
        }
        None => " :tour off ends it",
    };
    let last = area.bottom() - 1;
    put(
        buf,
        area.x,
        last,
        area.width,
        &Line::styled(how, theme.style(Role::Muted)),
    );
}

/// The footer: the cell under the cursor in words, and hints.
fn footer(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    if area.height < 2 {
        return;
    }
    let line = Line::from(words(app, theme));
    put(buf, area.x, area.y, area.width, &line);
    let span = |text: String, role: Role| Span::styled(text, theme.style(role));
    let mut spans = vec![Span::raw(" ")];
    let mut used = 1;
    let help = "  ? help".len();
    if app.leaving.is_some() {
        spans.push(span("ctrl-c again quits".into(), Role::Warning));
    } else if !app.pending.is_empty() {
        let keys = crate::app::key::spell(&app.pending);
        spans.push(span(format!("{keys} …"), Role::Accent));
    } else {
        let hints = app.hints();
        let asks = app.overlay.is_none() && !app.writing;
        for (keys, word) in hints.iter().filter(|(keys, _)| !(asks && keys == "?")) {
            let wide = text::width(keys) + text::width(word) + 3;
            if used + wide + if asks { help } else { 0 } > usize::from(area.width) {
                break;
            }
            spans.push(span(keys.clone(), Role::Key));
            spans.push(span(format!(" {word}  "), Role::Hint));
            used += wide;
        }
        if let Some((keys, word)) = hints.iter().find(|(keys, _)| asks && keys == "?") {
            spans.push(span(keys.clone(), Role::Key));
            spans.push(span(format!(" {word}"), Role::Hint));
        }
    }
    put(buf, area.x, area.y + 1, area.width, &Line::from(spans));
}

fn words(app: &App, theme: &Theme) -> Vec<Span<'static>> {
    let span = |text: String, role: Role| Span::styled(text, theme.style(role));
    let Some(token) = app.token() else {
        let first = match (&app.model, &app.loading) {
            _ if app.replay_progress().is_some() => {
                " A session is being opened, request by request; ctrl-c stops it."
            }
            (Some(_), _) => " Enter runs the selected prompt; i writes your own.",
            (None, Some(loading)) if loading.download.is_some() => {
                " The model is being downloaded; prompts can be chosen already."
            }
            (None, Some(_)) => " The model is being loaded; prompts can be chosen already.",
            (None, None) if app.has_unopened() => {
                " No model is loaded. L tries again and opens the session then, q quits."
            }
            (None, None) => " No model is loaded. L tries again, q quits.",
        };
        return vec![span(first.into(), Role::Muted)];
    };
    let mut out = Vec::new();
    let reading = app
        .cell_under_cursor()
        .filter(|_| app.layout.focus != Pane::Transcript && app.layout.focus != Pane::Edits);
    let layer = |anchor: Anchor| {
        let layer = anchor.layer;
        layer.map_or_else(String::new, |l| format!(" layer {l}"))
    };
    if let Some(reading) = reading {
        // The figure may have been measured at another position than the cursor's.
        let layer = layer(reading.anchor);
        let position = reading.anchor.position;
        let position = position.map_or(app.cursor.position, |p| p as usize);
        let place = format!(" {}{layer} @ {position} ", app.layout.figure);
        out.push(span(place, Role::Muted));
        let older = app
            .shown
            .get(app.layout.figure)
            .is_some_and(|s| s.stale.is_some());
        let token = if older && !reading.column.is_empty() {
            reading.column.clone()
        } else {
            app.transcript.spelled(position)
        };
        out.push(span(token, Role::Title));
        out.push(span("  ".into(), Role::Muted));
        for (i, (label, value)) in reading.more.iter().enumerate() {
            let role = if i == 0 { Role::Accent } else { Role::Text };
            out.push(span(label.clone(), role));
            out.push(span(format!(" {}  ", number(*value)), Role::Muted));
        }
        if reading.more.is_empty() && reading.entries.is_empty() {
            out.push(span(reading.label, Role::Accent));
        }
        for (name, value) in reading.entries {
            out.push(span(format!("{name} "), Role::Muted));
            out.push(span(format!("{value}  "), Role::Text));
        }
    } else {
        out.push(span(format!(" token {} ", token.position), Role::Muted));
        let role = panes::role_of(token);
        out.push(span(text::visible(&token.bytes), role));
        match (token.logprob, token.rank) {
            (Some(logprob), Some(rank)) => out.push(span(
                format!("  p {} · #{}", number(logprob.exp()), rank + 1),
                Role::Muted,
            )),
            (_, _) => out.push(span("  in the prompt".into(), Role::Muted)),
        }
        if let Some(other) = &token.other {
            let p = other.logprob.map_or(f32::NAN, f32::exp);
            out.push(span(" · ".into(), Role::Muted));
            out.push(span(app.other_run_name(token.position).into(), Role::Muted));
            out.push(span(text::visible(&other.bytes), Role::Title));
            out.push(span(format!(" {}", number(p)), Role::Muted));
        }
        if let Some(kl) = token.kl {
            out.push(span(format!(" · KL {} nats", number(kl)), Role::Edited));
        }
        if let Some(reading) = app
            .cell_under_cursor()
            .filter(|r| !r.more.is_empty() && r.anchor.position == Some(token.position as u32))
        {
            let layer = layer(reading.anchor);
            out.push(span(
                format!("  │ {}{layer}: ", app.layout.figure),
                Role::Faint,
            ));
            for (label, value) in reading.more {
                out.push(span(format!("{label} "), Role::Text));
                out.push(span(format!("{}  ", number(value)), Role::Muted));
            }
        }
    }
    out
}

/// A notice over the bottom of the body: as many lines as it needs, at most four.
fn notice(app: &App, theme: &Theme, footer: Rect, buf: &mut Buffer) {
    let Some(notice) = app.notices.shown().filter(|_| !footer.is_empty()) else {
        return;
    };
    let (mark, role) = match notice.level {
        Level::Info => ("", Role::Accent),
        Level::Warning => ("! ", Role::Warning),
        Level::Error => ("error: ", Role::Error),
    };
    let close = match notice.level {
        Level::Error => " [Esc]",
        Level::Info | Level::Warning => "",
    };
    let said = format!("{mark}{}{close}", overlay::text_with_count(notice));
    let mut lines = fold(&said, usize::from(footer.width.saturating_sub(2)));
    if lines.len() > 4 {
        lines.truncate(4);
        if let Some(last) = lines.last_mut() {
            last.push_str(" … :notices");
        }
    }
    let height = lines.len() as u16;
    // A single line replaces the hints; further lines cover the panes' last rows.
    let bottom = footer.bottom();
    for (i, line) in lines.iter().enumerate() {
        let y = bottom.saturating_sub(height) + i as u16;
        paint::clear(buf, Rect::new(footer.x, y, footer.width, 1), theme.ground());
        let line = Line::styled(line.as_str(), theme.style(role));
        put(buf, footer.x + 1, y, footer.width.saturating_sub(1), &line);
    }
}
