//! The edits pane: every edit with its number, whether it is on, its strength, and what it really did.
//!
//! Invariant: an edit that is on and never fired is red, and its reason is shown. To show more of a receipt, add to
//! [`receipt`]; more of single tokens, to [`history`].

use std::fmt::Write;

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{Canvas, fold, put};
use crate::app::cursor::number;
use crate::app::layout::Pane;
use crate::app::pointer::PointedAt;
use crate::dictionaries::handles::short_name;
use crate::edit::receipt::Receipt;
use crate::edit::{Edit, EditId};
use crate::text;
use crate::ui::theme::{Glyphs, Role};
use crate::ui::widgets::{bar, sparkline};

/// The indentation of the lines below an edit, in columns.
const INDENT: usize = 5;
/// The strength at the full length of the bar.
const FULL: f32 = 4.0;

pub fn draw(canvas: &mut Canvas, pane: Pane) {
    let app = canvas.app;
    let left = canvas.title(pane);
    let mode = format!(" {} ", app.history.mode().name());
    let right = Line::from(canvas.span(mode, Role::Accent));
    let inner = canvas.frame(pane, &left, &right, &Line::default());
    if inner.is_empty() {
        return;
    }
    if app.history.edits().is_empty() {
        let words = "No edits. s steers at the cursor's layer, x ablates the neuron under the cursor, e writes one.";
        let lines = canvas.folded(words, usize::from(inner.width), Role::Muted);
        return canvas.lines(inner, &lines);
    }
    // A change that applies from now on cannot act before the next token.
    let waiting = app
        .transcript
        .boundaries
        .last()
        .is_some_and(|b| *b >= app.transcript.tokens.len());
    let wide = inner.width >= 84;
    let mut rows: Vec<(usize, Line)> = Vec::new();
    for (i, edit) in app.history.edits().iter().enumerate() {
        let given = app.receipts.iter().find(|r| r.id == edit.id);
        let broken = given.is_some_and(|r| r.not_finite);
        let idle = given.is_some_and(Receipt::idle) && !waiting || broken;
        let (mut first, rest) = head(canvas, i, edit, usize::from(inner.width), wide, idle);
        let under = usize::from(inner.width).saturating_sub(INDENT);
        let mut lines: Vec<Vec<Span>> = rest
            .map(|words| vec![canvas.span(words, Role::Edited)])
            .into_iter()
            .collect();
        if let Some(given) = given.filter(|_| edit.on) {
            let selected = i == app.history.selected;
            let (told, after) = receipt(canvas, given, waiting, under, selected);
            if wide && lines.is_empty() && !idle {
                first.spans.push(Span::raw("  "));
                first.spans.extend(told);
            } else {
                lines.push(told);
            }
            lines.extend(after);
            lines.extend(history(canvas, edit.id, under));
        }
        rows.push((i, first));
        for line in lines {
            let mut spans = vec![Span::raw(" ".repeat(INDENT))];
            spans.extend(line);
            rows.push((i, Line::from(spans)));
        }
    }
    let high = usize::from(inner.height);
    let last = rows
        .iter()
        .rposition(|(i, _)| *i == app.history.selected)
        .unwrap_or(0);
    let first = (last + 1).saturating_sub(high);
    for (row, (_, line)) in rows.iter().skip(first).take(high).enumerate() {
        put(canvas.buf, inner.x, inner.y + row as u16, inner.width, line);
    }
    if app.settings.mouse {
        let mut before = None;
        for (row, (i, _)) in rows.iter().skip(first).take(high).enumerate() {
            let y = inner.y + row as u16;
            if before != Some(i) && (row > 0 || first == 0) {
                // The mark of the first line, with a column on either side.
                let switch = Rect::new(inner.x + 2, y, 3, 1);
                canvas
                    .memory
                    .spots
                    .push((switch, PointedAt::Edit(*i, true)));
            }
            before = Some(i);
            let line = Rect::new(inner.x, y, inner.width, 1);
            canvas.memory.spots.push((line, PointedAt::Edit(*i, false)));
        }
    }
}

