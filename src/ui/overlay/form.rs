//! The form for an instrument's parameters, one in each line, with the description of the selected one.
//!
//! Invariant: after a refusal the values are unchanged, and the reason is shown.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;

use super::{boxed, lines_from_top, skip_lines, typed};
use crate::app::form::Form;
use crate::instruments::ParamKind;
use crate::ui::panes::{fold, put};
use crate::ui::theme::{Role, Theme};
use crate::ui::widgets::scroll;

pub fn draw(form: &Form, ahead: Option<String>, theme: &Theme, body: Rect, buf: &mut Buffer) {
    let width = 84.min(body.width);
    let room = usize::from(width).saturating_sub(2);
    let wrong = form
        .error
        .as_ref()
        .map_or_else(Vec::new, |e| fold(&crate::text::plain(e.as_bytes()), room));
    let about = form.fields.get(form.selected).map_or_else(Vec::new, |f| {
        fold(&meaning(f.parameter.kind, f.parameter.about), room)
    });
    let cost = ahead.map_or_else(Vec::new, |ahead| fold(&ahead, room));
    let height = form.fields.len() + 2 + wrong.len() + cost.len() + 3;
    let title = format!("{} · Enter runs it", form.slot);
    let inner = boxed(&title, (width, height as u16), theme, body, buf);
    if inner.is_empty() {
        return;
    }
    let names = form.fields.iter().map(|f| f.parameter.name.len()).max();
    let names = names.unwrap_or(0) + 2;
    let tail = (about.len() + cost.len() + wrong.len() + 1).min(usize::from(inner.height) / 2);
    let high = usize::from(inner.height) - tail;
    let first = (form.selected + 1).saturating_sub(high);
    let list = Rect {
        height: high as u16,
        ..inner
    };
    // A mark says that there are more parameters than fit.
    let lines = scroll::beside(form.fields.len(), list);
    scroll::draw(form.fields.len(), first, theme, list, buf);
    for (i, field) in form.fields.iter().enumerate().skip(first).take(high) {
        let here = i == form.selected;
        let y = inner.y + (i - first) as u16;
        let name = crate::text::fit(field.parameter.name, names);
        let (pointer, role) = if here {
            (">", Role::Key)
        } else {
            (" ", Role::Muted)
        };
        let label = Line::styled(format!("{pointer} {name}"), theme.style(role));
        let used = put(buf, lines.x, y, lines.width, &label);
        let rest = Rect::new(lines.x + used, y, lines.width.saturating_sub(used), 1);
        let choice = matches!(field.parameter.kind, ParamKind::Choice(_));
        if here && !choice {
            typed(field.value.halves(), "", theme, rest, buf);
        } else {
            let value = crate::text::visible(field.value.text().as_bytes()).replace('␣', " ");
            let shown = if here {
                format!("< {value} >")
            } else if value.is_empty() {
                "–".into()
            } else {
                value
            };
            let role = if here { Role::Selection } else { Role::Text };
            put(
                buf,
                rest.x,
                y,
                rest.width,
                &Line::styled(shown, theme.style(role)),
            );
        }
    }
    let told = about
        .into_iter()
        .chain(cost)
        .map(|t| (t, Role::Muted))
        .chain(wrong.into_iter().map(|t| (t, Role::Error)));
    let fields = form.fields.len().min(high) as u16;
    lines_from_top(told, theme, skip_lines(inner, fields + 1), buf);
}

fn meaning(kind: ParamKind, about: &str) -> String {
    match kind {
        ParamKind::Count { lo, hi } => format!("{about} ({lo} to {hi})"),
        ParamKind::Layer => format!("{about} (a number or all)"),
        ParamKind::Position => format!("{about} (negative counts from the end)"),
        ParamKind::Choice(words) => format!("{about} ({})", words.join(", ")),
        ParamKind::Word(words) => format!("{about} ({}, or your own)", words.join(", ")),
        ParamKind::Text => about.to_string(),
    }
}