/// An edit and its receipt as one line, for the frame of another pane.
pub(super) fn in_a_line(canvas: &Canvas, edit: &Edit) -> Line<'static> {
    let app = canvas.app;
    let on = canvas.theme.glyphs.pick("●", "x");
    let off = canvas.theme.glyphs.pick("○", "-");
    let role = if edit.on { Role::Edited } else { Role::Muted };
    let mark = if edit.on { on } else { off };
    let number = app.history.selected + 1;
    let mut spans = vec![
        canvas.span(format!(" {number} "), Role::Key),
        canvas.span(format!("{mark} {edit} "), role),
    ];
    let given = app.receipts.iter().find(|r| r.id == edit.id);
    if let Some(given) = given.filter(|_| edit.on) {
        let waiting = app
            .transcript
            .boundaries
            .last()
            .is_some_and(|b| *b >= app.transcript.tokens.len());
        let room = usize::from(canvas.area.width).min(59);
        spans.extend(receipt(canvas, given, waiting, room, false).0);
        spans.push(Span::raw(" "));
    }
    let others = app.history.edits().len() - 1;
    if others > 0 {
        spans.push(canvas.span(format!("and {others} more "), Role::Muted));
    }
    Line::from(spans)
}

/// The line of an edit, and its condition on a second line if there is no room for it.
fn head(
    canvas: &Canvas,
    index: usize,
    edit: &Edit,
    width: usize,
    wide: bool,
    idle: bool,
) -> (Line<'static>, Option<String>) {
    let app = canvas.app;
    let selected = index == app.history.selected;
    let unicode = canvas.theme.glyphs == Glyphs::Unicode;
    let role = match (selected && app.layout.focus == Pane::Edits, edit.on, idle) {
        (true, _, _) => Role::Selection,
        (false, true, true) => Role::Error,
        (false, true, false) => Role::Edited,
        (false, false, _) => Role::Text,
    };
    let mark = match (edit.on, unicode) {
        (true, true) => "●",
        (false, true) => "○",
        (true, false) => "x",
        (false, false) => "-",
    };
    let pointer = if selected { ">" } else { " " };
    let key = if index < 9 {
        (index + 1).to_string()
    } else {
        "·".into()
    };
    let mut plain = edit.clone();
    plain.strength = 1.0;
    let bar_width = 6;
    let room = if wide {
        34
    } else {
        width.saturating_sub(INDENT + 7 + bar_width)
    };
    let mut shown = plain.to_string();
    let mut rest = None;
    if text::width(&shown) > room
        && let Some(dictionary) = plain.dictionary()
    {
        // What tells features apart stands behind the path.
        shown = shown.replacen(&dictionary, short_name(&dictionary), 1);
    }
    if text::width(&shown) > room && plain.when.is_some() {
        let condition = plain.when.take();
        shown = plain.to_string();
        rest = condition.map(|c| c.to_string().trim().to_string());
    }
    let lamp = match (edit.on, idle) {
        (true, true) => Role::Error,
        (true, false) => Role::Edited,
        (false, _) => Role::Muted,
    };
    let share = (edit.strength.abs() / FULL).min(1.0);
    let strength = bar::bar(share, bar_width, canvas.theme.glyphs);
    let line = Line::from(vec![
        canvas.span(pointer, Role::Accent),
        canvas.span(key, Role::Key),
        Span::raw(" "),
        canvas.span(mark, lamp),
        Span::raw(" "),
        canvas.span(text::fit(&shown, room), role),
        canvas.span(format!("{:>6.2} ", edit.strength), role),
        canvas.span(strength, Role::Bar),
    ]);
    (line, rest)
}

/// The lines of a receipt.
fn receipt(
    canvas: &Canvas,
    receipt: &Receipt,
    waiting: bool,
    width: usize,
    selected: bool,
) -> (Vec<Span<'static>>, Vec<Vec<Span<'static>>>) {
    let one = |words: &str, role| (vec![canvas.span(words.to_string(), role)], Vec::new());
    if !receipt.active {
        return one("on, but at a strength that changes nothing", Role::Warning);
    }
    if receipt.not_finite {
        let words = "NaN or infinity: not finite. Lower its strength";
        return one(words, Role::Error);
    }
    if receipt.idle() && waiting {
        let words = "from the next token on: c continues, R starts again";
        return one(words, Role::Muted);
    }
    if receipt.idle() {
        let words = if receipt.fired == 0 {
            "never fired"
        } else {
            "changed nothing"
        };
        let said = fold(&format!("on, but {words}: {}", receipt.why), width);
        let most = if selected { said.len() } else { 2 };
        let mut lines: Vec<Vec<Span>> = said
            .into_iter()
            .take(most)
            .map(|l| vec![canvas.span(l, Role::Error)])
            .collect();
        let rest = lines.split_off(lines.len().min(1));
        return (lines.pop().unwrap_or_default(), rest);
    }
    let control = |name: &str, value: Option<f32>| {
        value.map_or_else(String::new, |v| format!(" {name} {}", number(v)))
    };
    let kl = match receipt.kl {
        None => " KL …".to_string(),
        Some(kl) => format!(
            " KL {}{}{}",
            number(kl),
            control_of(receipt, width),
            control("elsewhere", receipt.elsewhere.filter(|_| width >= 60)),
        ),
    };
    let (fired, relative) = (receipt.fired, number(receipt.relative));
    // A narrow pane has room only for the numbers.
    let word = if width >= 60 { "fired " } else { "" };
    let said = format!("{word}{fired}× Δh/h {relative}{kl}");
    // An edit that does no more than its control is no finding.
    let role = if receipt.within_control() {
        Role::Warning
    } else {
        Role::Muted
    };
    let spans = vec![canvas.span(said, role)];
    let control = match (receipt.control, receipt.control_is.as_str()) {
        (Some(_), chosen) if !chosen.is_empty() => format!("control: {chosen}"),
        (None, _) if !receipt.no_control.is_empty() => {
            format!("no control of equal size: {}", receipt.no_control)
        }
        (Some(_) | None, _) => String::new(),
    };
    let over = over_positions(receipt);
    let notes = [receipt.note.as_str(), &control, &over].into_iter();
    let notes = notes.filter(|note| !note.is_empty());
    let notes: Vec<String> = notes.flat_map(|note| fold(note, width)).collect();
    let most = if selected { notes.len() } else { 1 };
    let notes = notes.into_iter().take(most);
    let notes = notes.map(|l| vec![canvas.span(l, Role::Warning)]).collect();
    (spans, notes)
}

/// The control of a receipt: the mean of its draws, and between which numbers they lie.
fn control_of(receipt: &Receipt, width: usize) -> String {
    match (receipt.control, receipt.control_range()) {
        (None, _) => String::new(),
        (Some(mean), Some((low, high))) if width >= 60 => format!(
            " control {} ({}..{} in {})",
            number(mean),
            number(low),
            number(high),
            receipt.draws.len()
        ),
        // A narrow pane has room for what must be passed.
        (Some(_), Some((low, _))) if receipt.keeps => {
            format!(" control ≥{}", number(receipt.bound().unwrap_or(low)))
        }
        (Some(_), Some((_, high))) => {
            format!(" control ≤{}", number(receipt.bound().unwrap_or(high)))
        }
        (Some(mean), None) => format!(" control {}", number(mean)),
    }
}

/// Over which positions a receipt's KL is taken, and the same for the generated ones; empty until it is measured.
fn over_positions(receipt: &Receipt) -> String {
    let Some(median) = receipt.median() else {
        return String::new();
    };
    let mut said = format!(
        "KL: mean over {} positions, median {}",
        receipt.positions.len(),
        number(median)
    );
    if let Some((kl, count)) = receipt.generated() {
        let _ = write!(said, "; where {count} were generated {}", number(kl));
    }
    if receipt.within_control() {
        said.push_str("; no more than its control");
        if let Some(bound) = receipt.bound() {
            let side = if receipt.keeps { "above" } else { "below" };
            let _ = write!(said, " (another draw is {side} {} in 95 %)", number(bound));
        }
    }
    said
}

/// What an edit did at the tokens up to the cursor, one column for each, and at the token under the cursor.
fn history(canvas: &Canvas, edit: EditId, width: usize) -> Option<Vec<Span<'static>>> {
    let app = canvas.app;
    let text = &app.transcript;
    let here = app.cursor.position;
    let last = here.min(text.tokens.len().checked_sub(1)?);
    let values: Vec<f32> = (last.saturating_sub(width)..=last)
        .map(|p| text.fired(p, edit).map_or(f32::NAN, |f| f.relative))
        .collect();
    let finite = values.iter().copied().filter(|v| v.is_finite());
    let most = finite.fold(0.0, f32::max);
    if most <= 0.0 {
        return None;
    }
    let said = match text.fired(here, edit) {
        Some(fired) => format!(" at {here}: {}× {}", fired.fired, number(fired.relative)),
        None => format!(" at {here}: not"),
    };
    let room = width.saturating_sub(text::width(&said)).min(values.len());
    let drawn = sparkline::sparkline(&values, (0.0, most), room, canvas.theme.glyphs);
    Some(vec![
        canvas.span(drawn, Role::Edited),
        canvas.span(said, Role::Muted),
    ])
}
